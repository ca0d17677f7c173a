"""The report in a real headless Chromium."""

import html
import json
import os
import re
import subprocess
import sys
import urllib.parse

import pytest

from eanet.compare import __main__ as compare
from eanet.compare import report
from helpers.finished_runs import (
    answers,
    change_json,
    make_config,
    read_comparison,
    write_ablation,
    write_arm,
    write_run,
)

_HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)'  # can name a directory
_SCRIPT = "<script>alert(3)</script>"
_CORNERS = """images => images.map(image => {
  const context = document.createElement("canvas").getContext("2d");
  context.drawImage(image, 0, 0);
  return [...context.getImageData(2, 2, 1, 1).data];
})"""


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    """The directory of runs and what `eanet.compare` wrote beside it."""
    root = tmp_path_factory.mktemp("ablation")
    write_ablation(root / "runs")
    compare.write(read_comparison(root / "runs"), root / "out")
    return root


def _head(table, title):
    """Return a column's head."""
    return table.locator("thead th").nth(table.locator("thead th button").all_inner_texts().index(title))


def _column(table, title):
    """Return the shown texts of a column, from the top."""
    titles = table.locator("thead th button").all_inner_texts()
    return table.locator(f"tbody tr td:nth-child({titles.index(title) + 1})").all_inner_texts()


@pytest.mark.system
def test_the_report_renders_by_itself(ablation, open_page):
    page = open_page(ablation / "out" / "report.html")
    assert page.title() == "Comparison: 4 arms, 10 runs on cifar100"
    assert page.locator("h2").all_inner_texts()[:2] == [
        "Results",
        "Test accuracy against attention=external, num_heads=2",
    ]
    assert page.locator("figure").evaluate_all("all => all.map(figure => figure.id)") == [
        "differences",
        "curves",
        "accuracy",
        "classes",
        "confusion",
    ]
    widths = page.locator("img").evaluate_all("all => all.map(image => image.complete && image.naturalWidth)")
    assert len(widths) == 5 and min(widths) > 300
    assert page.locator("p.finding").inner_text().startswith("In test accuracy 2 of 3 arms differ from the baseline")
    captions = page.locator("figcaption").all_inner_texts()
    assert "against heads, parameters and MMAC" in captions[2] and "memory slots" not in page.inner_text("body")
    assert page.locator("tr.baseline td").first.inner_text() == "attention=external, num_heads=2"
    loaded = page.locator("[src], link[href], [srcset]").evaluate_all(
        "all => all.flatMap(e => ['src', 'href', 'srcset'].map(name => e.getAttribute(name))).filter(Boolean)"
    )
    assert len(loaded) == 11 and all(link.startswith("data:") for link in loaded)  # five pictures twice, and the icon


@pytest.mark.system
def test_all_columns_fit_a_window_of_1300_pixels(ablation, tmp_path, open_page):
    write_arm(tmp_path / "runs", "eanet", {0: 0.01, 1: 0.03})  # whose interval is cut, and takes more room
    write_arm(tmp_path / "runs", "vit", {0: 0.4, 1: 0.43})
    compare.write(read_comparison(tmp_path / "runs"), tmp_path)
    for path in (ablation / "out", tmp_path):
        page = open_page(path / "report.html", width=1300)
        widths = page.locator(".wide").evaluate_all("all => all.map(one => [one.scrollWidth, one.clientWidth])")
        assert len(widths) > 6 and all(content <= room for content, room in widths)
        assert page.locator("table.sortable").first.locator("th").last.inner_text().startswith("seconds")


@pytest.mark.system
def test_runs_are_linked_to_their_directories(tmp_path, browser):
    """The link is relative, so that runs and report can be moved together; a name may hold anything but a slash."""
    names = ["plain", "100% #1?x=&y", "javascript:alert(1)", "ä b", os.fsdecode(b"\xff"), _HOSTILE.replace("/", "")]
    for seed, name in enumerate(names):
        write_run(tmp_path / "old" / "runs" / name, make_config(seed=seed), answers(0.4, seed))
    out = tmp_path / "old" / "runs" / "comparison"
    compare.write(read_comparison(tmp_path / "old" / "runs"), out)
    (tmp_path / "old").rename(tmp_path / "new")
    page = browser.new_page()
    page.goto((tmp_path / "new" / "runs" / "comparison" / "report.html").as_uri())
    links = page.locator("table.sortable").last.locator("a")
    assert not any(urllib.parse.urlsplit(link.get_attribute("href")).scheme for link in links.all())
    targets = links.evaluate_all("all => all.map(link => link.href)")
    shown = [os.fsdecode(urllib.parse.unquote_to_bytes(target.removeprefix("file://"))) for target in targets]
    assert sorted(shown) == sorted(f"{tmp_path / 'new' / 'runs' / name}/" for name in names)
    for i, name in enumerate(links.all_inner_texts()):
        links.nth(i).click()
        page.wait_for_url(lambda url: not url.endswith("report.html"))
        assert "results.json" in page.inner_text("body"), name
        page.go_back()
    page.close()


