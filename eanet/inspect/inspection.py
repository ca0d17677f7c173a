"""Everything that is measured of one trained run, for the page and for notebooks."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from eanet.data.datasets import Split
from eanet.inspect import maps, mistakes, removals, slots
from eanet.model import map_statistics
from eanet.run.trained import TrainedRun

_IMAGES = 64  # of the validation split, whose maps and token norms are described
_SHOWN = 4  # networks of a run whose maps are drawn


@dataclasses.dataclass(frozen=True, eq=False)
class Inspection:
    """What one run was seen to do. R is the number of its networks."""

    run: TrainedRun
    name: str  # unique among the runs that are inspected together
    tiles: list[list[list[maps.Tiles]]]  # by network (the first four), image and block
    statistics: slots.MapStatistics
    between_blocks: np.ndarray  # CKA [maps, maps], mean over the networks
    between_networks: dict[str, float]  # CKA by map, mean over pairs of networks
    study: removals.Study | None  # None if the network has no attention
    mistakes: mistakes.Mistakes
    norms: dict[str, np.ndarray]  # of tokens, by block [R, images, tokens]

    @property
    def attention(self) -> str:
        """Return the name of the run's attention, e.g. external."""
        return self.run.config.model.attention

    def missing(self) -> list[str]:
        """Say what this attention has not, one sentence each."""
        found, axes = [], map_statistics.map_axes(self.run.experiment.model)
        if not axes:
            found.append(f"{self.name}: the attention {self.attention} stores no maps, so none are drawn or described.")
        elif not self.tiles[0][0]:
            found.append(f"{self.name}: the tokens do not form a square grid, so no maps are drawn.")
        if axes and not self.statistics.usage:
            found.append(f"{self.name}: the attention {self.attention} has no slots; its maps are between tokens.")
        if self.study is None:
            found.append(f"{self.name}: without attention there is nothing to remove.")
        elif {part.kind for part in self.study.parts} == {"attention"}:
            found.append(f"{self.name}: the attention {self.attention} has no heads or slots to remove, only blocks.")
        return found

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return columns and rows that describe the blocks in numbers, as text: means ± deviations over networks."""
        columns, rows = ["block"], []
        for block in range(self.run.experiment.model.depth):
            row = {"block": str(block)}
            for name, value in self._of_block(block).items():
                row[name] = value
            rows.append(row)
            columns += [name for name in row if name not in columns]
        return columns, [[row.get(name, "–") for name in columns] for row in rows]

    def _of_block(self, block: int) -> dict[str, str]:
        place, found, own = f"block_{block}/", {}, self.statistics
        for name in (name for name in own.entropy if name.startswith(place)):
            of = _of(name, own.entropy)
            found[f"entropy{of}"] = _spread(own.entropy[name].mean(axis=1), 3)
            if name in own.usage:
                found[f"smallest usage{of}"] = _spread(own.usage[name].mean(axis=1).min(axis=1), 2)
                flat = own.flat(name)
                found[f"flat slots{of}"] = _spread(flat.sum(axis=1), 1)
                if self.study and "slot" in {part.kind for part in self.study.parts} and name == self._slots_of(block):
                    found["dead slots"] = _spread(self.study.dead(block, flat).sum(axis=1), 1)
        for name in (name for name in own.ranks if name.startswith(place)):
            found[f"rank of {_memory(name)}"] = _spread(own.ranks[name], 1)
        for name in (name for name in self.between_networks if name.startswith(place)):
            found[f"alike between networks{_of(name, own.entropy)}"] = f"{self.between_networks[name]:.2f}"
        if self.study:
            change = 100 * self.study.accuracy_change()
            for kind, title in (("attention", "attention removed"), ("head", "worst head"), ("slot", "worst slot")):
                which = [i for i, part in enumerate(self.study.parts) if (part.block, part.kind) == (block, kind)]
                if which:
                    found[f"{title}, points"] = _spread(change[:, which].min(axis=1), 1)
        return found

    def _slots_of(self, block: int) -> str:
        """Return the map whose columns removing slots removes: the last one of a block."""
        return [name for name in self.statistics.usage if name.startswith(f"block_{block}/")][-1]

    def shared_ranks(self) -> dict[str, str]:
        """Return the effective ranks of memories that all blocks share."""
        ranks = self.statistics.ranks
        return {_memory(name): _spread(x, 1) for name, x in ranks.items() if name.startswith("shared/")}


def _of(name: str, maps_of_run: dict[str, np.ndarray]) -> str:
    """Return which map is meant, if a block has several, e.g. of induced attention."""
    several = len({other.split("/")[1] for other in maps_of_run}) > 1
    return f", {name.split('/')[1].removesuffix('_map')}" if several else ""


def _memory(name: str) -> str:
    titles = {"memory_key": "M_k", "memory_value": "M_v"}
    memory = name.split("/")[1]
    return titles.get(memory, memory.replace("_", " "))


def _spread(values: np.ndarray, digits: int) -> str:
    """Return a mean over networks and, of several, its standard deviation."""
    text = f"{np.mean(values):.{digits}f}"
    return f"{text} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else text


def inspect(
    run: TrainedRun,
    name: str,
    images: np.ndarray,
    validation: Split,
    examples: int,
    queries: Sequence[int] = (),
    done: Callable[[int], None] = lambda count: None,
) -> Inspection:
    """Inspect all networks of a run: maps of some uint8 images, the rest on the validation split.

    examples is how many images of the validation split removals use. done is told of their evaluations.
    """
    some = validation.images[:_IMAGES]
    statistics = slots.measure(run, some)
    return Inspection(
        run,
        name,
        [maps.tiles(run, network, images, queries) for network in range(min(len(run.networks), _SHOWN))],
        statistics,
        *slots.similarities(statistics),
        removals.study(run, validation[:examples], done),
        mistakes.predict(run, validation),
        mistakes.token_norms(run, some),
    )
