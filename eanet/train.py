"""The journey of a run: data → calls of the compiled step → evaluation → record."""

import dataclasses
import functools
import os
import pathlib
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from eanet import cache, curves, data, experiment, footprint, guards, metrics, sharding, step, tracking
from eanet import config as config_lib
from eanet.checkpoint import Checkpoints
from eanet.errors import UserError
from eanet.evaluate import Evaluator, means
from eanet.interruption import Interruption
from eanet.progress import RunProgress
from eanet.record import Record, environment

# The host breaks up long calls so that the bar moves and a signal is heard about this often.
_PACE_SECONDS = 2.0
# Enough for three digits of every statistic, and no more than a second.
_GUARD_IMAGES = 1024
_DIVERGES = (
    "warning: validation loss has been above ln({}) for two epochs while training loss falls: the network is worse "
    "than no answer on images that it does not train on; does training see the same input as evaluation?"
)


@dataclasses.dataclass
class Progress:
    """What the host knows of a run besides the training state; kept in its checkpoints."""

    accuracy_best: float = -1.0  # on the validation split
    epoch_best: int = 0
    seconds_train: float = 0.0
    seconds_evaluate: float = 0.0
    seconds_compile: float = 0.0
    activation_bytes: float = 0.0  # per image, of the compiled training program


