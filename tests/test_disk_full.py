"""A full disk stops a run with one line, loses nothing that was saved, and the run goes on when there is space."""

import errno
import os
import subprocess
import sys

import pytest

import runs

_ARGUMENTS = (*runs.TOY, "--config.train.epochs=30")


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
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "cannot be written" in line and "No space left on device" in line and "the same command goes on" in line
    assert not (workdir / "results.json").exists()
    (small_disk / "ballast").unlink()
    code, text = runs.complete(*_ARGUMENTS, f"--workdir={workdir}")
    assert code == 0, text
    first = text.splitlines()[0]
    assert first.startswith("Going on from step ") and int(first.split()[4]) >= 4
    assert "damaged" not in text
    runs.assert_equal(workdir, uninterrupted, _ARGUMENTS)
