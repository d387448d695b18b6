"""Notebooks run from top to bottom."""

import pathlib

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "colab").glob("*"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_runs(path, tmp_path):
  book = nbformat.read(path, as_version=4)
  options = {"metadata": {"path": str(tmp_path)}}
  nbclient.NotebookClient(book, timeout=600, resources=options).execute()
  cells = [cell for cell in book.cells if cell.cell_type == "code"]
  assert all(cell.execution_count for cell in cells)
  first, last = (cell.outputs[-1]["data"] for cell in (cells[-3], cells[-1]))
  assert "learn/kl_1" in str(first) or "nan" not in str(first)
  # Prompt, attempt, instruction, attempt: all of it is text.
  assert str(last).count("?") >= 2
