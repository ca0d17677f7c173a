"""Image files of any kind and size as arrays of one kind and size."""

import pathlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from eanet.errors import UserError

_DARK = 64  # the largest value of an image that nobody would see
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def read_image(path: str | pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read an image file as uint8 of shape [height, width, channels]: rotated by its EXIF data, resized and cropped.

    Transparent parts become white and palettes are resolved; grey and color are converted to the shape's channels.
    Raises UserError if the file cannot be read as an image.
    """
    height, width, channels = shape
    try:
        with Image.open(path) as opened:
            image = _plain(ImageOps.exif_transpose(opened)).convert("RGB" if channels == 3 else "L")
            image = fit(image, (height, width))
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a readable image") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: of broken PNGs
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return np.asarray(image, np.uint8).reshape(height, width, channels)


def brightening(largest: int) -> np.uint8:
    """Return the factor that makes dark uint8 pixels visible: 1 unless their largest value is small, e.g. 15."""
    return np.uint8(255 // largest if 0 < largest < _DARK else 1)


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize an image to a height and width, cutting off what a longer side has too much at both ends."""
    height, width = size
    return image if image.size == (width, height) else ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def look_at(path: str | pathlib.Path) -> tuple[tuple[int, int], frozenset[str]]:
    """Return height and width of an image file as it is shown, and its traits: grey, palette, transparent.

    Only the beginning of the file is read. Raises UserError if it is not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(0x0112, 1) >= 5:  # to be turned by a quarter
                width, height = height, width
            traits = {"grey": image.mode in ("1", "L", "LA") or image.mode[0] == "I", "palette": image.mode == "P"}
            traits["transparent"] = _is_transparent(image)
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a readable image") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return (height, width), frozenset(name for name, has in traits.items() if has)


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _plain(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits without transparency."""
    if image.mode[0] == "I":  # 16 bits, of which Pillow would cut off what is above 255
        image = Image.fromarray((np.asarray(image).astype(np.uint32).clip(0, 65535) >> 8).astype(np.uint8))
    if _is_transparent(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image
