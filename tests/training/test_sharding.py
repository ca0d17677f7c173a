"""Data parallel on emulated devices, in processes of their own: the number of devices is fixed at import."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.system

_PROGRAM = """
import json, sys
import numpy as np
from helpers.tiny import tiny_config
from eanet import train
from eanet.errors import UserError
import jax
try:
    batch_size, microbatch, num_seeds = map(int, sys.argv[2:5])
    config = tiny_config(train__batch_size=batch_size, train__microbatch=microbatch, num_seeds=num_seeds,
                         data__streaming=sys.argv[5])
    results = train.train(config, sys.argv[1])
except UserError as error:
    results = {"error": str(error)}
rows = [json.loads(line) for line in open(sys.argv[1] + "/metrics.jsonl")] if "error" not in results else []
print("RESULT" + json.dumps({"devices": jax.device_count(), "rows": rows, "results": results}))
"""


def _train_on(devices, workdir, batch_size=32, microbatch=0, num_seeds=1, streaming="never"):
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join(["tests", "."]),
        "JAX_PLATFORMS": "cpu",
    }
    options = (batch_size, microbatch, num_seeds, streaming)
    command = [sys.executable, "-c", _PROGRAM, str(workdir), *map(str, options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("RESULT")[2])


def _losses(rows, name=""):
    return [
        {key: value for key, value in row.items() if key.endswith(("/loss", "/grad_norm")) and key.startswith(name)}
        for row in rows
    ]


def _assert_close(ours, theirs):
    assert len(ours) == len(theirs) == 2
    for a, b in zip(ours, theirs, strict=True):
        assert a and a == pytest.approx({name: b[name] for name in a}, rel=1e-5)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """One seed, and two, on one device."""
    return {seeds: _train_on(1, tmp_path_factory.mktemp("one"), num_seeds=seeds) for seeds in (1, 2)}


@pytest.mark.parametrize(("devices", "microbatch"), [(2, 0), (4, 0), (4, 8), (8, 0), (8, 16)])
def test_several_devices_compute_what_one_computes(tmp_path, one_device, devices, microbatch):
    """One device takes micro-batches of 16 of itself, several the whole batch or what they are told."""
    several = _train_on(devices, tmp_path, microbatch=microbatch)
    assert (one_device[1]["devices"], several["devices"]) == (1, devices)
    _assert_close(_losses(several["rows"]), _losses(one_device[1]["rows"]))
    assert several["results"]["test/loss"] == pytest.approx(one_device[1]["results"]["test/loss"], rel=1e-5)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_seeds_are_spread_over_devices_first_and_exchange_nothing(tmp_path, one_device, devices):
    """A device with a seed or two has the same bits, whatever the others do; two seeds share what is left for data."""

    def rows(num_seeds):
        return _train_on(devices, tmp_path / str(num_seeds), num_seeds=num_seeds)["rows"]

    alone = one_device[2]["rows"]
    one_each, two_each = rows(devices), rows(2 * devices)
    shared = rows(2) if devices > 2 else one_each
    for seed in ("seed_0/", "seed_1/"):
        assert _losses(one_each, seed) == _losses(two_each, seed)
        assert set(_losses(one_each, seed)[0]) >= {f"{seed}train/loss", f"{seed}val/loss", f"{seed}train/grad_norm"}
        for spread in (one_each, shared):
            _assert_close(_losses(spread, seed), _losses(alone, seed))


@pytest.mark.parametrize(("devices", "seeds"), [(4, 1), (4, 2), (2, 4)])
def test_streamed_batches_reach_the_devices_that_compute_them(tmp_path, devices, seeds):
    """A batch over four devices, two seeds over pairs of them, two seeds on each."""
    memory, host = (
        _train_on(devices, tmp_path / streaming, num_seeds=seeds, streaming=streaming)
        for streaming in ("never", "always")
    )
    _assert_close(_losses(host["rows"]), _losses(memory["rows"]))
    assert host["results"]["test/loss"] == pytest.approx(memory["results"]["test/loss"], rel=1e-5)


def test_a_batch_that_does_not_divide_is_an_error_that_names_both(tmp_path):
    result = _train_on(4, tmp_path / "run", batch_size=30)
    assert result["results"]["error"] == "config.train.batch_size=30 does not divide by the 4 devices"
    result = _train_on(4, tmp_path / "run", microbatch=2)
    assert result["results"]["error"] == "config.train.microbatch=2 does not divide by the 4 devices"
    assert not (tmp_path / "run").exists()
