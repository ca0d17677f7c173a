"""What a run needs on a TPU or a GPU that is not there: python -m benchmarks.accelerators --target=v5e:2x2 [options].

Compiles the training and the evaluation of a configuration for the target's devices, for a data set of CIFAR-100's size
whatever set it names, and prints per device: memory, arithmetic, traffic, exchanges. Bounds follow from the published
peaks of the device; nothing is run, so they are not measurements. --fit also looks for the largest batch and number
of seeds that fit, which compiles several more times.
"""

import os
import pathlib
import sys

# Read when jax is imported, or when libtpu is loaded.
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the computer that compiles
os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",  # no metadata server of Google's cloud here
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # libtpu is locked to one process otherwise, because only one may own the chips
    "TPU_WORKER_HOSTNAMES": "localhost",
    "CUDA_VISIBLE_DEVICES": "-1",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}
for _site in map(pathlib.Path, sys.path):
    if (_cuda := _site / "nvidia" / "cu13").is_dir():
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_cuda_data_dir={_cuda}".strip()
        os.environ["PATH"] = f"{_cuda / 'bin'}{os.pathsep}{os.environ['PATH']}"

import dataclasses
import time
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import topologies
from rich.progress import Progress

from benchmarks.compiled_program import CompiledProgram
from benchmarks.measurement import CLASSES, write_json
from eanet import cli
from eanet.config import rules
from eanet.data import datasets as data
from eanet.errors import UserError
from eanet.model import footprint
from eanet.training import sharding
from eanet.training.members import members_from_config
from eanet.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Device:
    """A device's published peaks: those of Google Cloud's pages of TPU versions, and of NVIDIA's data sheets."""

    name: str
    flops: float  # a second, of bfloat16 products, without sparsity
    bandwidth: float  # bytes a second, of its memory
    memory: float  # bytes
    package: str  # what compiles for it


DEVICES = {
    "v5e": Device("TPU v5e", 197e12, 819e9, 16e9, "libtpu"),
    "v5p": Device("TPU v5p", 459e12, 2765e9, 95e9, "libtpu"),
    "v6e": Device("TPU v6e", 918e12, 1640e9, 32e9, "libtpu"),
    "h100": Device("NVIDIA H100 SXM", 989e12, 3350e9, 80e9, "jax_cuda13_plugin"),
}
_TRAIN, _TEST = 40_000, 10_000  # CIFAR-100's images of the default split
_MISSING = {
    "libtpu": "pip install 'eanet-jax[accelerators]', or pip install 'jax[tpu]'",
    "jax_cuda13_plugin": "pip install jax-cuda13-plugin jax-cuda13-pjrt nvidia-cuda-nvcc nvidia-nvvm, the first two of "
    f"jax's version, {jax.__version__}",
}

# The H100's description that XLA's compiler needs where it cannot ask the driver.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 12 } runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def devices_of(target: str) -> tuple[Device, list[Any]]:
    """Return a target's kind of device, and devices to compile for.

    Raises UserError for an unknown target, a topology that does not exist, and a compiler that is not installed.
    """
    kind, _, shape = target.partition(":")
    if kind not in DEVICES or bool(shape) == (kind == "h100"):
        raise UserError(f"--target={target}; accepted: h100, or v5e, v5p or v6e with a topology, as v5e:2x2")
    device = DEVICES[kind]
    if not _is_installed(device.package):
        raise UserError(f"--target={target} needs the compiler of its devices: {_MISSING[device.package]}")
    try:
        if kind == "h100":
            return device, topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=_H100).devices
        one = {"chips_per_host_bounds": (1, 1, 1)} if set(shape) <= {"1", "x"} else {}
        return device, topologies.get_topology_desc(target, "tpu", **one).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--target={target} is not a topology that the compiler knows: {reason}") from error


def _is_installed(package: str) -> bool:
    return any((pathlib.Path(site) / package).exists() for site in sys.path)


