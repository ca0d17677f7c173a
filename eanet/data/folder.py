"""Image files in folders as a data set: DIR/<class>/*.png, or DIR/{train,validation,test}/<class>/*.png.

Files are decoded once, into arrays in the cache that are mapped and not read; a folder whose files have changed since
is decoded again.
"""

import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.progress import track

from eanet import cache
from eanet.data.channels import describe_channels
from eanet.data.images import SUFFIXES, look_at, read_image
from eanet.errors import UserError, printable

FOLDER = "folder"
SPLITS = ("train", "validation", "test")
_UNREADABLE = 0.01  # largest share of unreadable files that is tolerated
_NAMED = 3  # files in a message
_FORMAT = 1  # version of the cached arrays; to be increased whenever the decoding of files changes

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Listing:
    """The image files of a folder: for each split, paths relative to the folder, in order, with their classes."""

    root: pathlib.Path
    files: dict[str, list[tuple[str, int]]]  # "all" if the folder has no splits
    class_names: tuple[str, ...]
    others: int  # files that are not images by their names

    def __iter__(self) -> Iterator[pathlib.Path]:
        return (self.root / place for files in self.files.values() for place, _ in files)


def load_folder(directory: str, image_size: int, test_fraction: float) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays and the description of a folder, as load_tfds does of a data set; decoded once.

    image_size is the side of the images, 0 if all files have one square size. test_fraction is the part of a folder
    without splits that is its test split. Raises UserError, naming files or classes, if it is not a data set.
    """
    listing = find_files(directory)
    state = _state(listing)
    label = re.sub(r"[^0-9A-Za-z_]", "-", listing.root.name)[:50]
    family = f"{FOLDER}-{label}-{_digest(str(listing.root))}"
    options = f"{_FORMAT}-{image_size}" + (f"-{test_fraction}" if "all" in listing.files else "")
    path = cache.directory() / f"{family}-{_digest(state, options)}"
    try:
        cached = cache.load(path)
    except ValueError as error:
        print(f"The data cache {path} is damaged ({error}) and is rebuilt.", file=sys.stderr)
        cached = None
    if cached is None:
        if any(_was_of(options, other) for other in path.parent.glob(f"{family}-*") if other != path):
            print(f"{listing.root} has changed since it was decoded; decoding it again.", file=sys.stderr)
        cached = _decode(listing, image_size, test_fraction, path, options)
    for line in cached[1]["said"]:
        print(line, file=sys.stderr)
    return cached


def find_files(directory: str) -> Listing:
    """List the image files of a folder, in the order of their places. Raises UserError if it is not a data set."""
    if not directory:
        raise UserError(f"config.data.dir='' with config.data.name={FOLDER}; accepted: a folder of images by class")
    root = pathlib.Path(directory).expanduser().absolute()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UserError(f"config.data.dir={directory} {what}; accepted: a folder of images by class")
    found = _subfolders(root)
    splits = [name for name in SPLITS if name in found]
    if splits and set(found) <= set(SPLITS):
        for needed in ("train", "test"):
            if needed not in splits:
                raise UserError(f"config.data.dir={directory} has splits but no {needed}; accepted: train and test")
        tree = {split: _subfolders(root / split) for split in splits}
    else:
        tree = {"all": found}
    names = sorted({name for classes in tree.values() for name in classes})
    if len(names) < 2:
        have = f"one class, {names[0]}" if names else "no class"
        raise UserError(f"config.data.dir={directory} has {have}; accepted: a folder for each of two classes or more")
    files, others = {}, 0
    for split, classes in tree.items():
        place = "" if split == "all" else f"{split}/"
        if unknown := sorted(set(classes) - set(next(iter(tree.values())))):
            raise UserError(f"config.data.dir={directory}: {split} has the class {unknown[0]}, which train has not")
        files[split] = []
        for name in sorted(classes):
            paths = sorted(path for path in (root / place / name).rglob("*") if path.is_file())
            own = [path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
            others += sum(not path.name.startswith(".") for path in paths) - len(own)
            if not own and split in ("all", "train"):
                raise UserError(f"{root / place / name} has no image; accepted: {', '.join(SUFFIXES)} in every class")
            files[split] += [(path.relative_to(root).as_posix(), names.index(name)) for path in own]
    if empty := [split for split, own in files.items() if not own]:
        raise UserError(f"{root / empty[0]} has no image; accepted: {', '.join(SUFFIXES)}")
    return Listing(root, files, tuple(names), others)


def _subfolders(path: pathlib.Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _state(listing: Listing) -> str:
    """Return what changes whenever a file is added, removed, renamed or written: places, sizes and times."""
    stats = [(path, path.stat()) for path in listing]
    return repr([(path.relative_to(listing.root).as_posix(), one.st_size, one.st_mtime_ns) for path, one in stats])


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:8]


def _was_of(options: str, path: pathlib.Path) -> bool:
    """Return whether a cache was made with the same options, so that the files are what has changed."""
    try:
        return (path / "options").read_text() == options
    except OSError:
        return False


def _decode(
    listing: Listing, image_size: int, test_fraction: float, path: pathlib.Path, options: str
) -> tuple[Arrays, dict[str, Any]]:
    shape, said = _shape(listing, image_size)
    count = sum(map(len, listing.files.values()))
    unreadable: list[str] = []
    try:
        with cache.writing(path) as partial:
            (partial / "options").write_text(options)
            digests, meta = {}, {}
            bar = iter(track(range(count), f"decoding {listing.root.name}", transient=True,
                             disable=not sys.stderr.isatty()))  # fmt: skip
            for split, files in _split(listing, test_fraction).items():
                digests[split] = _decode_split(listing.root, split, files, shape, partial, unreadable, bar)
            if len(unreadable) > _UNREADABLE * count:
                raise UserError(
                    f"config.data.dir={listing.root}: {len(unreadable)} of {count:,} files cannot be read, e.g. "
                    f"{unreadable[0]}; accepted: at most {_UNREADABLE:.0%}",
                    exit_code=1,
                )
            if unreadable:
                said.append(f"warning: left out, as they cannot be read: {_some(unreadable)}")
            said += _duplicates(digests)
            train = np.load(partial / "train_images.npy", mmap_mode="r", allow_pickle=False)
            meta = describe_channels(train) | {"class_names": list(listing.class_names), "said": said}
            meta["digest"] = _digest(*(one.hex() for own in digests.values() for one in own.values()))
            cache.finish(partial, meta)
    except OSError as error:
        raise UserError(
            f"the data cache {path} cannot be written ({error.strerror or error}); accepted: EANET_CACHE_DIR with room "
            f"for {count * int(np.prod(shape)) / 2**20:,.0f} MiB",
            exit_code=1,
        ) from error
    return cache.load(path)


def _shape(listing: Listing, image_size: int) -> tuple[tuple[int, int, int], list[str]]:
    """Return height, width and channels of the decoded images, and what is to be said of the files."""
    counts = {"grey": 0, "palette": 0, "transparent": 0}
    sizes: dict[tuple[int, int], str] = {}
    total = readable = 0
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for path, found in zip(listing, pool.map(_look, listing), strict=True):
            total += 1
            if found is None:
                continue
            readable += 1
            sizes.setdefault(found[0], path.relative_to(listing.root).as_posix())
            for trait in found[1]:
                counts[trait] += 1
    if not readable:
        raise UserError(f"config.data.dir={listing.root}: none of its {total:,} files can be read", exit_code=1)
    if not image_size and (len(sizes) > 1 or len(set(next(iter(sizes)))) > 1):
        some = ", ".join(f"{height}×{width} ({name})" for (height, width), name in list(sizes.items())[:_NAMED])
        raise UserError(
            f"config.data.image_size=0 keeps images as they are, but these have no one square size: {printable(some)}; "
            "accepted: a side in pixels, e.g. 64"
        )
    channels = 1 if counts["grey"] == readable else 3
    side = image_size or next(iter(sizes))[0]
    said = []
    if channels == 3 and counts["grey"]:
        said.append(f"{counts['grey']:,} grey images of {total:,} became three equal channels.")
    if counts["transparent"]:
        said.append(f"{counts['transparent']:,} images of {total:,} have transparent parts, which became white.")
    if listing.others:
        said.append(f"{listing.others:,} files are no {', '.join(SUFFIXES)} by their names, and were not read.")
    return (side, side, channels), said


def _look(path: pathlib.Path) -> tuple[tuple[int, int], frozenset[str]] | None:
    try:
        return look_at(path)
    except UserError:
        return None


def _split(listing: Listing, test_fraction: float) -> dict[str, list[tuple[str, int]]]:
    """Return the files of each split, shuffled with a fixed seed so that any part of a split mixes the classes."""
    files = dict(listing.files)
    if "all" in files:
        own = files.pop("all")
        order = np.random.default_rng(0).permutation(len(own))
        boundary = int(len(own) * (1 - test_fraction))
        if not 1 < boundary < len(own):
            raise UserError(
                f"config.data.test_fraction={test_fraction} leaves a split of the {len(own)} images of {listing.root} "
                "empty"
            )
        return {"train": [own[i] for i in order[:boundary]], "test": [own[i] for i in order[boundary:]]}
    return {
        split: [own[i] for i in np.random.default_rng(SPLITS.index(split)).permutation(len(own))]
        for split, own in files.items()
    }


def _decode_split(
    root: pathlib.Path,
    split: str,
    files: list[tuple[str, int]],
    shape: tuple[int, int, int],
    partial: pathlib.Path,
    unreadable: list[str],
    bar: Iterator[int],
) -> dict[str, bytes]:
    """Write the images and labels of a split as arrays, and return a digest of the pixels of each file."""
    images = np.lib.format.open_memmap(partial / f"{split}_images.npy", "w+", np.uint8, (len(files), *shape))
    labels, digests = [], {}

    def read(place: str) -> np.ndarray | None:
        try:
            return read_image(root / place, shape)
        except UserError:
            return None

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(files), 256):  # so that no more than these are decoded ahead
            part = files[start : start + 256]
            for (place, label), image in zip(part, pool.map(read, (place for place, _ in part)), strict=True):
                next(bar, None)
                if image is None:
                    unreadable.append(place)
                    continue
                images[len(labels)] = image
                labels.append(label)
                digests[place] = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    images.flush()
    del images
    if len(labels) < len(files):
        _shorten(partial / f"{split}_images.npy", len(labels))
    np.save(partial / f"{split}_labels.npy", np.array(labels, np.int32))
    return digests


def _shorten(path: pathlib.Path, count: int) -> None:
    """Write an array again with its first entries only."""
    longer, shorter = np.load(path, mmap_mode="r", allow_pickle=False), path.with_name(f"shorter-{path.name}")
    images = np.lib.format.open_memmap(shorter, "w+", np.uint8, (count, *longer.shape[1:]))
    for start in range(0, count, 256):
        images[start : min(start + 256, count)] = longer[start : min(start + 256, count)]
    images.flush()
    os.replace(shorter, path)


def _duplicates(digests: dict[str, dict[str, bytes]]) -> list[str]:
    """Return a warning for each pair of splits with the same images."""
    found = []
    splits = list(digests)
    for i, first in enumerate(splits):
        places = {digest: place for place, digest in digests[first].items()}
        for second in splits[i + 1 :]:
            pairs = [(place, places[digest]) for place, digest in digests[second].items() if digest in places]
            if pairs:
                place, other = map(printable, pairs[0])
                found.append(f"warning: {len(pairs):,} images of {second} are in {first} too, e.g. {place} is {other}.")
    return found


def _some(places: list[str]) -> str:
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return printable(", ".join(places[:_NAMED])) + more
