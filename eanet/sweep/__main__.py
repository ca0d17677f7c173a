"""Run a W&B sweep file without W&B: python -m eanet.sweep FILE [options] [-- --config.FIELD=VALUE …].

Runs go to runs/<sweep>/<point>. The same command resumes where it stopped: finished points are skipped, unfinished
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
from collections.abc import Iterable
from typing import Any

from eanet import cli
from eanet.errors import UserError
from eanet.run.interruption import Interruption
from eanet.sweep import file as sweep_file
from eanet.sweep import search
from eanet.sweep.point import Point, make_point, varied
from eanet.sweep.table import SweepTable

_POLL_SECONDS = 0.5
_STOP_SECONDS = 120  # for children to reach the end of a call and save; then they are killed
_LAST_LINES = 5


class Sweep:
    """Run points as processes, some at a time, and show how far they are."""

    def __init__(self, jobs: int, table: SweepTable):
        self._jobs, self._table = jobs, table
        self.points: list[Point] = []

    def run(self, points: Iterable[Point], interruption: Interruption) -> None:
        """Bring every point to its end; a failing one does not stop the others."""
        added = list(points)
        self.points += added
        for point in added:
            point.earlier = point.share()
            if point.finished():
                point.state = "done"
        waiting = [point for point in added if point.state == "waiting"]
        running: list[Point] = []
        try:
            while (waiting or running) and not interruption.received:
                while waiting and len(running) < self._jobs:
                    point = waiting.pop(0)
                    _start(point)
                    if point.state == "running":
                        running.append(point)
                    else:
                        self._table.settled(point)
                running = self._poll(running)
                self._table.update(self.points)
                if running:
                    time.sleep(_POLL_SECONDS)
        finally:  # whatever happens here, no child stays behind
            self._stop(running, interruption.received or signal.SIGTERM)

    def refuse(self, name: str, message: str) -> Point:
        """Count a point that cannot be a run as failed."""
        point = Point([], {}, pathlib.Path(name), state="failed", message=message)
        self.points.append(point)
        self._table.settled(point)
        return point

    def _poll(self, running: list[Point]) -> list[Point]:
        """Take note of the processes that have ended; give the others."""
        for point in running:
            point.seconds = time.monotonic() - point.started
            code = point.process.poll()
            if code is not None:
                _settle(point, code)
                self._table.settled(point)
        return [point for point in running if point.state == "running"]

    def _stop(self, running: list[Point], number: signal.Signals) -> None:
        """Pass a signal on and wait until the children have saved."""
        for point in running:
            point.process.send_signal(number)
        deadline = time.monotonic() + _STOP_SECONDS
        for point in running:
            try:
                code = point.process.wait(max(0.0, deadline - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                deadline = 0.0  # a second Ctrl-C is meant for all of them
                os.killpg(point.process.pid, signal.SIGKILL)
                code = point.process.wait()
            point.state = "waiting"
            if code == 0:
                _settle(point, 0)
        self._table.update(self.points)


def _start(point: Point) -> None:
    """Start a point's process in a group of its own, so that Ctrl-C reaches it once, from us."""
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SWEEP_ID"}
    try:
        point.workdir.mkdir(parents=True, exist_ok=True)
        with (point.workdir / "output.log").open("a") as log:
            point.process = subprocess.Popen(
                point.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
    except OSError as error:
        point.state, point.message = "failed", f"cannot be started: {error}"
        return
    point.state, point.started, point.message = "running", time.monotonic(), ""


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
        points = []
        for _, values in batch:
            try:
                points.append(make([values]))
            except UserError as error:  # a combination that the configuration does not accept
                points.append([runner.refuse(varied(sweep, values), str(error))])
        runs = [point for group in points for point in group if point.state == "waiting"]
        first = {point.workdir: point for point in reversed(runs)}
        runner.run(first.values(), interruption)
        # A batch may hold a point twice; the second finds the first one's results.
        runner.run([point for point in runs if point is not first[point.workdir]], interruption)
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
    parser = cli.Parser("python -m eanet.sweep", __doc__, hint=", --config.FIELD=VALUE stands after --")
    parser.add_argument("file", help="a W&B sweep file, e.g. sweeps/heads.yaml")
    parser.add_argument("--jobs", type=_jobs, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--shard", default="1/1", help="i/n: only the i-th of n equal parts, for a cluster's job array")
    parser.add_argument("--seeds", default="", help="0,1,2: every point with each of these seeds instead of the file's")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and what is done of them")
    arguments = parser.parse_args(own)
    return arguments, extra


def _jobs(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise UserError(f"--jobs={text}; accepted: a whole number from 1 to 9999")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard={text}; accepted: i/n with i from 1 to n, e.g. 1/4")
    return int(match[1]), int(match[2])


def with_seeds(sweep: sweep_file.SweepFile, text: str) -> tuple[sweep_file.SweepFile, list[int]]:
    """Take --seeds out of the search: every point is to be run with each of them."""
    if not text:
        return sweep, []
    seeds = text.split(",")
    if not all(re.fullmatch("[0-9]{1,10}", seed) for seed in seeds) or len(set(map(int, seeds))) < len(seeds):
        raise UserError(f"--seeds={text}; accepted: different whole numbers with commas between, e.g. 0,1,2")
    parameters = {name: value for name, value in sweep.parameters.items() if name != "config.seed"}
    return dataclasses.replace(sweep, parameters=parameters), list(map(int, seeds))


def main() -> None:
    """Parse the command line and run the sweep; raise SystemExit(1) where a point failed."""
    arguments, extra = _parse()
    index, shards = _shard(arguments.shard)
    sweep, seeds = with_seeds(sweep_file.load(arguments.file), arguments.seeds)
    root = pathlib.Path("runs") / sweep.path.stem
    cli.check_directory("the runs' directory", root)

    def make(values: list[search.Values]) -> list[Point]:
        if seeds:
            values = [point | {"config.seed": seed} for point in values for seed in seeds]
        points = [make_point(sweep, point, extra, root) for point in values]
        different = list({point.workdir: point for point in points}.values())  # a draw may repeat another
        if sweep.method == "grid" and len(different) < len(points):
            raise UserError(
                f"{sweep.path}: parameters has {len(points)} points, but accepted are different runs; "
                f"there are {len(different)}"
            )
        return different

    if sweep.method == "bayes":
        if shards > 1:
            raise UserError("--shard does not go with method=bayes, which learns from all results")
        points: list[Point] = []
        make([values for _, values in [search.Bayes(sweep).propose()]])  # checks names and values before anything runs
        total = sweep.run_cap * (len(seeds) or 1)
    else:
        points = make(search.grid(sweep) if sweep.method == "grid" else search.random(sweep))[index - 1 :: shards]
        total = len(points)
    if arguments.dry_run:
        _print_plan(points, sweep)
        return
    table = SweepTable(sweep.path.stem, sweep.metric, sweep.maximize, total)
    runner = Sweep(arguments.jobs, table)
    with Interruption(compiled_calls=False) as interruption, table:
        if sweep.method == "bayes":
            _bayes(sweep, runner, make, arguments.jobs, interruption)
        else:
            runner.run(points, interruption)
    failed = [point for point in runner.points if point.state == "failed"]
    print(table.summary(runner.points))
    if interruption.received:
        command = shlex.join(["python", "-m", "eanet.sweep", *sys.argv[1:]])
        print(f"{interruption.received.name}: stopped and saved; resume with  {command}")
        raise SystemExit(interruption.exit_code)
    if failed:
        raise SystemExit(1)
    print(f"Compare them with  python -m eanet.compare {root}")


def _print_plan(points: list[Point], sweep: sweep_file.SweepFile) -> None:
    for point in points:
        share = point.share()
        print(f"[{'done' if share == 1 else f'{share:.0%}' if share else 'new'}] {shlex.join(point.command)}")
    if sweep.method == "bayes":
        print(f"up to {sweep.run_cap} points, each chosen from the results before it")
    else:
        print(f"{len(points)} runs")


if __name__ == "__main__":
    sys.exit(cli.run(main))
