"""A run from its configuration to its results: data, training, validation, test, and what it leaves on disk."""

import contextlib
import os
import pathlib
import signal
import time
from typing import Any, NoReturn

import jax
import ml_collections

from eanet import cache
from eanet.config import rules
from eanet.data import datasets as data
from eanet.data import guards
from eanet.data.description import describe
from eanet.errors import UserError
from eanet.model.footprint import Footprint
from eanet.run.checkpoint import Checkpoints
from eanet.run.clock import Clock
from eanet.run.initial_weights import InitialWeights, read_initial_weights
from eanet.run.interruption import Interruption
from eanet.run.outputs import Outputs
from eanet.run.progress import RunProgress
from eanet.run.record import Record
from eanet.run.results import describe_cost, summarize, write_curves, write_predictions
from eanet.run.rows import combine, describe_results, progress_metrics, rows_of
from eanet.run.scores import Scores, what_diverged
from eanet.training import metrics, processes, sharding, step
from eanet.training.members import Member, members_from_config
from eanet.training.trainer import Trainer, image_bytes

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
    rules.validate(config)
    fields, networks = config.to_dict(), members_from_config(config.to_dict())
    cache.keep_compiled_programs()
    processes.join()
    record = Record(workdir, primary=jax.process_index() == 0)
    try:
        record.check(fields)
        results = record.read("results.json")
        if results is not None:
            _say(f"{record.workdir} is finished; nothing to do.\n{describe_results(networks, results)}")
            return results
        record.check_place()
        mesh = sharding.make_mesh(len(networks))
        sharding.check_batch(config.train, mesh)
        dataset = processes.first_process_first(lambda: data.load(config.data))
        rules.validate_for_data(config, dataset.train.images.shape[1:], len(dataset.train))
        _check_digest(record, dataset, config.data.dir)
        begin_with = None
        if config.init_from and not record.has_checkpoint():
            begin_with = read_initial_weights(config, dataset)
        record.open(fields)
        processes.wait_for_all("record open")
        with contextlib.nullcontext(interruption) if interruption else Interruption() as heard:
            heard.at_once = jax.process_count() == 1  # until there is something to save; several have to agree
            return Run(config, dataset, record, mesh, begin_with).finish(heard)
    except Exception as error:
        if lost := processes.explain(error):
            raise lost from error
        raise
    finally:
        record.close()


