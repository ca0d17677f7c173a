"""Run a W&B sweep file without W&B: python -m eanet.sweep FILE [options] [-- --config.FIELD=VALUE …].

Runs go to runs/<sweep>/<point>. The same command goes on where it stopped: finished points are skipped, unfinished
ones resume, failed ones are tried again. What stands after -- is added to every point's command.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from eanet import cli, search, sweep_file
from eanet import config as config_lib
from eanet.errors import UserError
from eanet.interruption import Interruption
from eanet.record import Record
from eanet.sweep_table import SweepTable

_POLL_SECONDS = 0.5
_STOP_SECONDS = 120  # for children to reach the end of a call and save; then they are killed
_LAST_LINES = 5


@dataclasses.dataclass
class Point:
    """One run of a sweep and what has become of it."""

    values: search.Values
    command: list[str]
    config: dict[str, Any]
    workdir: pathlib.Path
    state: str = "waiting"  # waiting | running | done | failed
    process: subprocess.Popen | None = None
    started: float = 0.0  # time.monotonic()
    seconds: float = 0.0  # in this sitting
    earlier: float = 0.0  # share that was done before this sitting
    message: str = ""  # of a failure

    @property
    def record(self) -> Record:
        return Record(self.workdir)

    def share(self) -> float:
        """Give how much of its training is done, 0 to 1."""
        if self.state == "done" or self.record.read("results.json"):
            return 1.0
        rows = self.record.rows()
        return min(rows[-1]["epoch"] / self.config["train"]["epochs"], 1.0) if rows else 0.0

    def metric(self, name: str) -> float | None:
        """Give a metric from the results, or from the newest row that has it; None before that."""
        results = self.record.read("results.json") or {}
        candidates = [results, *reversed(self.record.rows())]
        return next((row[name] for row in candidates if name in row), None)


def make_point(sweep: sweep_file.SweepFile, values: search.Values, extra: Sequence[str], root: pathlib.Path) -> Point:
    """Render one point and read it as main.py will.

    Raises UserError where a value would arrive as something else, as dropped flags and quoted numbers do.
    """
    arguments = [*sweep.arguments(values), *extra]
    flags = arguments[arguments.index(sweep.program) + 1 :]
    file, config = cli.read_config(flags)
    fields = config.to_dict()
    overridden = {flag.partition("=")[0] for flag in extra}
    check_values({name: value for name, value in values.items() if f"--{name}" not in overridden}, file, fields)
    names = [_short(name, value) for name, value in values.items() if name != "config"]
    name = "-".join([cli.config_name(file), *names, config_lib.fingerprint(fields)])
    workdir = root / name
    return Point(values, [*arguments, f"--workdir={workdir}"], fields, workdir)


def check_values(values: search.Values, config_file: str, fields: dict[str, Any]) -> None:
    """Raise UserError where a configuration does not hold, in value and type, what a sweep file says."""
    flat = {f"config.{name}": value for name, value in config_lib.flatten(fields).items()} | {"config": config_file}
    for name, wanted in values.items():
        if name not in flat:
            raise UserError(f"parameters.{name}: no field of the configuration; accepted: config.FIELD and config")
        got = flat[name]
        if got != wanted or isinstance(got, str) != isinstance(wanted, str):
            hint = "; YAML reads 1e-3 as text, write 1.0e-3 or 0.001" if isinstance(wanted, str) else ""
            raise UserError(f"parameters.{name}: {wanted!r} in the file arrives as {got!r}{hint}")


def _short(name: str, value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{name.rpartition('.')[2]}={re.sub(r'[^A-Za-z0-9.+]+', '_', text)}"


class Sweep:
    """Run points as processes, some at a time, and show how far they are."""

    def __init__(self, sweep: sweep_file.SweepFile, jobs: int, table: SweepTable):
        self._sweep, self._jobs, self._table = sweep, jobs, table
        self.points: list[Point] = []

    def run(self, points: Iterable[Point], interruption: Interruption) -> None:
        """Bring every point to its end; a failing one does not stop the others."""
        waiting = list(points)
        self.points += waiting
        for point in waiting:
            point.earlier = point.share()
            if point.earlier == 1.0:
                _settle(point, 0)
        waiting = [point for point in waiting if point.state == "waiting"]
        running: list[Point] = []
        while (waiting or running) and not interruption.received:
            while waiting and len(running) < self._jobs:
                point = waiting.pop(0)
                _start(point)
                running.append(point)
            running = self._poll(running)
            self._table.update(self.points)
            if running:
                time.sleep(_POLL_SECONDS)
        self._stop(running, interruption)

    def _poll(self, running: list[Point]) -> list[Point]:
        """Take note of the processes that have ended; give the others."""
        for point in running:
            point.seconds = time.monotonic() - point.started
            code = point.process.poll()
            if code is not None:
                _settle(point, code)
                self._table.settled(point)
        return [point for point in running if point.state == "running"]

    def _stop(self, running: list[Point], interruption: Interruption) -> None:
        """Pass a signal on and wait until the children have saved."""
        for point in running:
            point.process.send_signal(interruption.received)
        deadline = time.monotonic() + _STOP_SECONDS
        for point in running:
            try:
                code = point.process.wait(max(0.0, deadline - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                os.killpg(point.process.pid, signal.SIGKILL)
                code = point.process.wait()
            point.state = "waiting"
            if code == 0:
                _settle(point, 0)
        self._table.update(self.points)


def _start(point: Point) -> None:
    """Start a point's process in a group of its own, so that Ctrl-C reaches it once, from us."""
    point.workdir.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SWEEP_ID"}
    with (point.workdir / "output.log").open("a") as log:
        point.process = subprocess.Popen(
            point.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    point.state, point.started = "running", time.monotonic()


def _settle(point: Point, code: int) -> None:
    """Tell a finished run from a failed one."""
    if code == 0 and point.record.read("results.json"):
        point.state = "done"
        return
    point.state = "failed"
    lines = (point.workdir / "output.log").read_text(errors="replace").splitlines()
    point.message = "\n".join([f"exit code {code}", *lines[-_LAST_LINES:]])


def _bayes(sweep: sweep_file.SweepFile, runner: Sweep, make: Any, jobs: int, interruption: Interruption) -> None:
    """Propose, run and learn, `jobs` proposals at a time."""
    proposer = search.Bayes(sweep)
    left = sweep.run_cap
    while left and not interruption.received:
        batch = [proposer.propose() for _ in range(min(jobs, left))]
        points = [make([values]) for _, values in batch]
        runner.run([point for group in points for point in group], interruption)
        for (trial, _), group in zip(batch, points, strict=True):
            results = [point.metric(sweep.metric) for point in group if point.state == "done"]
            if results and None in results:
                raise UserError(f"{sweep.path}: metric.name={sweep.metric!r} is not in the runs' results")
            proposer.learn(trial, statistics.fmean(results) if results else None)
        left -= len(batch)


def _parse() -> tuple[argparse.Namespace, list[str]]:
    own, extra = sys.argv[1:], []
    if "--" in own:
        own, extra = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m eanet.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="a W&B sweep file, sweeps/heads.yaml say")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--shard", default="1/1", help="i/n: only the i-th of n equal parts, for a cluster's job array")
    parser.add_argument("--seeds", default="", help="0,1,2: every point with each of these seeds instead of the file's")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and what is done of them")
    arguments = parser.parse_args(own)
    if arguments.jobs < 1:
        raise UserError(f"--jobs={arguments.jobs}; accepted: a whole number from 1")
    return arguments, extra


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard={text}; accepted: i/n with i from 1 to n, 1/4 say")
    return int(match[1]), int(match[2])


