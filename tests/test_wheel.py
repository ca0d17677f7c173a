"""The wheel: it is built and installed without a network, and works where there is no checkout."""

import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.system

_ROOT = pathlib.Path(__file__).parent.parent
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
_LAYER = """
import configs.default, eanet, jax
print(eanet.__file__, configs.__file__)
x = jax.numpy.ones((1, 4, 8))
print(eanet.ExternalAttention(num_heads=2, dim_coefficient=2).init_with_output(jax.random.key(0), x)[0].shape)
"""


def _missing():
    """Name what the environment lacks to build and install a wheel; it is in the extra `dev`."""
    if importlib.util.find_spec("pip") is None:
        return "pip"
    try:
        found = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        return "setuptools>=77"
    return "" if int(found.partition(".")[0]) >= 77 else f"setuptools>=77 (there is {found})"


def _pip(*arguments):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory into which the wheel of the working tree is installed."""
    if missing := _missing():
        pytest.skip(f"building a wheel needs {missing}")
    place = tmp_path_factory.mktemp("wheel")
    # Setuptools leaves its own directories beside what it builds.
    left_out = shutil.ignore_patterns(".*", "tests", "runs", "wandb", "build", "*.egg-info", "__pycache__")
    shutil.copytree(_ROOT, place / "source", ignore=left_out)
    _pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", f"--wheel-dir={place}", place / "source")
    (wheel,) = place.glob("*.whl")
    _pip("install", "--no-deps", "--no-index", f"--target={place / 'site'}", wheel)
    return place / "site"


@pytest.fixture
def python(installed, tmp_path):
    """What runs Python in an empty directory with the installed wheel, and its dependencies from this environment.

    Without .pth files (-S), as one of them may lead to the checkout.
    """
    others = [path for path in sys.path if pathlib.Path(path).name in ("site-packages", "dist-packages")]
    own = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), *others])}

    def python(*arguments):
        command = [sys.executable, "-S", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return python


def test_the_layer_is_imported_from_the_wheel_and_computes(installed, python):
    files, shape = python("-c", _LAYER).splitlines()
    assert files.split() == [str(installed / "eanet/__init__.py"), str(installed / "configs/__init__.py")]
    assert shape == "(1, 4, 8)"


def test_the_template_of_the_report_is_in_it(installed):
    template = "eanet/compare/report.html.jinja"
    assert (installed / template).read_text() == (_ROOT / template).read_text()


@pytest.mark.parametrize("program", ["eanet.cost", "eanet.sweep", "eanet.compare"])
def test_a_program_of_the_wheel_explains_itself(program, python):
    assert f"python -m {program}" in python("-m", program, "--help")


def test_nothing_but_the_package_and_its_configurations_is_in_it(installed):
    names = {path.name for path in installed.iterdir()} - {"__pycache__"}
    assert names == {"eanet", "configs", f"eanet_jax-{_PROJECT['version']}.dist-info"}


def test_its_metadata_say_what_the_project_says(installed):
    (wheel,) = importlib.metadata.distributions(path=[str(installed)])
    assert (wheel.name, wheel.version) == (_PROJECT["name"], _PROJECT["version"])
    assert (wheel.metadata["License-Expression"], wheel.metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert wheel.read_text("licenses/LICENSE") == (_ROOT / "LICENSE").read_text()
    lines = [line.partition("#")[0].strip() for line in (_ROOT / "requirements.txt").read_text().splitlines()]
    needed = [Requirement(line) for line in wheel.requires if "extra ==" not in line]
    assert needed == [Requirement(line) for line in lines if line]
    assert wheel.metadata.get_all("Provides-Extra") == sorted(_PROJECT["optional-dependencies"])
