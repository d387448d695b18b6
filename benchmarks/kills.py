"""Compares a run that is killed many times with an undisturbed one.

  python -m benchmarks.kills --folder=/tmp/kills

Runs a config once undisturbed and once with kills spread over it: SIGKILL at a
random moment, SIGKILL while a checkpoint is being written, SIGTERM at a random
moment, and each of them also while a start is still compiling. Compares the
metrics, all parameters and optimizer states of every stage's last checkpoint
and the summaries, bit for bit, and reports which checkpoints were lost. An
interrupted benchmark continues where it was.
"""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import app, flags

from sitrain.runtime.signals import RESTART

KILLS = flags.DEFINE_integer("kills", 30, "How many.")
SEED = flags.DEFINE_integer("seed", 0, "Of the moments of the kills.")
CONFIG = flags.DEFINE_string("config", "configs/quickstart.py", "Of the run.")
SHORTER = flags.DEFINE_list(
  "shorter",
  "base.steps=80,base.steps_per_call=4,base.optimizer.warmup=10,stage1.steps=96,"
  "stage1.steps_per_call=4,stage2.steps=64,stage2.steps_per_call=4",
  "Fields of config.stage that bound the run.",
)
FOLDER = flags.DEFINE_string("folder", "/tmp/kills", "Of the two runs.")
OUTPUT = flags.DEFINE_string(
  "output", "benchmarks/results/kills.json", "Where the result goes."
)
LIMIT = 1800.0  # seconds that one start may take
CLOCKS = (
  "run/seconds", "run/host_seconds", "run/tokens_per_second",
  "seconds",
)
WAYS = ("kill", "save", "term")  # SIGKILL, SIGKILL in a save, SIGTERM


class Kill(NamedTuple):
  """One kill that is planned."""

  way: str
  row: int  # of metrics.jsonl, after which the kill comes
  wait: float  # seconds after that row


def plan(kills: int, rows: int, seed: int) -> list[Kill]:
  """Kills spread over the `rows` of a run; every fifth at a start."""
  rng, found = random.Random(seed), []
  for i in range(kills):
    low, high = rows * i // kills, rows * (i + 1) // kills
    row, wait = rng.randint(low, max(low, high - 1)), rng.uniform(0.0, 0.5)
    if i % 5 == 4:
      row, wait = 0, rng.uniform(1.0, 15.0)
    found.append(Kill(WAYS[i % 3], row, wait))
  return found


def start(workdir: pathlib.Path) -> subprocess.Popen:
  """The main on this workdir on one core, its output in WORKDIR.log."""
  flags_ = [f"--config.stage.{field}" for field in SHORTER.value if field]
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
  }
  with open(f"{workdir}.log", "a") as log:
    return subprocess.Popen(
      [sys.executable, "-m", "sitrain.main", f"--config={CONFIG.value}",
       f"--workdir={workdir}", *flags_],
      stdout=log, stderr=log, env=environment,
    )


def wait_until(
  process: subprocess.Popen, happened: Any, *, every: float = 0.05
) -> bool:
  """Waits for `happened()`; False if the process ended before."""
  until = time.monotonic() + LIMIT
  while process.poll() is None and time.monotonic() < until:
    if happened():
      return True
    time.sleep(every)
  return False


def lines(path: pathlib.Path) -> list[str]:
  """The complete lines of a file."""
  return path.read_text().split("\n")[:-1] if path.exists() else []


def stages(workdir: pathlib.Path) -> list[str]:
  """Those of the run, in order."""
  path = workdir / "config.json"
  return json.loads(path.read_text())["stages"] if path.exists() else []


def saved(workdir: pathlib.Path) -> list[tuple[str, int]]:
  """(stage, step) of all finished checkpoints, in order."""
  return [
    (stage, step) for stage in stages(workdir) for step in sorted(
      int(path.name) for path in (workdir / stage).glob("*")
      if path.name.isdigit()
    )
  ]


def last_and_best(workdir: pathlib.Path) -> dict[str, tuple[int, int]]:
  """The steps of the last and the best checkpoint of every stage.

  A run that is asked to stop saves one more, which may be the one before the
  last: it is not compared.
  """
  found = {}
  for stage, step in saved(workdir):
    record = workdir / stage / str(step) / "record" / "metadata"
    score = json.loads(record.read_text())["score"]
    ranked = (float("-inf") if score is None else score, step)
    found.setdefault(stage, []).append(ranked)
  return {stage: (x[-1][1], max(x)[1]) for stage, x in found.items()}


def saving(workdir: pathlib.Path) -> bool:
  """Whether a checkpoint is being written."""
  try:
    return any(workdir.glob("*/*.orbax-checkpoint-tmp*"))
  except OSError:  # It was finished meanwhile.
    return False


