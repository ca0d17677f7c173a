"""python -m eanet.inspect from its command line to its page in a real Chromium."""

import dataclasses
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from eanet import train
from eanet.data import datasets as data
from eanet.errors import UserError
from eanet.inspect import __main__ as inspect
from eanet.inspect.inspection import Inspection
from eanet.run.trained import load_run
from helpers.tiny import tiny_config
from helpers.untrained import with_attention


@pytest.fixture
def main(monkeypatch):
    """A function that calls the command with arguments."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["inspect", *map(str, arguments)])
        inspect.main()

    return call


def test_one_run_gives_a_page_pictures_and_a_table(finished, main, tmp_path, capsys):
    workdir, _ = finished
    out = tmp_path / "out"
    main(workdir, "--examples=40", "--images=0,17", f"--out={out}")
    printed = capsys.readouterr().out
    assert "rank of M_k" in printed and "dead slots" in printed and str(out / "inspection.html") in printed
    page = (out / "inspection.html").read_text()
    label = data.load(tiny_config().data).test.labels[17]
    assert f"test image 17: {label}" in page
    drawn = {path.name for path in out.iterdir()}
    assert drawn == {"inspection.html", "maps"} | {
        f"{name}.svg" for name in ("usage", "entropy", "removal", "pruning", "confusion", "calibration", "norms")
    }
    maps = sorted(path.name for path in (out / "maps").iterdir())
    assert maps == [f"{workdir.name}-seed_0-image_{i}-block_0-attention_map.png" for i in (0, 1)]


def test_files_of_images_and_chosen_queries(finished, three_seeds, main, tmp_path, monkeypatch):
    Image.fromarray(np.full((20, 30, 3), 128, np.uint8)).save(tmp_path / "cat.png")
    seen = {}
    monkeypatch.setattr(
        inspect, "write", lambda inspections, dataset, images, out: seen.update(i=inspections, m=images)
    )
    monkeypatch.setattr(inspect, "inspect", lambda run, name, images, *rest: (images, rest))
    monkeypatch.setattr(inspect, "_print", lambda inspections: None)
    main(finished[0], three_seeds[0], f"--images={tmp_path / 'cat.png'}, 3", "--queries=1,2", "--examples=0")
    assert [title for title, _ in seen["m"]][0] == "cat.png"
    images, (validation, examples, queries, _) = seen["i"][0]
    assert images.shape == (2, 8, 8, 1) and examples == len(validation) == 288 and queries == [1, 2]


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--images=360", "--images=360; accepted: test images 0 to 359, or image files"),
        ("--images=,", "--images=, names no image; accepted: e.g. 0,17,cat.png"),
        ("--images=none.png", "none.png cannot be read: No such file"),
        ("--queries=4", "--queries=4; accepted: tokens 0 to 3 of"),
        ("--queries=-1", "--queries=-1; accepted: tokens 0 to 3 of"),
        ("--examples=many", "--examples=many; accepted: a number of images, 0 = all"),
    ],
)
def test_bad_flags_are_one_line(finished, main, tmp_path, flag, says):
    with pytest.raises(UserError) as refused:
        main(finished[0], f"--out={tmp_path / 'out'}", flag)
    assert str(refused.value).startswith(says) and not (tmp_path / "out").exists()


def test_runs_that_cannot_stand_side_by_side_are_refused(finished, main):
    workdir, _ = finished
    with pytest.raises(UserError, match="was given twice"):
        main(workdir, workdir)
    run = load_run(workdir)
    other = dataclasses.replace(run, config=tiny_config(data__validation_fraction=0.25))
    with pytest.raises(
        UserError, match="config.data.validation_fraction is 0.25, of .* it is 0.2; accepted: runs of one"
    ):
        inspect.check_together([run, other])
    larger = dataclasses.replace(run.experiment, image_shape=(16, 16, 1))
    with pytest.raises(UserError, match=r"the image shape is \(16, 16, 1\), of .* it is \(8, 8, 1\)"):
        inspect.check_together([run, dataclasses.replace(run, experiment=larger)])


def test_a_directory_without_a_run_or_a_checkpoint_is_refused(finished, main, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        main(tmp_path)
    shutil.rmtree(finished[0] / "checkpoints")
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        main(finished[0])


def test_names_are_as_long_as_it_takes_to_tell_runs_apart(tmp_path, finished):
    run = load_run(finished[0])
    paths = [tmp_path / "a" / "x", tmp_path / "b" / "x"]
    for path in paths:
        shutil.copytree(run.workdir, path)
    assert inspect.names_of([load_run(path) for path in paths]) == ["a/x", "b/x"]
    assert inspect.names_of([run]) == [run.workdir.name]


def test_a_place_that_cannot_be_written_is_named(inspections, tmp_path):
    (tmp_path / "maps").write_text("in the way")
    dataset = data.load(tiny_config().data)
    with pytest.raises(UserError, match="--out=.* cannot be written"):
        inspect.write(inspections[:1], dataset, [("image", dataset.test.images[0])] * 2, tmp_path)


@pytest.fixture(scope="module")
def inspections(_runs):
    """Inspections of runs with slots, several networks, no slots, two maps, no maps, and no attention."""
    split = data.load(tiny_config().data).validation[:24]
    one, three = _runs(), _runs(num_seeds=3, seed=5)
    runs = {"<b>one</b>": load_run(one[0]), "three": load_run(three[0])}
    runs |= {name: with_attention(runs["<b>one</b>"], name) for name in ("self", "induced", "linear", "conv", "none")}
    return [inspect.inspect(run, name, split.images[:2], split, 12) for name, run in runs.items()]


def test_what_an_attention_has_not_is_said(inspections: list[Inspection]):
    said = [" ".join(one.missing()) for one in inspections]
    assert said[0] == said[1] == said[3] == ""
    assert said[2] == "self: the attention self has no slots; its maps are between tokens."
    assert said[4] == "linear: the attention linear stores no maps, so none are drawn or described."
    assert "conv has no heads or slots to remove, only blocks" in said[5]
    assert "none: without attention there is nothing to remove." in said[6]


def test_the_table_has_spreads_over_networks_only_of_several(inspections):
    tables = [dict(zip(columns, rows[0], strict=True)) for columns, rows in (one.table() for one in inspections)]
    assert "±" not in " ".join(tables[0].values()) and "±" in tables[1]["entropy"] and "±" in tables[1]["rank of M_k"]
    assert "alike between networks" in tables[1] and "alike between networks" not in tables[0]
    assert {"entropy, summarize", "entropy, distribute", "rank of inducing points"} <= set(tables[3])
    assert set(tables[6]) == {"block"}


@pytest.mark.system
def test_the_page_answers_to_its_buttons(inspections, open_page, tmp_path):
    dataset = data.load(tiny_config().data)
    images = [(f"<i>image</i> {i}", dataset.validation.images[i]) for i in range(2)]
    inspect.write(inspections, dataset, images, tmp_path)
    for scheme, width in (("light", 1280), ("dark", 400)):
        page = open_page(tmp_path / "inspection.html", scheme, width)
        page.wait_for_selector("td.map canvas")
        assert page.locator("td.map canvas").count() == 2 * (4 + 1)  # images × runs with maps, of which one has two
        assert page.locator("b, i").count() == page.locator(".mistakes b").count()  # names are text

        def pixels(page=page):
            return page.eval_on_selector_all("td.map canvas", "all => all.map(one => one.toDataURL())")

        before = pixels()
        assert len(set(before)) > 5
        heads = page.locator(".maps thead th").nth(1).locator(".heads button")
        assert heads.count() == 16
        heads.nth(7).click()
        page.wait_for_function("old => document.querySelector('td.map canvas').toDataURL() !== old", arg=before[0])
        changed = [a != b for a, b in zip(before, pixels(), strict=True)]
        assert changed == [True, False, False, False, False] * 2
        networks = page.locator(".maps thead th").nth(2).locator(".networks button")
        assert networks.all_inner_texts() == ["seed_5", "seed_6", "seed_7"]
        networks.nth(2).click()
        page.wait_for_function(
            "old => document.querySelectorAll('td.map canvas')[1].toDataURL() !== old", arg=before[1]
        )
        assert networks.nth(2).get_attribute("aria-pressed") == "true"
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.locator("figure img").count() >= 7


@pytest.mark.system
def test_the_maps_become_a_panel_of_the_run_in_wandb(main, tmp_path, capsys):
    workdir = tmp_path / "run"
    train.train(tiny_config(wandb__mode="offline"), workdir)
    main(workdir, "--examples=8", "--images=1", "--wandb")
    pictures = list(workdir.glob("wandb/offline-run-*/files/media/images/inspection_*.png"))
    assert len(pictures) == 1 and capsys.readouterr().out.count("wandb sync") == 2  # both parts, in their order


def test_a_run_without_wandb_says_so(finished, inspections, main, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inspect, "inspect", lambda *arguments: inspections[0])
    main(finished[0], "--images=1,2", "--wandb", f"--out={tmp_path}")
    assert "warning: W&B: " in (said := capsys.readouterr().out) and "was not logged to it; nothing was added" in said
