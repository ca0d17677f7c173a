"""What a finished run leaves besides its rows: results.json, predictions.npz and the picture of its curves."""

from typing import Any

import numpy as np

from eanet.data.datasets import Dataset
from eanet.model.footprint import Footprint
from eanet.run import curves
from eanet.run.record import Record
from eanet.run.rows import combine, list_members, rows_of
from eanet.run.scores import Scores
from eanet.training import metrics
from eanet.training.experiment import Experiment
from eanet.training.members import Member


def summarize(
    tested: dict[str, np.ndarray], last_row: dict[str, Any], members: list[Member], scores: Scores
) -> dict[str, Any]:
    """Return the metrics of results.json: of the test split, and of the validation split from the last row.

    tested holds each example's metrics, [members, examples].
    """
    numbers = {
        member: {f"test/{name}": value for name, value in metrics.means(tested, i).items()}
        | {k: v for k, v in rows_of([last_row], members, member)[0].items() if k.startswith("val/")}
        for i, member in enumerate(members)
        if scores.healthy(i)
    }
    results = combine(members, numbers)
    if len(members) > 1:
        results["members"] = list_members(members, numbers, scores.diverged)
    return results


def describe_cost(
    experiment: Experiment, footprint: Footprint, scores: Scores, images: float, images_per_second_inference: float
) -> dict[str, float]:
    """Return what a run has cost, for results.json; images are those that all members have been trained on."""
    return {
        "epochs": experiment.epochs,
        "steps": experiment.total_steps,
        "parameters": footprint.parameters,
        "mmac": footprint.mmac,
        "activation_mib": scores.activation_bytes / 2**20,
        "seconds_compile": scores.seconds_compile,
        "seconds_train": scores.seconds_train,
        "seconds_evaluate": scores.seconds_evaluate,
        "images_per_second": images / scores.seconds_train,
        "images_per_second_inference": images_per_second_inference,
    }


def write_predictions(record: Record, tested: dict[str, np.ndarray], dataset: Dataset) -> None:
    """Write what was predicted for each test image, with the names of classes and superclasses.

    tested holds each example's metrics and predicted class, [members, examples]; of one member without that axis.
    """
    several = len(next(iter(tested.values()))) > 1
    arrays = dict(tested) if several else {name: value[0] for name, value in tested.items()}
    arrays |= {"label": dataset.test.labels, "class_name": np.array(dataset.class_names)}
    if dataset.superclass_names:
        arrays["superclass_name"] = np.array(dataset.superclass_names)
        arrays["superclass_of"] = np.array(dataset.superclass_of, np.int32)
    record.write_predictions(**arrays)


def write_curves(record: Record, epoch_rows: list[dict[str, Any]], classes: int, members: list[Member]) -> None:
    """Draw the rows of metrics.jsonl that end an epoch."""
    record.write_curves(lambda path: curves.draw(epoch_rows, path, record.workdir.name, classes, members))