def kill_once(workdir: pathlib.Path, kill: Kill) -> dict[str, Any]:
  """Starts the run, kills it, and returns the state before and after."""
  process = start(workdir)
  try:
    metrics = workdir / "metrics.jsonl"
    # Rows beyond the last checkpoint are dropped when it starts.
    began = logged(workdir)
    ready = lambda: logged(workdir) > began and len(lines(metrics)) >= kill.row
    alive = wait_until(process, ready if kill.row else lambda: True)
    time.sleep(kill.wait)
    inside = alive and kill.way == "save" and kill.row > 0
    if inside:
      inside = wait_until(process, lambda: saving(workdir), every=0.001)
    before = saved(workdir)
    number = signal.SIGTERM if kill.way == "term" else signal.SIGKILL
    process.send_signal(number)
    code = process.wait(LIMIT)
  finally:
    process.kill()
    process.wait()
  return {
    **kill._asdict(), "alive": alive, "inside_a_save": inside and
    saving(workdir), "code": code, "rows": len(lines(metrics)),
    "before": before[-1:], "after": saved(workdir)[-1:],
  }  # fmt: skip


def logged(workdir: pathlib.Path) -> int:
  """The number of starts of the run."""
  log = workdir / "logs" / "host_0.log"
  return sum(" --- " in line for line in lines(log))


def lost(record: dict[str, Any], order: list[str]) -> bool:
  """Whether a finished checkpoint was gone after the kill."""
  place = lambda found: [(order.index(name), step) for name, step in found]
  return place(record["after"]) < place(record["before"])


def arrays(path: pathlib.Path) -> dict[str, bytes]:
  """The arrays of a checkpoint as bytes, by path."""
  with ocp.PyTreeCheckpointer() as reader:
    found = reader.restore(path / "arrays")
  leaves = jax.tree_util.tree_flatten_with_path(found)[0]
  return {
    jax.tree_util.keystr(name): np.asarray(x).tobytes() for name, x in leaves
  }


def numbers(rows: list[dict]) -> list[dict]:
  """Rows without the fields of clocks."""
  return [{k: v for k, v in r.items() if k not in CLOCKS} for r in rows]


def same(one: pathlib.Path, other: pathlib.Path) -> dict[str, bool]:
  """Which parts of two runs are equal, bit for bit."""
  runs, read = (one, other), lambda path: json.loads(path.read_text())
  rows = [
    numbers(list(map(json.loads, lines(run / "metrics.jsonl")))) for run in runs
  ]
  summaries = [numbers(read(run / "summary.json")["stages"]) for run in runs]
  return {
    "metrics": rows[0] == rows[1], "summary": summaries[0] == summaries[1],
    "last and best": last_and_best(one) == last_and_best(other),
  } | {
    f"arrays of {stage}": arrays(one / stage / str(step))
    == arrays(other / stage / str(step))
    for stage, step in dict(saved(one)).items()
  }  # fmt: skip


def undisturbed(workdir: pathlib.Path) -> None:
  """Runs to the end."""
  process = start(workdir)
  try:
    if process.wait(LIMIT):
      raise RuntimeError(f"the run failed: see {workdir}.log")
  finally:
    process.kill()
    process.wait()


def run(kills: int) -> dict[str, Any]:
  """Makes both runs and compares them."""
  folder = pathlib.Path(FOLDER.value)
  folder.mkdir(parents=True, exist_ok=True)
  intact, killed = folder / "intact", folder / "killed"
  state = folder / "kills.json"
  if not (intact / "report.html").exists():
    undisturbed(intact)
  rows = len(lines(intact / "metrics.jsonl"))
  records = json.loads(state.read_text()) if state.exists() else []
  for kill in plan(kills, rows, SEED.value)[len(records):]:
    records.append(kill_once(killed, kill))
    state.write_text(json.dumps(records, indent=1))
    print(json.dumps(records[-1]), flush=True)
  undisturbed(killed)
  order = stages(intact)
  log = (killed / "logs" / "host_0.log").read_text()
  return {
    "command": " ".join(["python -m benchmarks.kills", *sys.argv[1:]]),
    "rows": rows, "jax": jax.__version__,
    "kills": {way: sum(r["way"] == way for r in records) for way in WAYS},
    "inside a save": sum(r["inside_a_save"] for r in records),
    "at a start": sum(not r["row"] for r in records),
    "checkpoints lost": sum(lost(r, order) for r in records),
    "codes of SIGTERM": sorted({
      r["code"] for r in records if r["way"] == "term" and r["alive"]
    }),
    "went on after": re.findall(r" (\w+ goes on after step \d+)", log),
    "same": same(intact, killed), "each": records,
  }  # fmt: skip


def main(argv: list[str]) -> None:
  """Runs, stores and prints the result; exit code 1 where bits differ."""
  result = run(KILLS.value)
  path = pathlib.Path(OUTPUT.value)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(result, indent=1) + "\n")
  for name, value in result.items():
    if name != "each":
      print(f"{name}: {value}")
  good = all(result["same"].values()) and not result["checkpoints lost"]
  # A kill after the end of the run tests nothing.
  good = good and all(record["alive"] for record in result["each"])
  good = good and set(result["codes of SIGTERM"]) <= {RESTART}
  sys.exit(0 if good else 1)


if __name__ == "__main__":
  app.run(main)
