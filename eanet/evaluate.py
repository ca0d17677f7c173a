"""Evaluate a run's newest checkpoint: python -m eanet.evaluate --workdir=DIR [--split=validation|test].

Prints loss and accuracies, over all examples, per superclass where the data set has them, and per class,
and stores them as evaluation-<split>.json in the run's directory. Of a run with several seeds it prints each
one's, and the means over all of them.

Weights without a run, e.g. from a file of the Keras example, are evaluated on a configuration's data set, and nothing
is stored: --config=configs/eanet.py --config.init_from=FILE instead of --workdir.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from eanet import cache, cli
from eanet.config import rules, stored
from eanet.data import datasets as data
from eanet.errors import UserError, printable
from eanet.run.initial_weights import read_initial_weights
from eanet.run.interruption import Interruption
from eanet.run.record import Record
from eanet.run.rows import combine
from eanet.run.trained import restore_newest
from eanet.training import members, metrics, processes, sharding
from eanet.training.trainer import Trainer

SPLITS = ("validation", "test")


def evaluate(workdir: str | pathlib.Path, split: str) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run and store the result beside it.

    Raises UserError if the directory holds no run or no checkpoint.
    """
    cache.keep_compiled_programs()
    processes.join()
    record = Record(workdir, primary=jax.process_index() == 0)
    fields = record.read("config.json")
    if fields is None:
        raise UserError(f"--workdir={workdir} holds no run (there is no config.json); accepted: a run's directory")
    config = stored.from_record(fields, f"{record.workdir}/config.json")
    if not record.checkpoints.is_dir():
        raise UserError(f"--workdir={workdir} holds no checkpoint yet")
    dataset = data.load(config.data)
    trainer, state, extra = restore_newest(record, config, dataset)
    result = {"split": split, "step": int(state.step.addressable_shards[0].data[0])}
    result |= _evaluate(trainer, state.params, dataset, split, config.data.eval_limit, extra["tally"]["diverged"])
    record.write(f"evaluation-{split}.json", result)
    return result


def evaluate_weights(config: ml_collections.ConfigDict, split: str) -> dict[str, Any]:
    """Evaluate the weights that config.init_from of a validated configuration names. Writes nothing.

    Raises UserError if there are none or they do not fit.
    """
    if not config.init_from:
        accepted = rules.RULES["init_from"][1].partition(";")[0]
        raise UserError(f"config.init_from='' names no weights to evaluate; accepted: {accepted}")
    cache.keep_compiled_programs()
    processes.join()
    mesh = sharding.make_mesh(len(members.members_from_config(config.to_dict())))
    sharding.check_batch(config.train, mesh)
    dataset = processes.first_process_first(lambda: data.load(config.data))
    rules.validate_for_images(config, dataset.train.images.shape[1:])
    weights = read_initial_weights(config, dataset)
    trainer = Trainer(config, dataset, mesh)
    params = trainer.put_by_member(weights.params)
    result = {"split": split, "weights": config.init_from}
    return result | _evaluate(trainer, params, dataset, split, config.data.eval_limit, [-1] * len(trainer.members))


def _evaluate(
    trainer: Trainer, params: Any, dataset: data.Dataset, split: str, eval_limit: int, diverged: Sequence[int]
) -> dict[str, Any]:
    """Return the metrics of a split: the means over the members that have not diverged, and each one's."""
    examples: data.Split = getattr(dataset, split)
    values = trainer.evaluate(params, *trainer.put(examples))
    result: dict[str, Any] = {"examples": len(examples)}
    if eval_limit:
        result["eval_limit"] = eval_limit
    healthy = {member: i for i, member in enumerate(trainer.members) if diverged[i] < 0}
    numbers = {member: metrics.means(values, i) for member, i in healthy.items()}
    result |= combine(trainer.members, numbers)
    details = [_details(dataset, examples.labels, {name: x[i] for name, x in values.items()}) for i in healthy.values()]
    return result | _mean(details)


def _mean(details: list[dict[str, Any]]) -> dict[str, Any]:
    """Average what _details gives over the members."""

    def average(values: Sequence[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: average([value[name] for value in values]) for name in values[0]}
        return None if values[0] is None else float(np.mean(values))

    return average(details)


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
    first = "first " if "eval_limit" in result else ""
    source = f"checkpoint of step {result['step']}" if "step" in result else f"weights of {result['weights']}"
    print(printable(f"{result['split']}, {first}{result['examples']:,} images, {source}"))
    for name in [name.removesuffix("loss") for name in result if name == "loss" or name.endswith("/loss")]:
        loss, accuracy, top5 = (result[name + metric] for metric in metrics.NAMES)
        spread = ""
        if f"{name}accuracy_low" in result:
            spread = f" ({result[f'{name}accuracy_low']:.2%} to {result[f'{name}accuracy_high']:.2%}, 95%)"
        whose = f"{name.strip('/')}: " if name else ""
        print(f"{whose}loss {loss:.4f}  accuracy {accuracy:.2%}{spread}  top-5 {top5:.2%}")
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
    parser = cli.Parser("python -m eanet.evaluate", __doc__)
    parser.add_argument("--workdir", help="directory of the run; either this or --config")
    parser.add_argument("--config", help="configuration file; its fields follow, as --config.init_from=FILE")
    parser.add_argument("--split", choices=SPLITS, default="validation", help="default: validation")
    arguments, rest = parser.parse_known_args()
    if (arguments.workdir is None) == (arguments.config is None) or (arguments.workdir is not None and rest):
        given = f"unexpected {rest[0]!r}" if rest else "--workdir and --config: one of them is needed, and only one"
        parser.error(given)
    if arguments.config is not None:
        _, config = cli.read_config([f"--config={arguments.config}", *rest])
    else:
        cli.check_directory("--workdir", arguments.workdir, new=False)
    with Interruption(may_exit=True):
        if arguments.config is not None:
            result = evaluate_weights(config, arguments.split)
        else:
            result = evaluate(arguments.workdir, arguments.split)
    if jax.process_index() == 0:
        _print(result)


if __name__ == "__main__":
    sys.exit(cli.run(main))
