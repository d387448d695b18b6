"""Habits of search on Countdown: Four Habits, and To Backtrack or Not.

  python -m benchmarks.habits --system=four_habits --seeds=0
  python -m benchmarks.habits --system=backtracking --seeds=0
  python -m benchmarks.habits --page

Trains the runs of configs/four_habits.py, one for each of ARMS, and of
configs/backtracking.py, and samples the last checkpoint of every stage on
boards that no run has seen, 32 times each. A finished run is a line of
benchmarks/results/habits/SYSTEM.jsonl; the same command continues an
interrupted one. --page writes README.md and pictures there, which state the
criteria of the papers' claims and whether they are met.
"""

import json
import logging
import os
import pathlib
import random
import re
import time
from typing import Any

import jax
import numpy as np
from absl import app, flags
from etils import epath

from benchmarks import habits_page, side_by_side
from sitrain.configs import backtracking, four_habits
from sitrain.evaluate import behaviours, compute, player, votes
from sitrain.evaluate.edits import tokens_of_turn
from sitrain.runtime import build, machine, policy, sharding
from sitrain.runtime.build import plain
from sitrain.tasks import countdown_habits as writer
from sitrain.types import PAD

SYSTEM = flags.DEFINE_enum(
  "system", "four_habits", ["four_habits", "backtracking"], "Which."
)
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds, as 0,1,2.")
ARMS_ = flags.DEFINE_list("arms", [], "Arms of four_habits; default: all.")
FOLDER = flags.DEFINE_string(
  "folder", "/tmp/sitrain_habits", "Folder of the runs."
)
PAGE = flags.DEFINE_bool("page", False, "Write the page of what is stored.")
ONE = flags.DEFINE_string("one", "", "ARM;SEED, in this process.")
RESULTS = pathlib.Path(__file__).parent / "results" / "habits"

ARMS = (
  "none", "empty", "dots", "backtracking", "backtracking_verification", "all",
  "no_positive",
)
PROBLEMS, SAMPLES = 256, 32
COUNTS = (1, 2, 4, 8, 16, 32)
BUDGETS = (16, 24, 32, 40, 48, 56, 64)
STEP = re.compile(r"(?: \d+)?[-+*] \d+= \d+")  # a step as it is written


def workdir_of(system: str, arm: str, seed: int) -> pathlib.Path:
  """Where a run trains."""
  # An arm has the name of the other system.
  name = f"{system}-{arm}-{seed}" if arm else f"{system}-{seed}"
  return pathlib.Path(FOLDER.value) / name


def config_of(system: str, arm: str, seed: int) -> dict:
  """The config of a run; all arms of a seed share the base of "none"."""
  if system == "backtracking":
    config = backtracking.get_config()
  else:
    config = four_habits.get_config(arm)
  config.seed = seed
  if system == "four_habits" and arm != "none":
    base = f"{workdir_of(system, 'none', seed)}/base/last"
    config.stages = ("prime", "rl")
    del config.stage["base"]
    config.stage.prime.start = base
  return plain(config)


def run(system: str, arm: str, seed: int) -> dict:
  """Trains what remains of a run; returns its result."""
  from sitrain import main as mains  # Its flags clash with another main's.

  config, workdir = config_of(system, arm, seed), workdir_of(system, arm, seed)
  began = time.process_time()
  mains.train(config, str(workdir))
  trained = time.process_time() - began
  stages = studied(config, workdir)
  return {
    "system": system, "arm": arm, "seed": seed, "stages": stages,
    "curves": curves(workdir), "seconds_of_core": trained,
    "seconds_of_core_evaluating": time.process_time() - began - trained,
  }


def curves(workdir: pathlib.Path) -> dict[str, list[float]]:
  """The rewards of each stage of RL, in steps of ten."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  found: dict[str, list[float]] = {}
  for row in map(json.loads, lines):
    if "judge/reward_1" in row:
      found.setdefault(row["stage"], []).append(row["judge/reward_1"])
  return {
    name: [float(np.mean(x[i : i + 10])) for i in range(0, len(x), 10)]
    for name, x in found.items()
  }


def studied(config: dict, workdir: pathlib.Path) -> dict[str, dict]:
  """What each stage's last checkpoint does with the same problems."""
  jax.config.update("jax_threefry_partitionable", True)
  mesh = sharding.make_mesh(**config["mesh"])
  task = build.task_from(config, str(workdir), part="evaluate")
  model = machine.suited(build.model_from(config, task), mesh)
  key = jax.random.key(7, impl="threefry2x32")
  players, found = {}, {}
  with jax.set_mesh(mesh):
    for name in config["stages"]:
      turn = config["stage"][name]["method"]["turns"][0]
      if turn not in players:
        players[turn] = player.make(
          model, task, turns=(turn,), samples=SAMPLES, reply=task.reply,
          jit=jax.jit,
        )
      params = policy.of_stage(
        config, model, mesh, epath.Path(workdir) / name, "last"
      )
      posed, rows = player.played(
        players[turn], params, key, problems=PROBLEMS, batch=512,
        temperature=1.0,
      )
      found[name] = of_rows(task, model, params, posed, rows)
  return found


