"""A run compiled for TPUs that are not there, at toy size: what its devices exchange, reuse and hold."""

import importlib.util
import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.system

_needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="compiling for a TPU needs libtpu: pip install -e '.[accelerators]'",
)
_needs_cuda = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="compiling for an H100 needs jax-cuda13-plugin"
)
_TOY = ("--config=configs/digits.py", "--config.model.dim=16", "--config.model.mlp_dim=16", "--config.model.depth=1")
_TOY += ("--config.model.patch_size=8", "--config.train.batch_size=32")
_BROKEN = """
import sys
from benchmarks import accelerators
import jax, jax.numpy as jnp
from eanet import cli
from eanet.training import sharding, step, trainer
train_step, jit = step.train_step, jax.jit
def exchanges(*arguments):
    state, monitor = train_step(*arguments)
    return state, monitor.replace(loss=jax.lax.pmean(monitor.loss, sharding.SEED_AXIS))
def calls_back(*arguments):
    state, monitor = train_step(*arguments)
    jax.debug.callback(lambda loss: None, monitor.loss)
    return state, monitor
def keeps_everything(function, donate_argnums=(), **options):
    return jit(function, **options)
how = sys.argv.pop(1)
if how == "keeps_everything":
    jax.jit = keeps_everything
else:
    step.train_step = globals()[how]
sys.argv[0] = "accelerators"
sys.exit(cli.run(accelerators.main))
"""


def _run(*arguments, program=("-m", "benchmarks.accelerators")):
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=840)


def _facts(tmp_path, *arguments, **options):
    out = tmp_path / "facts.json"
    done = _run(*_TOY, *arguments, f"--out={out}", **options)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())["facts"], done.stdout


@_needs_libtpu
def test_seeds_exchange_nothing_and_256_chips_need_no_more_memory_than_4(tmp_path):
    few, _ = _facts(tmp_path, "--target=v5e:2x2", "--config.num_seeds=4")
    assert few["mesh"] == {"seed": 4, "data": 1}
    assert not [one for one in few["collectives"] if one["in_loop"]]
    many, _ = _facts(tmp_path, "--target=v5e:16x16", "--config.num_seeds=256")
    assert many["mesh"] == {"seed": 256, "data": 1} and many["peak_bytes"] <= few["peak_bytes"] * 1.01


@_needs_libtpu
def test_networks_in_turns_cost_what_they_cost_together(tmp_path):
    """XLA counts a loop's body once, and turns are a loop."""
    seeds = ("--target=v5e:1x1", "--config.num_seeds=4")
    together, turns = (_facts(tmp_path, *seeds, f"--config.seeds_per_call={count}")[0] for count in (4, 2))
    for name in ("flops", "bytes_accessed"):
        assert turns[name] == pytest.approx(together[name], rel=0.1), name
    one, _ = _facts(tmp_path, *seeds, "--config.seeds_per_call=1")
    assert one["flops"] == pytest.approx(together["flops"], rel=0.1)


@_needs_libtpu
def test_a_batch_over_the_devices_exchanges_the_gradient_and_the_state_stays_in_its_place(tmp_path):
    facts, printed = _facts(tmp_path, "--target=v5e:2x2")
    assert facts["mesh"] == {"seed": 1, "data": 4}
    inside = [one for one in facts["collectives"] if one["in_loop"]]
    assert {one["kind"] for one in inside} == {"all-reduce"}
    assert {kind for one in inside for kind, _ in one["arrays"]} == {"f32"}  # matmul_precision
    # One number for each parameter, but those of merged kernels and dead biases; a few sums of the metrics.
    parameters = 4 * facts["parameters"]
    assert 0.8 * parameters < sum(one["bytes"] for one in inside) < 1.2 * parameters + 100
    assert facts["reused_arguments"] == facts["state_arguments"] and facts["host_transfers_in_loops"] == []
    for line in ("memory, training", "bounds, not measured", "exchanged in a step", "GB read and written"):
        assert line in printed


@_needs_libtpu
@pytest.mark.parametrize("how", ["exchanges", "calls_back", "keeps_everything"])
def test_each_fault_is_seen(tmp_path, how):
    facts, _ = _facts(tmp_path, "--target=v5e:2x2", "--config.num_seeds=4", program=("-c", _BROKEN, how))
    assert bool([one for one in facts["collectives"] if one["in_loop"]]) == (how == "exchanges")
    assert bool(facts["host_transfers_in_loops"]) == (how == "calls_back")
    assert (facts["reused_arguments"] < facts["state_arguments"]) == (how == "keeps_everything")


@_needs_libtpu
@pytest.mark.slow
def test_the_largest_batch_and_number_of_seeds_fit(tmp_path):
    facts, printed = _facts(tmp_path, "--target=v5e:2x2", "--fit")
    assert facts["largest_batch"] >= 32 and facts["largest_batch"] % 32 == 0
    assert facts["largest_seeds"] >= 4 and "largest seeds" in printed


@_needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("config", ["configs/eanet.py", "configs/vit.py"])
def test_the_full_sizes_compile(tmp_path, config):
    out = tmp_path / "facts.json"
    done = _run(f"--config={config}", "--target=v5e:2x2", f"--out={out}")
    assert done.returncode == 0, done.stderr
    facts = json.loads(out.read_text())["facts"]
    assert facts["peak_bytes"] < facts["memory_bytes"] / 8


@_needs_cuda
def test_an_h100_compiles_too(tmp_path):
    facts, printed = _facts(tmp_path, "--target=h100")
    assert facts["reused_arguments"] == facts["state_arguments"] and facts["collectives"] == []
    assert facts["peak_bytes"] > 40_000 * 32 * 32 * 3 and "of matrix products" in printed


@pytest.mark.parametrize("target", ["v9:2x2", "v5e", "h100:2", ""])
def test_an_unknown_target_is_one_line(target):
    done = _run(f"--target={target}")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: --target={target}; accepted: h100, or v5e, v5p or v6e with a topology, as v5e:2x2\n"


@_needs_libtpu
def test_a_topology_that_does_not_exist_is_one_line():
    done = _run("--target=v5e:3x7")
    assert done.returncode == 2 and "error: --target=v5e:3x7 is not a topology that the compiler knows" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_the_compiler_it_is_said_what_to_install():
    done = _run("--target=v5e:2x2")
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --target=v5e:2x2 needs the compiler of its devices: pip install")
