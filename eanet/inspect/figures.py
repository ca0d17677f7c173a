"""The pictures of an inspection; each function returns a figure and its caption, or None without anything to draw."""

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.colors import Normalize  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: E402

from eanet.compare.figures import classes  # noqa: E402
from eanet.data.datasets import Dataset  # noqa: E402
from eanet.inspect import mistakes  # noqa: E402
from eanet.inspect.inspection import Inspection  # noqa: E402
from eanet.training import metrics  # noqa: E402

Drawn = tuple[Figure, str] | None

_LEAST = 0.5  # points of accuracy at the ends of the colors, where nothing matters more
_KINDS = {"attention": "whole", "head": "head", "slot": "slot"}


def draw_all(inspections: Sequence[Inspection], dataset: Dataset) -> dict[str, tuple[Figure, str]]:
    """Draw every picture that the runs give something for; keys are file names without ending."""
    drawn = {
        "usage": usage(inspections),
        "entropy": entropy(inspections),
        "similarity": similarity(inspections),
        "removal": removal(inspections),
        "pruning": pruning(inspections),
        "confusion": confusion(inspections, dataset),
        "calibration": calibration(inspections),
        "norms": norms(inspections),
    }
    return {name: picture for name, picture in drawn.items() if picture is not None}


def usage(inspections: Sequence[Inspection]) -> Drawn:
    """Draw how much each slot of each block is used, and how even its map is over the tokens."""
    runs = [one for one in inspections if one.statistics.usage]
    if not runs:
        return None
    figure, axes = _panels(len(runs), 2, max(len(one.statistics.usage) for one in runs))
    for row, one in zip(axes, runs, strict=True):
        own = one.statistics
        rows = _row_names(list(own.usage))
        used = np.stack([x.mean(axis=(0, 1)) for x in own.usage.values()])
        even = np.stack([x.mean(axis=(0, 1)) for x in own.evenness.values()])
        _heat(figure, row[0], used, rows, "slot", f"{one.name}: usage", cmap="viridis", vmin=0)
        _heat(figure, row[1], even, rows, "slot", f"{one.name}: evenness over the tokens", cmap="viridis", vmax=1)
    return figure, (
        "Left: a slot's share of all weight, 1 is an even share. Right: the entropy of its weights over the tokens, 1 "
        f"is a flat map. Means over images, heads and networks{_counts(runs)}. The softmax over the tokens gives every "
        "slot the same mass before the l1 norm, so neither shows alone that a slot is dead: see the removals."
    )


def entropy(inspections: Sequence[Inspection]) -> Drawn:
    """Draw how evenly the tokens of each block and head spread their weight."""
    runs = [one for one in inspections if one.statistics.entropy]
    if not runs:
        return None
    figure, axes = _panels(1, len(runs), max(len(one.statistics.entropy) for one in runs))
    for axis, one in zip(axes[0], runs, strict=True):
        own = one.statistics.entropy
        values = np.stack([x.mean(axis=0) for x in own.values()])
        _heat(figure, axis, values, _row_names(list(own)), "head", one.name, cmap="viridis", vmin=0, vmax=1)
    return figure, (
        "Entropy of a token's weights over slots or other tokens, divided by its largest value: 1 if all are alike. "
        f"Means over images, tokens and networks{_counts(runs)}."
    )


def similarity(inspections: Sequence[Inspection]) -> Drawn:
    """Draw how alike the maps of a run's blocks are."""
    runs = [one for one in inspections if len(one.between_blocks) > 1]
    if not runs:
        return None
    figure, axes = _panels(1, len(runs), max(len(one.between_blocks) for one in runs), width=3.7)
    for axis, one in zip(axes[0], runs, strict=True):
        names = _row_names(list(one.statistics.features))
        _heat(figure, axis, one.between_blocks, names, "block", one.name, cmap="viridis", vmin=0, vmax=1)
    return figure, (
        "How alike the maps of two blocks are, by the debiased linear CKA of the tokens' weights: 1 if they carry the "
        f"same up to rotation and scale, 0 if they are independent. Means over networks{_counts(runs)}."
    )


