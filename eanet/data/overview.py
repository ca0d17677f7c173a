"""What is in a data set: counts, statistics, duplicates, and pictures of images with and without augmentation."""

import dataclasses
import hashlib

import jax
import numpy as np
from PIL import Image, ImageDraw

from eanet.data.augmentation import Preprocessing, training_input
from eanet.data.datasets import Dataset
from eanet.data.folder import SPLITS
from eanet.data.images import brightening

_AUGMENTED = 8  # images, each a row of
_VERSIONS = 8  # augmented versions
_PER_CLASS, _CLASSES = 10, 20  # images of a row, and rows, of the contact sheet
_PIXELS = 64  # of an image's side in a picture, at least
_GAP, _NAME = 3, 140  # pixels between images, and for a class's name


@dataclasses.dataclass(frozen=True)
class Overview:
    """Numbers of a data set."""

    counts: dict[str, np.ndarray]  # by split, images of each class
    duplicates: dict[tuple[str, str], int]  # images of the second split that are in the first one too, pixel by pixel
    repeated: dict[str, int]  # images that are in their own split before


def describe(dataset: Dataset) -> Overview:
    """Count images by class, and those that occur more than once."""
    splits = {name: getattr(dataset, name) for name in SPLITS}
    counts = {name: np.bincount(own.labels, minlength=len(dataset.class_names)) for name, own in splits.items()}
    digests = {
        name: [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in own.images]
        for name, own in splits.items()
    }
    duplicates = {
        (first, second): sum(digest in known for digest in digests[second])
        for i, first in enumerate(SPLITS)
        for known in (set(digests[first]),)
        for second in SPLITS[i + 1 :]
    }
    return Overview(counts, duplicates, {name: len(own) - len(set(own)) for name, own in digests.items()})


def contact_sheet(dataset: Dataset) -> Image.Image:
    """Draw training images: a row for each class, of the first twenty, with its first ten images."""
    names = dataset.class_names[:_CLASSES]
    rows = [dataset.train.images[np.flatnonzero(dataset.train.labels == i)[:_PER_CLASS]] for i in range(len(names))]
    sheet = _sheet([list(row) for row in rows], left=_NAME)
    draw = ImageDraw.Draw(sheet)
    height = (sheet.height + _GAP) // len(names)
    for i, name in enumerate(names):
        draw.text((4, i * height + height // 2 - 6), name[:22], fill="black")
    return sheet


def augmented_sheet(dataset: Dataset, preprocessing: Preprocessing, seed: int = 0) -> Image.Image:
    """Draw eight training images, each a row: as it is, and as eight draws of the augmentation make it."""
    originals = np.asarray(dataset.train.images[:_AUGMENTED])
    keys = jax.random.split(jax.random.key(seed), _VERSIONS)
    draw = jax.jit(lambda key: training_input(key, originals, preprocessing))
    versions = [np.asarray(draw(key)) * preprocessing.deviation + preprocessing.mean for key in keys]
    pixels = [np.clip(np.round(x), 0, 255).astype(np.uint8) for x in versions]
    return _sheet([[image, *(version[i] for version in pixels)] for i, image in enumerate(originals)])


def _sheet(rows: list[list[np.ndarray]], left: int = 0) -> Image.Image:
    """Put images in rows on a white ground, with room on the left; dark ones, e.g. of 16 levels, all brightened."""
    side = next(image.shape[0] for row in rows for image in row)
    each = side * max(1, -(-_PIXELS // side))
    factor = brightening(max(int(image.max()) for row in rows for image in row))
    across = max(map(len, rows))
    size = [left + across * (each + _GAP) - _GAP, len(rows) * (each + _GAP) - _GAP]
    sheet = Image.new("RGB", tuple(size), "white")
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            image = image * factor
            picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
            picture = picture.convert("RGB").resize((each, each), Image.Resampling.NEAREST)
            sheet.paste(picture, (left + j * (each + _GAP), i * (each + _GAP)))
    return sheet