def with_seeds(sweep: sweep_file.SweepFile, text: str) -> tuple[sweep_file.SweepFile, list[int]]:
    """Take --seeds out of the search: every point is to be run with each of them."""
    if not text:
        return sweep, []
    seeds = text.split(",")
    if not all(seed.isdecimal() for seed in seeds) or len(set(map(int, seeds))) < len(seeds):
        raise UserError(f"--seeds={text}; accepted: different whole numbers with commas between, 0,1,2 say")
    parameters = {name: value for name, value in sweep.parameters.items() if name != "config.seed"}
    return dataclasses.replace(sweep, parameters=parameters), list(map(int, seeds))


def main() -> None:
    """Parse the command line and run the sweep; raise SystemExit(1) where a point failed."""
    arguments, extra = _parse()
    index, shards = _shard(arguments.shard)
    sweep, seeds = with_seeds(sweep_file.load(arguments.file), arguments.seeds)
    root = pathlib.Path("runs") / sweep.path.stem

    def make(values: list[search.Values]) -> list[Point]:
        if seeds:
            values = [point | {"config.seed": seed} for point in values for seed in seeds]
        return [make_point(sweep, point, extra, root) for point in values]

    if sweep.method == "bayes":
        if shards > 1:
            raise UserError("--shard does not go with method=bayes, which learns from all results")
        points: list[Point] = []
        make([values for _, values in [search.Bayes(sweep).propose()]])  # checks names and values before anything runs
    else:
        points = make(search.grid(sweep) if sweep.method == "grid" else search.random(sweep))[index - 1 :: shards]
    if arguments.dry_run:
        _print_plan(points, sweep)
        return
    table = SweepTable(sweep.path.stem, sweep.metric, sweep.maximize, len(points) or sweep.run_cap * (len(seeds) or 1))
    runner = Sweep(sweep, arguments.jobs, table)
    with Interruption() as interruption, table:
        if sweep.method == "bayes":
            _bayes(sweep, runner, make, arguments.jobs, interruption)
        else:
            runner.run(points, interruption)
    failed = [point for point in runner.points if point.state == "failed"]
    print(table.summary(runner.points))
    if interruption.received:
        command = shlex.join(["python", "-m", "eanet.sweep", *sys.argv[1:]])
        print(f"{interruption.received.name}: stopped and saved; go on with  {command}")
        raise SystemExit(interruption.exit_code)
    if failed:
        raise SystemExit(1)
    print(f"Compare them with  python -m eanet.compare {root}")


def _print_plan(points: list[Point], sweep: sweep_file.SweepFile) -> None:
    for point in points:
        share = point.share()
        print(f"[{'done' if share == 1 else f'{share:.0%}' if share else 'new'}] {shlex.join(point.command)}")
    print(f"{len(points)} runs" if points else f"up to {sweep.run_cap} points, each chosen from the results before it")


if __name__ == "__main__":
    sys.exit(cli.run(main))
