"""A comparison as one HTML file that needs no server and no network."""

import collections
import os
import pathlib
import urllib.parse
from typing import Any

from eanet import statistics
from eanet.compare import page
from eanet.compare import table as comparison_table
from eanet.compare.comparison import Comparison
from eanet.compare.explanations import explanations
from eanet.compare.figures import plots as comparison_plots
from eanet.compare.finding import finding
from eanet.compare.page import Picture
from eanet.training.members import SOURCES


def pictures(comparison: Comparison) -> dict[str, Picture]:
    """Draw every picture of a comparison; keys are file names without ending."""
    return page.draw_in_styles(lambda: comparison_plots.draw_all(comparison))


def html(comparison: Comparison, drawn: dict[str, Picture], out: pathlib.Path) -> str:
    """Return the report, as a file in the directory out, from which it links to the runs.

    Whatever comes from a run is escaped: a run named <script> stays text.
    """
    template = page.templates().get_template("report.html.jinja")
    arms = comparison.arms
    first = arms[0].runs[0]
    limited = any(run.fields["data.train_limit"] for arm in arms for run in arm.runs)
    return template.render(
        comparison=comparison,
        grids=comparison_table.grids(comparison),
        words=comparison_table.WORDS,
        finding=finding(comparison),
        pictures=[(name, picture.caption, picture.uris) for name, picture in drawn.items()],
        explanations=explanations(comparison),
        error_bars=_error_bars(comparison),
        differences=_differences(comparison),
        runs=[(arm, run, _link(run.workdir, out)) for arm in arms for run in arm.runs],
        environments=_environments(comparison),
        config={field: value for field, value in first.fields.items() if value is not None},
        facts={
            "data set": first.fields["data.name"],
            "limit of training images": _common(comparison, "data.train_limit") if limited else "none",
            "epochs": _common(comparison, "train.epochs"),
            "test images": f"{len(first.labels):,}",
            "arms": len(arms),
            "runs": sum(len(arm.runs) for arm in arms),
            "baseline": comparison.baseline.name,
        },
    )


def _link(directory: pathlib.Path, out: pathlib.Path) -> str:
    """Return the URL of a directory, relative to out, so that both can be moved together."""
    try:
        relative = pathlib.Path(os.path.relpath(directory, out.resolve()))
    except ValueError:  # on two drives of Windows
        return f"{directory.as_uri()}/"
    return urllib.parse.quote(os.fsencode(relative.as_posix())) + "/"  # bytes: a name need not be UTF-8


def _common(comparison: Comparison, field: str) -> str:
    """Return a field's values over all runs."""
    return ", ".join(sorted({str(run.fields[field]) for arm in comparison.arms for run in arm.runs}))


def _error_bars(comparison: Comparison) -> dict[str, str]:
    """Answer what the NeurIPS checklist asks of an experiment's error bars and of its compute."""
    runs = [run for arm in comparison.arms for run in arm.runs]
    counts = {len(arm.runs) for arm in comparison.arms}
    each = "; ".join(f"{arm.name}: {len(arm.runs)}" for arm in comparison.arms)
    seconds = sum(run.results["seconds"] for run in runs)
    devices = ", ".join(sorted({one["devices"] or "unknown" for one, _ in _environments(comparison)}))
    fixed = {arm.name: SOURCES.keys() & set(arm.runs[0].fields["fixed"]) for arm in comparison.arms}
    said = "".join(
        f"; in {name} not {' or '.join(what for source, what in SOURCES.items() if source in some)}"
        for name, some in fixed.items()
        if some
    )
    *first, last = SOURCES.values()
    equivalence = ", and thick ones of 90% for equivalence" if comparison.margin else ""
    return {
        "what they are": f"{statistics.LEVEL:.0%} Student t intervals of a mean over runs, which assume normally "
        f"distributed errors{equivalence}; where it is said, intervals over runs and test images, or ranges. Never "
        "standard errors; deviations only where a column is called that.",
        "what varies": f"the seed, and with it {', '.join(first)} and {last}{said}. The split of the data and the test "
        "images are the same in all runs.",
        "runs": f"{f'{min(counts)} of each arm' if len(counts) == 1 else each}; {len(runs)} in all.",
        "compute": f"{seconds / 3600:,.2f} hours of compiling, training and evaluating, summed over programs, which "
        f"may have shared a device; on: {devices}.",
    }


def _differences(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Return every field that is not the same in all arms, with its values in each."""
    by = [*comparison.arms[0].by, *comparison.also_differ]
    rows = []
    for field in by:
        values = [sorted({str(run.fields[field]) for run in arm.runs}) for arm in comparison.arms]
        rows.append((field, ["–" if value == ["None"] else ", ".join(value) for value in values]))
    return rows


def _environments(comparison: Comparison) -> list[tuple[dict[str, str], list[str]]]:
    """Return the different environments and the names of the runs that each had."""
    seen: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for arm in comparison.arms:
        for run in arm.runs:
            seen.setdefault(tuple(_describe(run.environment).items()), []).append(run.name)
    return [(dict(key), names) for key, names in seen.items()]


def _describe(environment: dict[str, Any]) -> dict[str, str]:
    git, versions = environment.get("git") or {}, environment.get("versions") or {}
    devices = collections.Counter(environment.get("devices", []))
    commit = str(git.get("commit") or "unknown")
    if git.get("clean") is False:
        commit += ", with changes that are not committed"
    return {
        "commit": commit,
        "devices": ", ".join(f"{count} × {name}" for name, count in devices.items()),
        "CPU cores": str(environment.get("cpus")),
        "platform": str(environment.get("platform")),
        "Python": str(environment.get("python")),
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
    }
