"""The benchmarks of scaling and of seeds: their layers, fits and tables at toy size."""

import importlib
import json
import math
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import scaling


def _row(layer, tokens, seconds, what="gradient"):
    return {"layer": layer, "pass": what, "tokens": tokens, "seconds": [seconds], "bytes": 1}


def test_both_ways_to_self_attention_are_one_function():
    made = scaling.layers(jnp.float32)
    x = jax.random.normal(jax.random.key(1), (2, 9, scaling.CHANNELS))
    params, function = made["self"]
    same_params, other = made["self, jax.nn"]
    params = jax.tree.map(lambda p: p + 0.1, params)  # biases start at 0
    assert jax.tree.structure(params) == jax.tree.structure(same_params)
    np.testing.assert_allclose(other(params, x), function(params, x), atol=1e-4)
    assert np.abs(made["external"][1](made["external"][0], x)).max() > 0


def test_slopes_are_fitted_to_the_larger_half():
    xs = np.array([1.0, 2, 4, 8, 16, 32])
    assert scaling.slope(xs, 3 * xs**2) == pytest.approx(2)
    assert scaling.slope(xs, np.where(xs < 8, 5.0, xs)) == pytest.approx(1)
    assert math.isnan(scaling.slope(xs[:1], xs[:1]))


@pytest.mark.parametrize(
    "theirs, expected",
    [
        ((2.0, 4.0, 8.0), 0.0),  # faster everywhere
        ((0.5, 0.5, 0.5), math.nan),
        ((0.5, 2.0, 8.0), math.sqrt(64 * 256)),  # as far below as above: half way in logarithms
        ((2.0, 0.5, 2.0), math.sqrt(256 * 1024)),  # the last crossing counts
        ((0.5, 2.0), math.sqrt(64 * 256)),  # where theirs was not run
    ],
)
def test_the_crossing_is_found_between_measurements(theirs, expected):
    tokens = (64, 256, 1024)
    rows = [_row("external", count, 1.0) for count in tokens]
    rows += [_row("self", count, seconds) for count, seconds in zip(tokens, theirs, strict=False)]
    assert scaling.crossing(rows, "self", "gradient") == pytest.approx(expected, nan_ok=True)


_GROWTH = """
import pathlib, sys
import jax
import jax.numpy as jnp
from benchmarks import scaling

def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))

layer, tokens = sys.argv[1], 4096
variables, function = scaling.layers(jnp.float32)[layer]
program, arguments = scaling.compile_layer(variables, function, tokens, jnp.float32, "forward")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak of the past is forgotten
before = status("VmRSS")
jax.block_until_ready(program(*arguments))
print((status("VmHWM") - before) / scaling.temporary_bytes(program, layer, tokens))
"""


