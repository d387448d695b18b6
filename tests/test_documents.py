"""Notebooks run from top to bottom, and so does the code of the README."""

import contextlib
import pathlib
import pkgutil
import re

import pytest

from sitrain import types
from sitrain.methods import reinforce
from sitrain.runtime.options import accepted

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


PLACES = (
  "", "types.", "methods.", "curate.", "losses.", "models.", "rollout.",
)


def is_there(name):
  """Whether a dotted name is of this package, wherever in it."""
  for place in PLACES:
    with contextlib.suppress(ImportError, AttributeError):
      pkgutil.resolve_name(f"sitrain.{place}{name}")
      return True
  return False


def test_the_page_on_the_core_names_what_there_is():
  text = (ROOT / "docs" / "core.md").read_text()
  text = re.sub(r"```.*?```", "", text, flags=re.S)
  spans = set(re.findall(r"`@?([^`\n]+)`", text))
  files = {span for span in spans if re.match(r"[\w/]+\.py\b", span)}
  for span in files - {"my_method.py", "my_task.py"}:
    path, _, names = span.partition(": ")
    there = [p for p in (ROOT / path, ROOT / "sitrain" / path) if p.exists()]
    assert there, span
    for name in re.findall(r"\w+(?=,|$)", names):
      assert f"def {name}(" in there[0].read_text(), span
  dotted = r"(?!config|state|held|method\b|jax)[A-Za-z]\w*(\.\w+)+(?=\(|$)"
  names = {m[0] for s in spans - files if (m := re.match(dotted, s))}
  assert len(names) > 20, names
  assert not [name for name in sorted(names) if not is_there(name)]
  for kind in (
    "Problems", "Episodes", "Verdict", "Batch", "PolicyTargets", "ValueTargets",
    "PreferenceTargets", "UnpairedTargets", "Weights", "Method", "Task",
  ):
    for field in getattr(types, kind)._fields:
      assert re.search(rf"`{field}\b", text), f"{kind}.{field}"
  for option in accepted(reinforce.make):
    assert f"`{option}`" in text, option
