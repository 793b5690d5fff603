"""The example notebook runs from top to foot against a real server, with every warning an error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from liverseg_core.data.manifest import SliceEntry

ROOT = Path(__file__).parents[2]
NOTEBOOK, README = ROOT / "docs" / "notebook.ipynb", ROOT / "README.md"
STRICT = "import warnings\nwarnings.simplefilter('error')"
LENIENT = "warnings.simplefilter('ignore')"  # the kernel's own end is no cell's fault
MISSED = {"counts": (58, 2, 0, 3, 26, 1, 2, 7, 1)}
"""Of 10 pixels of lesion one is found: Dice 2/(2 + 1 + 9) = 1/6, recall 1/10."""


@pytest.fixture
def executed(tmp_path: Path, api_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Runs a notebook; what each cell shows as text, by its id."""
    monkeypatch.setenv("LIVERSEG_URL", api_url)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))

    def execute(book: NotebookNode) -> dict[str, str]:
        book.cells.insert(0, nbformat.v4.new_code_cell(STRICT, id="strict"))
        book.cells.append(nbformat.v4.new_code_cell(LENIENT, id="lenient"))
        NotebookClient(book, timeout=120, kernel_name="python3").execute()
        return {cell.id: shown(cell) for cell in book.cells if cell.cell_type == "code"}

    return execute


def shown(cell: NotebookNode) -> str:
    """Texts of a cell's outputs; a warning would stand on stderr."""
    texts = []
    for output in cell.outputs:
        assert output.output_type in ("execute_result", "display_data"), output
        texts.append("image" if "image/png" in output.data else output.data["text/plain"])
    return "\n".join(texts)


def read() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_runs_and_shows_these_numbers(
    finished: Callable[..., int], executed: Callable[..., dict[str, str]], api_url: str
):
    finished(spec={"name": "costs $ and $"})

    def each(one: SliceEntry) -> dict[str, Any]:
        return MISSED if (one.part, one.scan, one.slice) == ("test", 3, 5) else {}

    run = finished(spec={"name": "b", "model": {"filters": 3, "depth": 2}}, each=each)
    told = executed(read())
    assert "'ready': True" in told["connect"]
    # Pooled over 8 slices: 12/17 of all; and, with one slice missed, 2(7*6 + 1) / (2(7*6 + 1) + 8*1 + 7*4 + 9).
    for cell in ("runs", "comparison"):
        assert f"{12 / 17:.6f}" in told[cell]
        assert f"{86 / 131:.6f}" in told[cell]
    assert told["curves"] == "image"
    assert "Scores are on the test part." in told["remarks"]
    first = told["worst"].splitlines()[2].split()
    assert first == ["3", "5", "0.166667", "0.1", "10", "2"]  # predicted: 1 outside, 1 inside
    assert told["page"] == f"'{api_url}/runs/{run}/images/test/3_5'"
    largest = told["matrix"].splitlines()[1].split()
    assert largest[-3:] == ["3", "5", f"{12 / 17 - 1 / 6:.6f}"]


def test_what_the_readme_shows_runs(
    finished: Callable[..., int], executed: Callable[..., dict[str, str]], api_url: str
):
    finished(spec={"name": "a"})
    section = README.read_text().partition("## In a notebook")[2]
    source = section.partition("```python\n")[2].partition("```")[0].replace("http://127.0.0.1:8421", api_url)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, id="readme")])
    assert f"{12 / 17:.6f}" in executed(book)["readme"]


def test_it_is_committed_without_outputs():
    """They would hold the numbers and pictures of one machine, and every change of it would hide among them."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    assert [cell["id"] for cell in code if cell["metadata"]] == []  # no tag may let an error pass


@pytest.mark.parametrize(
    "source", ["1 / 0", "import warnings; warnings.warn('old')", "import sys; sys.stderr.write('x')"]
)
def test_an_error_a_warning_or_a_word_on_stderr_would_be_seen(
    database: Path, executed: Callable[..., dict[str, str]], source: str
):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    with pytest.raises((CellExecutionError, AssertionError)):
        executed(book)
