"""One run of a sweep: its command, its directory, and what has become of it."""

import ast
import dataclasses
import pathlib
import re
import subprocess
from collections.abc import Sequence
from typing import Any

from eanet import cli
from eanet.config import rules, stored
from eanet.errors import UserError
from eanet.run.record import Record
from eanet.sweep import file as sweep_file
from eanet.sweep import search

_LONGEST = 160  # characters of a directory's name, of 255 that most file systems take; the hash comes after them


@dataclasses.dataclass
class Point:
    """One run of a sweep and what has become of it."""

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
        """Return how much of its training is done, 0 to 1."""
        if self.finished():
            return 1.0
        rows = self.record.rows()
        # With all its rows it still has the test to come.
        return min(rows[-1]["epoch"] / self.config["train"]["epochs"], 0.99) if rows else 0.0

    def finished(self) -> bool:
        """Return whether its results are there."""
        return self.state == "done" or bool(self.record.read("results.json"))

    def metric(self, name: str) -> float | None:
        """Return a metric from the results, or from the newest row that has it; None before that."""
        results = self.record.read("results.json") or {}
        candidates = [results, *reversed(self.record.rows())]
        return next((row[name] for row in candidates if name in row), None)


def make_point(sweep: sweep_file.SweepFile, values: search.Values, extra: Sequence[str], root: pathlib.Path) -> Point:
    """Render one point and read it as main.py will.

    Raises UserError if a value would arrive as something else, as dropped flags and quoted numbers do.
    """
    arguments = [*sweep.arguments(values), *extra]
    flags = arguments[arguments.index(sweep.program) + 1 :]
    file, config = cli.read_config(flags)
    fields = config.to_dict()
    check_values(values, file, fields, extra)
    parts = [cli.config_name(file), varied(sweep, values)]
    readable = "-".join(filter(None, parts))[:_LONGEST]
    workdir = root / f"{readable}-{stored.fingerprint(fields)}"
    return Point([*arguments, f"--workdir={workdir}"], fields, workdir)


def check_values(values: search.Values, config_file: str, fields: dict[str, Any], extra: Sequence[str] = ()) -> None:
    """Raise UserError if a configuration does not hold, in value and type, what a sweep file says.

    extra is what stands after --: it may set anything but what the file sweeps, as all points would be the same then.
    """
    for flag in extra:
        name = flag.lstrip("-").partition("=")[0]
        if name in values:
            raise UserError(f"{flag} after --: the file sweeps {name}; accepted: other fields, and --seeds for seeds")
        if name == "workdir":
            raise UserError(f"{flag} after --: every point has a directory of its own; accepted: --config.FIELD=VALUE")
    flat = {f"config.{name}": value for name, value in rules.flatten(fields).items()} | {"config": config_file}
    for name, wanted in values.items():
        if name not in flat:
            raise UserError(f"parameters.{name}: no field of the configuration; accepted: config.FIELD and config")
        got = flat[name]
        if isinstance(got, tuple) and isinstance(wanted, str) and _literal(wanted) == got:
            continue  # YAML has no tuples: they are written as text
        if got != wanted or isinstance(got, bool) != isinstance(wanted, bool):
            hint = "; YAML reads 1e-3 as text, write 1.0e-3 or 0.001" if isinstance(wanted, str) else ""
            raise UserError(f"parameters.{name}: {wanted!r} in the file arrives as {got!r}{hint}")


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return None


def varied(sweep: sweep_file.SweepFile, values: search.Values) -> str:
    """Return the values that are not the same in all points of a file as part of a directory's name.

    What --seeds adds to a file's only seed is among them, and that one seed is not: its runs are found again.
    """
    shown = {name: value for name, value in values.items() if name != "config" and sweep.fixed.get(name) != value}
    return "-".join(short(name, value) for name, value in shown.items())


def short(name: str, value: Any) -> str:
    """Return a value as part of a directory's name: num_heads=4."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{name.rpartition('.')[2]}={re.sub(r'[^A-Za-z0-9.+]+', '_', text)}"
