"""A user's afternoon: docs/afternoon.md, done in an empty folder with a wheel.

The files and the commands are those of the page.
"""

import ast
import importlib.metadata
import json
import re
import shlex
import shutil
import subprocess
import sys

import mains
import pytest

PAGE = (mains.ROOT / "docs" / "afternoon.md").read_text()
FILES = dict(re.findall(r"`([\w.]+)`;.*?```\w+\n(.*?)```", PAGE, re.S))
PACKED = (
  "sitrain", "configs", "launch", "setup.cfg", "pyproject.toml", "README.md",
  "LICENSE",
)


def commands(text):
  """The command lines of a page, as words."""
  blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
  shell = (block for language, block in blocks if not language)
  lines = "".join(shell).replace("\\\n", " ").splitlines()
  return [shlex.split(line) for line in lines]


def code_lines(source):
  """How many lines have code: no blanks, no docstrings."""
  tree = ast.parse(source)
  texts = [
    node.body[0] for node in ast.walk(tree)
    if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    and ast.get_docstring(node)
  ]
  without = {n for t in texts for n in range(t.lineno, t.end_lineno + 1)}
  lines = enumerate(source.splitlines(), 1)
  return sum(bool(line.strip()) and n not in without for n, line in lines)


def contents(folder):
  return {
    str(path): path.read_bytes() for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """Where the wheel is installed, without its dependencies."""
  setuptools = importlib.metadata.version("setuptools")
  if int(setuptools.partition(".")[0]) < 77:
    pytest.skip(f"setuptools {setuptools}: pip install 'setuptools>=77'")
  place = tmp_path_factory.mktemp("wheel")
  for name in PACKED:
    path, copy = mains.ROOT / name, place / "source" / name
    copy.parent.mkdir(exist_ok=True)
    if path.is_dir():
      skip = shutil.ignore_patterns("__pycache__")
      shutil.copytree(path, copy, ignore=skip)
    else:
      shutil.copy(path, copy)
  pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
  for words in (
    ("wheel", "--no-deps", "--no-build-isolation", "-w", place,
     place / "source"),
    ("install", "--no-deps", "--no-index", "--no-compile", "--find-links",
     place, "--target", place / "site", "sitrain"),
  ):
    done = subprocess.run(
      [*pip, *map(str, words)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
  return place / "site"


def test_the_afternoon_of_the_page(installed, tmp_path, cache):
  assert list(FILES) == ["rows.csv", "rewards.py", "shop.py"]
  count = sum(code_lines(FILES[name]) for name in FILES if ".py" in name)
  assert f"Together they are {count} lines of Python" in PAGE
  for name, text in FILES.items():
    (tmp_path / name).write_text(text)
  before = contents(installed)
  own = mains.environment(
    cache, PYTHONPATH=str(installed), PYTHONDONTWRITEBYTECODE="1"
  )
  tried, _, real = PAGE.partition("## Train")
  for program, *words in commands(tried):
    done = subprocess.run(
      [sys.executable, str(installed / "bin" / program), *words], env=own,
      cwd=tmp_path, capture_output=True, text=True, timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
  assert "Shop ended none" not in done.stderr
  assert contents(installed) == before
  read = lambda name: [
    json.loads(line)
    for line in (tmp_path / "try" / name).read_text().splitlines()
  ]
  rows = [row for row in read("metrics.jsonl") if "judge/reward_1" in row]
  assert [row["step"] for row in rows] == [1, 2]
  for row in rows:
    assert 0 < row["judge/brief_1"] <= 1 and row["judge/right_1"] >= 0
    total = row["judge/right_1"] + 0.1 * row["judge/brief_1"]
    assert row["judge/reward_1"] == pytest.approx(total, abs=1e-4)
    # Some turns named a thing, and the tool told its price.
    assert 0 < row["environment/over"] < 1
    assert row["environment/errors"] == row["environment/late"] == 0
  turns = [one for row in read("samples.jsonl") for one in row["turns"]]
  told = [one for one in turns if "costs" in one["given"]]
  assert told and set(told[0]["rewards"]) == {"reward", "right", "brief"}
  # The real run differs in the model and in how many samples it shows.
  (again,) = commands(real)
  same = lambda words: {
    word for word in words
    if not re.search(r"=chat|size|samples|workdir|model.path", word)
  }
  assert same(again) == same(commands(tried)[-1])
