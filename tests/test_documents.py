"""Notebooks run from top to bottom, so does the code of the documents, and
what these name exists."""

import contextlib
import importlib.util
import os
import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest

from sitrain import types
from sitrain.configs import chat
from sitrain.methods import reinforce
from sitrain.runtime import extras, machine
from sitrain.runtime.options import accepted

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
notebooks = importlib.import_module("notebooks")
ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _hook(name):
  """docs/NAME.py, which is no part of a package."""
  spec = importlib.util.spec_from_file_location(
    name, ROOT / "docs" / f"{name}.py"
  )
  module = importlib.util.module_from_spec(spec)
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "docs")  # as mkdocs does
    spec.loader.exec_module(module)
  return module


generate, inline = _hook("generate"), _hook("inline")
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))


@pytest.mark.nightly
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_runs(path, tmp_path, monkeypatch):
  if path.name == "gsm8k.ipynb" and not os.environ.get("SITRAIN_DATA"):
    pytest.skip("SITRAIN_DATA names no folder with GSM8K's rows")
  monkeypatch.setenv("SITRAIN_QUICK", "1")
  book = notebooks.run(path, str(tmp_path), timeout=600)
  cells = [cell for cell in book.cells if cell.cell_type == "code"]
  assert all(cell.execution_count for cell in cells)
  outputs = [output for cell in cells for output in cell.outputs]
  # Every notebook ends with something to look at.
  assert any("image/png" in output.get("data", {}) for output in outputs)
  if path.name == "quickstart.ipynb":
    # Prompt, attempt, instruction, attempt: all of it is text.
    texts = [str(output.get("data", "")) for output in outputs]
    assert any(text.count("?") >= 2 for text in texts)


def test_a_stored_output_is_small_and_no_error():
  for path in NOTEBOOKS:
    book = nbformat.read(path, as_version=4)
    outputs = [o for cell in book.cells for o in cell.get("outputs", [])]
    assert all(o.output_type != "error" for o in outputs), path.name
    kept = [one for output in outputs for one in notebooks.stored(output)]
    assert kept == outputs, f"{path.name}: python tests/notebooks.py {path}"


def test_a_stored_output_names_no_folder_of_a_machine():
  for path in NOTEBOOKS:
    book = nbformat.read(path, as_version=4)
    for output in (o for cell in book.cells for o in cell.get("outputs", [])):
      data = output.get("data", {})
      texts = [v for kind, v in data.items() if kind.startswith("text/")]
      for text in [*texts, output.get("text", "")]:
        found = notebooks.OWN_FOLDER.findall(text)
        assert not found, f"{path.name}: {found}"


def test_folders_of_a_machine_are_not_stored(monkeypatch):
  monkeypatch.setenv("SITRAIN_DATA", "/data/sets")
  monkeypatch.setenv("HOME", "/somebody")
  monkeypatch.setattr(notebooks.tempfile, "gettempdir", lambda: "/scratch")
  given = (
    "/scratch/tmpab_1/run/report.html, /tmp/tmp2/my.jsonl /somebody/m"
    f" /data/sets/rows.jsonl, {ROOT}/configs 'https://a.b/var/x' 1/tmp/x"
  )
  text = (
    "FOLDER/run/report.html, FOLDER/my.jsonl ~/m $SITRAIN_DATA/rows.jsonl,"
    " sitrain/configs 'https://a.b/var/x' 1/tmp/x"
  )
  make = nbformat.v4.new_output
  [stream] = notebooks.stored(make("stream", text=given))
  assert stream.text == text
  data = {"text/plain": given, "image/png": "/tmp/tmp2"}
  [shown] = notebooks.stored(make("display_data", data=data))
  assert shown.data == {"text/plain": text, "image/png": "/tmp/tmp2"}
  monkeypatch.setenv("SITRAIN_DATA", "")
  monkeypatch.setenv("HOME", "/")
  assert notebooks.without_folders("1 / 2, a/b") == "1 / 2, a/b"


