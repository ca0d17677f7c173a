"""An inspection as one HTML file that needs no server and no network."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from eanet.compare import page
from eanet.compare.page import Picture
from eanet.data.datasets import Dataset
from eanet.inspect.inspection import Inspection
from eanet.inspect.maps import atlas, picture_of, png
from eanet.model.map_statistics import FLAT

_CONFUSED, _CONFIDENT = 8, 12  # of each run
_SECTIONS = {
    "Slots and heads": ("usage", "entropy", "similarity"),
    "What is worth what": ("removal", "pruning"),
    "Errors": ("confusion", "calibration", "norms"),
}
_EXPLANATIONS = (
    "Entropy: of a token's weights over slots or other tokens, divided by its largest value. Usage: a slot's share of "
    "all weight times the number of slots.",
    f"A slot is flat if the entropy of its weights over the tokens is at least {FLAT} of its largest value in every "
    "head; it is dead if it is flat and no predicted class changes when it is removed. The softmax over the tokens "
    "gives every slot the same mass before the l1 norm, and a slot with a flat map still adds its row of M_v to every "
    "token.",
    "Rank: the effective rank of a memory, the exponential of the entropy of its singular values.",
    "Of a run with several networks, i.e. seeds: means ± standard deviations over them.",
)


def html(
    inspections: Sequence[Inspection],
    dataset: Dataset,
    images: Sequence[tuple[str, np.ndarray]],
    drawn: dict[str, Picture],
) -> str:
    """Return the page; images are titles and uint8 arrays. Whatever comes from a run is escaped."""
    first = inspections[0]
    with_maps = [one for one in inspections if one.tiles[0] and one.tiles[0][0]]
    uris = [(title, _uri(image)) for title, image in images]
    template = page.templates(pathlib.Path(__file__).parent).get_template("page.html.jinja")
    return template.render(
        names=[one.name for one in inspections],
        facts={
            "runs": ", ".join(f"{one.name} (step {one.run.step:,})" for one in inspections),
            "data set": first.run.config.data.name,
            "networks of each": ", ".join(str(len(one.run.networks)) for one in inspections),
            "validation images": f"{len(first.mistakes.labels):,}",
            "accuracy on them": ", ".join(f"{one.mistakes.correct.mean():.2%}" for one in inspections),
        },
        missing=[line for one in inspections for line in one.missing()],
        maps=[_maps(one) for one in with_maps],
        images=uris,
        tables=[_table(one) for one in inspections],
        explanations=_EXPLANATIONS,
        sections={
            title: [(name, drawn[name].caption, drawn[name].uris) for name in names if name in drawn]
            for title, names in _SECTIONS.items()
        },
        confused=[
            (one.name, dataset.class_names[true], dataset.class_names[predicted], f"{share:.0%}")
            for one in inspections
            for true, predicted, share in one.mistakes.confused_pairs(_CONFUSED)
        ],
        confident={one.name: _confident(one, dataset) for one in inspections},
    )


def _uri(image: np.ndarray) -> str:
    return page.data_uri(png(picture_of(image)), "png")


def _maps(one: Inspection) -> dict[str, Any]:
    """Return a run's maps for the page: networks, images, and maps of blocks as atlases."""

    def entry(tiles: Any) -> dict[str, Any]:
        heads, _, side, _ = tiles.weights.shape
        block, name = tiles.name.split("/")
        return {
            "block": int(block.removeprefix("block_")),
            "name": name.removesuffix("_map"),
            "columns": tiles.columns,
            "indices": tiles.indices,
            "heads": heads,
            "side": side,
            "uri": page.data_uri(png(atlas(tiles)), "png"),
        }

    networks = [
        {"name": network.name, "images": [[entry(tiles) for tiles in image] for image in by_image]}
        for network, by_image in zip(one.run.networks, one.tiles, strict=False)
    ]
    return {"name": one.name, "networks": networks}


def _table(one: Inspection) -> dict[str, Any]:
    columns, rows = one.table()
    return {"name": one.name, "columns": columns, "rows": rows, "shared": one.shared_ranks()}


def _confident(one: Inspection, dataset: Dataset) -> list[dict[str, Any]]:
    names, validation = dataset.class_names, dataset.validation
    return [
        {
            "uri": _uri(validation.images[image]),
            "image": image,
            "label": names[validation.labels[image]],
            "predicted": names[predicted],
            "probability": f"{probability:.0%}",
        }
        for image, predicted, probability in one.mistakes.most_confident(_CONFIDENT)
    ]