def removal(inspections: Sequence[Inspection]) -> Drawn:
    """Draw what accuracy loses without each block's attention, each head and each slot."""
    runs = [one for one in inspections if one.study]
    if not runs:
        return None
    kinds = [kind for kind in _KINDS if any(part.kind == kind for one in runs for part in one.study.parts)]
    widths = [max(2.5, max(_count(one, kind) for one in runs)) for kind in kinds]
    depth = max(one.run.experiment.model.depth for one in runs)
    figure, axes = plt.subplots(
        len(runs), len(kinds), figsize=(11, (1.3 + 0.26 * depth) * len(runs)), width_ratios=widths,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    changes = [100 * one.study.accuracy_change().mean(axis=0) for one in runs]
    # Of heads and slots: a block's attention is worth far more, and its number is written.
    small = [
        abs(value)
        for one, change in zip(runs, changes, strict=True)
        for part, value in zip(one.study.parts, change, strict=True)
        if part.kind != "attention"
    ]
    norm = Normalize(-max([_LEAST, *small]), max([_LEAST, *small]))
    for row, one, change in zip(axes, runs, changes, strict=True):
        for axis, kind in zip(row, kinds, strict=True):
            values = np.full((one.run.experiment.model.depth, max(1, _count(one, kind))), np.nan)
            for part, value in zip(one.study.parts, change, strict=True):
                if part.kind == kind:
                    values[part.block, part.index] = value
            if np.isnan(values).all():
                axis.axis("off")
                continue
            mesh = axis.imshow(values, cmap="RdBu", norm=norm, aspect="auto", interpolation="nearest")
            axis.set(xlabel=_KINDS[kind], ylabel="block" if axis is row[0] else "")
            axis.set_title(one.name if axis is row[0] else "", fontsize="medium", loc="left", parse_math=False)
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if kind == "attention":
                axis.set_xticks([])
                for block, (value,) in enumerate(values):
                    color = "white" if abs(norm(value) - 0.5) > 0.35 else "black"
                    axis.text(0, block, f"{value:+.1f}", ha="center", va="center", fontsize=8, color=color)
    figure.colorbar(mesh, ax=axes, label="points of accuracy", shrink=0.8)
    images = runs[0].study.whole.loss.shape[-1]
    return figure, (
        f"Change of the accuracy on {images:,} validation images without the attention of a block, without one of its "
        f"heads, and without one of its slots in all heads. Means over networks{_counts(runs)}. The colors are scaled "
        "to heads and slots; what a whole attention is worth is written."
    )


def pruning(inspections: Sequence[Inspection]) -> Drawn:
    """Draw accuracy against the share of slots, heads or blocks that are removed together."""
    runs = [one for one in inspections if one.study]
    if not runs:
        return None
    figure, axis = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
    for color, one in zip(_colors(), runs, strict=False):
        study = one.study
        share = np.array(study.counts) / len(study.order)
        kind = "attentions of blocks" if study.kind == "attention" else f"{study.kind}s"
        label = f"{one.name}: {len(study.order)} {kind}"
        axis.plot(share, study.curve.mean(axis=0), "o-", color=color, markersize=4, label=label)
        if len(study.curve) > 1:
            low, high = zip(*(metrics.spread("accuracy", list(x)) for x in study.curve.T), strict=True)
            axis.fill_between(share, low, high, color=color, alpha=0.2, linewidth=0)
    axis.set(xlabel="share removed, the least important first", ylabel="accuracy")
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    _legend(axis)
    bands = metrics.spread_in_words([len(one.study.curve) for one in runs])
    caption = (
        "Accuracy on validation images while more and more is removed. The order, by the loss without one of them, was "
        "chosen on as many other images"
    )
    return figure, f"{caption}; bands: {bands}." if bands else f"{caption}."


def confusion(inspections: Sequence[Inspection], dataset: Dataset) -> Drawn:
    """Draw what is taken for what, between superclasses if there are any."""
    names = dataset.superclass_names or dataset.class_names
    if len(names) > classes.CONFUSED:
        return None
    of = np.asarray(dataset.superclass_of) if dataset.superclass_names else np.arange(len(names))
    shares = {
        one.name: classes.confusion_matrix(
            [(of[one.mistakes.labels], of[predicted]) for predicted in one.mistakes.predicted], len(names)
        )
        for one in inspections
    }
    what = "superclass" if dataset.superclass_names else "class"
    return classes.draw_confusion(shares, names, "validation images"), (
        f"What is taken for what on the validation images: a row is a true {what}, a column a predicted one, over all "
        f"networks; shares from {classes.WRITTEN}% on are written."
    )


def calibration(inspections: Sequence[Inspection]) -> Drawn:
    """Draw accuracy against confidence, and how many images have which confidence."""
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(6.5, 5.6), height_ratios=(3, 1), sharex=True, layout="constrained"
    )
    above.plot([0, 1], [0, 1], color="#8A929C", linewidth=1)
    edges = np.linspace(0, 1, mistakes.BINS + 1)
    for color, one in zip(_colors(), inspections, strict=False):
        found = [mistakes.calibration(x, one.mistakes.labels) for x in one.mistakes.probabilities]
        for own in found:
            known = ~np.isnan(own.accuracy)
            above.plot(own.confidence[known], own.accuracy[known], "o-", color=color, alpha=0.5, markersize=4)
        error = np.mean([own.error for own in found])
        above.plot([], [], "o-", color=color, label=f"{one.name}: ECE {error:.1%}")
        share = np.mean([own.share for own in found], axis=0)
        below.stairs(share, edges, color=color, linewidth=1.5)
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    below.set(xlabel="probability of the predicted class", ylabel="images")
    for axis in (above, below):
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axis.grid(alpha=0.3)
    below.xaxis.set_major_formatter(PercentFormatter(1.0))
    _legend(above)
    return figure, (
        f"How often a network is right, against the probability that it gives, in {mistakes.BINS} bins on the "
        "validation images; a line for each network, the grey line is perfect. ECE: the mean distance from it, "
        "weighted by images. Label smoothing in training keeps probabilities low."
    )


