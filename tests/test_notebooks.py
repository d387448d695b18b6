"""The cells of one notebook with every commit; test_documents.py has the rest.

A file of its own, because it compiles quickly, as most tests do, and those of
test_documents.py compile as users do.
"""

import pathlib

import pytest

nbformat = pytest.importorskip("nbformat")
ROOT = pathlib.Path(__file__).parent.parent
CHEAPEST = "method_from_scratch.ipynb"


def test_the_cells_of_one_notebook_run(monkeypatch):
  """The cheapest, in this process, which has imported most of it."""
  monkeypatch.setenv("SITRAIN_QUICK", "1")
  pyplot = pytest.importorskip("matplotlib.pyplot")
  pyplot.switch_backend("agg")
  book = nbformat.read(ROOT / "colab" / CHEAPEST, as_version=4)
  names = {}
  for cell in book.cells:
    if cell.cell_type == "code":
      exec(cell.source, names)  # noqa: S102 It is our own text.
  assert set(names["results"]) == {"base", "SPIN", "imitation"}
  assert all(0 <= float(share) <= 1 for share in names["results"].values())
  left, right = pyplot.gcf().axes
  assert len(right.patches) == 3 and len(left.lines[0].get_xdata()) == 1
  pyplot.close("all")
