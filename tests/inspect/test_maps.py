"""Maps as tiles and pictures."""

import numpy as np
import pytest
from PIL import Image

from eanet.data import datasets as data
from eanet.inspect import maps
from eanet.inspect.maps import Tiles
from eanet.run.trained import load_run
from helpers.tiny import tiny_config
from helpers.untrained import with_attention

_COLORS = maps._COLORS


@pytest.fixture
def images():
    return data.load(tiny_config().data).test.images[:3]


def test_a_slot_has_a_tile_with_its_weight_at_every_token(finished, images):
    run = load_run(finished[0])
    stored = run.attention_maps(images)["block_0/attention_map"][0]  # [images, tokens, heads, slots]
    (tiles,) = maps.tiles(run, 0, images)[1]
    assert (tiles.name, tiles.columns, tiles.indices) == ("block_0/attention_map", "slot", (0, 1, 2, 3))
    assert tiles.weights.shape == (16, 4, 2, 2)
    np.testing.assert_array_equal(tiles.weights[5, 3].ravel(), stored[1, :, 5, 3])


def test_a_query_has_a_tile_with_the_weights_that_it_gives(finished, images):
    run = with_attention(load_run(finished[0]), "self")
    stored = run.attention_maps(images)["block_0/attention_map"][0]  # [images, heads, tokens, tokens]
    (tiles,) = maps.tiles(run, 0, images, queries=[2, 0])[0]
    assert (tiles.columns, tiles.indices) == ("query", (2, 0))
    np.testing.assert_array_equal(tiles.weights[1, 0].ravel(), stored[0, 1, 2])
    assert maps.tiles(run, 0, images)[0][0].indices == (0, 1, 2, 3)


def test_induced_attention_has_tiles_of_both_maps(finished, images):
    found = maps.tiles(with_attention(load_run(finished[0]), "induced"), 0, images)[0]
    assert [tiles.name for tiles in found] == ["block_0/distribute_map", "block_0/summarize_map"]
    summarize = next(tiles for tiles in found if "summarize" in tiles.name)
    np.testing.assert_allclose(summarize.weights.sum((2, 3)), 1, rtol=1e-4)  # a slot's weights over the tokens


@pytest.mark.parametrize("attention", ["linear", "conv", "none"])
def test_an_attention_without_maps_has_no_tiles(finished, images, attention):
    assert maps.tiles(with_attention(load_run(finished[0]), attention), 0, images) == [[], [], []]


def test_the_networks_have_their_own_tiles(three_seeds, images):
    run = load_run(three_seeds[0])
    first, second = (maps.tiles(run, i, images)[0][0].weights for i in (0, 1))
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize(("side", "expected"), [(16, (2, 6, 10, 14)), (8, (1, 3, 5, 7)), (3, (0, 1, 2)), (1, (0,))])
def test_queries_are_spread_over_the_grid(side, expected):
    assert maps.spread(side) == tuple(row * side + column for row in expected for column in expected)


_TILES = Tiles(
    "block_0/m", "slot", (0, 1), np.array([[[[0, 1], [2, 4]], [[0, 0], [0, 2]]], [[[1, 1], [1, 1]]] * 2], float)
)


def test_the_tiles_of_a_head_are_as_bright_as_their_weights():
    assert maps.brightness(_TILES)[0].tolist() == [[[0, 64], [128, 255]], [[0, 0], [0, 128]]]
    assert (maps.brightness(_TILES)[1] == 255).all()


def test_the_atlas_has_a_pixel_a_token_and_the_colors_of_the_scale():
    atlas = maps.atlas(_TILES)
    assert atlas.size == (4, 4)  # two tiles of two tokens across, two heads down
    colors = np.asarray(atlas.convert("RGB"))
    for (row, column), level in {(0, 0): 0, (1, 1): 255, (1, 3): 128, (2, 2): 255}.items():
        np.testing.assert_array_equal(colors[row, column], _COLORS[level])


def test_tiles_lie_over_the_image_and_a_query_has_a_frame():
    image = np.zeros((4, 4, 3), np.uint8)
    plain = np.asarray(maps.over_image(_TILES, image))
    assert plain.shape == (2 * 64 + 4, 2 * 64 + 4, 3)
    np.testing.assert_array_equal(plain[63, 63], (0.7 * _COLORS[255]).round())
    assert (plain[64:68] == 255).all()
    white = np.asarray(maps.over_image(_TILES, np.full((4, 4, 3), 255, np.uint8)))
    assert (white[:64, :64] > plain[:64, :64]).all()
    queries = Tiles("block_0/m", "query", (3, 0), _TILES.weights)
    framed = np.asarray(maps.over_image(queries, image))
    assert (framed[32, 32:64] == 255).all() and (framed[0, 68:100] == 255).all() and not (framed[0, :32] == 255).all()


def test_dark_images_are_brightened_and_others_are_not():
    dark = np.full((2, 2, 1), 16, np.uint8)
    assert np.asarray(maps.picture_of(dark)).max() == 240
    bright = np.full((2, 2, 3), 200, np.uint8)
    np.testing.assert_array_equal(np.asarray(maps.picture_of(bright)), bright)
    assert np.asarray(maps.picture_of(np.zeros((2, 2, 1), np.uint8))).max() == 0


def test_png_holds_the_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(maps.png(maps.atlas(_TILES)))
    with Image.open(tmp_path / "a.png") as read:
        np.testing.assert_array_equal(np.asarray(read.convert("RGB")), np.asarray(maps.atlas(_TILES).convert("RGB")))
