"""The cache for later runs: decoded data sets as memory-mapped arrays, rebuilt if damaged, and compiled programs.

Decoding 50,000 PNGs takes many seconds; reading them back decoded takes a fraction of one.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import platformdirs

_INDEX = "index.json"  # size and checksum of every other file
_META = "meta.json"


def directory() -> pathlib.Path:
    """Return the cache directory: EANET_CACHE_DIR, else the user's own."""
    return pathlib.Path(os.environ.get("EANET_CACHE_DIR") or platformdirs.user_cache_dir("eanet"))


def keep_compiled_programs() -> None:
    """Let JAX keep what it compiles beside the data, unless the person has named a place for it.

    Small programs too, which JAX leaves out: a start has dozens of them.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(directory() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def store(path: pathlib.Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write arrays and JSON metadata under a temporary name, then rename: never half a cache.

    Raises OSError where the directory cannot be written.
    """
    with writing(path) as partial:
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array, allow_pickle=False)
        finish(partial, meta)


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a directory for the files of a cache, and put it into place at the end; finish is to be called before.

    If something fails nothing of it stays. Raises OSError where the directory cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        partial.chmod(0o755)  # mkdtemp's 0700 would keep a shared cache from everybody else
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def finish(partial: pathlib.Path, meta: dict[str, Any]) -> None:
    """Write the metadata, and the index of all files."""
    (partial / _META).write_text(json.dumps(meta))
    files = {file.name: _fingerprint(file) for file in sorted(partial.iterdir())}
    (partial / _INDEX).write_text(json.dumps(files))


def load(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Map the arrays read-only; None if there is no cache.

    Raises ValueError, saying what is wrong, if a file is missing or differs from what was written.
    """
    if not path.exists():
        return None
    try:
        index = json.loads((path / _INDEX).read_text())
        if _META not in index:
            raise ValueError(f"{_INDEX} does not list {_META}")
        arrays = {}
        for name, fingerprint in index.items():
            if _fingerprint(path / name) != fingerprint:
                raise ValueError(f"{name} is not what was written")
            if name.endswith(".npy"):
                arrays[name.removesuffix(".npy")] = np.load(path / name, mmap_mode="r", allow_pickle=False)
        return arrays, json.loads((path / _META).read_text())
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _fingerprint(path: pathlib.Path) -> list[int | str]:
    """Size in bytes and SHA-256."""
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]
