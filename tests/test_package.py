"""The wheel in an environment of its own, used in an empty folder."""

import json
import os
import shutil
import subprocess
import sys

import mains
import pytest

CONFIG = ("--config=quickstart:quick", "--config.model.layers=1")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  """(run, install): calls in an environment that has the wheel alone."""
  place = tmp_path_factory.mktemp("package")
  source, empty = place / "source", place / "empty"
  empty.mkdir()
  shutil.copytree(mains.ROOT, source, ignore=shutil.ignore_patterns(
    ".git", "__pycache__", "*.egg-info", "build"
  ))
  own = {"PATH": f"{place / 'venv' / 'bin'}:{os.environ['PATH']}"}
  own |= {"JAX_PLATFORMS": "cpu", "SITRAIN_CACHE": str(place / "programs")}
  clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | own

  def run(*words, seconds=600, input=None):
    return subprocess.run(
      words, cwd=empty, env=clean, capture_output=True, text=True,
      timeout=seconds, input=input,
    )

  def install(*words):
    done = run("pip", "install", "-q", *words, seconds=1800)
    if "No matching distribution" in done.stderr:
      pytest.skip(f"no package index: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-3000:]

  assert run(sys.executable, "-m", "venv", f"{place}/venv").returncode == 0
  done = run("pip", "wheel", "-q", "--no-deps", "-w", str(place), str(source))
  assert done.returncode == 0, done.stderr[-3000:]
  (wheel,) = place.glob("*.whl")
  install(str(wheel))
  return run, install


@pytest.mark.nightly
def test_an_installed_wheel_is_all_that_a_user_needs(environment):
  run, install = environment
  done = run("python", str(mains.ROOT / "tests" / "light_core.py"))
  found = mains.json_of(mains.Done(done.returncode, done.stdout, done.stderr))
  assert found["seconds"] < 1.0 and found["likelier"]
  done = run("sitrain", "train", *CONFIG, "--workdir=out")
  assert done.returncode == 2
  assert "pip install 'sitrain[train]'" in done.stderr
  install("sitrain[train]")
  done = run("sitrain", "train", *CONFIG, "--workdir=out")
  assert done.returncode == 0, done.stderr[-3000:]
  assert "report: " in done.stdout and "accuracy@2" in done.stdout
  done = run(
    "sitrain", "sample", "--workdir=out", "--output=rows.jsonl",
    "--problems=8",
  )
  assert done.returncode == 0, done.stderr[-3000:]
  lines = run("cat", "rows.jsonl").stdout.splitlines()
  assert len([json.loads(line) for line in lines]) == 8
  done = run("sitrain", "talk", "--workdir=out", input="932-18+..470.=\n")
  assert done.returncode == 0, done.stderr[-3000:]
  assert "attempt 1" in done.stdout and "attempt 2" in done.stdout
  done = run("sitrain", "report", "--workdir=out")
  assert done.returncode == 0 and done.stdout.strip().endswith("report.html")
  done = run("sitrain", "train", "--config=score_gsm8k:quick", "--workdir=two")
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert "pip install 'sitrain[text]'" in done.stderr
