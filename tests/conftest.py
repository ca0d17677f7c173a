"""What all tests share: strict broadcasting, and no traces outside the test's own directory."""

import importlib.util
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("WANDB_SILENT", "true")
for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_SWEEP_ID"):
    os.environ.pop(name, None)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def own_directories(tmp_path_factory, monkeypatch):
    """Keep caches and W&B credentials of the person who runs the tests out of them, and theirs safe."""
    monkeypatch.setenv("EANET_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("NETRC", str(tmp_path_factory.getbasetemp() / "no-netrc"))


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
    """A TFDS directory with the tiny cifar100 of synthetic.py; TensorFlow stays in the process that makes it."""
    return _synthetic_tfds(tmp_path_factory, "array_record")


@pytest.fixture(scope="session")
def tfrecord_dir(tmp_path_factory):
    """The same records in the format that only TensorFlow reads."""
    return _synthetic_tfds(tmp_path_factory, "tfrecord")


def _synthetic_tfds(tmp_path_factory, file_format):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("preparing a TFDS data set needs TensorFlow, which is not installed")
    directory = tmp_path_factory.mktemp(f"tfds-{file_format}")
    script = pathlib.Path(__file__).with_name("synthetic.py")
    made = subprocess.run([sys.executable, script, directory, file_format], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    return directory
