"""Data parallel on emulated devices, in processes of their own: the number of devices is fixed at import."""

import json
import os
import subprocess
import sys

import pytest

_PROGRAM = """
import json, sys
import numpy as np
from tiny import tiny_config
from eanet import train
from eanet.errors import UserError
import jax
try:
    batch_size, microbatch, num_seeds = map(int, sys.argv[2:])
    config = tiny_config(train__batch_size=batch_size, train__microbatch=microbatch, num_seeds=num_seeds)
    results = train.train(config, sys.argv[1])
except UserError as error:
    results = {"error": str(error)}
rows = [json.loads(line) for line in open(sys.argv[1] + "/metrics.jsonl")] if "error" not in results else []
print("RESULT" + json.dumps({"devices": jax.device_count(), "rows": rows, "results": results}))
"""


def _train_on(devices, workdir, batch_size=32, microbatch=0, num_seeds=1):
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join(["tests", "."]),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", _PROGRAM, str(workdir), *map(str, (batch_size, microbatch, num_seeds))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("RESULT")[2])


@pytest.mark.parametrize("microbatch", [0, 8])
def test_four_devices_compute_what_one_computes(tmp_path, microbatch):
    """One device takes micro-batches of 16 of itself, four the whole batch or what they are told."""
    one, four = _train_on(1, tmp_path / "one"), _train_on(4, tmp_path / "four", microbatch=microbatch)
    assert (one["devices"], four["devices"]) == (1, 4)
    for ours, theirs in zip(four["rows"], one["rows"], strict=True):
        for name in ("train/loss", "train/grad_norm", "val/loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5)
    assert four["results"]["test/loss"] == pytest.approx(one["results"]["test/loss"], rel=1e-5)


def test_seeds_are_spread_over_devices_first_and_exchange_nothing(tmp_path):
    """Four devices take a seed each or two; with two seeds each has two devices for its data."""

    def rows(devices, num_seeds):
        result = _train_on(devices, tmp_path / f"{devices}-{num_seeds}", num_seeds=num_seeds)
        return [
            {name: value for name, value in row.items() if name.startswith(("seed_0/", "seed_1/"))}
            for row in result["rows"]
        ]

    alone = rows(1, 2)
    assert len(alone) == 2 and all("seed_1/val/loss" in row for row in alone)
    one_each, two_each, shared = rows(4, 4), rows(4, 8), rows(4, 2)
    assert one_each == two_each
    for spread in (one_each, shared):
        for ours, theirs in zip(spread, alone, strict=True):
            for name in ("seed_0/train/loss", "seed_1/train/loss", "seed_0/val/loss", "seed_1/val/loss"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-5)


def test_a_batch_that_does_not_divide_is_an_error_that_names_both(tmp_path):
    result = _train_on(4, tmp_path / "run", batch_size=30)
    assert result["results"]["error"] == "config.train.batch_size=30 does not divide by the 4 devices"
    result = _train_on(4, tmp_path / "run", microbatch=2)
    assert result["results"]["error"] == "config.train.microbatch=2 does not divide by the 4 devices"
    assert not (tmp_path / "run").exists()