def train(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Train, validate and test as the configuration says, and leave the record in `workdir`.

    Goes on from the newest checkpoint in `workdir`; a finished run is left as it is. Returns the contents
    of results.json. Raises UserError for bad input before anything is written, and SystemExit with
    128 + signal where SIGTERM or SIGINT asked to stop (after a checkpoint).
    """
    config_lib.validate(config)
    fields = config.to_dict()
    cache.keep_compiled_programs()
    sharding.initialize_processes()
    record = Record(workdir, primary=jax.process_index() == 0)
    record.check_config(fields)
    results = record.read("results.json")
    if results is not None:
        print(f"{record.workdir} is finished: test accuracy {results['test/accuracy']:.2%}; nothing to do.")
        return results
    mesh = sharding.make_mesh()
    sharding.check_batch(config.train, mesh)
    dataset = data.load(config.data)
    config_lib.validate_for_data(config, dataset.train.images.shape[1:], len(dataset.train))
    record.open(fields)
    return Run(config, dataset, record, mesh).finish()


class Run:
    """One run from its first to its last step."""

    def __init__(
        self, config: ml_collections.ConfigDict, dataset: data.Dataset, record: Record, mesh: jax.sharding.Mesh
    ):
        self._config, self._dataset, self._record, self._mesh = config, dataset, record, mesh
        self._experiment = experiment.build(config, dataset, mesh)
        self._key = jax.random.key(config.seed)
        self._progress = Progress()
        self._checkpoints = Checkpoints(record.checkpoints, config.checkpoint.keep)
        self._run_id = (record.read("wandb.json") or {}).get("id", "")
        self._evaluator = Evaluator(self._experiment, mesh)
        self._footprint = footprint.count(self._experiment.model, self._experiment.image_shape)
        init = functools.partial(step.init_state, self._experiment)
        restored = self._checkpoints.restore(jax.eval_shape(init, self._key), sharding.replicated(mesh))
        if restored:
            self._state, extra = restored
            self._progress = Progress(**extra["progress"])
            self._run_id = self._run_id or extra["wandb_run_id"]
            print(f"Going on from step {int(self._state.step)} of {self.total_steps} in {record.workdir}")
        else:
            self._state = jax.jit(init, out_shardings=sharding.replicated(mesh))(self._key)
            print(f"Training in {record.workdir}")
        record.truncate(int(self._state.step))

    @property
    def total_steps(self) -> int:
        return self._config.train.epochs * self._experiment.steps_per_epoch

    def finish(self) -> dict[str, Any]:
        """Run the remaining steps and the test, write the results, and close everything that was opened."""
        with Interruption() as interruption:
            interruption.at_once = True  # until there is something to save
            return self._finish(interruption)

    def _finish(self, interruption: Interruption) -> dict[str, Any]:
        fields = self._config.to_dict()
        tracker = tracking.start(fields, self._record.workdir, self._run_id, jax.process_index() == 0)
        exit_code = 1
        results: dict[str, Any] = {}
        try:
            if tracker.run_id:
                self._run_id = tracker.run_id
                self._record.write("wandb.json", {"id": self._run_id})
            size = {"parameters": self._footprint.parameters, "mmac": self._footprint.mmac}
            tracker.describe(size | {"environment": environment()})
            self._train(tracker, interruption)
            results = self._test()
            exit_code = 0
        except SystemExit as stop:
            exit_code = stop.code
            raise
        finally:
            interruption.at_once = False  # closing is not to be cut short
            self._checkpoints.close()
            tracker.finish(results, self._record.curves, exit_code)
        return results

    def _train(self, tracker: tracking.Tracker, interruption: Interruption) -> None:
        per_epoch = self._experiment.steps_per_epoch
        if int(self._state.step) == 0:
            self._check_input()
        images, labels = self._put(self._dataset.train)
        validation = self._put(self._dataset.validation)
        position = int(self._state.step)
        if position == self.total_steps:
            return
        train_call = self._compile(
            jax.jit(functools.partial(step.train_call, self._experiment), donate_argnums=0),
            *(self._state, self._key, images, labels, np.int32(1)),
        )
        temporary = footprint.temporary_bytes(train_call) * self._mesh.size
        self._progress.activation_bytes = temporary / self._experiment.microbatch
        pace = 1.0  # steps of the next call
        seconds, first = 0.0, position  # of training since the last row, and the step it started from
        epochs = self._config.train.epochs
        bar = RunProgress(epochs, per_epoch, position, show=jax.process_index() == 0)
        interruption.at_once = False
        with bar:
            while position < self.total_steps:
                end = self._next_row(position)
                num_steps = end - position
                if jax.process_count() == 1:  # several processes would not agree on a pace
                    num_steps = min(num_steps, max(1, int(pace)))
                started = time.perf_counter()
                self._state, monitor = train_call(self._state, self._key, images, labels, np.int32(num_steps))
                monitor, sums = jax.device_get((monitor, self._state.epoch_sums))
                elapsed = time.perf_counter() - started
                self._check_finite(monitor)
                position += num_steps
                pace = _PACE_SECONDS * num_steps / elapsed
                seconds += elapsed
                self._progress.seconds_train += elapsed
                row = self._train_row(position, sums, monitor, (position - first) / seconds)
                if position == end:
                    if position % per_epoch == 0:
                        row |= self._validate(position // per_epoch, validation)
                    self._record.append(row)
                    tracker.log(row)
                    if position % per_epoch == 0 and self._diverges():
                        bar.say(_DIVERGES.format(len(self._dataset.class_names)))
                    seconds, first = 0.0, position
                    if position % (per_epoch * self._config.checkpoint.every_epochs) == 0:
                        self._save(position)
                bar.update(position, row)
                if interruption.received and position < self.total_steps:
                    self._save(position)
                    again = "the same command"
                    if "WANDB_SWEEP_ID" in os.environ:  # from which the directory has its name
                        again += f" with --workdir={self._record.workdir}"
                    bar.say(f"{interruption.received.name} at step {position}: saved; {again} goes on.")
                    raise SystemExit(interruption.exit_code)
        self._save(position)
        interruption.at_once = True  # the test can be made again

    def _check_input(self) -> None:
        sample = self._dataset.train.images[:_GUARD_IMAGES]
        key = step.stream(self._key, step.Purpose.AUGMENT)
        for warning in guards.check_input(key, sample, self._experiment.preprocessing, self._config.guard):
            print(f"warning: {warning}")

    def _diverges(self) -> bool:
        rows = [row for row in self._record.rows() if "val/loss" in row]
        return guards.validation_diverges(rows, len(self._dataset.class_names))

    def _next_row(self, position: int) -> int:
        """Give the step of the next row of metrics: a multiple of steps_per_call in its epoch, or its end."""
        per_epoch, per_call = self._experiment.steps_per_epoch, self._config.train.steps_per_call
        start = position // per_epoch * per_epoch
        if not per_call:
            return start + per_epoch
        return min(start + per_epoch, start + ((position - start) // per_call + 1) * per_call)

    def _train_row(self, position: int, sums: dict, monitor: step.Monitor, steps_per_second: float) -> dict[str, Any]:
        """Give the means of the epoch so far, as Keras's progress bar shows them."""
        per_epoch, examples = self._experiment.steps_per_epoch, float(sums["examples"])
        row = {"step": position, "epoch": position / per_epoch}
        row |= {f"train/{name}": float(sums[name]) / examples for name in metrics.NAMES}
        return row | {
            "train/learning_rate": float(monitor.learning_rate),
            "train/grad_norm": float(monitor.grad_norm),
            "train/images_per_second": steps_per_second * self._experiment.train_examples / per_epoch,
        }

    def _check_finite(self, monitor: step.Monitor) -> None:
        if monitor.nonfinite_step >= 0:
            raise UserError(
                f"loss or gradient is not finite at step {int(monitor.nonfinite_step)} (learning rate "
                f"{float(monitor.learning_rate):g}, gradient norm {float(monitor.grad_norm):g}); the last good "
                f"checkpoint is kept in {self._record.checkpoints}",
                exit_code=1,
            )

    def _validate(self, epoch: int, validation: tuple[jax.Array, jax.Array]) -> dict[str, float]:
        averages = means(self._evaluator(self._state.params, *validation))
        if averages["accuracy"] > self._progress.accuracy_best:
            self._progress.accuracy_best, self._progress.epoch_best = averages["accuracy"], epoch
        row = {f"val/{name}": value for name, value in averages.items()}
        return row | {"val/accuracy_best": self._progress.accuracy_best, "val/epoch_best": self._progress.epoch_best}

    def _test(self) -> dict[str, Any]:
        """Touch the test split, once, and write everything that a finished run leaves."""
        self._count_seconds()
        values = self._evaluator(self._state.params, *self._put(self._dataset.test))
        seconds_test = self._evaluator.seconds
        rows = [row for row in self._record.rows() if "val/loss" in row]
        self._count_seconds()
        progress = self._progress
        results = {f"test/{name}": value for name, value in means(values).items()}
        results |= {name: value for name, value in rows[-1].items() if name.startswith("val/")}
        results |= {
            "epochs": self._config.train.epochs,
            "steps": self.total_steps,
            "parameters": self._footprint.parameters,
            "mmac": self._footprint.mmac,
            "activation_mib": progress.activation_bytes / 2**20,
            "seconds_compile": progress.seconds_compile,
            "seconds_train": progress.seconds_train,
            "seconds_evaluate": progress.seconds_evaluate,
            "images_per_second": self._experiment.train_examples * self._config.train.epochs / progress.seconds_train,
            "images_per_second_inference": len(self._dataset.test) / seconds_test,
        }
        class_names = np.array(self._dataset.class_names)
        self._record.write_predictions(**values, label=self._dataset.test.labels, class_name=class_names)
        if jax.process_index() == 0:
            title = f"{self._record.workdir.name}: test accuracy {results['test/accuracy']:.2%}"
            curves.draw(rows, self._record.curves, title, len(self._dataset.class_names))
        self._record.write("results.json", results)
        print(
            f"Test loss {results['test/loss']:.4f}  accuracy {results['test/accuracy']:.2%}  "
            f"top-5 {results['test/top5_accuracy']:.2%}  ({results['parameters']:,} parameters)"
        )
        return results

    def _put(self, split: data.Split) -> tuple[jax.Array, jax.Array]:
        return sharding.put_replicated((split.images, split.labels), self._mesh)

    def _compile(self, function: Any, *arguments: Any) -> Any:
        started = time.perf_counter()
        compiled = function.lower(*arguments).compile()
        self._progress.seconds_compile += time.perf_counter() - started
        return compiled

    def _count_seconds(self) -> None:
        """Take over what the evaluator has measured since the last time."""
        self._progress.seconds_compile += self._evaluator.seconds_compile
        self._progress.seconds_evaluate += self._evaluator.seconds
        self._evaluator.seconds_compile = self._evaluator.seconds = 0.0

    def _save(self, position: int) -> None:
        self._count_seconds()
        extra = {"progress": dataclasses.asdict(self._progress), "wandb_run_id": self._run_id}
        self._checkpoints.save(self._state, position, extra)