def _check_digest(record: Record, dataset: data.Dataset, directory: str) -> None:
    """Raise UserError if a run would resume with other images than it began with, as a folder may have changed."""
    began_with = record.read_note("data.json").get("digest", "")
    if record.has_checkpoint() and began_with != dataset.digest:
        raise UserError(
            f"{record.workdir} began with other images than config.data.dir={directory} holds now; accepted: the same "
            "files, or another --workdir"
        )


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
        self._trainer = Trainer(config, dataset, mesh)
        self._members, self._experiment = self._trainer.members, self._trainer.experiment
        self._scores = Scores.of(len(self._members))
        self._footprint = Footprint(self._experiment.model, self._experiment.image_shape)
        self._checkpoints = Checkpoints(record.checkpoints, config.checkpoint.keep)
        self._outputs = Outputs(config, record, self._checkpoints, self._members)
        restored = self._checkpoints.restore(self._trainer.shapes, config.to_dict())
        step, total = 0, self._experiment.total_steps
        if restored:
            self._state, extra = restored
            self._scores = Scores(**extra["tally"])
            self._outputs.run_id = self._outputs.run_id or extra["wandb_run_id"]
            step = int(self._state.step.addressable_shards[0].data[0])  # which all members have in common
            record.begin(config.to_dict(), step, extra["rows"], self._trainer.chosen())
            _say(f"Going on from step {step} of {total} in {record.workdir}")
        else:
            self._state = self._trainer.init(begin_with and begin_with.params)
            record.begin(config.to_dict(), 0, 0, self._trainer.chosen())
            if begin_with:
                record.write("initial_weights.json", begin_with.origin)
            _say(f"Training in {record.workdir}{f' from {config.init_from}' if begin_with else ''}")
        record.write("data.json", describe(dataset))
        if self._trainer.streaming:
            gib = image_bytes(dataset) / 2**30
            _say(f"Streaming the images from the host ({gib:,.1f} GiB; config.data.streaming={config.data.streaming})")
        self._clock = Clock(self._experiment, config.train.steps_per_call, len(self._members), step)
        self._bar = RunProgress(config.train.epochs, self._experiment.steps_per_epoch, step, jax.process_index() == 0)

    def finish(self, interruption: Interruption) -> dict[str, Any]:
        """Take the remaining steps and the test, write the results, and close everything that was opened."""
        try:
            with self._outputs as outputs:
                try:
                    outputs.begin({"parameters": self._footprint.parameters, "mmac": self._footprint.mmac})
                    self._train(interruption)
                    outputs.results = self._test()
                finally:
                    interruption.at_once = False  # closing is not to be cut short
        finally:
            interruption.at_once = jax.process_count() == 1
        return outputs.results

    def _train(self, interruption: Interruption) -> None:
        """Take the remaining steps: rows of metrics on the way, checkpoints after them, and one at the end."""
        clock = self._clock
        if clock.step == 0:
            self._check_input()
        training, validation = (self._trainer.put(split) for split in (self._dataset.train, self._dataset.validation))
        if clock.run_ends:
            return
        self._scores.activation_bytes = self._trainer.compile_training(*training)
        self._bar.compiled(self._trainer.seconds_compile)
        interruption.at_once = False
        with self._bar:
            while not clock.run_ends:
                monitor, sums = self._take_steps(training)
                self._drop_diverged(monitor)
                asked = self._agree(interruption)
                numbers = self._training_metrics(monitor, sums)
                speed = {"train/images_per_second": clock.images_per_second}
                if clock.row_is_due:
                    self._write_row(numbers, speed, validation)
                    if self._checkpoint_is_due():
                        self._save()
                whose, glance_at = progress_metrics(self._members, numbers)
                self._bar.update(clock.step, glance_at | speed, whose)
                if asked:
                    self._stop(asked)
        self._save()
        self._checkpoints.wait()  # results are of a run that is on disk
        interruption.at_once = jax.process_count() == 1  # the test can be made again
        if asked := self._agree(interruption):
            self._stop(asked)

    def _take_steps(self, training: tuple[jax.Array, jax.Array]) -> tuple[step.Monitor, dict[str, Any]]:
        """Take the steps of one call, and return what it reports and the sums of the epoch so far."""
        steps, started = self._clock.steps_of_call, time.perf_counter()
        self._state, monitor, sums = self._trainer.train(self._state, *training, steps)
        seconds = time.perf_counter() - started
        self._clock.took(steps, seconds)
        self._scores.seconds_train += seconds
        return monitor, sums

    def _agree(self, interruption: Interruption) -> int:
        """Set the pace of all processes to the slowest, and return a signal that any has received; 0 for none."""
        clock, received = self._clock, interruption.received or 0
        clock.pace, asked = processes.agree_on_pace_and_signal(clock.pace, received)
        return asked

    def _stop(self, asked: int) -> NoReturn:
        """Save, say how to resume, and end as the signal asked."""
        self._save()
        self._checkpoints.wait()
        again = "the same command"
        if "WANDB_SWEEP_ID" in os.environ:  # from which the directory has its name
            again += f" with --workdir={self._record.workdir}"
        _say(f"{signal.Signals(asked).name} at step {self._clock.step}: saved; {again} resumes.")
        raise SystemExit(128 + asked)

    def _training_metrics(self, monitor: step.Monitor, sums: dict[str, Any]) -> dict[Member, dict[str, float]]:
        """Return the means of the epoch so far of each member that has not diverged, as Keras's bar shows them."""
        return {
            member: {f"train/{name}": float(sums[name][i]) / float(sums["examples"][i]) for name in metrics.NAMES}
            | {"train/learning_rate": float(monitor.learning_rate[i]), "train/grad_norm": float(monitor.grad_norm[i])}
            for i, member in enumerate(self._members)
            if self._scores.healthy(i)
        }

    def _write_row(
        self,
        numbers: dict[Member, dict[str, float]],
        speed: dict[str, float],
        validation: tuple[jax.Array, jax.Array],
    ) -> None:
        """Write a row of metrics; at the end of an epoch, with those of the validation split."""
        clock = self._clock
        if clock.epoch_ends:
            self._validate(validation, numbers)
        row = {"step": clock.step, "epoch": clock.epochs} | speed | combine(self._members, numbers)
        self._outputs.write_row(row)
        if clock.epoch_ends:
            self._bar.say(self._check_validation())
        clock.start_row()

    def _validate(self, validation: tuple[jax.Array, jax.Array], numbers: dict[Member, dict[str, float]]) -> None:
        """Add the metrics of the validation split to each member's numbers; drop those of one that diverges there."""
        values, epoch = self._trainer.evaluate(self._state.params, *validation), round(self._clock.epochs)
        for i, member in enumerate(self._members):
            if member not in numbers:
                continue
            averages = metrics.means(values, i)
            if what := what_diverged("validation", averages["loss"], self._experiment.loss_limit):
                _say(self._drop(i, self._clock.step, f"{what} after step {self._clock.step}"))
                del numbers[member]
                continue
            numbers[member] |= {f"val/{name}": value for name, value in averages.items()}
            numbers[member] |= self._scores.best(i, epoch, averages["accuracy"])
        every = self._config.inspect.every_epochs
        if every and epoch % every == 0:
            described = self._trainer.inspect(self._state.params, validation[0])
            for i, member in enumerate(self._members):
                if member in numbers:
                    numbers[member] |= {f"inspect/{name}": float(x[i]) for name, x in described.items()}

    def _drop_diverged(self, monitor: step.Monitor) -> None:
        for i, at, what in self._scores.diverging(monitor):
            self._bar.say(self._drop(i, at, what))

    def _drop(self, i: int, step: int, what: str) -> str:
        """Mark a member as diverged, and return the line that says so. Raises UserError if none is left."""
        name = self._members[i].name
        if self._scores.drop(i, step):
            return f"warning: {name}: {what}; it is left out from here, the others continue"
        whose = f"{name}, the last member that had not diverged: " if len(self._members) > 1 else ""
        saved = self._checkpoints.steps()
        kept = f"the last good checkpoint is kept, of step {saved[-1]}" if saved else "there is no checkpoint before"
        raise UserError(f"{whose}{what}; {kept} in {self._record.checkpoints}", exit_code=1)

    def _checkpoint_is_due(self) -> bool:
        every = self._experiment.steps_per_epoch * self._config.checkpoint.every_epochs
        return self._clock.step % every == 0

    def _save(self) -> None:
        self._count_seconds()
        self._outputs.save(self._state, self._clock.step, self._scores)

    def _test(self) -> dict[str, Any]:
        """Touch the test split, once, and write everything that a finished run leaves."""
        self._count_seconds()
        tested = self._trainer.evaluate(self._state.params, *self._trainer.put(self._dataset.test))
        inference = len(self._dataset.test) * len(self._members) / self._trainer.seconds_evaluate
        rows = self._epoch_rows()
        self._count_seconds()
        for i in range(len(self._members)):
            what = what_diverged("test", metrics.means(tested, i)["loss"], self._experiment.loss_limit)
            if what and self._scores.healthy(i):
                _say(self._drop(i, self._experiment.total_steps, what))
        images = self._clock.images(self._experiment.total_steps)
        results = summarize(tested, rows[-1], self._members, self._scores)
        results |= describe_cost(self._experiment, self._footprint, self._scores, images, inference)
        if self._config.data.eval_limit:
            results["eval_limit"] = self._config.data.eval_limit
        write_predictions(self._record, tested, self._dataset)
        write_curves(self._record, rows, len(self._dataset.class_names), self._members)
        self._record.write("results.json", results)
        _say(describe_results(self._members, results))
        return results

    def _check_input(self) -> None:
        """Warn if training sees other images than evaluation."""
        sample = self._dataset.train.images[:_GUARD_IMAGES]
        key = step.stream(self._experiment, jax.random.key(self._config.seed), step.Purpose.AUGMENT)
        for warning in guards.check_input(key, sample, self._experiment.preprocessing, self._config.guard):
            _say(f"warning: {warning}")

    def _check_validation(self) -> str:
        """Return a warning if a member's newest epoch completes the pattern of a network that sees other images."""
        rows, classes = self._epoch_rows(), len(self._dataset.class_names)
        found = []
        for member in self._members:
            own = rows_of(rows, self._members, member)
            if len(own) == len(rows) and guards.validation_diverges(own, classes):
                found.append(member.name)
        whose = f" ({', '.join(found)})" if len(self._members) > 1 else ""
        return _DIVERGES.format(classes) + whose if found else ""

    def _epoch_rows(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl that end an epoch."""
        return [row for row in self._record.rows() if row["step"] % self._experiment.steps_per_epoch == 0]

    def _count_seconds(self) -> None:
        """Add the seconds that the trainer has measured since the last time."""
        self._scores.seconds_compile += self._trainer.seconds_compile
        self._scores.seconds_evaluate += self._trainer.seconds_evaluate
        self._trainer.seconds_compile = self._trainer.seconds_evaluate = 0.0


def _say(line: str) -> None:
    """Print, once for all processes."""
    if jax.process_index() == 0:
        print(line)