@pytest.mark.system
def test_a_click_sorts_by_number(ablation, open_page):
    page = open_page(ablation / "out" / "report.html")
    table = page.locator("table.sortable").first
    head = _head(table, "test accuracy %")
    means = [10.08, 40.0, 42.75, 46.08]  # as text, 9.75 would come last
    assert head.get_attribute("aria-sort") is None
    for sort, order in (("descending", -1), ("ascending", 1), ("descending", -1)):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == sort
        shown = [float(text.split(" ")[0]) for text in _column(table, "test accuracy %")]
        assert shown == means[::order]
    assert _column(table, "arm")[0] == "attention=external, num_heads=16"  # whole rows moved
    other = _head(table, "parameters")
    other.get_by_role("button").click()
    assert (head.get_attribute("aria-sort"), other.get_attribute("aria-sort")) == (None, "descending")
    assert _column(table, "parameters")[0] == "623,268"
    runs = page.locator("table.sortable").last
    _head(runs, "test accuracy %").get_by_role("button").click()
    shown = [float(text) for text in _column(runs, "test accuracy %")]
    assert shown == sorted(shown, reverse=True) and shown[-1] == 9.0


@pytest.mark.system
def test_heads_sort_by_number_and_the_keyboard_sorts_too(ablation, open_page):
    page = open_page(ablation / "out" / "report.html")
    table = page.locator("table.sortable").first
    button = _head(table, "arm").get_by_role("button")
    _head(table, "n").get_by_role("button").focus()
    page.keyboard.press("Shift+Tab")  # to the head before it
    for key, order in (("Enter", -1), ("Space", 1)):
        assert button.evaluate("button => button === document.activeElement")
        page.keyboard.press(key)
        names = [*(f"attention=external, num_heads={heads}" for heads in (2, 4, 16)), "attention=self, num_heads=4"]
        assert _column(table, "arm") == names[::order]


@pytest.mark.system
def test_what_is_not_known_stays_last(ablation, open_page):
    page = open_page(ablation / "out" / "report.html")
    table = page.locator("table.sortable").nth(1)
    for title in ("p (Holm)", "detectable, points"):
        for order in (-1, 1):
            _head(table, title).get_by_role("button").click()
            *known, last = _column(table, title)
            numbers = [float(text.removeprefix("< ")) for text in known]
            assert last == "–" and numbers == sorted(numbers)[::order]


@pytest.mark.system
def test_the_report_is_light_or_dark_as_the_reader_wants(ablation, open_page):
    looks = []
    for scheme in ("light", "dark"):
        page = open_page(ablation / "out" / "report.html", scheme)
        page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        sources = page.locator("img").evaluate_all("all => all.map(image => image.currentSrc)")
        colors = [page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")]
        light = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in colors]
        assert (light[0] > light[1]) == (scheme == "light")
        corners = page.locator("img").evaluate_all(_CORNERS)
        assert all((sum(pixel) > 700) == (scheme == "light") and pixel[3] == 255 for pixel in corners)
        looks.append((colors[0], *sources))
    assert all(one != other for one, other in zip(*looks, strict=True)) and len(looks[0]) == 6


@pytest.mark.system
def test_a_phone_does_not_scroll_sideways(tmp_path, open_page):
    """Also with names that have no place to break."""
    write_arm(tmp_path / "runs", "eanet", {0: 0.4, 1: 0.41})
    (unfinished,) = write_arm(tmp_path / "runs", "vit", {0: 0.4})
    (unfinished / "results.json").rename(unfinished / "old.json")
    unfinished.rename(unfinished.with_name("x" * 120))
    compare.write(read_comparison(tmp_path / "runs"), tmp_path)
    page = open_page(tmp_path / "report.html", width=400)
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert "x" * 120 in page.inner_text("body")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.system
def test_what_comes_from_runs_stays_text(tmp_path, open_page):
    names = [f"{_SCRIPT}{i}" for i in range(9)] + [_HOSTILE]
    for arm in ("eanet", "vit"):
        for seed in (0, 1):
            workdir = tmp_path / "runs" / f"{arm}{seed}{_HOSTILE}"
            environment = {"command": f"python {_SCRIPT} {_HOSTILE}", "platform": _SCRIPT, "started": _HOSTILE}
            config = make_config(arm, seed=seed, data__name=_HOSTILE)
            write_run(workdir, config, answers(0.4, seed), names, environment=environment)
    (tmp_path / "runs" / f"new{_HOSTILE}").mkdir()
    (tmp_path / "runs" / f"new{_HOSTILE}" / "config.json").write_text("{}")
    compare.write(read_comparison(tmp_path / "runs"), tmp_path)
    page = open_page(tmp_path / "report.html")
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    page.wait_for_timeout(200)  # for what an onerror would do
    assert page.locator("script").count() == 1 and page.locator("img").count() == 4
    text = page.inner_text("body")
    for shown in (
        f"Comparison on {_HOSTILE}",
        f"eanet0{_HOSTILE}",
        f"new{_HOSTILE} is not finished",
        f"python {_SCRIPT}",
    ):
        assert shown in text


