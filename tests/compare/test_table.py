"""The tables of a comparison, in every format, and the command that writes them."""

import csv
import math
import re
import subprocess
import sys

import pytest

from eanet.compare import __main__ as compare
from eanet.compare import comparison, finished_run
from eanet.compare import table as comparison_table
from eanet.compare.explanations import explanations
from eanet.compare.finding import finding
from helpers.finished_runs import (
    read_comparison,
    write_arm,
)


def test_one_run_an_arm_gives_no_p_value_over_seeds_anywhere(tmp_path, capsys, monkeypatch):
    write_arm(tmp_path, "eanet", {0: 0.4})
    write_arm(tmp_path, "vit", {0: 0.6})
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path), f"--out={tmp_path / 'out'}"])
    compare.main()
    (versus,) = read_comparison(tmp_path).versus.values()
    numbers = (versus.difference.p_value, versus.p_holm)
    assert all(map(math.isnan, (*numbers, versus.difference.half_width, versus.detectable)))
    files = {name: (tmp_path / "out" / name).read_text() for name in ("comparison.md", "comparison.csv", "report.html")}
    (row,) = [row for row in csv.DictReader(files["comparison.csv"].splitlines()) if row["baseline"]]
    assert [row[name] for name in ("p", "p_holm", "detectable")] == [""] * 3
    assert [float(row[name]) for name in ("mcnemar_p", "mcnemar_p_holm")] == [versus.mcnemar] * 2
    assert float(row["difference"]) == pytest.approx(0.2) and row["test"] == "none"
    table = next(line for line in files["comparison.md"].splitlines() if line.startswith("| attention=self | +20.00"))
    assert [cell.strip() for cell in table.split("|")][3:7] == ["none", "–", "< 0.001", "–"]
    report = re.search(r"<tr><td[^>]*>attention=self</td>(<td[^>]*>\+20\.00.*)</tr>", files["report.html"])[1]
    assert re.findall(r'data-value="nan"[^>]*>–</td>', report) and len(re.findall('"nan"', report)) == 4
    terminal = capsys.readouterr().out
    shown = next(line for line in terminal.splitlines() if "+20.00" in line).split("+20.00")[1]
    assert shown.split()[:5] == ["none", "–", "<", "0.001", "–"]
    for text in (terminal, files["comparison.md"], files["comparison.csv"], files["report.html"]):
        assert "one run says nothing about the spread between seeds" in text
        assert not re.search(r"\bp (=|&lt;|<)", text)
        assert "McNemar&#39;s p is of two networks, not of the methods" in text.replace("'", "&#39;")


def test_accuracies_have_intervals_of_what_they_can_be(tmp_path):
    """By hand: of 1% and 3% the mean is 2, its half-width 12.706 · √2 / √2 = 12.71."""
    write_arm(tmp_path, "eanet", {0: 0.01, 1: 0.03})
    write_arm(tmp_path, "vit", {0: 0.97, 1: 0.99})
    write_arm(tmp_path, "none", {0: 0.5, 1: 0.51})
    result = read_comparison(tmp_path)
    shown = [row[2].text for row in comparison_table.results(result).rows]
    assert shown == ["2.00 (0.00 to 14.71)", "50.50 ± 6.35", "98.00 (85.29 to 100.00)"]
    assert "2.430 ± " in comparison_table.results(result).rows[0][5].text.replace("2.460", "2.430")
    said = " ".join(explanations(result))
    assert "beyond 0 or 100% is cut there, and written with its ends" in said


