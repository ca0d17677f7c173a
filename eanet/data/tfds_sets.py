"""Data sets of TFDS, by name: prepared ones are decoded and kept in a cache, missing ones are prepared first.

TensorFlow is imported only where a data set must be downloaded and prepared, or was prepared in a
format that only TensorFlow reads.
"""

import difflib
import hashlib
import logging
import os
import pathlib
import re
import sys
import threading
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from eanet import cache
from eanet.data.channels import describe_channels
from eanet.data.images import fit
from eanet.errors import UserError

EMBEDDED = "digits"  # what a name that TFDS does not know may be instead
_PROBE_SECONDS = 15  # for the source of a download to answer
_NAME = re.compile(r"[A-Za-z]\w*(/[\w.+-]+)?(:[\d.*]+)?", re.ASCII)  # TFDS reaches other hubs by further prefixes
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def load_tfds(name: str, directory: str, image_size: int = 0) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the description of a prepared data set: from the cache, else decoded; prepared if missing.

    image_size is the side that images are resized to, 0 if they have one square size. Without a split test, the
    validation split of the data set is it.
    """
    if not _NAME.fullmatch(name) or len(name) > 200:  # a file's name may have 255 characters
        raise UserError(f"config.data.name={name}: no data set's name; accepted: {EMBEDDED} or a TFDS data set")
    root = pathlib.Path(directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    for path in (root, *root.absolute().parents):
        if path.is_file():
            raise UserError(f"config.data.dir={root}: {path} is a file; accepted: a TFDS directory, existing or new")
    prepared = _newest_version(root / name) or _prepare(name, root, image_size)
    # By content, not by path: the same data set mounted elsewhere finds its cache again.
    digest = hashlib.sha256((prepared / "dataset_info.json").read_bytes()).hexdigest()[:8]
    parts = [re.sub(r"[^0-9A-Za-z_]", "-", name), prepared.name, digest, *[str(image_size)] * bool(image_size)]
    path = cache.directory() / "-".join(parts)
    try:
        cached = cache.load(path)
    except ValueError as error:
        print(f"The data cache {path} is damaged ({error}) and is rebuilt.", file=sys.stderr)
        cached = None
    if cached is not None:
        return cached
    arrays, meta = _decode(prepared, name, image_size)
    try:
        cache.store(path, arrays, meta)
    except OSError as error:
        print(f"The data cache {path} cannot be written ({error}); decoding again next time.", file=sys.stderr)
    return arrays, meta


def _newest_version(root: pathlib.Path) -> pathlib.Path | None:
    """Find the newest prepared version below a data set's directory."""
    versions = [info.parent for info in root.glob("*/dataset_info.json") if _VERSION.fullmatch(info.parent.name)]
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


