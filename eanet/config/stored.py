"""Configurations as records hold them: completed, compared and named, whatever version has written them."""

import copy
import functools
import hashlib
import json
import pathlib
import runpy
from collections.abc import Mapping
from typing import Any

import ml_collections

from eanet.config import rules
from eanet.data.folder import FOLDER
from eanet.errors import UserError

# Fields that records of earlier versions have and this one does not, each with the default that it had.
RETIRED: dict[str, Any] = {
    "model.final_norm": False,
    "model.pool": "mean",
    "optimizer.decay_mask": "all",
    "vary.attention_dropout": (),
    "vary.projection_dropout": (),
    "vary.mlp_dropout": (),
}

# Fields that affect where a run's files are and what it checks and logs, but none of its results.
_WITHOUT_EFFECT = ("data.dir", "data.streaming", "guard", "checkpoint", "inspect", "wandb")


@functools.cache
def _defaults() -> dict[str, Any]:
    # By its path: whoever compares runs from another directory may have a package named configs as well.
    path = pathlib.Path(__file__).parents[2] / "configs/default.py"
    return runpy.run_path(str(path))["get_config"]().to_dict()


def complete(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a record, whatever version wrote it, with the fields of this version.

    A field that did not exist yet takes its default, and one that has been retired is left out. Raises UserError for
    a retired field with another value than its old default, for one that this version has never known, and for what
    is not a configuration.
    """
    if "seed" not in recorded or not isinstance(recorded.get("model"), Mapping):
        raise UserError("this is not a configuration; accepted: what a run has written")
    kept = {}
    for field, value in rules.flatten(recorded).items():
        if field in RETIRED:
            if (tuple(value) if isinstance(value, list) else value) != RETIRED[field]:
                raise UserError(
                    f"config.{field}={value!r} is of an earlier version; this one knows no such field and accepts "
                    f"records with its old default, {RETIRED[field]!r}, alone"
                )
        elif field not in rules.RULES:
            raise UserError(f"config.{field}={value!r}: no such field in this version; a later one may have written it")
        else:
            kept[field] = value
    whole = copy.deepcopy(_defaults())
    for field, value in kept.items():
        *groups, name = field.split(".")
        functools.reduce(dict.__getitem__, groups, whole)[name] = value
    return whole


def from_record(fields: Any, where: str) -> ml_collections.ConfigDict:
    """Return what a run's config.json holds as a validated configuration, completed where an earlier version wrote it.

    `where` names the location of the record, for the message of the UserError.
    """
    if not isinstance(fields, dict):
        raise UserError(f"{where} holds no configuration; accepted: what a run has written")
    try:
        config = ml_collections.ConfigDict(complete(fields))
        rules.validate(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return config


def fingerprint(config: dict[str, Any]) -> str:
    """Return 8 hexadecimal digits that stand for all fields with another value than their default.

    So a field that a later version adds does not change them.
    """
    usual = rules.flatten(_defaults())
    changed = {
        field: value for field, value in rules.flatten(config).items() if field not in usual or value != usual[field]
    }
    return hashlib.sha256(json.dumps(changed, sort_keys=True, default=repr).encode()).hexdigest()[:8]


def first_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Name the first field with an effect on the numbers in which a configuration and a recorded one differ.

    Raises UserError for a recorded field that this version cannot honour.
    """
    # Through JSON, because a stored configuration has been through it: tuples become lists.
    ours, theirs = (rules.flatten(json.loads(json.dumps(config))) for config in (ours, complete(theirs)))
    for field in sorted(ours.keys() | theirs.keys()):
        if without_effect(field) and not (field == "data.dir" and ours["data.name"] == FOLDER):
            continue
        there, here = (tuple(x) if isinstance(x, list) else x for x in (theirs.get(field), ours.get(field)))
        if there != here:
            return f"config.{field} is {there!r} there and {here!r} here"
    return None


def without_effect(field: str) -> bool:
    """Return whether a field changes where a run's traces go, but not one of its numbers."""
    return field.startswith(_WITHOUT_EFFECT)
