"""The sweeps of the Keras example's two results, from their files to a comparison."""

import os
import pathlib
import subprocess
import sys

import ml_collections
import pytest

from eanet.compare import finding
from eanet.sweep import file as sweep_file
from eanet.sweep import point as sweep_point
from eanet.sweep import search
from helpers.finished_runs import answers, read_comparison, write_run

_ROOT = pathlib.Path(__file__).parents[2]
_TOY = (
    *("--config.data.train_limit=12", "--config.train.batch_size=8", "--config.train.epochs=2"),
    *("--config.model.depth=1", "--config.model.dim=16", "--config.model.mlp_dim=16", "--config.wandb.mode=disabled"),
)


@pytest.mark.system
def test_the_two_arms_of_the_clip_run_and_compare(tmp_path, tfds_dir):
    for name in ("main.py", "configs", "sweeps"):
        (tmp_path / name).symlink_to(_ROOT / name)
    run = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(_ROOT)}, "capture_output": True, "text": True}
    extra = ["--", f"--config.data.dir={tfds_dir}", *_TOY]
    done = subprocess.run([sys.executable, "-m", "eanet.sweep", "sweeps/clip.yaml", *extra], **run, timeout=480)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "clip: 2 of 2 done" in done.stdout
    comparison = read_comparison(tmp_path / "runs/clip")
    without, clipped = comparison.arms
    assert (without.name, clipped.name) == ("contrast_clip=False", "contrast_clip=True")
    assert not comparison.also_differ and comparison.baseline is without
    assert [len(run.rows) for arm in comparison.arms for run in arm.runs] == [2, 2]
    # The same start and the same draws, of which one arm's are clipped.
    assert without.runs[0].rows[0]["train/loss"] != clipped.runs[0].rows[0]["train/loss"]
    done = subprocess.run([sys.executable, "-m", "eanet.compare", "runs/clip"], **run, timeout=480)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(finding.finding(comparison))
    assert {"report.html", "curves.svg"} <= {path.name for path in (tmp_path / "runs/clip/comparison").iterdir()}


_GROUPS = {  # what --by names the arms by, none being the default, and how that puts the three examples
    (): ("gelu=erf, contrast_upward=False", "gelu=tanh, contrast_upward=True", "gelu=tanh, contrast_upward=False"),
    ("model.attention", "optimizer.variant", "augment.contrast_clip"): (
        *("variant=keras, contrast_clip=False", "variant=keras, contrast_clip=True"),
        "variant=optax, contrast_clip=False",
    ),
}


def test_the_six_arms_of_the_reproduction_are_told_apart_as_the_file_says(monkeypatch, tmp_path):
    monkeypatch.chdir(_ROOT)
    loaded = sweep_file.load("sweeps/reproduction.yaml")
    for values in search.grid(loaded):
        point = sweep_point.make_point(loaded, values, [], tmp_path)
        write_run(point.workdir, ml_collections.ConfigDict(point.config), answers(0.4, values["config.seed"]))
    files = {
        "external": ("reproduction-keras2021", "reproduction-keras3", "eanet"),
        "self": ("reproduction-vit2021", "reproduction-vit3", "vit"),
    }
    for by, examples in _GROUPS.items():
        arms = read_comparison(tmp_path, by).arms
        named = {arm.name: [run.name.partition("-seed=")[0] for run in arm.runs] for arm in arms}
        assert named == {
            f"attention={attention}, {example}": 3 * [file]
            for attention, of_attention in files.items()
            for example, file in zip(examples, of_attention, strict=True)
        }