def _decode(prepared: pathlib.Path, name: str, image_size: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Decode a prepared classification set, in the order of its record ids if it has them."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(prepared))
        features, splits = builder.info.features, builder.info.splits
    except Exception as error:  # TFDS raises many kinds for a damaged directory
        raise UserError(f"config.data.name={name}: {prepared} cannot be read: {error}", exit_code=1) from error
    _check_kind(name, features, splits, image_size)
    shape = (image_size, image_size, features["image"].shape[-1] or 3) if image_size else features["image"].shape
    logging.getLogger("absl").addFilter(_is_wanted)

    arrays: dict[str, np.ndarray] = {}
    superclass_of = [0] * features["label"].num_classes
    for split, source in (("train", "train"), ("test", _test_split(splits))):
        count = splits[source].num_examples
        images, labels, ids = np.empty((count, *shape), np.uint8), np.empty(count, np.int32), [""] * count
        decoding = f"decoding {name} {source}"
        records = track(_records(builder, source), decoding, count, transient=True, disable=not sys.stderr.isatty())
        try:
            for i, record in enumerate(records):
                images[i], labels[i] = _sized(record["image"], shape), record["label"]
                if "id" in features:
                    ids[i] = record["id"]
                if "coarse_label" in features:
                    superclass_of[record["label"]] = int(record["coarse_label"])
        except Exception as error:
            raise UserError(f"config.data.name={name}: {prepared} is damaged: {error}", exit_code=1) from error
        order = np.argsort(ids, kind="stable")
        arrays |= {f"{split}_images": images[order], f"{split}_labels": labels[order]}
    meta = describe_channels(arrays["train_images"]) | {"class_names": features["label"].names}
    if "coarse_label" in features:
        meta |= {"superclass_names": features["coarse_label"].names, "superclass_of": superclass_of}
    return arrays, meta


def _test_split(splits: Any) -> str:
    return "test" if "test" in splits else "validation"


def _sized(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return an image, uint8 [height, width, channels], resized and cut to a shape's height and width."""
    if image.shape[:2] == shape[:2]:
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(fit(picture, shape[:2])).reshape(shape)


def _is_wanted(record: logging.LogRecord) -> bool:
    return "OpenCV is not installed" not in record.getMessage()  # which TFDS would like, and which is not needed


def _check_kind(name: str, features: Any, splits: Any, image_size: int) -> None:
    """Raise UserError unless a data set's metadata describe image classification with the splits that are needed.

    Without an image_size, all images must also have one square size. `splits` is empty until TFDS knows the splits.
    """
    for needed in ("image", "label"):
        if needed not in features:
            raise UserError(f"config.data.name={name}: no feature '{needed}'; accepted: image classification sets")
    if not hasattr(features["label"], "num_classes"):
        raise UserError(f"config.data.name={name}: its label is not a class; accepted: image classification sets")
    if splits and not ("train" in splits and ("test" in splits or "validation" in splits)):
        raise UserError(
            f"config.data.name={name}: its splits are {', '.join(splits)}; accepted: sets with train, and test or "
            "validation"
        )
    shape = features["image"].shape
    if not image_size and (len(shape) != 3 or None in shape or shape[0] != shape[1]):
        sizes = "have different sizes" if None in shape else f"are {shape}"
        raise UserError(
            f"config.data.name={name}: images {sizes} and config.data.image_size=0; accepted: a side in pixels, e.g. 64"
        )


def _records(builder: Any, split: str) -> Any:
    """Iterate over a split's records as NumPy, without TensorFlow where the file format allows."""
    import tensorflow_datasets as tfds

    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        return iter(builder.as_data_source(split))
    _import_tensorflow("reading this file format")
    return iter(tfds.as_numpy(builder.as_dataset(split=split)))


def _prepare(name: str, root: pathlib.Path, image_size: int) -> pathlib.Path:
    """Download and prepare a data set, or say within half a minute why that is not possible.

    Returns its directory, at once where TFDS finds it prepared: below a default configuration, or as name:version.
    """
    import tensorflow_datasets as tfds

    base = re.match(r"\w+", name)[0]
    try:
        if base not in tfds.list_builders(with_community_datasets=False) and not (root / base).is_dir():
            raise tfds.core.DatasetNotFoundError  # TFDS itself would ask the network first
        builder = tfds.builder(name, data_dir=str(root))
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:  # the last for a version
        reason = _why_unknown(name, error)
        raise UserError(f"config.data.name={name}: {reason}; accepted: {EMBEDDED} or a TFDS data set") from error
    prepared = pathlib.Path(builder.data_path)
    if (prepared / "dataset_info.json").exists():
        return prepared
    # As far as it is known before the download.
    _check_kind(name, builder.info.features, builder.info.splits, image_size)
    urls = list(builder.url_infos or ())
    cause = _unreachable(urls[0]) if urls else None
    if cause is None:
        tensorflow = _import_tensorflow(f"preparing {name}")
        print(f"Downloading and preparing {name} in {root} (once) …", file=sys.stderr)
        try:
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False), file_format="array_record"
            )
            return prepared
        except (OSError, RuntimeError, tfds.core.download.DownloadError, tensorflow.errors.OpError) as error:
            cause = f"{type(error).__name__}: {error}"
    raise UserError(
        f"{name} is not prepared in {root} and cannot be downloaded ({cause}). Either name a TFDS directory "
        f"that holds it, --config.data.dir=DIR, or train on embedded data, --config=configs/digits.py",
        exit_code=1,
    )


def _why_unknown(name: str, error: Exception) -> str:
    """Say what TFDS does not know about a name, and the nearest names that it knows."""
    import tensorflow_datasets as tfds

    wanted = name.partition(":")[0]
    base, _, configuration = wanted.partition("/")
    if isinstance(error, tfds.core.DatasetNotFoundError):
        what, known = "no such data set", {EMBEDDED, *tfds.list_builders(with_community_datasets=False)}
    else:
        what, known = "no such configuration", {f"{base}/{one}" for one in tfds.builder_cls(base).builder_configs}
        if not configuration or wanted in known:
            return " ".join(str(error).split()).partition('": ')[2].rstrip(".")  # of a version
    near = difflib.get_close_matches(wanted.lower(), known, n=3)
    near = near or sorted(one for one in known if one.startswith(wanted.lower()))[:3]
    return f"{what}; did you mean {' or '.join(near)}?" if near else what


def _import_tensorflow(purpose: str) -> Any:
    """Import TensorFlow with the accelerators hidden from it, so that it cannot take JAX's memory."""
    try:
        import tensorflow
    except ImportError as error:
        raise UserError(f"{purpose} needs TensorFlow once: pip install tensorflow-cpu", exit_code=1) from error
    for kind in ("GPU", "TPU"):
        tensorflow.config.set_visible_devices([], kind)
    return tensorflow


def _unreachable(url: str) -> str | None:
    """Say why a download's source does not answer in time, or give None. TFDS itself retries for minutes."""
    import requests

    answer: list[str | None] = [f"no answer from {url} within {_PROBE_SECONDS} s"]

    def probe() -> None:
        try:
            with requests.get(url, timeout=_PROBE_SECONDS, stream=True) as response:
                answer[0] = None if response.ok else f"{url} answers {response.status_code} {response.reason}"
        except requests.RequestException as error:
            answer[0] = f"no connection to {url}: {type(error).__name__}"

    # In a thread that may be left behind: looking up a host's name cannot be given a time limit.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return answer[0]
