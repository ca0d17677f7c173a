"""The members of a run: its seeds, times a grid of numeric hyperparameters. Mostly there is one.

A member computes what a run of its own with that seed and those values would; the run's rows and results hold the
means over the seeds under the plain names, and each member's numbers under its own.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# What may differ between members: the name in config.vary and the field that it stands for.
VARIED = {
    "learning_rate": "optimizer.learning_rate",
    "weight_decay": "optimizer.weight_decay",
    "label_smoothing": "train.label_smoothing",
}

# What a seed sets: the names of config.fixed, those of step.Purpose, and in words.
SOURCES = {
    "init": "the initial parameters",
    "order": "the order of the training images",
    "augment": "their augmentation",
    "dropout": "dropout",
}


@dataclasses.dataclass(frozen=True)
class Member:
    """One of the networks that a run trains."""

    seed: int
    varied: tuple[tuple[str, float], ...] = ()  # names of VARIED with this member's values

    @property
    def point(self) -> str:
        """Return its place in the grid, e.g. learning_rate=0.001; empty if nothing varies."""
        return ",".join(f"{name}={value:g}" for name, value in self.varied)

    @property
    def name(self) -> str:
        """Return what its numbers are called by: seed_3, or learning_rate=0.001/seed_3."""
        return join(self.point, f"seed_{self.seed}")


def members_from_config(config: Mapping[str, Any]) -> list[Member]:
    """Return the members of a configuration, the seeds of a point of the grid next to one another."""
    varied = {name: values for name, values in config["vary"].items() if values}
    seeds = range(config["seed"], config["seed"] + config["num_seeds"])
    grid = itertools.product(*([(name, value) for value in varied[name]] for name in VARIED if name in varied))
    return [Member(seed, point) for point in grid for seed in seeds]


def fields(config: Mapping[str, Any], member: Member) -> dict[str, Any]:
    """Return the configuration, as a nested dict, of a run that would train this member alone."""
    alone = {name: dict(part) if isinstance(part, Mapping) else part for name, part in config.items()}
    alone |= {"seed": member.seed, "num_seeds": 1, "vary": {name: () for name in VARIED}}
    for name, value in member.varied:
        part, field = VARIED[name].split(".")
        alone[part][field] = value
    return alone


def hyperparameters(config: Mapping[str, Any], members: Sequence[Member]) -> dict[str, Any]:
    """Return the numbers that a compiled step takes as arguments, each with a leading axis of the members.

    One program serves all their values.
    """

    def values(name: str) -> list[float]:
        part, field = VARIED[name].split(".")
        return [fields(config, member)[part][field] for member in members]

    return {name: np.array(values(name), np.float32) for name in VARIED}


def points(members: Sequence[Member]) -> list[str]:
    """Return the points of the grid under which a run has its metrics; "" where they stand under their plain names."""
    return list(dict.fromkeys(member.point for member in members)) if len(members) > 1 else [""]


def join(*parts: str) -> str:
    """Join the parts of a metric's name with slashes; an empty part before others is left out."""
    return "/".join(part for i, part in enumerate(parts) if part or i)