@pytest.mark.system
@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("layer", ["self", "self, jax.nn"])
def test_a_process_grows_by_the_memory_that_is_reported(layer):
    done = subprocess.run([sys.executable, "-c", _GROWTH, layer], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert 0.9 < float(done.stdout) < 1.3  # the compiled program alone plans 9 MiB of self's 256


@pytest.mark.system
def test_scaling_runs_draws_and_leaves_out_what_does_not_fit(tmp_path):
    command = [sys.executable, "-m", "benchmarks.scaling", "--tokens=16,64,256", "--repetitions=2", "--seconds=0.001"]
    command += [f"--out={tmp_path / 'scaling'}", "--gib=0.001"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert len(rows) == 3 * 3 * 2 and {row["layer"] for row in rows} == {"external", "self", "self, jax.nn"}
    for row in rows:
        assert row["bytes"] > 0 and len(row["seconds"]) == (2 if row["bytes"] <= 0.001 * 2**30 else 0)
    assert any(row["seconds"] for row in rows) and not all(row["seconds"] for row in rows)
    assert "not run" in done.stdout and "| slope of time |" in done.stdout and "external is faster from" in done.stdout
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.system
def test_seeds_in_one_program_beside_processes(tmp_path):
    out = tmp_path / "seeds.json"
    command = [sys.executable, "-m", "benchmarks.seeds", "--toy", "--seeds=1,2", "--batch=16", "--repetitions=2"]
    done = subprocess.run([*command, f"--out={out}"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["seeds"] for row in rows] == [1, 2]
    for row in rows:
        ours, theirs = row["images_per_second"].values()
        assert len(ours) == len(theirs) == 2 and min(ours + theirs) > 0
        assert row["ratio"] == pytest.approx(np.median(np.divide(ours, theirs)))
    one, many = rows[1]["peak_mib"].values()
    assert many > 1.5 * one > 100  # two processes hold two of everything
    assert "| 2 |" in done.stdout


@pytest.mark.system
@pytest.mark.parametrize(
    "program, flag", [("seeds", "--seeds=1,x"), ("seeds", "--seeds=0"), ("scaling", "--tokens=1.5")]
)
def test_counts_that_are_none_are_refused(program, flag):
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{program}", flag], capture_output=True, text=True)
    assert done.returncode == 2 and "accepted: whole numbers above 0" in done.stderr


@pytest.mark.parametrize("repetitions, said", [(1, "of 1 repetition"), (2, "of 2 repetitions")])
@pytest.mark.parametrize("program", ["scaling", "seeds", "throughput", "variants"])
def test_one_repetition_is_not_called_several(program, repetitions, said, tmp_path, capsys, monkeypatch):
    benchmark = importlib.import_module(f"benchmarks.{program}")
    monkeypatch.setattr(benchmark, "measure", lambda *_: [{"name": "a peer", "parameters": 3}])
    monkeypatch.setattr(benchmark, "table", lambda _: "a table")
    monkeypatch.setattr(benchmark, "draw", lambda *_: None, raising=False)
    steps = ["--steps=1"] if program == "throughput" else []
    monkeypatch.setattr(sys, "argv", [program, f"--repetitions={repetitions}", f"--out={tmp_path / 'out'}", *steps])
    benchmark.main()
    printed = capsys.readouterr().out
    assert re.search(rf"{said}\b", printed) and ("of 1 batch." in printed) == (program == "throughput")


@pytest.mark.system
def test_what_a_checkpoint_costs(tmp_path):
    config = ["--config=configs/digits.py", "--steps=1", "--repetitions=2", f"--out={tmp_path / 'checkpoints.json'}"]
    command = [sys.executable, "-m", "benchmarks.checkpoints", *config]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    seconds = json.loads((tmp_path / "checkpoints.json").read_text())["seconds"]
    assert [len(values) for values in seconds.values()] == [2, 2, 2]
    assert all(0 < waiting < whole for waiting, whole in zip(seconds["waiting"], seconds["with"], strict=True))
    assert "A checkpoint adds " in done.stdout and "Of an epoch of 40,000 images" in done.stdout


@pytest.mark.system
def test_variants_of_a_configuration_side_by_side(tmp_path):
    small = "model.dim=16 model.depth=1 model.patch_size=8 train.batch_size=16"
    command = [sys.executable, "-m", "benchmarks.variants", small, f"{small} num_seeds=2", "--repetitions=2"]
    command += ["--config=configs/none.py", f"--out={tmp_path / 'variants.json'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "variants.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["configs/none.py", small, f"{small} num_seeds=2"]
    first = rows[0]["images_per_second"]
    for row in rows:
        rates = row["images_per_second"]
        assert len(rates) == 2 and row["ratio"] == pytest.approx(np.median(np.divide(rates, first)))
    assert rows[1]["ratio"] > 2  # a hundredth of the arithmetic
    bad = subprocess.run([*command[:3], "model.dmi=1"], capture_output=True, text=True)
    assert bad.returncode == 2 and "did you mean config.model.dim" in bad.stderr
