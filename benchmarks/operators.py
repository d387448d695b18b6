"""PDR's operator at test time and in training, at equal tokens.

  python -m benchmarks.operators --seeds=0 --folder=/tmp/sitrain_operators

Countdown with three numbers, where the policy writes a verdict on every attempt
of its own. Three policies: the base, CISPO on dialogues of two attempts
("standard"), and configs/pdr.py, half of whose rows are refinements ("pdr");
both from the base, with as many rows to train on and about as many sampled
tokens. Each answers the same problems by ARMS: the policy's own long trace (a
dialogue of attempts and verdicts), sequential refinement, PDR with its
distillers, and votes. Workspaces have one draft and dialogues two attempts, as
the base has read no more.

A measured arm is a line of benchmarks/results/operators.jsonl, and an arm that
has a line is not measured again; training goes on where it was. The table of
all stored seeds is printed at the end.
"""

import importlib
import json
import logging
import pathlib
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags

from benchmarks.intervals import interval
from sitrain.configs import pdr as configs
from sitrain.evaluate import answers, player
from sitrain.runtime import build, placing, policy, sharding
from sitrain.runtime.build import plain

SEEDS = flags.DEFINE_list("seeds", ["0"], "Of the runs, with commas.")
FOLDER = flags.DEFINE_string(
  "folder", "/tmp/sitrain_operators", "Where the runs are kept."
)
RESULTS = pathlib.Path(__file__).parent / "results" / "operators.jsonl"
PROBLEMS, BATCH = 1024, 4096
POLICIES = ("base", "standard", "pdr")


class Arm(NamedTuple):
  """A strategy with its options."""

  strategy: str
  options: dict[str, Any]


def _pdr(distil: str, rounds: int = 2) -> Arm:
  options = {"samples": 8, "rounds": rounds, "keep": 1, "distil": distil}
  return Arm("pdr", options)


ARMS = {
  "one attempt": Arm("self_consistency", {"samples": 1}),
  # As many tokens one behind the other as SR with 4 rounds may take; and as
  # many in all as PDR with 2.
  "votes of 6": Arm("self_consistency", {"samples": 6}),
  "votes of 10": Arm("self_consistency", {"samples": 10}),
  "dialogue of 2": Arm("verify_and_revise", {"rounds": 2}),
  "SR, 2 rounds": Arm("sequential_refinement", {"rounds": 2}),
  "SR, 4 rounds": Arm("sequential_refinement", {"rounds": 4}),
  "PDR, random": _pdr("random"),
  "PDR, own verdict": _pdr("verdict"),
  "PDR, oracle": _pdr("oracle"),
  "PDR, own verdict, 4 rounds": _pdr("verdict", 4),
}


def config_of(seed: int) -> dict:
  """The run of a seed: the base and both policies from it."""
  config = configs.get_config()
  config.seed = seed
  config.evaluate.update({"problems": 256})
  configs.add_rl(config, "standard", problems=64, method="cispo")
  return plain(config)


def train(config: dict, workdir: pathlib.Path) -> float:
  """Trains what is missing; CPU seconds of this process."""
  from sitrain import main as mains  # Its flags clash with another main's.

  began = time.process_time()
  mains.train(config, str(workdir))
  return time.process_time() - began


def tokens_of(workdir: pathlib.Path) -> dict[str, float]:
  """Millions of tokens that each stage has sampled."""
  found: dict[str, float] = {}
  for line in (workdir / "metrics.jsonl").read_text().splitlines():
    record = json.loads(line)
    rate = record.get("run/tokens_per_second") or 0.0
    written = rate * (record.get("run/seconds") or 0.0)
    stage = record["stage"]
    found[stage] = found.get(stage, 0.0) + written / 1e6
  return found