def norms(inspections: Sequence[Inspection]) -> Drawn:
    """Draw how large tokens are after the last block."""
    last = {one.name: list(one.norms.values())[-1] for one in inspections if one.norms}
    if not last:
        return None
    figure, axis = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    edges = np.linspace(0, 1.02 * max(x.max() for x in last.values()), 60)
    for color, (name, values) in zip(_colors(), last.items(), strict=False):
        label = f"{name}: {mistakes.outliers(values):.2%} outliers"
        axis.hist(values.ravel(), edges, color=color, histtype="step", linewidth=1.5, log=True, label=label)
    axis.set(xlabel="norm of a token after the last block", ylabel="tokens")
    axis.grid(alpha=0.3)
    _legend(axis)
    return figure, (
        f"Norms of the tokens of {values.shape[1]} validation images, of all networks. Outliers are above "
        f"{mistakes.OUTLIER:g} times the median."
    )


def _panels(rows: int, columns: int, blocks: int, width: float = 5.2) -> tuple[Figure, np.ndarray]:
    return plt.subplots(
        rows, columns, figsize=(width * columns, (1.3 + 0.26 * blocks) * rows), layout="constrained",
        squeeze=False,
    )  # fmt: skip


def _heat(
    figure: Figure, axis: plt.Axes, values: np.ndarray, rows: Sequence[str], what: str, title: str, **style: object
) -> None:
    """Draw a table of numbers as colors, with a row for each block."""
    mesh = axis.imshow(values, aspect="auto", interpolation="nearest", **style)
    axis.set_yticks(np.arange(len(rows)), rows)
    places = np.arange(values.shape[1])
    if what == "block":
        axis.set_xticks(places, rows, rotation=0 if max(map(len, rows)) < 3 else 90)
    else:
        axis.set_xticks(places[:: -(-len(places) // 16)])
    axis.set(xlabel=what, ylabel="block")
    axis.set_title(title, fontsize="medium", parse_math=False)
    figure.colorbar(mesh, ax=axis)


def _row_names(names: Sequence[str]) -> list[str]:
    """Return the block of each map, with the map where a block has several."""
    several = len({name.split("/")[1] for name in names}) > 1
    pairs = [(block.removeprefix("block_"), map_.removesuffix("_map")) for block, map_ in (x.split("/") for x in names)]
    return [f"{block} {map_}" if several else block for block, map_ in pairs]


def _count(one: Inspection, kind: str) -> int:
    return max((part.index + 1 for part in one.study.parts if part.kind == kind), default=0)


def _counts(runs: Sequence[Inspection]) -> str:
    """Say how many networks there are, if there are several."""
    counts = [len(one.run.networks) for one in runs]
    return f" ({', '.join(map(str, counts))})" if max(counts) > 1 else ""


def _colors() -> Sequence[tuple[float, ...]]:
    return plt.cm.tab10.colors


def _legend(axis: plt.Axes) -> None:
    for text in axis.legend(fontsize="small").get_texts():
        text.set_parse_math(False)
