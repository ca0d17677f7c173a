"""docs/your-own-attention.md as it is printed: with its file and its line the arm is everywhere."""

import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from helpers.runs import ROOT, TOY

_PAGE = (ROOT / "docs/your-own-attention.md").read_text()
_COMMANDS, _FILE, _TABLE = re.findall(r"```(?:bash|python)\n(.*?)```", _PAGE, re.DOTALL)
_PLACE = re.search(r"^`(eanet/attention/\w+\.py)`", _PAGE, re.MULTILINE)[1]


@pytest.fixture
def project(tmp_path):
    """A copy of the sources with what the page says: its file, and its table with the import above it."""
    for name in ("eanet", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", tmp_path)
    (tmp_path / _PLACE).write_text(_FILE)
    names = tmp_path / "eanet/attention/__init__.py"
    source, tables = re.subn(r"^ATTENTIONS.*?^}\n", lambda _: _TABLE, names.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert tables == 1
    names.write_text(source)
    return tmp_path


def _python(project, *arguments):
    """Run a command in the copy; gives what it printed."""
    own = os.environ | {"PYTHONPATH": str(project), "COLUMNS": "200"}
    run = {"cwd": project, "env": own, "capture_output": True, "text": True, "timeout": 240}
    done = subprocess.run([sys.executable, *arguments], **run)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_table_is_the_packages_own_with_one_line_more():
    source = (ROOT / "eanet/attention/__init__.py").read_text()
    table = re.search(r"^ATTENTIONS.*?^}\n", source, re.MULTILINE | re.DOTALL)[0]
    bare = [re.sub(r"  #.*", "", line) for line in table.splitlines()]
    printed = _TABLE.splitlines()
    assert [line for line in printed if "AttentionFree" not in line and line] == bare
    assert len([line for line in printed if "AttentionFree" in line]) == 2  # the import and the line


@pytest.mark.system
def test_the_arm_trains_and_is_compared_and_costed_under_its_name(project):
    train, compare = (shlex.split(line)[1:] for line in _COMMANDS.splitlines())
    extra = [*TOY[1:], "--config.train.epochs=1"]
    _python(project, *train, *extra)
    _python(project, *train[:-1], "--config.model.attention=external", *extra)
    results = {
        json.loads((path.parent / "config.json").read_text())["model"]["attention"]: json.loads(path.read_text())
        for path in (project / "runs").glob("*/results.json")
    }
    assert results.keys() == {"external", "aft"}
    printed = _python(project, *compare)
    assert re.search(r"^attention=aft +1 ", printed, re.MULTILINE)
    assert re.search(r"^attention=external +1 ", printed, re.MULTILINE)
    out = project / compare[-1] / "comparison"
    for name in ("report.html", "comparison.md", "curves.svg"):
        assert "attention=aft" in (out / name).read_text(), name
    assert re.search(r"^aft,", (out / "comparison.csv").read_text(), re.MULTILINE)
    printed = _python(project, "-m", "eanet.cost", *train[1:], *extra)
    row = re.search(r"^configs/digits\.py model\.attention=aft .*? +([\d,]+) +\d+\.\d ", printed, re.MULTILINE)
    assert int(row[1].replace(",", "")) == results["aft"]["parameters"]
    tokens, dim = 4, 16
    layer = 4 * tokens * dim**2  # the linear layers; the rest is elementwise
    others = tokens * 16 * dim + 2 * tokens * dim**2 + 10 * dim  # patches of 16 pixels; MLP; 10 classes
    assert results["aft"]["mmac"] == pytest.approx((layer + others) / 1e6)
    assert "%22aft%22" in _python(project, "-m", "eanet.dashboard", "--dry-run")  # a color of its own


@pytest.fixture
def layer(tmp_path, monkeypatch):
    """The page's class, of its own file."""
    path = tmp_path / pathlib.Path(_PLACE).name
    path.write_text(_FILE)
    spec = importlib.util.spec_from_file_location("own_attention", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "own_attention", module)
    spec.loader.exec_module(module)
    return module.AttentionFree()


def _loop(params, x):
    """AFT-simple of one sequence [tokens, channels], a token and a channel at a time."""
    query, key, value = (x @ params[name]["kernel"] + params[name]["bias"] for name in ("query", "key", "value"))
    mixed = np.zeros_like(value)
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            weights = np.exp(key[:, c])
            mixed[i, c] = np.sum(weights * value[:, c]) / np.sum(weights) / (1 + np.exp(-query[i, c]))
    return mixed @ params["out"]["kernel"] + params["out"]["bias"]


def test_the_file_computes_what_its_equation_says(layer):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5, 8)).astype(np.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    params, direction = (jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape), shapes) for _ in range(2))
    apply = jax.jit(lambda p: layer.apply({"params": p}, x))
    single = jax.tree.map(np.float32, params)
    assert apply(single).shape == x.shape
    np.testing.assert_allclose(apply(single), [_loop(params, one) for one in x], rtol=1e-4, atol=1e-5)

    def moved(step):
        at = jax.tree.map(lambda leaf, along: leaf + step * along, params, direction)
        return sum(np.sum(np.sin(_loop(at, one))) for one in x)

    gradient = jax.grad(lambda p: jax.numpy.sin(apply(p)).sum())(single)
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, along: np.sum(g * along), gradient, direction)))
    assert slope == pytest.approx((moved(1e-5) - moved(-1e-5)) / 2e-5, rel=1e-3)
