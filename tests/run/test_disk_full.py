"""A full disk stops a run with one line, loses nothing that was saved, and the run resumes when there is space."""

import errno
import os
import re
import subprocess
import sys
import time

import pytest

from eanet.data import datasets as data
from eanet.errors import UserError
from eanet.run.checkpoint import Checkpoints
from eanet.training import sharding
from eanet.training.trainer import Trainer
from helpers import runs
from helpers.tiny import tiny_config

pytestmark = pytest.mark.system

_ARGUMENTS = (*runs.TOY, "--config.train.epochs=40")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root on Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount a small file system here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    code, text = runs.complete(*_ARGUMENTS, f"--workdir={workdir}")
    assert code == 0, text
    return workdir


def _fill(path):
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        with pytest.raises(OSError) as full:
            while True:
                file.write(bytes(512))
    assert full.value.errno == errno.ENOSPC


def test_a_full_disk_stops_the_run_and_loses_nothing(small_disk, uninterrupted):
    workdir = small_disk / "run"
    process = runs.start(*_ARGUMENTS, f"--workdir={workdir}")
    assert runs.wait_until(lambda: (workdir / "checkpoints" / "8").exists(), process)
    _fill(small_disk / "ballast")
    text = runs.end(process)
    assert process.returncode == 1
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "cannot be written" in line and "No space left on device" in line and "the same command resumes" in line
    assert not (workdir / "results.json").exists()
    (small_disk / "ballast").unlink()
    code, text = runs.complete(*_ARGUMENTS, f"--workdir={workdir}")
    assert code == 0, text
    assert int(re.search(r"Going on from step (\d+) of", text)[1]) >= 4 and "damaged" not in text
    runs.assert_equal(workdir, uninterrupted, _ARGUMENTS)


def test_a_failed_save_is_noticed_before_the_next_one(small_disk):
    """The next one may be many epochs away."""
    config = tiny_config()
    trainer = Trainer(config, data.load(config.data), sharding.make_mesh())
    checkpoints = Checkpoints(small_disk / "checkpoints", keep=1)
    checkpoints.save(trainer.init(), 1, config.to_dict(), {})
    checkpoints.wait()
    _fill(small_disk / "ballast")
    with pytest.raises(UserError, match=r"No space left on device; whole are those of the steps: 1; ") as stop:
        checkpoints.save(trainer.init(), 2, config.to_dict(), {})
        for _ in range(1000):
            checkpoints.check()
            time.sleep(0.01)
    assert stop.value.exit_code == 1


def test_a_directory_that_cannot_be_written_is_one_line(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    code, text = runs.complete(*_ARGUMENTS, f"--workdir={small_disk / 'run'}")
    assert code == 2
    (line,) = text.splitlines()
    assert line.startswith(f"error: --workdir={small_disk / 'run'} cannot be written: ")


def test_a_run_goes_on_when_nobody_takes_what_it_prints(tmp_path, uninterrupted):
    """Not a full disk under its output, nor a reader that has gone."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    command = [sys.executable, "main.py", *_ARGUMENTS]
    with open("/dev/full", "w") as full:
        done = subprocess.run([*command, f"--workdir={tmp_path / 'full'}"], cwd=runs.ROOT, stdout=full, stderr=-1)
    assert (done.returncode, done.stderr) == (0, b"")
    process = runs.start(*_ARGUMENTS, f"--workdir={tmp_path / 'gone'}")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(240) == 0
    for name in ("full", "gone"):
        runs.assert_equal(tmp_path / name, uninterrupted, _ARGUMENTS)
