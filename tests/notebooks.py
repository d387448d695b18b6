"""Runs notebooks from top to bottom, and stores what fits beside their code.

`python tests/notebooks.py colab/quickstart.ipynb` runs it as a user would and
writes its outputs into the file, for readers who only look at it.
"""

import os
import pathlib
import re
import sys
import tempfile
import time

import nbclient
import nbformat

# The most of one output that is stored: characters, and lines of text.
MAX_SIZE, MAX_LINES = 60_000, 30
# A folder of the machine on which a notebook ran, where no word stands for it.
OWN_FOLDER = re.compile(
  r"(?<![\w.:/-])/(?:tmp|var|root|home|Users|work|mnt|content)/[\w.-]+"
)


def run(path: pathlib.Path, folder: str, timeout: int) -> nbformat.NotebookNode:
  """The notebook with its outputs, executed in a folder."""
  book = nbformat.read(path, as_version=4)
  nbclient.NotebookClient(
    book, timeout=timeout, record_timing=False,
    resources={"metadata": {"path": folder}},
  ).execute()
  return book


def shortened(text: str) -> str:
  """The last lines of a text."""
  lines = text.splitlines(keepends=True)
  left_out = len(lines) - MAX_LINES
  if left_out <= 1:  # The line that tells of it takes the place of one.
    return text
  return "".join([f"... {left_out} lines\n", *lines[-MAX_LINES:]])


def without_folders(text: str) -> str:
  """A text without the folders of this machine, which differ on the next."""
  # What holds others comes last.
  words = {
    os.environ.get("SITRAIN_DATA", ""): "$SITRAIN_DATA",
    str(pathlib.Path(__file__).parent.parent): "sitrain",
    str(pathlib.Path.home()): "~",
  }
  for folder, word in words.items():
    if folder.count("/") and folder != "/":
      text = re.sub(rf"(?<![\w.:/-]){re.escape(folder)}(?![\w.-])", word, text)
  place = re.escape(tempfile.gettempdir())
  text = re.sub(rf"(?<![\w.:/-]){place}/tmp\w+", "FOLDER", text)
  return OWN_FOLDER.sub("FOLDER", text)


def stored(output: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
  """What of an output is worth a place in the repository: [] or [one]."""
  if output.output_type == "stream":
    if output.name == "stderr":
      return []
    text = without_folders(shortened(output.text))
    return [nbformat.from_dict(output | {"text": text})]
  data = {
    kind: without_folders(value) if kind.startswith("text/") else value
    for kind, value in output.get("data", {}).items()
    if len(str(value)) <= MAX_SIZE
  }
  return [nbformat.from_dict(output | {"data": data})] if data else []


def store(path: pathlib.Path, book: nbformat.NotebookNode) -> None:
  """Writes the notebook with the outputs of another that was executed."""
  source = nbformat.read(path, as_version=4)
  for cell, done in zip(source.cells, book.cells):
    if cell.cell_type == "code":
      cell.execution_count = done.execution_count
      cell.outputs = [one for o in done.outputs for one in stored(o)]
  nbformat.write(source, path)


if __name__ == "__main__":
  for name in sys.argv[1:]:
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
      executed = run(pathlib.Path(name), folder, timeout=7200)
    store(pathlib.Path(name), executed)
    print(f"{name}: {time.monotonic() - start:.0f} s")