def test_commands_environments_and_differences_are_in_the_report(tmp_path):
    made = write_ablation(tmp_path)
    changed = {"devices": ["NVIDIA H100"] * 2, "git": {"commit": "f00d", "clean": False}}
    change_json(made[0] / "environment.json", **changed)
    text = html.unescape(report.html(read_comparison(tmp_path), {}, tmp_path))
    environments = [json.loads(path.read_text()) for path in tmp_path.glob("*/environment.json")]
    assert len(environments) == 10
    for environment in environments:
        assert environment["command"] in text and environment["started"] in text
        versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items() if version)
        for value in (environment["git"]["commit"], environment["platform"], environment["python"], versions):
            assert value in text
    assert "f00d, with changes that are not committed" in text and "2 × NVIDIA H100" in text
    named = re.findall(r'<th colspan="2"[^>]*>([^<]*)</th>', text)
    assert sorted(len(names.split(", ")) for names in named) == [1, 9] and made[0].name in named
    table = text.partition("Differences in the configuration")[2].partition("</table>")[0]
    rows = {
        field: re.findall("<td>(.*?)</td>", rest) for field, rest in re.findall(r"(model\.\w+)</th>(.*)</tr>", table)
    }
    assert rows == {
        "model.attention": ["external"] * 3 + ["self"],
        "model.num_heads": ["2", "4", "16", "4"],
        "model.projection_dropout": ["0.2"] * 3 + ["0.0"],
    }
    assert all(run.name in text for run in tmp_path.iterdir()) and "optimizer.learning_rate</th>" in text


def test_error_bars_are_explained(tmp_path):
    write_arm(tmp_path, "eanet", {0: 0.4, 1: 0.42})
    write_arm(tmp_path, "vit", {0: 0.41, 1: 0.42, 2: 0.43}, fixed=("order",))
    said = report._error_bars(read_comparison(tmp_path))
    assert said["what they are"].startswith("95% Student t intervals")
    assert said["what varies"].startswith(
        "the seed, and with it the initial parameters, the order of the training images, "
    )
    assert "; in fixed=order not the order of the training images" in said["what varies"]
    assert said["runs"] == "fixed=order: 3; fixed=none: 2; 5 in all."
    assert said["compute"] == (  # 5 × 72 seconds
        "0.10 hours of compiling, training and evaluating, summed over programs, which may have shared a device; "
        "on: 1 × cpu."
    )
    page = report.html(read_comparison(tmp_path), {}, tmp_path)
    assert all(html.escape(text) in page for text in said.values())


def test_no_repository_is_said(tmp_path):
    write_run(tmp_path / "a", make_config(), answers(0.4, 0), environment={"git": {"commit": None, "clean": None}})
    text = report.html(read_comparison(tmp_path), {}, tmp_path)
    assert "None," not in text and "not committed" not in text and "unknown" in text


def test_runs_of_other_code_or_devices_are_noted(tmp_path):
    write_arm(tmp_path, "eanet", {0: 0.4})
    (other,) = write_arm(tmp_path, "vit", {0: 0.4})
    assert not [note for note in read_comparison(tmp_path).notes if "differ" in note]
    change_json(other / "environment.json", devices=["NVIDIA H100"], git={"commit": "f00d", "clean": True})
    notes = " ".join(read_comparison(tmp_path).notes)
    assert "commit" in notes and "devices" in notes


@pytest.mark.system
def test_the_same_comparison_gives_the_same_bytes(ablation):
    again = ablation / "again"
    command = [sys.executable, "-m", "eanet.compare", str(ablation / "runs"), f"--out={again}"]
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    assert subprocess.run(command, capture_output=True, env=environment).returncode == 0
    for path in (ablation / "out").iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