def measure(
  config: dict, workdir: pathlib.Path, seed: int, todo: dict[str, set[str]]
) -> None:
  """Answers by the arms of `todo`, which are by policy, and stores a line each.
  """
  mesh = placing.mesh_of(config, ())
  with jax.set_mesh(mesh):
    task = build.task_from(config, str(workdir), part="evaluate")
    model = build.model_from(config, task)
    key = jax.random.key(config["evaluate"]["seed"], impl="threefry2x32")
    pose = player.make_poser(task, jax.jit)
    posed = jax.device_get(pose(jax.random.fold_in(key, 0), PROBLEMS))
    play = answers.sampler(
      model, task, top_k=0, top_p=1.0, jit=jax.jit,
      spread=partial(sharding.by_group_for_all, mesh=mesh),
    )
    params = {
      name: policy.restored(config, model, mesh, workdir / name, "last")[0]
      for name in todo
    }
    prompt = posed.prompt.shape[1]
    for arm, (name, options) in ARMS.items():
      module = importlib.import_module(f"sitrain.strategies.{name}")
      strategy = module.make(play, task, turns=(configs.LENGTH, 1), **options)
      run = answers.program(strategy, task, jit=jax.jit)
      for who in (who for who in todo if arm in todo[who]):
        began = time.process_time()
        found = answer(strategy, run, params[who], task, key, posed)
        store({
          "seed": seed, "policy": who, "arm": arm, "options": options,
          "at_most": strategy.cost(prompt)._asdict(),
          "seconds_of_core": time.process_time() - began,
        } | found)


def answer(strategy, run, params, task, key, posed) -> dict[str, Any]:
  """Accuracy and tokens of a policy with a strategy."""
  sizes = player.Player((), (), (), strategy.rows, strategy.turns)
  rows = []
  for part in player.parts_of(sizes, posed, batch=BATCH):
    found = answers.answer_rows(
      run, sizes, params, key, posed, part, batch=BATCH, temperature=1.0
    )
    rows += answers.records(strategy, task, posed, part, found)
  told = answers.summarize(
    np.random.default_rng(0), {"": rows}, {"": strategy.every}, draws=300
  )[""]
  kept = ("accuracy", "any_right", "sequential", "total")
  more = ("verdict_accuracy", "verdict_recall")
  return {name: told[name] for name in kept} | {
    name: told[name] for name in more if name in told
  } | {"interval": told["intervals"]["accuracy"]}


def store(row: dict[str, Any]) -> None:
  """Appends a line, and prints it in short."""
  RESULTS.parent.mkdir(parents=True, exist_ok=True)
  with open(RESULTS, "a") as file:
    file.write(json.dumps(row) + "\n")
  print(
    f"{row['seed']} {row['policy']}, {row['arm']}: "
    f"{100 * row['accuracy']:.1f}, {row['sequential']:.0f} and "
    f"{row['total']:.0f} tokens", flush=True,
  )


def stored() -> list[dict[str, Any]]:
  """All lines."""
  lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
  return [json.loads(line) for line in lines]


def missing(seed: int) -> dict[str, set[str]]:
  """The arms that a seed lacks, by policy."""
  done = {(r["policy"], r["arm"]) for r in stored() if r["seed"] == seed}
  todo = {who: {a for a in ARMS if (who, a) not in done} for who in POLICIES}
  return {who: arms for who, arms in todo.items() if arms}


def table(rows: list[dict[str, Any]]) -> str:
  """Means over seeds in percent, with 95 % t-intervals of several."""

  def cell(arm, who):
    found = [r for r in rows if r["policy"] == who and r["arm"] == arm]
    if not found:
      return "-"
    mean, low, high = (
      100 * x for x in interval([r["accuracy"] for r in found])
    )
    wide = "" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]"
    tokens = "{:.0f}, {:.0f}".format(*(
      np.mean([r[name] for r in found]) for name in ("sequential", "total")
    ))
    return f"{mean:.1f}{wide} ({tokens})"

  head = f"| answers by | {' | '.join(POLICIES)} |"
  lines = [head, "|---" * (len(POLICIES) + 1) + "|"]
  for arm in ARMS:
    cells = (cell(arm, who) for who in POLICIES)
    lines.append(f"| {arm} | {' | '.join(cells)} |")
  return "\n".join(lines)


def main(argv: list[str]) -> None:
  """Trains and measures what the seeds lack."""
  if not all(seed.isdecimal() for seed in SEEDS.value):
    raise app.UsageError(
      f"--seeds={','.join(SEEDS.value)}: give numbers, as 0,1,2"
    )
  logging.getLogger("absl").setLevel(logging.WARNING)
  for seed in map(int, SEEDS.value):
    if todo := missing(seed):
      workdir = pathlib.Path(FOLDER.value) / str(seed)
      config = config_of(seed)
      print(f"training: {train(config, workdir):.0f} s of a core", flush=True)
      print(f"millions of sampled tokens: {tokens_of(workdir)}", flush=True)
      measure(config, workdir, seed, todo)
  print(table(stored()))


if __name__ == "__main__":
  app.run(main)