def test_a_margin_adds_the_tests_of_equivalence_to_every_format(tmp_path):
    write_arm(tmp_path, "eanet", {0: 0.4, 1: 0.42, 2: 0.44})
    write_arm(tmp_path, "vit", {0: 0.4, 1: 0.4225, 2: 0.4425})
    runs, notes = finished_run.find_runs([tmp_path])
    plain, result = (comparison.compare(runs, (), "", notes, margin) for margin in (0.0, 0.01))
    added = ["verdict", "90% interval, points", "p of equivalence (Holm)"]
    grids = [comparison_table.against_baseline(one) for one in (plain, result)]
    assert [column for column in grids[1].columns if column not in grids[0].columns] == added
    (row,) = grids[1].rows
    shown = dict(zip(grids[1].columns, (cell.text for cell in row), strict=True))
    # By hand: differences 0, 0.25 and 0.25 points; error 0.25 / 3, t(0.95; 2) = 2.92, so 0.167 ± 0.243.
    assert shown["90% interval, points"] == "-0.08 to +0.41" and shown["verdict"] == "equivalent within 1 point"
    (versus,) = result.versus.values()
    assert shown["p of equivalence (Holm)"] == f"{versus.equivalence.p_value:.3f}"
    (line,) = [row for row in csv.DictReader(comparison_table.comma_separated(result).splitlines()) if row["baseline"]]
    assert (line["margin"], line["verdict"]) == ("0.01", "equivalent within 1 point")
    assert float(line["p_equivalence"]) == float(line["p_equivalence_holm"]) == versus.equivalence.p_value
    assert float(line["half_width_with_images"]) == versus.with_images.half_width
    assert any(text.startswith("Equivalence: two one-sided") for text in explanations(result))
    assert not any(text.startswith("Equivalence") for text in explanations(plain))
    assert finding(result).endswith(
        " With a margin of 1 point: equivalent within 1 point (90% interval -0.08 to +0.41)."
    ) and "margin" not in finding(plain)


def test_the_csv_has_the_unrounded_numbers(three_arms):
    result = read_comparison(three_arms)
    rows = list(csv.DictReader(comparison_table.comma_separated(result).splitlines()))
    assert [row["model.attention"] for row in rows] == ["external", "none", "self"]
    for row, arm in zip(rows, result.arms, strict=True):
        assert (int(row["n"]), row["seeds"]) == (len(arm.runs), " ".join(str(run.seed) for run in arm.runs))
        for metric in finished_run.METRICS:
            estimate = arm.estimate(metric)
            numbers = [float(row[f"{metric}{suffix}"]) for suffix in ("", "_deviation", "_half_width")]
            assert numbers == [estimate.mean, estimate.deviation, estimate.half_width]
        versus = result.versus.get(arm.name)
        assert bool(versus) == bool(row["baseline"]) == bool(row["p"])
        if versus:
            numbers = [float(row[name]) for name in ("difference", "p", "p_holm", "mcnemar_p", "mcnemar_p_holm")]
            difference = versus.difference
            own = [difference.mean, difference.p_value, versus.p_holm, versus.mcnemar, versus.mcnemar_holm]
            assert numbers == own and row["notes"] == "; ".join(versus.notes)


def test_markdown_has_the_cells_of_the_tables(three_arms):
    result = read_comparison(three_arms)
    lines = comparison_table.markdown(result).splitlines()
    shown = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    grids = [comparison_table.results(result), comparison_table.against_baseline(result)]
    expected = [row for grid in grids for row in (grid.columns, *([c.text for c in r] for r in grid.rows))]
    assert [row for row in shown if not row[0].startswith("---")] == expected
    assert (
        expected[1][1] == "3" and expected[1][2] == "43.00 ± 2.48" and expected[1][6] == "361,380"
    )  # t(0.975; 2) / √3 · 1 point


@pytest.mark.system
def test_the_command_prints_the_table_and_writes_the_files(three_arms, tmp_path):
    def command(out):
        line = [sys.executable, "-m", "eanet.compare", str(three_arms), "--baseline=model.attention=self"]
        return subprocess.run([*line, f"--out={out}"], capture_output=True, text=True)

    done = command(tmp_path / "new" / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith("In test accuracy 2 of 2 arms differ from the baseline (1 ahead, 1 ")
    assert "Test accuracy against attention=self" in done.stdout and "43.00 ± 2.48" in done.stdout
    assert f"{tmp_path}/new/out/report.html" in done.stdout
    names = ["accuracy.svg", "classes.svg", "comparison.csv", "comparison.md", "confusion.svg", "curves.svg"]
    names += ["differences.svg", "report.html"]
    written = (tmp_path / "new" / "out" / "comparison.md").read_text()
    assert done.stdout.splitlines()[0] in written and "bands, of validation: 95% intervals" in written
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == names  # and no partial file
    (tmp_path / "file").touch()
    failed = command(tmp_path / "file")
    assert failed.returncode == 2
    assert re.fullmatch(r"error: --out=\S+ is a file; accepted: a directory, existing or new\n", failed.stderr)
