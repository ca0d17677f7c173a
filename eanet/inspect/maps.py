"""Attention maps as pictures: a row of tiles for each head, a tile for each slot or query, over the image."""

import dataclasses
import io
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image

from eanet.data.images import brightening
from eanet.model import map_statistics
from eanet.run.trained import TrainedRun

_QUERIES = 4  # by side: the query patches that are shown unless somebody chooses
_PIXELS = 64  # of a tile's side, at least
_GAP = 4  # pixels between tiles
_STRENGTH = 0.7  # of the map over the image
_COLORS = (matplotlib.colormaps["viridis"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class Tiles:
    """The maps of one block for one image: each head's weights of its slots, or chosen queries, over all tokens."""

    name: str  # e.g. block_0/attention_map
    columns: str  # what a column is: slot | query
    indices: tuple[int, ...]  # of the slots, or the tokens that are the queries
    weights: np.ndarray  # float32 [heads, columns, side, side]


def tiles(run: TrainedRun, network: int, images: np.ndarray, queries: Sequence[int] = ()) -> list[list[Tiles]]:
    """Return the maps of every block for each image, by one network of a run.

    A slot's tile has its weight at every token. Between tokens a tile has the weights that one query, a token's index,
    gives to all tokens. Empty lists if the attention has no maps, or if the tokens do not form a square.
    """
    axes = map_statistics.map_axes(run.experiment.model)
    maps = run.only(network).attention_maps(images) if axes else {}
    found: list[list[Tiles]] = [[] for _ in images]
    for name, stored in maps.items():
        if name.split("/")[1] not in axes:
            continue
        kind = axes[name.split("/")[1]]
        map_BHNK = np.asarray(map_statistics.by_heads(stored[0], kind))
        _, heads, tokens, count = map_BHNK.shape
        side = math.isqrt(tokens)
        if side**2 != tokens:
            return [[] for _ in images]
        if "S" in kind:
            columns, indices, weights = "slot", tuple(range(count)), map_BHNK.swapaxes(2, 3)
        else:
            columns, indices = "query", tuple(queries) or spread(side)
            weights = map_BHNK[:, :, list(indices)]
        weights = weights.reshape(len(images), heads, len(indices), side, side)
        for own, image_weights in zip(found, weights, strict=True):
            own.append(Tiles(name, columns, indices, image_weights))
    return found


def spread(side: int) -> tuple[int, ...]:
    """Return the indices of query tokens spread evenly over a grid, at most four a side."""
    count = min(_QUERIES, side)
    places = [int((i + 0.5) * side / count) for i in range(count)]
    return tuple(row * side + column for row in places for column in places)


def picture_of(image: np.ndarray) -> Image.Image:
    """Return a uint8 image [height, width, channels] as a picture; a dark one, e.g. of 16 levels, brightened."""
    image = image * brightening(int(image.max()))
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def brightness(own: Tiles) -> np.ndarray:
    """Return the weights as uint8, scaled so that each head's largest is 255: tiles of one head are comparable."""
    weights = np.abs(own.weights)  # l2_gelu makes negative ones
    largest = weights.max(axis=(1, 2, 3), keepdims=True)
    return (255 * weights / np.maximum(largest, np.finfo(np.float32).tiny)).round().astype(np.uint8)


def over_image(own: Tiles, image: np.ndarray) -> Image.Image:
    """Draw all tiles over a uint8 image [height, width, channels]: a row for each head. A query has a white frame."""
    levels = brightness(own)
    heads, columns, side, _ = levels.shape
    each = max(1, -(-_PIXELS // side))  # pixels of a token
    pixels = each * side
    grey = picture_of(image).convert("L").resize((pixels, pixels), Image.Resampling.BICUBIC)
    below = np.repeat(np.asarray(grey, np.float32)[..., None], 3, axis=-1)
    size = [count * (pixels + _GAP) - _GAP for count in (heads, columns)]
    sheet = np.full((*size, 3), 255, np.uint8)
    for head in range(heads):
        for column in range(columns):
            color = _COLORS[levels[head, column].repeat(each, axis=0).repeat(each, axis=1)].astype(np.float32)
            tile = (_STRENGTH * color + (1 - _STRENGTH) * below).round().astype(np.uint8)
            if own.columns == "query":
                _frame(tile, own.indices[column], side, each)
            y, x = head * (pixels + _GAP), column * (pixels + _GAP)
            sheet[y : y + pixels, x : x + pixels] = tile
    return Image.fromarray(sheet)


def _frame(tile: np.ndarray, query: int, side: int, each: int) -> None:
    row, column = divmod(query, side)
    patch = tile[row * each : (row + 1) * each, column * each : (column + 1) * each]
    patch[0], patch[-1], patch[:, 0], patch[:, -1] = 255, 255, 255, 255


def atlas(own: Tiles) -> Image.Image:
    """Return the tiles at a pixel a token, without gaps, a row for each head, with a palette of colors."""
    levels = brightness(own)
    heads, columns, side, _ = levels.shape
    picture = Image.fromarray(levels.swapaxes(1, 2).reshape(heads * side, columns * side), "P")
    picture.putpalette(_COLORS.tobytes())
    return picture


def png(picture: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
