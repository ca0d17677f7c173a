"""Files are data: nothing here unpickles, evaluates or hands text to a shell, and what runs are called stays text."""

import ast
import html.parser
import io
import pathlib
import sys

import numpy as np
import pytest

from eanet import cli
from eanet.compare import __main__ as compare
from eanet.compare import table as comparison_table
from eanet.compare.figures import plots as comparison_plots
from eanet.run import curves
from eanet.training.members import Member
from helpers.finished_runs import answers, change_json, make_config, read_comparison, write_arm, write_run

_ROOT = pathlib.Path(__file__).parents[1]
_SOURCES = [
    _ROOT / "main.py",
    *(path for part in ("eanet", "benchmarks", "configs") for path in (_ROOT / part).rglob("*.py")),
]
_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "tests"}
_BUILTINS = {"eval", "exec", "compile", "__import__"}
_CALLS = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pandas.read_pickle"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all", "torch.load"),
}
_SAFE_LOADERS = {"SafeLoader", "CSafeLoader", "yaml.SafeLoader", "yaml.CSafeLoader"}


def _faults(source):
    """Return (line, what) of everything in a source text that could run what it reads."""
    tree = ast.parse(source)
    names = {}  # what a name in this file stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.partition(".")[0]: alias.asname and alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def full(node):
        """Return the dotted name of an expression, imports resolved; empty where it has none."""
        if isinstance(node, ast.Attribute):
            left = full(node.value)
            return left and f"{left}.{node.attr}"
        return (names.get(node.id) or node.id) if isinstance(node, ast.Name) else ""

    loaders = set(_SAFE_LOADERS)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and loaders & set(map(full, node.bases)):
            loaders.add(node.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from ((node.lineno, f"imports {name}") for name in imported if name.partition(".")[0] in _MODULES)
        if not isinstance(node, ast.Call):
            continue
        called = full(node.func).removeprefix("builtins.").replace("numpy.", "np.")
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if called in _BUILTINS | _CALLS:
            yield node.lineno, called
        shell = given.get("shell")
        if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            yield node.lineno, f"{called} with a shell"
        if called in ("yaml.load", "yaml.load_all"):
            loader = given.get("Loader") or (node.args[1] if len(node.args) > 1 else None)
            if loader is None or full(loader) not in loaders:
                yield node.lineno, f"{called} without a safe loader"
        allowed = given.get("allow_pickle")
        if (
            called == "np.load"
            and allowed is None
            or allowed is not None
            and getattr(allowed, "value", True) is not False
        ):
            yield node.lineno, f"{called} that could unpickle"


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_nothing_that_is_read_can_run(path):
    assert list(_faults(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "import dill as json",
        "import cloudpickle, marshal",
        "from tests import tiny",
        "eval('1')",
        "exec(text)",
        "compile(text, '', 'exec')",
        "import builtins\nbuiltins.eval(text)",
        "import os\nos.system('ls')",
        "from os import popen as read\nread('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess as s\ns.Popen(text, shell=flag)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import yaml\nyaml.load(text, Loader=yaml.FullLoader)",
        "import yaml\nclass Mine(yaml.Loader): pass\nyaml.load(text, Mine)",
        "import yaml\nyaml.unsafe_load(text)",
        "from yaml import full_load\nfull_load(text)",
        "import numpy as np\nnp.load(path)",
        "import numpy\nnumpy.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=flag)",
        "import numpy as np\nnp.save(path, x, allow_pickle=True)",
    ],
)
def test_the_search_finds(source):
    assert len(list(_faults(source))) == source.count("cloudpickle") + 1


def test_the_search_lets_the_safe_forms_pass():
    source = """
import re, subprocess, yaml, numpy as np
class Mine(yaml.SafeLoader): pass
re.compile("x"); model.eval(); jitted.lower(x).compile(); subprocess.run(["ls"], shell=False)
yaml.load(text, Mine); yaml.load(text, Loader=yaml.SafeLoader); yaml.safe_load(text)
np.load(path, allow_pickle=False); json.load(file)
"""
    assert list(_faults(source)) == [] and len(_SOURCES) > 50


_NAMES = [
    "<script>alert(1)</script>",
    "[bold red]x[/]",
    "[/nothing]",
    r"$\frac{",
    r"$\frac{$",
    "$x^2$",
    "\"quotes' & <b>more",
    "наб|людение *星* `x`",
    "&lt;i&gt; \\| _a_",
]
# By default one that is markup, one that is a formula and one with quotes.
_SOME = [name if name in _NAMES[::3] else pytest.param(name, marks=pytest.mark.system) for name in _NAMES]


class _Tags(html.parser.HTMLParser):
    """Collect the tags and the text of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), ""

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_data(self, data):
        self.text += data


def _parsed(text):
    page = _Tags()
    page.feed(text)
    return page


@pytest.fixture(scope="module")
def plain_tags(tmp_path_factory):
    """The tags of a report about runs with harmless names."""
    root = tmp_path_factory.mktemp("plain")
    _write_named(root, "harmless")
    compare.write(read_comparison(root, by=["wandb.group"]), root / "out")
    return _parsed((root / "out" / "report.html").read_text()).tags


def _write_named(root, name):
    """Write two groups of two runs whose directories, groups, data set and classes have a name."""
    directory = name.replace("/", "∕")
    for group in (name, f"{name} 2"):
        for seed in (0, 1):
            config = make_config(seed=seed, wandb__group=group, data__name=name)
            workdir = root / f"{directory} {group == name} {seed}"
            write_run(workdir, config, answers(0.4, seed), [f"{name} {i}" for i in range(10)])
    (root / f"new {directory}").mkdir()
    (root / f"new {directory}" / "config.json").write_text("{}")


@pytest.mark.parametrize("name", _SOME)
def test_a_name_stays_text_in_tables_report_and_pictures(name, tmp_path, monkeypatch, capsys, plain_tags):
    _write_named(tmp_path / "runs", name)
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path / "runs"), "--by=wandb.group", f"--out={out}"])
    assert cli.run(compare.main) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and f"group={name} 2" in printed.out and f"against group={name}" in printed.out
    assert f"new {name.replace('/', '∕')} is not finished" in printed.out
    page = _parsed((out / "report.html").read_text())
    assert page.tags == plain_tags
    for shown in (f"Comparison on {name}", f"group={name} 2", f"new {name.replace('/', '∕')} is not finished"):
        assert shown in page.text
    markdown = (out / "comparison.md").read_text()
    assert _parsed(markdown).tags == set()
    assert {len(line.replace(r"\|", "").split("|")) for line in markdown.splitlines() if line[:1] == "|"} == {11, 14}
    assert {path.stem for path in out.glob("*.svg")} == {"curves", "classes", "confusion"}


def test_markdown_shows_a_name_as_it_is():
    assert comparison_table._plain("a < b & c, num_heads=4, p < 0.001") == "a < b & c, num_heads=4, p < 0.001"
    assert comparison_table._plain("<b>[x](y)*|`&lt;\\") == r"&lt;b>\[x\](y)\*\|\`&amp;lt;\\"


def test_no_picture_reads_a_formula(tmp_path):
    """Where a formula is read it shows as less than its text, or ends the drawing."""
    _write_named(tmp_path, "$x$")
    drawn = comparison_plots.draw_all(read_comparison(tmp_path, by=["wandb.group"]))
    is_text = lambda artist: hasattr(artist, "get_parse_math")  # noqa: E731
    texts = [text for figure, _ in drawn.values() for text in figure.findobj(is_text)]
    named = [text for text in texts if "$x$" in text.get_text()]
    assert len(named) >= 4 and not any(text.get_parse_math() for text in named)


@pytest.mark.parametrize("name", [r"$\frac{$", "$x"])
def test_a_run_with_the_name_of_a_formula_gets_its_picture(name, tmp_path):
    row = {"epoch": 1, "train/loss": 1.0, "val/loss": 1.0}
    row |= {f"{split}/{metric}": 0.5 for split in ("train", "val") for metric in ("accuracy", "top5_accuracy")}
    curves.draw([row], tmp_path / "curves.png", name, 10, [Member(0)])
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_what_a_terminal_would_obey_is_spelled_out(tmp_path, monkeypatch, capsys):
    (workdir,) = write_arm(tmp_path, "eanet", {0: 0.4})
    change_json(workdir / "environment.json", command="python \ud800")
    workdir.rename(tmp_path / "run")
    for name in ("\x1b[2Jgone", "two\nlines", "\udcff"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path), f"--out={tmp_path / 'out'}"])
    assert cli.run(compare.main) == 0
    printed = capsys.readouterr().out
    for shown in (r"\x1b[2Jgone is not finished", r"two\nlines is not finished", r"\udcff is not finished"):
        assert f"- {shown}" in printed
    assert r"python \ud800" in (tmp_path / "out" / "report.html").read_text()
    assert "\x1b" not in printed and "\x1b" not in (tmp_path / "out" / "comparison.md").read_text()


class _Harmful:
    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return (open, (str(self._path), "w"))


def test_a_pickle_in_predictions_is_refused_by_the_command(tmp_path, monkeypatch, capsys):
    (workdir,) = write_arm(tmp_path, "eanet", {0: 0.4})
    harmful = np.array([_Harmful(tmp_path / "harmed")], object)
    buffer = io.BytesIO()
    np.savez(buffer, accuracy=harmful, label=np.zeros(1, int), class_name=np.array(["a"]))
    (workdir / "predictions.npz").write_bytes(buffer.getvalue())
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path)])
    assert cli.run(compare.main) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "predictions.npz cannot be read" in printed.err
    assert sorted(tmp_path.rglob("*")) == before
    np.load(io.BytesIO(buffer.getvalue()), allow_pickle=True)["accuracy"]
    assert (tmp_path / "harmed").exists()  # so it would have done harm