class Compilation:
    """A configuration's training, compiled for a target."""

    def __init__(self, config: ml_collections.ConfigDict, devices: list[Any]):
        mesh = sharding.make_mesh(len(members_from_config(config.to_dict())), devices)
        sharding.check_batch(config.train, mesh)
        self.config = config
        self.trainer = Trainer(config, _dataset(), mesh)
        started = time.perf_counter()
        self.compiled = self.trainer.lower_training(*self.trainer.split_shapes(_split(_TRAIN))).compile()
        self.seconds = time.perf_counter() - started

    @property
    def peak_bytes(self) -> int:
        """Most memory of one device: data, parameters and their moments, and what is computed."""
        analysis = self.compiled.memory_analysis()
        parts = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
        return max(analysis.peak_memory_in_bytes, parts - analysis.alias_size_in_bytes)

    def _step_costs(self) -> dict[str, float]:
        """Return XLA's cost analysis of a step, per device.

        XLA counts the body of a loop once. Networks that a device computes in turns are such a loop: then a step of
        one turn is compiled, and its costs are multiplied by the number of turns.
        """
        own, turns = self.trainer, 1.0
        networks = len(own.members) // own.mesh.shape[sharding.SEED_AXIS]
        if networks > own.at_once:
            config = ml_collections.ConfigDict(self.config.to_dict() | {"vary": {}})
            config.num_seeds = own.at_once * own.mesh.shape[sharding.SEED_AXIS]
            own, turns = Trainer(config, _dataset(), own.mesh), networks / own.at_once
        costs = own.lower_step(*own.split_shapes(_split(_TRAIN))).compile().cost_analysis() or {}
        return {name: turns * value for name, value in costs.items()}

    def facts(self, device: Device) -> dict[str, Any]:
        """Return what is printed, per device; compiles one step and the evaluation besides."""
        trainer, analysis = self.trainer, self.compiled.memory_analysis()
        state = trainer.shapes
        step = self._step_costs()
        evaluation = trainer.lower_evaluation(*trainer.split_shapes(_split(_TEST))).compile()
        program = CompiledProgram(self.compiled.as_text())
        collectives = [dataclasses.asdict(one) | {"bytes": one.bytes} for one in program.collectives()]
        images = trainer.experiment.batch_size * len(trainer.members)
        flops = step.get("flops")
        if not flops:  # not counted by this compiler: the products alone, of a pass forward and two backward
            counted = footprint.Footprint(trainer.experiment.model, trainer.experiment.image_shape)
            flops = 6e6 * counted.mmac_executed * images / trainer.mesh.size
        facts = {
            "mesh": dict(trainer.mesh.shape),
            "images_per_step": images,
            "seconds_compile": self.seconds,
            "peak_bytes": self.peak_bytes,
            "temporary_bytes": analysis.temp_size_in_bytes,
            "evaluation_temporary_bytes": evaluation.memory_analysis().temp_size_in_bytes,
            "memory_bytes": device.memory,
            "flops": flops,
            "bytes_accessed": step.get("bytes accessed"),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)) // len(trainer.members),
            "collectives": collectives,
            "host_transfers_in_loops": program.host_transfers_in_loops(),
            "state_arguments": len(jax.tree.leaves(state)),
            "reused_arguments": len(program.reused_arguments()),
        }
        facts["seconds_bound_arithmetic"] = flops / device.flops
        facts["seconds_bound_traffic"] = (facts["bytes_accessed"] or 0) / device.bandwidth
        slower = max(facts["seconds_bound_arithmetic"], facts["seconds_bound_traffic"])
        return facts | {"images_per_second_bound": images / slower}


def _split(images: int) -> data.Split:
    """Images that take no memory: their shapes are all that is looked at."""
    return data.Split(np.broadcast_to(np.uint8(0), (images, 32, 32, 3)), np.broadcast_to(np.int32(0), (images,)))


def _dataset() -> data.Dataset:
    test = _split(_TEST)
    return data.Dataset(_split(_TRAIN), test, test, (127.5,) * 3, (64.0,) * 3, tuple(map(str, range(CLASSES))))


def largest(
    config: ml_collections.ConfigDict, field: str, devices: list[Any], memory: float, progress: Progress
) -> int:
    """Return the largest value of a field, its own times a power of two, whose training fits the memory of a device.

    Memory grows by the same amount with each further image or seed: two compilations tell how much, and a third shows
    that the value found fits.
    """
    group, _, name = field.rpartition(".")
    smallest = len(devices) if field == "num_seeds" else config.train.batch_size
    task = progress.add_task(f"largest {field}", total=None)

    def peak(value: int) -> float:
        progress.update(task, description=f"largest {field}: {value:,}?")
        trial = ml_collections.ConfigDict(config.to_dict())
        (trial[group] if group else trial)[name] = value
        try:
            return Compilation(trial, devices).peak_bytes
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                return np.inf
            raise

    first, second = peak(smallest), peak(2 * smallest)
    if second > memory:
        return smallest if first <= memory else 0
    most = smallest + (memory - first) / max((second - first) / smallest, 1)
    value = smallest * 2 ** int(np.log2(most / smallest))
    limit = _TRAIN if field != "num_seeds" else 1024
    while value > limit:
        value //= 2
    while value > 2 * smallest and peak(value) > memory:
        value //= 2
    progress.remove_task(task)
    return value


