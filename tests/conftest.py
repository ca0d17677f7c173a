"""What all tests share: strict broadcasting, and no traces outside the test's own directory."""

import os

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
