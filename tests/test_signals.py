"""Who is asked to stop, by SIGTERM or Ctrl-C: what is said and when it ends.

test_main.py and test_survival.py do it to real runs.
"""

import math
import os
import re
import signal
import subprocess
import sys
import time

import mains
import pytest

from sitrain.runtime import signals

MAINS = ("main", "sample", "evaluate", "export", "plan", "report", "cli")


@pytest.mark.parametrize("name", MAINS)
@pytest.mark.parametrize(
  "number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 75)]
)
def test_while_a_main_imports_a_signal_is_a_line(number, code, name, tmp_path):
  """The library that it waits for here never comes."""
  for library in ("jax", "absl"):
    (tmp_path / f"{library}.py").write_text(
      "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"
    )
  path = os.pathsep.join([str(tmp_path), str(mains.ROOT)])
  words = ["train"] if name == "cli" else []
  process = mains.start(words, "", module=f"sitrain.{name}", PYTHONPATH=path)
  assert process.stdout.readline() == "importing\n"
  process.send_signal(number)
  done = mains.finish(process, seconds=30)
  assert done.code == code
  assert done.err == "error: stopped before anything was begun\n"


def test_who_imports_a_main_keeps_its_signals():
  before = signal.getsignal(signal.SIGINT)
  script = (
    "import signal, sys; before = signal.getsignal(signal.SIGINT)\n"
    "import sitrain.runtime.early\n"
    "sys.exit(signal.getsignal(signal.SIGINT) is not before)"
  )
  done = subprocess.run([sys.executable, "-c", script], cwd=mains.ROOT)
  assert done.returncode == 0 and signal.getsignal(signal.SIGINT) is before


def said(number, call, *, saved=8, began=0.0):
  where = signals.Working(
    "one", 12, 13, time.monotonic() - began, call, lambda: saved + 0
  )
  signals.working(where)
  try:
    return signals.acknowledged(number)
  finally:
    signals._WORKING.clear()


def test_what_is_kept_and_when_is_said_at_once():
  line = said(signal.SIGTERM, 25.0, began=5.0)
  assert line == (
    "SIGTERM: step 13 of one ends first, in about 20 s, and is saved; a second"
    " signal ends at once and goes back to the checkpoint of step 8, by 4"
    " finished step(s)"
  )
  line = said(signal.SIGINT, math.nan, saved=0)
  assert line.startswith("Ctrl-C: step 13 of one ends first (the first of this")
  assert line.endswith("loses 12 finished step(s), for none is saved yet")
  # A bucket that does not answer keeps nobody waiting for the line.
  assert said(signal.SIGINT, 1.0, saved="?").endswith("the last checkpoint")
  # A call that outlasts the notice of a machine's end, or may do so.
  for call in (600.0, math.nan):
    assert "preempted has 30 s" in said(signal.SIGTERM, call)
    assert "preempted" not in said(signal.SIGINT, call)
  assert "preempted has 30 s" in signals.slow(600.0)
  assert "600 s" in signals.slow(600.0)


WAITING = """
import os, sys, time
from sitrain.runtime import signals

def leave(code, why):
  print("left: " + why, flush=True)
  os._exit(code)

signals.listen(leave)
if sys.argv[1:]:
  with signals.training(leave):
    signals.working(
      signals.Working("one", 2, 3, time.monotonic(), 5.0, lambda: 1)
    )
    print("ready", flush=True)
    while not signals.stop_requested():
      time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(float(sys.argv[1]))
  sys.exit(3)
print("ready", flush=True)
time.sleep(60)  # As if it were in a compiler.
"""
CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}


def waiting(*seconds):
  process = subprocess.Popen(
    [sys.executable, "-c", WAITING, *seconds], cwd=mains.ROOT, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )
  assert process.stdout.readline() == "ready\n"
  return process


@pytest.mark.parametrize("number", CODES)
def test_outside_of_training_a_signal_ends_at_once(number):
  process = waiting()
  process.send_signal(number)
  done = mains.finish(process, seconds=30)
  name = {2: "Ctrl-C", 15: "SIGTERM"}[number]
  assert done.code == CODES[number] and done.err == ""
  assert done.out == f"left: stopped by {name}: the same command resumes\n"


@pytest.mark.parametrize("first", CODES)
@pytest.mark.parametrize("second", [0, *CODES])
def test_in_training_the_first_is_acknowledged_and_the_second_ends(
  first, second
):
  process = waiting("60" if second else "0.5")
  process.send_signal(first)
  process.send_signal(first)  # As launchers do: it is the same one.
  assert process.stdout.readline() == "asked\n"
  name = {2: "Ctrl-C", 15: "SIGTERM"}[first]
  line = process.stderr.readline()
  assert re.match(rf"{name}: step 3 of one ends first, in about \d s", line)
  if second:
    time.sleep(max(signals.TOGETHER.values()) + 0.1)
    process.send_signal(second)
  done = mains.finish(process, seconds=30)
  assert done.code == CODES[second or first] and done.err == ""
  why = "asked to stop twice" if second else f"stopped by {name}"
  assert done.out.startswith(f"left: {why}")


def test_a_signal_while_python_shuts_down_changes_no_exit_code():
  """It takes its handlers back, and SIGTERM would end it with another code."""
  script = (
    "import os, signal, sys\n"
    "from sitrain.runtime import signals\n"
    "class Late:\n"
    "  def __del__(self): os.kill(os.getpid(), signal.SIGTERM)\n"
    "signal.signal(signal.SIGTERM, lambda *_: None)\n"
    "signals.late = Late()\n"
    "signals.ignore()\n"
    "sys.exit(75)\n"
  )
  done = subprocess.run([sys.executable, "-c", script], check=False)
  assert done.returncode == 75
