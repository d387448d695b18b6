"""Notebooks run from top to bottom, and so does the code of the README."""

import pathlib
import re

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))


@pytest.mark.nightly
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


def test_the_code_of_the_readme_runs():
  text = (ROOT / "README.md").read_text()
  blocks = re.findall(r"```python\n(.*?)```", text, re.S)
  assert blocks
  for block in blocks:
    names = {}
    exec(block, names)  # noqa: S102 It is our own text.
    assert int(names["state"].step) == 2


def test_the_readme_names_files_that_exist():
  text = (ROOT / "README.md").read_text()
  for path in re.findall(r"(?:configs|colab|tests)/[\w/]+\.(?:py|ipynb)", text):
    assert (ROOT / path).exists(), path
  for name in re.findall(r"--config=([a-z]\w*)[`: ]", text):
    assert (ROOT / "configs" / f"{name}.py").exists(), name
