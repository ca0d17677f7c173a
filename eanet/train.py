"""The journey of a run: data → calls of the compiled step → evaluation → record."""

import contextlib
import dataclasses
import math
import os
import pathlib
import signal
import time
from typing import Any, NoReturn

import jax
import ml_collections
import numpy as np

from eanet import cache
from eanet.config import rules as config_lib
from eanet.data import datasets as data
from eanet.data import guards
from eanet.errors import UserError
from eanet.model import footprint
from eanet.run import curves, tracking
from eanet.run.checkpoint import Checkpoints
from eanet.run.initial_weights import InitialWeights, read_initial_weights
from eanet.run.interruption import Interruption
from eanet.run.progress import RunProgress
from eanet.run.record import Record, environment
from eanet.run.scores import FAR, Tally
from eanet.training import members, metrics, processes, sharding, step
from eanet.training.members import Member
from eanet.training.trainer import Group

# The host breaks up long calls so that the bar moves and a signal is heard about this often.
_PACE_SECONDS = 2.0
# Enough for three digits of every statistic, and no more than a second.
_GUARD_IMAGES = 1024
_DIVERGES = (
    "warning: validation loss has been above ln({}) for two epochs while training loss falls: the network is worse "
    "than no answer on images that it does not train on; does training see the same input as evaluation?"
)


def train(
    config: ml_collections.ConfigDict, workdir: str | pathlib.Path, interruption: Interruption | None = None
) -> dict[str, Any]:
    """Train, validate and test as the configuration says, and leave the record in `workdir`.

    Goes on from the newest checkpoint in `workdir`; a finished run is left as it is. Returns the contents
    of results.json. Raises UserError for bad input before anything is written, and SystemExit with
    128 + signal if SIGTERM or SIGINT asked to stop (after a checkpoint). interruption is the caller's, if the caller
    listens for signals already.
    """
    config_lib.validate(config)
    fields = config.to_dict()
    cache.keep_compiled_programs()
    processes.join()
    record = Record(workdir, primary=jax.process_index() == 0)
    try:
        record.check(fields)
        results = record.read("results.json")
        if results is not None:
            _say(f"{record.workdir} is finished; nothing to do.\n{members.describe(members.of(fields), results)}")
            return results
        record.check_place()
        mesh = sharding.make_mesh(len(members.of(fields)))
        sharding.check_batch(config.train, mesh)
        dataset = processes.first_alone(lambda: data.load(config.data))
        config_lib.validate_for_data(config, dataset.train.images.shape[1:], len(dataset.train))
        begin_with = None
        if config.init_from and not record.has_checkpoint():
            begin_with = read_initial_weights(config, dataset)
        record.open(fields)
        processes.wait_for_all("record open")
        with contextlib.nullcontext(interruption) if interruption else Interruption() as heard:
            heard.at_once = jax.process_count() == 1  # until there is something to save; several have to agree
            return Run(config, dataset, record, mesh, begin_with).finish(heard)
    except jax.errors.JaxRuntimeError as error:
        if lost := processes.explain(error):
            raise lost from error
        raise
    finally:
        record.close()


