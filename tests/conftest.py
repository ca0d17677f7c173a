"""What all tests share: strict broadcasting, and no traces outside the test's own directory."""

import functools
import gc
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("WANDB_SILENT", "true")
# Toy programs compile in less than the second from which JAX keeps them; many tests share them.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Caches and credentials of the person who runs the tests stay out of them, and safe from them. The workers of
# pytest-xdist inherit the directory of the process that starts them, so that a program is compiled once for all.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _own = tempfile.TemporaryDirectory(prefix="eanet-tests-")
    os.environ |= {"EANET_CACHE_DIR": f"{_own.name}/cache", "NETRC": f"{_own.name}/no-netrc"}
for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_SWEEP_ID"):
    os.environ.pop(name, None)

import jax
import pytest

from eanet import cache, train
from helpers.tiny import tiny_config
from helpers.wandb_server import WandbServer

jax.config.update("jax_numpy_rank_promotion", "raise")
# From the first compilation on: JAX looks for its cache once, and a test of a layer may come before the first run.
cache.keep_compiled_programs()


@pytest.fixture(scope="session")
def _runs(tmp_path_factory):
    """Train a configuration once for all tests."""

    @functools.cache
    def run(**overrides):
        workdir = tmp_path_factory.mktemp("run")
        return workdir, train.train(tiny_config(**overrides), workdir)

    return run


@pytest.fixture
def finished(_runs, tmp_path_factory):
    """A copy of a finished tiny run, and its results."""
    return _copy(_runs(), tmp_path_factory)


@pytest.fixture
def inspected(_runs, tmp_path_factory):
    """A copy of the finished run with numbers of its maps in every row."""
    return _copy(_runs(inspect__every_epochs=1), tmp_path_factory)[0]


@pytest.fixture
def three_seeds(_runs, tmp_path_factory):
    """A copy of a finished run of the seeds 5 to 7, and its results."""
    return _copy(_runs(num_seeds=3, seed=5), tmp_path_factory)


def _copy(run, tmp_path_factory):
    workdir, results = run
    return shutil.copytree(workdir, tmp_path_factory.mktemp("copy") / "run"), results


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
    """A TFDS directory with the tiny cifar100 of synthetic.py; TensorFlow stays in the process that makes it."""
    return _synthetic_tfds(tmp_path_factory, "array_record")


@pytest.fixture(scope="session")
def tfrecord_dir(tmp_path_factory):
    """The same records in the format that only TensorFlow reads."""
    return _synthetic_tfds(tmp_path_factory, "tfrecord")


@pytest.fixture
def server():
    """A W&B server on this machine, of which nothing may have been asked that it does not know."""
    with WandbServer() as server:
        yield server
    assert not server.problems


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, driven by playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """A function that opens a report; its page must ask for nothing else and complain of nothing, to the test's end."""
    contexts, complaints = [], []

    def open_page(path, scheme="light", width=1280):
        contexts.append(browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        own = (path.as_uri(), "data:")
        page.on("request", lambda request: request.url.startswith(own) or complaints.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def _synthetic_tfds(tmp_path_factory, file_format):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("preparing a TFDS data set needs TensorFlow, which is not installed")
    directory = tmp_path_factory.mktemp(f"tfds-{file_format}")
    script = pathlib.Path(__file__).with_name("helpers") / "synthetic.py"
    made = subprocess.run([sys.executable, script, directory, file_format], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    return directory


def pytest_configure(config):
    """Compile without most optimizations by default, where programs compile for seconds and run for milliseconds.

    The tests with a marker are of programs as a user has them.
    """
    jax.config.update("jax_disable_most_optimizations", "not system" in config.option.markexpr)


def pytest_collection_finish(session):
    """Let the garbage collector look at what a test makes only, and less often: tracing makes many objects."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_ignore_collect(collection_path, config):
    """Import Keras only if its tests may run: it takes seconds in each worker."""
    if collection_path.name.startswith("test_keras_") and "not parity" in config.option.markexpr:
        return True
    return None  # as pytest decides


@pytest.fixture(autouse=True)
def _no_unmarked_process(request, monkeypatch):
    """A test that starts Python or W&B's client takes seconds: it says so by its marker."""
    if any(request.node.get_closest_marker(name) for name in ("system", "slow")):
        yield
        return
    start, started = subprocess.Popen.__init__, []

    def start_and_note(self, args, *rest, **options):
        program = str(args[0] if isinstance(args, (list, tuple)) else args)
        if program == sys.executable or "wandb" in program:
            started.append(args)
        start(self, args, *rest, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", start_and_note)
    yield
    assert not started, "without pytest.mark.system"
