"""Export a trained run: python -m eanet.export DIR --out=DIR [--network=seed_0].

Writes function.stablehlo, the network from uint8 images to logits as jax.export stores it, for any batch size on a CPU,
a GPU and a TPU; params.safetensors, its parameters with the configuration; and a README that loads both in a few lines.
"""

import json
import pathlib
import sys

import jax
import numpy as np
from flax import traverse_util
from jax import export as jax_export
from safetensors.numpy import save

from eanet import cli
from eanet.data.augmentation import evaluation_input
from eanet.errors import UserError
from eanet.run.interruption import Interruption
from eanet.run.trained import TrainedRun, load_run

FUNCTION, PARAMETERS, README = "function.stablehlo", "params.safetensors", "README.md"
PLATFORMS = ("cpu", "cuda", "tpu")

_README = """# {name}

A network of EANet-JAX after {step:,} steps, trained on {data}: uint8 images [batch, {shape}] in, logits of {classes}
classes out. The preprocessing is inside. `{function}` needs numpy and jax {jax} or later:

```python
import numpy as np
from jax import export
with open("{function}", "rb") as file:
    function = export.deserialize(bytearray(file.read()))
logits = function.call(np.zeros((1, {shape}), np.uint8))
```

`{parameters}` has the parameters, by their paths, with the configuration, the statistics of the images and the names of
the classes in its metadata:

```python
import json
from safetensors import safe_open
with safe_open("{parameters}", "numpy") as file:
    params = {{name: file.get_tensor(name) for name in file.keys()}}
    config, classes = (json.loads(file.metadata()[name]) for name in ("config", "class_names"))
```
"""


def choose(run: TrainedRun, name: str) -> int:
    """Return the index of a network by its name; of a run with one network it needs none.

    Raises UserError if there is none of that name.
    """
    names = [network.name for network in run.networks]
    if name in names:
        return names.index(name)
    if not name and len(names) == 1:
        return 0
    raise UserError(f"--network={name}; accepted: one of {', '.join(names)}")


def export_function(run: TrainedRun, network: int) -> jax_export.Exported:
    """Return the function from uint8 images [batch, height, width, channels] to float32 logits [batch, classes]."""
    params = jax.tree.map(lambda x: x[network], run.params)

    def function(images: jax.Array) -> jax.Array:
        inputs = evaluation_input(images, run.experiment.preprocessing)
        return run.experiment.model.apply({"params": params}, inputs, deterministic=True)

    shape = jax_export.symbolic_shape(f"batch, {', '.join(map(str, run.experiment.image_shape))}")
    with jax.default_matmul_precision(run.config.matmul_precision):
        exporter = jax_export.export(jax.jit(function), platforms=PLATFORMS)
        return exporter(jax.ShapeDtypeStruct(shape, np.uint8))


def export_run(run: TrainedRun, network: int, out: pathlib.Path) -> None:
    """Write the files of a network into a directory, which is made if it does not exist."""
    flat = traverse_util.flatten_dict(run.params, sep="/")
    tensors = {name: np.ascontiguousarray(array[network]) for name, array in flat.items()}
    metadata = {
        "config": run.config.to_dict(),
        "network": run.networks[network].name,
        "step": run.step,
        "class_names": run.class_names,
        "mean": run.dataset.mean,
        "deviation": run.dataset.deviation,
        "image_shape": run.experiment.image_shape,
    }
    readme = _README.format(
        name=f"{run.workdir.name}, {run.networks[network].name}",
        step=run.step,
        data=run.config.data.name,
        shape=", ".join(map(str, run.experiment.image_shape)),
        classes=len(run.class_names),
        function=FUNCTION,
        parameters=PARAMETERS,
        jax=jax.__version__,
    )
    serialized = export_function(run, network).serialize()
    parameters = save(tensors, {name: json.dumps(value) for name, value in metadata.items()})
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / FUNCTION).write_bytes(serialized)
        (out / PARAMETERS).write_bytes(parameters)
        (out / README).write_text(readme)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror or error}", exit_code=1) from error


def main() -> None:
    """Parse the command line and export."""
    parser = cli.Parser("python -m eanet.export", __doc__)
    parser.add_argument("directory", metavar="DIR", help="a run's directory")
    parser.add_argument("--out", required=True, help="directory of the files")
    parser.add_argument("--network", default="", help="of a run with several seeds: which, e.g. seed_0")
    arguments = parser.parse_args()
    cli.check_directory("DIR", arguments.directory, new=False)
    cli.check_directory("--out", arguments.out)
    run = load_run(arguments.directory)
    out = pathlib.Path(arguments.out)
    export_run(run, choose(run, arguments.network), out)
    print(f"{out / FUNCTION}, {PARAMETERS} and {README}")


if __name__ == "__main__":
    with Interruption(may_exit=True):
        sys.exit(cli.run(main))