def test_of_long_outputs_the_end_is_stored():
  lines = "".join(f"line {i}\n" for i in range(100))
  make = nbformat.v4.new_output
  [stream] = notebooks.stored(make("stream", text=lines))
  assert stream.text.startswith("... 70 lines\nline 70\n")
  assert stream.text.endswith("line 99\n")
  assert notebooks.stored(stream) == [stream]
  assert notebooks.stored(make("stream", name="stderr", text="x")) == []
  data = {"image/png": "A" * 90_000, "text/plain": "<Figure>"}
  [figure] = notebooks.stored(make("display_data", data=data))
  assert figure.data == {"text/plain": "<Figure>"}
  del data["text/plain"]
  assert notebooks.stored(make("display_data", data=data)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_ends_with_a_picture_and_what_a_free_machine_cannot_run(path):
  cells = nbformat.read(path, as_version=4).cells
  assert cells[-1].cell_type == "markdown"
  assert "**On a free " in cells[-1].source
  assert cells[-2].cell_type == "code" and "plt." in cells[-2].source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_installs_what_it_needs(path):
  book = nbformat.read(path, as_version=4)
  nbformat.validate(book)
  cells = [cell for cell in book.cells if cell.cell_type == "code"]
  assert "REPOSITORY" in cells[0].source
  assert "unused_accelerator" in cells[0].source
  assert "QUICK = " in cells[1].source
  for cell in cells:
    compile(cell.source, path.name, "exec")


@pytest.mark.parametrize("page", ["README.md", "docs/reuse.md"])
def test_the_code_of_a_page_runs(page):
  text = (ROOT / page).read_text()
  names = {}
  for block in re.findall(r"```python\n(.*?)```", text, re.S):
    exec(block, names)  # noqa: S102 It is our own text.
  assert names
  if "state" in names:
    assert int(names["state"].step) == 2


@pytest.mark.parametrize("page", ["docs/start.md", "docs/own.md"])
def test_the_rows_of_a_page_are_enough_for_an_evaluation(page):
  """configs/chat.py holds every fifth row out, and refuses to hold out none."""
  block = re.search(r"```json\n(.*?)```", (ROOT / page).read_text(), re.S)[1]
  held_out = chat.get_config().task.held_out
  assert len(block.splitlines()) * held_out >= 1


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


# Of the page of a method, in this order.
PARTS = [
  "Formula", "Options", "Command", "Expected", "Logged",
  "Left out, or done differently", "Source",
]


def test_every_method_has_a_complete_page():
  pages = generate.pages()
  for name in generate.method_names():
    text = pages[f"methods/{name}.md"]
    assert re.findall(r"^## (.*)$", text, re.M) == PARTS, name
    for part in re.split(r"^## .*$", text, flags=re.M):
      assert part.strip(), name
    assert "| option | type | default | |" in text
    assert f"](methods/{name}.md)" in pages["method_pages.md"]
  assert set(generate.unused_methods()) == {
    "checks", "kinds", "objectives", "preference", "reinforce", "verbs"
  }
  assert "at least 2" in pages["methods/grpo.md"]  # what `samples` is
  # Its formula comes from the table of objectives, its result from a run.
  assert "(R - mean) / std" in pages["methods/grpo.md"]
  assert "benchmarks.families --only=dpo" in pages["methods/dpo.md"]
  assert "70 -> 98" in pages["methods/score.md"]
  assert "- `judge/reward_K`: " in pages["methods/score.md"]
  assert "- `learn/margin`: " in pages["methods/dpo.md"]
  about, differs = generate.told_apart(
    "It trains.\nLeft out: the rest. Pairs are its own."
  )
  assert about == "It trains. Pairs are its own."
  assert differs == "Left out: the rest."
  assert "sitrain train --config=quickstart" in pages["methods/score.md"]
  assert "1707.06347" in pages["papers.md"]


def test_options_and_intervals_of_the_site_stay_in_one_line():
  html = (
    "<p><code>sitrain --list -x</code> --x <code>a--b</code> 1.0 [0.5, 2.0]</p>"
    "<pre><code>--list</code></pre>"
    '<tr>\n<td style="x">49.1 [47.0, 51.3]</td><td>-1 [-2.5, 0]</td></tr>'
  )
  full = f"<tr>{5 * '<td>9.1 [7.0, 9.3]</td>'}</tr>"  # no room for so many
  assert inline.on_page_content(full) == full
  expected = html.replace(
    "sitrain --list", 'sitrain <span class="option">--list</span>'
  )
  for text in ("49.1 [47.0, 51.3]", "-1 [-2.5, 0]"):
    expected = expected.replace(text, f'<span class="interval">{text}</span>')
  assert inline.on_page_content(html, page=None) == expected
  style = (ROOT / "docs" / "site.css").read_text()
  assert "code .option {" in style and " .interval {" in style
  assert "docs/inline.py" in (ROOT / "mkdocs.yml").read_text()


# Of JAX, and a line that is put together from several texts.
FOREIGN = (
  "RESOURCE_EXHAUSTED", "no space left in ...", "Very slow compile? ...",
)


def test_troubleshooting_is_headed_by_messages_of_the_code():
  text = (ROOT / "docs" / "troubleshooting.md").read_text()
  headed = re.findall(r"^### `(.*)`$", text, re.M)
  known = [message.text for message in generate.messages.messages()]
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
