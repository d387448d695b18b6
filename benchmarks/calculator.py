"""A small model learns to call a calculator, which answers on the host.

  python -m benchmarks.calculator --seeds=0-2

For every seed configs/calculator.py from random weights: a base model, then
GRPO with the calculator, and GRPO of the same steps and samples without it,
from the same base model. Runs are kept in --folder, and the same command
continues. The table goes to benchmarks/results/calculator.json: of the last
SPAN steps the share of dialogues that end right and that call, the return of
the first turn (what it earns itself and after it), and the seconds of a step
and of one reply.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
from absl import app, flags

from sitrain import main as mains
from sitrain.configs import calculator, common
from sitrain.runtime.build import plain

SPAN = 10
STEPS = {"base": 400, "grpo": 100, "alone": 100}
RESULT = pathlib.Path(__file__).parent / "results" / "calculator.json"


def config_of(seed: int, steps: dict = STEPS) -> dict:
  """The config of both arms; `alone` has one turn and no calculator."""
  config = calculator.get_config()
  config.seed = seed
  config.evaluate.problems = 256
  alone = config.stage.grpo.copy_and_resolve_references()
  alone.method.turns = calculator.TURNS[:1]
  alone.task = {"environment": ""}
  alone.best = "judge/reward_1"
  common.add(config, "alone", alone)
  for name, count in steps.items():
    config.stage[name].steps = count
  return plain(config)


def rows_of(folder: pathlib.Path, stage: str) -> list[dict]:
  """The records of a stage."""
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [row for row in map(json.loads, lines) if row["stage"] == stage]


def share_right(row: dict) -> float:
  """Dialogues whose last turn is right, of one step."""
  if "judge/answer_2" not in row:
    return row["judge/reward_1"]
  called = 1.0 - row["judge/ended_2"]
  second = row["judge/answer_2"] if called else 0.0
  return row["judge/answer_1"] + called * second


def summary_of(folder: pathlib.Path) -> dict:
  """The numbers of one seed."""
  found = {}
  for stage in ("grpo", "alone"):
    rows = rows_of(folder, stage)
    over = lambda value, rows: float(np.mean([value(row) for row in rows]))
    called = lambda row: 1.0 - row.get("judge/ended_2", 1.0)
    found[stage] = {
      "right_first": over(share_right, rows[:SPAN // 2]),
      "right": over(share_right, rows[-SPAN:]),
      "called_first": over(called, rows[:SPAN // 2]),
      "called": over(called, rows[-SPAN:]),
      "seconds": float(np.median([row["run/seconds"] for row in rows])),
      "curve": [round(share_right(row), 4) for row in rows],
    }
  return found


def one_seed(seed: int, folder: pathlib.Path) -> dict:
  """Runs a seed in a process of its own, or continues it."""
  words = ["-m", "benchmarks.calculator", f"--one={seed}"]
  log = folder / f"{seed}.log"
  folder.mkdir(parents=True, exist_ok=True)
  with open(log, "a") as out:
    subprocess.run(
      [sys.executable, *words, f"--folder={folder}"], stdout=out, stderr=out,
      check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
  return summary_of(folder / str(seed))


def show(found: dict) -> None:
  """Prints the table."""
  for seed, arms in found.items():
    for arm, row in arms.items():
      print(
        f"seed {seed} {arm:6s} right {row['right_first']:.3f} -> "
        f"{row['right']:.3f}, calls {row['called_first']:.3f} -> "
        f"{row['called']:.3f}, {row['seconds']:.2f} s a step"
      )


def main(argv: list[str]) -> None:
  """One seed, or all of them and the table."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown words on the command line: {argv[1:]}")
  folder = pathlib.Path(FOLDER.value)
  if ONE.value >= 0:
    mains.train(config_of(ONE.value), str(folder / str(ONE.value)))
    return
  first, _, last = SEEDS.value.partition("-")
  found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
  for seed in range(int(first), int(last or first) + 1):
    if str(seed) not in found:
      found[str(seed)] = one_seed(seed, folder)
      RESULT.write_text(json.dumps(found, indent=1))
  show(found)


if __name__ == "__main__":
  SEEDS = flags.DEFINE_string("seeds", "0-2", "First-last, both included.")
  FOLDER = flags.DEFINE_string("folder", "/tmp/calculator", "Of the runs.")
  ONE = flags.DEFINE_integer("one", -1, "Run this seed in this process.")
  app.run(main)
