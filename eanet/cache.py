"""Decoded data sets on disk: memory-mapped arrays that are either whole or rebuilt.

Decoding 50,000 PNGs takes many seconds; reading them back decoded takes a fraction of one.
"""

import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np
import platformdirs

_INDEX = "index.json"


def directory() -> pathlib.Path:
    """Give the cache directory: EANET_CACHE_DIR, else the user's own."""
    return pathlib.Path(os.environ.get("EANET_CACHE_DIR") or platformdirs.user_cache_dir("eanet"))


def store(path: pathlib.Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write arrays and JSON metadata under a temporary name, then rename: never half a cache.

    Raises OSError where the directory cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        files = {}
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array, allow_pickle=False)
            files[name] = _fingerprint(partial / f"{name}.npy")
        (partial / _INDEX).write_text(json.dumps({"files": files, "meta": meta}))
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def load(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Map the arrays read-only; None where there is no cache.

    Raises ValueError, saying what is wrong, where a file is missing or differs from what was written.
    """
    if not path.exists():
        return None
    try:
        index = json.loads((path / _INDEX).read_text())
        arrays = {}
        for name, fingerprint in index["files"].items():
            if _fingerprint(path / f"{name}.npy") != fingerprint:
                raise ValueError(f"{name}.npy is not what was written")
            arrays[name] = np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return arrays, index["meta"]
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _fingerprint(path: pathlib.Path) -> list[int | str]:
    """Size in bytes and SHA-256."""
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]