class Run:
    """One run from its first to its last step."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        dataset: data.Dataset,
        record: Record,
        mesh: jax.sharding.Mesh,
        begin_with: InitialWeights | None = None,
    ):
        self._config, self._dataset, self._record = config, dataset, record
        self._group = Group(config, dataset, mesh)
        self._members, self._experiment = self._group.members, self._group.experiment
        self._tally = Tally.of(len(self._members))
        self._checkpoints = Checkpoints(record.checkpoints, config.checkpoint.keep)
        self._run_id = str(record.read_note("wandb.json").get("id", ""))
        self._footprint = footprint.Footprint(self._experiment.model, self._experiment.image_shape)
        restored = self._checkpoints.restore(self._group.shapes(), config.to_dict())
        if restored:
            self._state, extra = restored
            self._tally = Tally(**extra["tally"])
            self._run_id = self._run_id or extra["wandb_run_id"]
            record.begin(config.to_dict(), self._position(), extra["rows"])
            _say(f"Going on from step {self._position()} of {self._experiment.total_steps} in {record.workdir}")
        else:
            self._state = self._group.init(begin_with and begin_with.params)
            record.begin(config.to_dict(), 0, 0)
            if begin_with:
                record.write("initial_weights.json", begin_with.origin)
            _say(f"Training in {record.workdir}{f' from {config.init_from}' if begin_with else ''}")

    def _position(self) -> int:
        """Give the steps done, which all members have in common."""
        return int(self._state.step.addressable_shards[0].data[0])

    def finish(self, interruption: Interruption) -> dict[str, Any]:
        """Run the remaining steps and the test, write the results, and close everything that was opened."""
        fields = self._config.to_dict()
        names = [member.name for member in self._members] if len(self._members) > 1 else []
        tracker = tracking.start(fields, self._record.workdir, self._run_id, jax.process_index() == 0, names)
        exit_code = 1
        results: dict[str, Any] = {}
        try:
            if tracker.run_id:
                self._run_id = tracker.run_id
                self._record.write("wandb.json", {"id": self._run_id})
            size = {"parameters": self._footprint.parameters, "mmac": self._footprint.mmac}
            tracker.describe(size | {"environment": environment()})
            tracker.catch_up(self._record.rows())
            self._train(tracker, interruption)
            results = self._test()
            exit_code = 0
        except SystemExit as stop:
            exit_code = stop.code
            raise
        finally:
            interruption.at_once = False  # closing is not to be cut short
            try:
                self._checkpoints.close()
            finally:
                tracker.finish(results, self._record.curves, exit_code)
                interruption.at_once = jax.process_count() == 1
        return results

    def _train(self, tracker: tracking.Tracker, interruption: Interruption) -> None:
        per_epoch = self._experiment.steps_per_epoch
        if self._position() == 0:
            self._check_input()
        images, labels = self._group.put(self._dataset.train)
        validation = self._group.put(self._dataset.validation)
        position = self._position()
        if position == self._experiment.total_steps:
            return
        activation_bytes = self._group.compile_training(self._state, images, labels)
        self._tally.activation_bytes = activation_bytes
        pace = 1.0  # steps of the next call
        seconds, first = 0.0, position  # of training since the last row, and the step it started from
        epochs = self._config.train.epochs
        bar = RunProgress(epochs, per_epoch, position, show=jax.process_index() == 0)
        interruption.at_once = False
        with bar:
            while position < self._experiment.total_steps:
                end = self._next_row(position)
                num_steps = min(end - position, max(1, int(pace)))
                started = time.perf_counter()
                self._state, monitor, sums = self._group.train(self._state, images, labels, num_steps)
                elapsed = time.perf_counter() - started
                for i, at, what in self._tally.diverging(monitor):
                    bar.say(self._leave_out(i, at, what))
                position += num_steps
                pace, asked = processes.agree(_PACE_SECONDS * num_steps / elapsed, interruption.received or 0)
                seconds += elapsed
                self._tally.seconds_train += elapsed
                numbers = self._train_numbers(sums, monitor)
                speed = {"train/images_per_second": self._images(position - first) / seconds}
                if position == end:
                    if position % per_epoch == 0:
                        self._validate(position // per_epoch, validation, numbers)
                    row = {"step": position, "epoch": position / per_epoch} | speed
                    row |= members.combine(self._members, numbers)
                    self._checkpoints.check()
                    self._record.append(row)
                    tracker.log(row)
                    if position % per_epoch == 0:
                        bar.say(self._check_validation())
                    seconds, first = 0.0, position
                    if position % (per_epoch * self._config.checkpoint.every_epochs) == 0:
                        self._save(position)
                whose, glance = members.glance(self._members, numbers)
                bar.update(position, glance | speed, whose)
                if asked:
                    self._stop(position, signal.Signals(asked))
        self._save(position)
        self._checkpoints.wait()  # results are of a run that is on disk
        interruption.at_once = jax.process_count() == 1  # the test can be made again
        _, asked = processes.agree(pace, interruption.received or 0)
        if asked:
            self._stop(position, signal.Signals(asked))

    def _stop(self, position: int, asked: signal.Signals) -> NoReturn:
        """Save, say how to go on, and end as the signal asked."""
        self._save(position)
        self._checkpoints.wait()
        again = "the same command"
        if "WANDB_SWEEP_ID" in os.environ:  # from which the directory has its name
            again += f" with --workdir={self._record.workdir}"
        _say(f"{asked.name} at step {position}: saved; {again} goes on.")
        raise SystemExit(128 + asked)

    def _check_input(self) -> None:
        sample = self._dataset.train.images[:_GUARD_IMAGES]
        key = step.stream(jax.random.key(self._config.seed), step.Purpose.AUGMENT)
        for warning in guards.check_input(key, sample, self._experiment.preprocessing, self._config.guard):
            _say(f"warning: {warning}")

    def _check_validation(self) -> str:
        """Give a warning where a member's newest epoch completes the pattern of a network that sees other images."""
        rows, classes = self._epoch_rows(), len(self._dataset.class_names)
        found = []
        for member in self._members:
            own = members.rows_of(rows, self._members, member)
            if len(own) == len(rows) and guards.validation_diverges(own, classes):
                found.append(member.name)
        whose = f" ({', '.join(found)})" if len(self._members) > 1 else ""
        return _DIVERGES.format(classes) + whose if found else ""

    def _epoch_rows(self) -> list[dict[str, Any]]:
        """Give the rows of metrics.jsonl that end an epoch."""
        return [row for row in self._record.rows() if row["step"] % self._experiment.steps_per_epoch == 0]

    def _next_row(self, position: int) -> int:
        """Give the step of the next row of metrics: a multiple of steps_per_call in its epoch, or its end."""
        per_epoch, per_call = self._experiment.steps_per_epoch, self._config.train.steps_per_call
        start = position // per_epoch * per_epoch
        if not per_call:
            return start + per_epoch
        return min(start + per_epoch, start + ((position - start) // per_call + 1) * per_call)

    def _train_numbers(self, sums: dict, monitor: step.Monitor) -> dict[Member, dict[str, float]]:
        """Give each member's means of the epoch so far, as Keras's progress bar shows them."""
        return {
            member: {f"train/{name}": float(sums[name][i]) / float(sums["examples"][i]) for name in metrics.NAMES}
            | {"train/learning_rate": float(monitor.learning_rate[i]), "train/grad_norm": float(monitor.grad_norm[i])}
            for i, member in enumerate(self._members)
            if self._tally.healthy(i)
        }

    def _leave_out(self, i: int, step: int, what: str) -> str:
        """Mark a member as diverged; gives the line that says so. Raises UserError where none is left."""
        member, diverged = self._members[i], self._tally.diverged
        diverged[i] = step
        if min(diverged) < 0:
            return f"warning: {member.name}: {what}; it is left out from here, the others go on"
        whose = f"{member.name}, the last member that had not diverged: " if len(self._members) > 1 else ""
        saved = self._checkpoints.steps()
        kept = f"the last good checkpoint is kept, of step {saved[-1]}" if saved else "there is no checkpoint before"
        raise UserError(f"{whose}{what}; {kept} in {self._record.checkpoints}", exit_code=1)

    def _diverged(self, split: str, loss: float) -> str:
        """Return what is wrong with the loss on a split, or nothing."""
        if loss <= self._experiment.loss_limit:
            return ""
        return f"{split} loss {loss:g} {FAR}" if math.isfinite(loss) else f"{split} loss is not finite"

    def _validate(self, epoch: int, validation: tuple[jax.Array, jax.Array], numbers: dict[Member, dict]) -> None:
        """Add the metrics of the validation split to each member's numbers; drop those of one that diverges there."""
        values = self._group.evaluate(self._state.params, *validation)
        for i, member in enumerate(self._members):
            if member not in numbers:
                continue
            averages = metrics.means(values, i)
            if diverged := self._diverged("validation", averages["loss"]):
                step = epoch * self._experiment.steps_per_epoch
                _say(self._leave_out(i, step, f"{diverged} after step {step}"))
                del numbers[member]
                continue
            numbers[member] |= {f"val/{name}": value for name, value in averages.items()}
            numbers[member] |= self._tally.best(i, epoch, averages["accuracy"])

    def _test(self) -> dict[str, Any]:
        """Touch the test split, once, and write everything that a finished run leaves."""
        self._count_seconds()
        values = self._group.evaluate(self._state.params, *self._group.put(self._dataset.test))
        seconds_test = self._group.seconds_evaluate
        rows = self._epoch_rows()
        self._count_seconds()
        tally, count = self._tally, len(self._members)
        for i in range(count):
            diverged = self._diverged("test", metrics.means(values, i)["loss"])
            if tally.healthy(i) and diverged:
                _say(self._leave_out(i, self._experiment.total_steps, diverged))

        def last(member: Member) -> dict[str, Any]:
            return members.rows_of(rows[-1:], self._members, member)[0]

        numbers = {
            member: {f"test/{name}": value for name, value in metrics.means(values, i).items()}
            | {name: value for name, value in last(member).items() if name.startswith("val/")}
            for i, member in enumerate(self._members)
            if tally.healthy(i)
        }
        results = members.combine(self._members, numbers)
        images = self._images(self._experiment.total_steps)
        results |= {
            "epochs": self._config.train.epochs,
            "steps": self._experiment.total_steps,
            "parameters": self._footprint.parameters,
            "mmac": self._footprint.mmac,
            "activation_mib": tally.activation_bytes / 2**20,
            "seconds_compile": tally.seconds_compile,
            "seconds_train": tally.seconds_train,
            "seconds_evaluate": tally.seconds_evaluate,
            "images_per_second": images / tally.seconds_train,
            "images_per_second_inference": len(self._dataset.test) * count / seconds_test,
        }
        if self._config.data.eval_limit:
            results["eval_limit"] = self._config.data.eval_limit
        if count > 1:
            results["members"] = members.table(self._members, numbers, tally.diverged)
        class_names, superclass_names = map(np.array, (self._dataset.class_names, self._dataset.superclass_names))
        arrays = dict(values) if count > 1 else {name: value[0] for name, value in values.items()}
        arrays |= {"label": self._dataset.test.labels, "class_name": class_names}
        if len(superclass_names):
            superclass_of = np.array(self._dataset.superclass_of, np.int32)
            arrays |= {"superclass_name": superclass_names, "superclass_of": superclass_of}
        self._record.write_predictions(**arrays)
        title = self._record.workdir.name
        self._record.write_curves(lambda path: curves.draw(rows, path, title, len(class_names), self._members))
        self._record.write("results.json", results)
        _say(members.describe(self._members, results))
        return results

    def _images(self, steps: int) -> float:
        """Give how many images all members together see in so many steps."""
        per_step = self._experiment.train_examples / self._experiment.steps_per_epoch
        return steps * per_step * len(self._members)

    def _count_seconds(self) -> None:
        """Take over what the group has measured since the last time."""
        self._tally.seconds_compile += self._group.seconds_compile
        self._tally.seconds_evaluate += self._group.seconds_evaluate
        self._group.seconds_compile = self._group.seconds_evaluate = 0.0

    def _save(self, position: int) -> None:
        self._count_seconds()
        extra = {"tally": dataclasses.asdict(self._tally), "wandb_run_id": self._run_id}
        extra["rows"] = len(self._record.rows())
        self._checkpoints.save(self._state, position, self._config.to_dict(), extra)


def _say(line: str) -> None:
    """Print, once for all processes."""
    if jax.process_index() == 0:
        print(line)