def describe(target: str, device: Device, facts: dict[str, Any]) -> str:
    """Format facts as aligned text."""
    mib, gb = 2**20, 1e9
    lines = [
        ("devices", f"{target}, {device.name}: {facts['mesh']['seed']} × seeds, {facts['mesh']['data']} × data"),
        ("compiling", f"{facts['seconds_compile']:.0f} s"),
        (
            "memory, training",
            f"{facts['peak_bytes'] / mib:,.0f} MiB of {device.memory / mib:,.0f}, "
            f"{facts['temporary_bytes'] / mib:,.0f} of them temporary",
        ),
        ("memory, evaluation", f"{facts['evaluation_temporary_bytes'] / mib:,.0f} MiB temporary"),
    ]
    traffic = facts["bytes_accessed"]
    if traffic:
        bounds = f", traffic {facts['seconds_bound_traffic'] * 1e3:.3f} ms"
        traffic = f"{traffic / gb:,.2f} GB read and written"
    else:
        bounds, traffic = "", "of matrix products; this compiler counts neither the rest nor traffic"
    lines += [
        ("a step", f"{facts['flops'] / 1e9:,.1f} GFLOP, {traffic}"),
        (
            "bounds, not measured",
            f"arithmetic {facts['seconds_bound_arithmetic'] * 1e3:.3f} ms{bounds}: "
            f"at most {facts['images_per_second_bound']:,.0f} images/s on all devices",
        ),
    ]
    for place, inside in (("in a step", True), ("once a call", False)):
        found = [one for one in facts["collectives"] if one["in_loop"] == inside]
        kinds = sorted({one["kind"] for one in found})
        texts = [
            f"{sum(one['kind'] == kind for one in found)} × {kind}, "
            f"{sum(one['bytes'] for one in found if one['kind'] == kind) / 1e3:,.1f} kB"
            for kind in kinds
        ]
        lines.append((f"exchanged {place}", "; ".join(texts) or "nothing"))
    for name, field in (("batch", "largest_batch"), ("seeds", "largest_seeds")):
        if field in facts:
            lines.append((f"largest {name}", f"{facts[field]:,}"))
    return "\n".join(f"{name:<22}{text}" for name, text in lines)


def main() -> None:
    """Parse the command line, compile, print and write JSON."""
    parser = cli.Parser("python -m benchmarks.accelerators", __doc__)
    parser.add_argument("--target", required=True, help="h100, or v5e, v5p or v6e with a topology, e.g. v5e:2x2")
    parser.add_argument("--config", default="configs/eanet.py", help="a file; also --config.FIELD=VALUE")
    parser.add_argument("--fit", action="store_true", help="look for the largest batch and number of seeds")
    parser.add_argument("--out", default="", help="JSON file (default: runs/accelerators-….json)")
    arguments, overrides = parser.parse_known_args()
    _, config = cli.read_config([f"--config={arguments.config}", *overrides])
    rules.validate(config)
    device, devices = devices_of(arguments.target)
    with Progress(transient=True) as progress:
        progress.add_task(f"compiling for {arguments.target}", total=None)
        try:
            facts = Compilation(config, devices).facts(device)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(
                f"this does not fit --target={arguments.target}; less at a time may: config.seeds_per_call, "
                f"config.train.microbatch. The compiler says: {' '.join(str(error).split())}",
                exit_code=1,
            ) from error
        if arguments.fit:
            facts["largest_batch"] = largest(config, "train.batch_size", devices, device.memory, progress)
            facts["largest_seeds"] = largest(config, "num_seeds", devices, device.memory, progress)
    name = arguments.target.replace(":", "-")
    settings = {"target": arguments.target, "config": config.to_dict()}
    out = write_json(arguments.out or f"runs/accelerators-{name}.json", {"settings": settings, "facts": facts})
    print(f"{describe(arguments.target, device, facts)}\n{out}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