def of_rows(task: Any, model: Any, params: Any, posed: Any, rows: Any) -> dict:
  """Accuracy, pass@k, budgets, habits, and likeness to the solver's search."""
  right = np.asarray(rows.judged.right)[:, 0].reshape(-1, SAMPLES)
  count = (rows.turn == 1).sum(axis=1).reshape(-1, SAMPLES)
  sizes = {
    "prompt": posed.prompt.shape[1], "params": multiplied(params),
    "layers": model.layers, "width": model.heads * model.head_size,
  }
  own = [
    task.tokenizer.decode(tokens_of_turn(*row, 1))
    for row in zip(rows.tokens, rows.turn)
  ]
  first = own[::SAMPLES]
  return {
    "accuracy": float(right.mean()), "tokens": float(count.mean()),
    "distinct": float(np.mean([
      len(set(own[i : i + SAMPLES])) for i in range(0, len(own), SAMPLES)
    ])) / SAMPLES,
    "pass": {k: float(votes.pass_at(right, k).mean()) for k in COUNTS},
    "samples": compute.by_samples(right, count, COUNTS, **sizes),
    "budgets": compute.by_budget(right, count, BUDGETS, **sizes),
    "habits": behaviours.means(own),
    "likeness": likeness(posed, first, task), "examples": first[:3],
  }


def multiplied(params: Any) -> int:
  """Parameters of matrices, with the table that gives the logits once."""
  sizes = [x.size for x in jax.tree.leaves(params) if x.ndim > 1]
  return int(sum(sizes))


def likeness(posed: Any, texts: list[str], task: Any) -> float:
  """Mean Jaccard similarity of the steps of turns to those of the search."""
  found = []
  style = writer.Style(("backtracking",), "fixed", True, False)
  for prompt, text in zip(np.asarray(posed.prompt), texts):
    # The ids of numbers are their values.
    *numbers, _, target, _ = (int(t) for t in prompt if t != PAD)
    board = writer.Board(tuple(numbers), target)
    tokens, line = writer.search(board, style, random.Random(0))
    given = "".join([*tokens, *writer.answer(line)])
    found.append(compute.jaccard(
      set(STEP.findall(text)), set(STEP.findall(given))
    ))
  return float(np.nanmean(found))


def stored(system: str) -> list[dict]:
  """The results of a system, in the order of arms and seeds."""
  path = RESULTS / f"{system}.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  order = [*ARMS, *four_habits.ARMS, ""]
  place = lambda row: (order.index(row["arm"]), row["seed"])
  return sorted(map(json.loads, lines), key=place)


def main(argv: list[str]) -> None:
  """Runs what is missing, one after the other, or one of them, or the page."""
  system = SYSTEM.value
  logging.getLogger("absl").setLevel(logging.WARNING)
  if ONE.value:
    arm, seed = ONE.value.split(";")
    result = run(system, arm, int(seed))
    path = workdir_of(system, arm, int(seed)) / "result.json"
    path.write_text(json.dumps(result))
    return
  if PAGE.value:
    print(habits_page.write(RESULTS, stored("four_habits"),
                            stored("backtracking")))
    return
  arms = ARMS_.value or list(ARMS) if system == "four_habits" else [""]
  for arm in set(ARMS_.value) - set(four_habits.ARMS):
    raise app.UsageError(f"--arms={arm}: choose from {', '.join(ARMS)}")
  RESULTS.mkdir(parents=True, exist_ok=True)
  for seed in map(int, SEEDS.value):
    for arm in arms:
      one(system, arm, seed)


def one(system: str, arm: str, seed: int) -> None:
  """Runs one that has no result in a process on one core; stores its line."""
  if any(r["arm"] == arm and r["seed"] == seed for r in stored(system)):
    return
  workdir = workdir_of(system, arm, seed)
  process = side_by_side.begin(
    "benchmarks.habits",
    [f"--system={system}", f"--folder={FOLDER.value}", f"--one={arm};{seed}"],
    pathlib.Path(f"{workdir}.log"),
  )
  # Not always the first core, which other benchmarks take.
  side_by_side.pin(process, os.getpid())
  if process.wait():
    raise SystemExit(f"{arm or system}, seed {seed}: see {workdir}.log")
  line = (workdir / "result.json").read_text()
  with open(RESULTS / f"{system}.jsonl", "a") as file:
    file.write(line + "\n")
  last = list(json.loads(line)["stages"].items())
  words = ", ".join(f"{n} {100 * x['accuracy']:.1f}" for n, x in last)
  print(f"{arm or system}, seed {seed}: {words}", flush=True)


if __name__ == "__main__":
  app.run(main)
