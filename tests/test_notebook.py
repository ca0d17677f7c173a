"""examples/first_ablation.ipynb is executed as it is, and its pictures are kept in the file."""

import pathlib
import re

import pytest

_PATH = pathlib.Path(__file__).parents[1] / "examples" / "first_ablation.ipynb"


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install -e '.[dev]'")
    return nbformat.read(_PATH, as_version=4)


def _outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def _pictures(notebook):
    return sum("image/png" in output.get("data", {}) for output in _outputs(notebook))


def _text(notebook):
    return "".join(output.get("text", "") for output in _outputs(notebook))


def test_the_file_holds_its_pictures_and_no_place_of_a_machine(notebook):
    assert _pictures(notebook) == 3
    data = [text for output in _outputs(notebook) for kind, text in output.get("data", {}).items() if "text" in kind]
    written = "".join([_text(notebook), *data, *(cell.source for cell in notebook.cells)])
    assert len(written) > 1000 and not re.search(r"/(tmp|home|root|work|Users)/", written)


@pytest.mark.system
@pytest.mark.timeout(600)
def test_it_runs_from_its_first_cell_to_its_last(notebook, tmp_path):
    client = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -e '.[dev]'")
    kept = _text(notebook)
    client.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert _pictures(notebook) == 3
    for text in (kept, _text(notebook)):
        accuracies = [float(x) for x in re.findall(r"attention=\w+: ([\d.]+)%, 95%", text)]
        assert len(accuracies) == 2 and min(accuracies) > 85
