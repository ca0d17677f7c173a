"""Evaluate a run's newest checkpoint: python -m eanet.evaluate --workdir=DIR [--split=validation|test].

Prints loss and accuracies, over all examples, per superclass where the data set has them, and per class,
and stores them as evaluation-<split>.json in the run's directory.
"""

import argparse
import functools
import pathlib
import sys
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from eanet import cache, cli, data, experiment, metrics, sharding, step
from eanet import config as config_lib
from eanet.checkpoint import Checkpoints
from eanet.errors import UserError
from eanet.record import Record

SPLITS = ("validation", "test")


class Evaluator:
    """Evaluate splits with one compiled program for each size of a split."""

    def __init__(self, setup: experiment.Experiment, mesh: jax.sharding.Mesh):
        self._experiment, self._mesh = setup, mesh
        self._programs: dict[int, Any] = {}
        self.seconds_compile = 0.0
        self.seconds = 0.0  # spent on evaluation proper

    def __call__(self, params: Any, images: jax.Array, labels: jax.Array) -> dict[str, np.ndarray]:
        """Give each example's metrics and predicted class; images and labels lie on the devices."""
        if len(labels) not in self._programs:
            call = functools.partial(step.evaluate_call, self._experiment, batch_size=self._experiment.evaluation_batch)
            started = time.perf_counter()
            jitted = jax.jit(call, out_shardings=sharding.replicated(self._mesh))
            self._programs[len(labels)] = jitted.lower(params, images, labels).compile()
            self.seconds_compile += time.perf_counter() - started
        started = time.perf_counter()
        values = jax.device_get(self._programs[len(labels)](params, images, labels))
        self.seconds += time.perf_counter() - started
        return values


def means(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Average the metrics over all examples, in float64."""
    return {name: float(np.mean(values[name], dtype=np.float64)) for name in metrics.NAMES}


def evaluate(workdir: str | pathlib.Path, split: str) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run and store the result beside it.

    Raises UserError where the directory holds no run or no checkpoint.
    """
    cache.keep_compiled_programs()
    sharding.initialize_processes()
    record = Record(workdir, primary=jax.process_index() == 0)
    fields = record.read("config.json")
    if fields is None:
        raise UserError(f"--workdir={workdir} holds no run (there is no config.json)")
    config = ml_collections.ConfigDict(fields)
    config_lib.validate(config)
    if not record.checkpoints.is_dir():
        raise UserError(f"--workdir={workdir} holds no checkpoint yet")
    dataset = data.load(config.data)
    mesh = sharding.make_mesh()
    setup = experiment.build(config, dataset, mesh)
    like = jax.eval_shape(functools.partial(step.init_state, setup), jax.random.key(0))
    restored = Checkpoints(record.checkpoints, read_only=True).restore(like, sharding.replicated(mesh))
    if restored is None:
        raise UserError(f"--workdir={workdir} holds no checkpoint yet")
    state, _ = restored
    examples: data.Split = getattr(dataset, split)
    values = Evaluator(setup, mesh)(state.params, *sharding.put_replicated((examples.images, examples.labels), mesh))
    result = {"split": split, "step": int(state.step), "examples": len(examples)} | means(values)
    result |= _details(dataset, examples.labels, values)
    record.write(f"evaluation-{split}.json", result)
    return result


def _details(dataset: data.Dataset, labels: np.ndarray, values: dict[str, np.ndarray]) -> dict[str, Any]:
    """Break the accuracy down by class and superclass; None where a class has no example in the split."""

    def named(names: tuple[str, ...], accuracies: np.ndarray) -> dict[str, float | None]:
        return {name: None if np.isnan(x) else float(x) for name, x in zip(names, accuracies, strict=True)}

    classes = named(dataset.class_names, metrics.by_class(values["accuracy"], labels, len(dataset.class_names)))
    if not dataset.superclass_names:
        return {"accuracy_by_class": classes}
    superclass_of = np.asarray(dataset.superclass_of)
    true, predicted = superclass_of[labels], superclass_of[values["predicted"]]
    count = len(dataset.superclass_names)
    return {
        "superclass_accuracy": float(np.mean(true == predicted)),
        "accuracy_by_superclass": named(dataset.superclass_names, metrics.by_class(values["accuracy"], true, count)),
        "superclass_accuracy_by_superclass": named(
            dataset.superclass_names, metrics.by_class(true == predicted, true, count)
        ),
        "accuracy_by_class": classes,
    }


def _print(result: dict[str, Any]) -> None:
    """Print an evaluation as aligned text."""
    print(f"{result['split']}, {result['examples']:,} images, checkpoint of step {result['step']}")
    print(f"loss {result['loss']:.4f}  accuracy {result['accuracy']:.2%}  top-5 {result['top5_accuracy']:.2%}")
    if "superclass_accuracy" in result:
        print(f"superclass accuracy {result['superclass_accuracy']:.2%}\n")
        print(f"{'superclass':<32}{'class right':>12}{'superclass right':>18}")
        for name, accuracy in result["accuracy_by_superclass"].items():
            print(
                f"{name:<32}{_percent(accuracy):>12}{_percent(result['superclass_accuracy_by_superclass'][name]):>18}"
            )
    print(f"\n{'class':<32}{'accuracy':>12}")
    for name, accuracy in result["accuracy_by_class"].items():
        print(f"{name:<32}{_percent(accuracy):>12}")


def _percent(accuracy: float | None) -> str:
    return "no example" if accuracy is None else f"{accuracy:.2%}"


def main() -> None:
    """Parse the command line and evaluate."""
    parser = argparse.ArgumentParser(prog="python -m eanet.evaluate", description=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--workdir", required=True, help="directory of the run")
    parser.add_argument("--split", choices=SPLITS, default="validation", help="default: validation")
    arguments = parser.parse_args()
    _print(evaluate(arguments.workdir, arguments.split))


if __name__ == "__main__":
    sys.exit(cli.run(main))
