"""What an exported run holds, and that a process without this project computes the same with it."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open

from eanet import export
from eanet.attention import ATTENTIONS
from eanet.data import datasets as data
from eanet.errors import UserError
from eanet.run.trained import load_run
from helpers.tiny import tiny_config
from helpers.untrained import with_attention

_LOAD = """
import sys
import numpy as np
import jax
from jax import export
with open("function.stablehlo", "rb") as file:
    function = export.deserialize(bytearray(file.read()))
for images in (np.load("one.npy"), np.load("images.npy")):
    logits = np.asarray(function.call(images))
np.save("logits.npy", logits)
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"eanet", "flax", "optax", "ml_collections"}, loaded
"""


@pytest.fixture
def images():
    return data.load(tiny_config().data).test.images[:9]


def test_the_files_hold_the_network(finished, tmp_path):
    workdir, _ = finished
    run = load_run(workdir)
    export.export_run(run, 0, tmp_path / "new" / "out")
    assert {path.name for path in (tmp_path / "new" / "out").iterdir()} == {
        *("function.stablehlo", "params.safetensors", "README.md")
    }
    with safe_open(tmp_path / "new" / "out" / "params.safetensors", "numpy") as file:
        metadata = {name: json.loads(value) for name, value in file.metadata().items()}
        assert metadata["config"] == json.loads(json.dumps(run.config.to_dict()))
        assert (metadata["class_names"], metadata["step"], metadata["network"]) == ([*"0123456789"], 8, "seed_0")
        names = set(file.keys())
        kernel = run.params["block_0"]["attention"]["expand"]["kernel"][0]
        np.testing.assert_array_equal(file.get_tensor("block_0/attention/expand/kernel"), kernel)
    assert "classifier/bias" in names and len(names) > 10


@pytest.mark.parametrize("attention", [*ATTENTIONS])
def test_the_function_is_the_network_for_any_batch(finished, images, attention):
    """With every attention: the batch is a symbol while it is traced."""
    run = with_attention(load_run(finished[0]), attention)
    function = export.export_function(run, 0)
    assert function.platforms == ("cpu", "cuda", "tpu")
    for count in (1, 9):
        np.testing.assert_allclose(function.call(images[:count]), run.logits(images[:count])[0], atol=1e-5)


def test_of_several_networks_one_is_named(three_seeds):
    workdir, _ = three_seeds
    run = load_run(workdir)
    assert export.choose(run, "seed_6") == 1
    for name in ("", "seed_8"):
        with pytest.raises(UserError, match=f"^--network={name}; accepted: one of seed_5, seed_6, seed_7$"):
            export.choose(run, name)


@pytest.mark.system
def test_a_process_with_numpy_and_jax_alone_gives_equal_logits(finished, tmp_path, images):
    workdir, _ = finished
    done = subprocess.run(
        [sys.executable, "-m", "eanet.export", workdir, f"--out={tmp_path}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "one.npy", images[:1])
    loaded = subprocess.run([sys.executable, "-c", _LOAD], cwd=tmp_path, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), load_run(workdir).logits(images)[0], atol=1e-5)
    snippets = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
