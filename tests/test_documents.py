"""Notebooks run from top to bottom, so does the code of the documents, and
what these name exists."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

from sitrain.runtime import extras, machine

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _generate():
  """docs/generate.py, which is no part of a package."""
  spec = importlib.util.spec_from_file_location(
    "generate", ROOT / "docs" / "generate.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


generate = _generate()
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


@pytest.mark.parametrize("page", ["README.md", "docs/reuse.md"])
def test_the_code_of_a_page_runs(page):
  text = (ROOT / page).read_text()
  names = {}
  for block in re.findall(r"```python\n(.*?)```", text, re.S):
    exec(block, names)  # noqa: S102 It is our own text.
  assert names
  if "state" in names:
    assert int(names["state"].step) == 2


def test_documents_name_files_that_exist():
  for page in PAGES:
    text = page.read_text()
    paths = re.findall(
      r"(?:configs|colab|tests|launch|docs|sitrain)/[\w/]+\.(?:py|ipynb|md|sh)",
      text,
    )
    lacking = [path for path in paths if not (ROOT / path).exists()]
    # NAME stands for a name of the reader's.
    assert [p for p in lacking if not re.search(r"/[A-Z]+\.", p)] == [], page
    for name in re.findall(r"--config=([a-z]\w*)[`: ]", text):
      assert (ROOT / "configs" / f"{name}.py").exists(), (page.name, name)


def test_links_lead_to_pages_and_headings():
  made = generate.pages()
  for page in PAGES:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
      path, _, heading = target.partition("#")
      if "://" in target or path in made:
        continue
      found = (page.parent / path) if path else page
      assert found.exists(), (page.name, target)
      heads = re.findall(r"^#+ (.*)$", found.read_text(), re.M)
      anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-")
                 for h in heads}
      assert not heading or heading in anchors, (page.name, target)


def test_every_method_has_a_complete_page():
  pages = generate.pages()
  for name in generate.method_names():
    text = pages[f"methods/{name}.md"]
    for part in ("Options", "Command", "Logged", "Source"):
      assert f"## {part}\n" in text, (name, part)
    assert "| option | type | default | |" in text
  assert set(generate.unused_methods()) == {
    "objectives", "preference", "reinforce", "verbs"
  }
  assert "at least 2" in pages["methods/grpo.md"]  # what `samples` is
  # Its formula comes from the table of objectives, its result from a run.
  assert "(R - mean) / std" in pages["methods/grpo.md"]
  assert "## Expected" in pages["methods/dpo.md"]
  assert "sitrain train --config=quickstart" in pages["methods/score.md"]
  assert "1707.06347" in pages["papers.md"]


# Of JAX, the operating system, and no text at all.
FOREIGN = ("RESOURCE_EXHAUSTED", "No space left on device")


def test_troubleshooting_is_headed_by_messages_of_the_code():
  text = (ROOT / "docs" / "troubleshooting.md").read_text()
  headed = re.findall(r"^### `(.*)`$", text, re.M)
  known = [message.text for message in generate.messages()]
  known += [
    extras.line(ImportError("x", name="jinja2")),
    machine.unused_accelerator("cpu", {}, lambda path: True),
  ]
  assert len(headed) > 10
  for heading in headed:
    words = [part.strip(" ,:'") for part in heading.split("...")]
    assert heading in FOREIGN or any(
      all(word in message for word in words) for message in known
    ), heading


@pytest.mark.nightly
def test_the_site_builds_without_a_warning(tmp_path):
  pytest.importorskip("material", reason="pip install -e '.[docs]'")
  done = subprocess.run(
    [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet",
     f"--site-dir={tmp_path}"],
    cwd=ROOT, capture_output=True, text=True, timeout=600,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert (tmp_path / "methods" / "grpo" / "index.html").exists()
