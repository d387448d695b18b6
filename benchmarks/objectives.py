"""Objectives against each other on Countdown, at equal numbers of samples.

  python -m benchmarks.objectives --workers=2
  python -m benchmarks.objectives --family=preference --minutes=30

One attempt at Countdown with three numbers. Every arm starts from the same base
of its seed and takes BUDGET episodes and 400 gradient steps; its learning rate
is the best of RATES on TUNING seeds, and the reported seeds are others, with
other problems. Each run is held to one core. A finished run is a line of
benchmarks/results/objectives/FAMILY.jsonl; the same command continues an
interrupted one. When all have ended, the table and the picture are written
beside it; README.md there shows both.
"""

import importlib
import itertools
import json
import pathlib
import subprocess
import time
from typing import NamedTuple

import matplotlib.figure
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import side_by_side
from benchmarks.intervals import interval
from sitrain.configs import common, countdown
from sitrain.runtime.build import plain

FAMILY = flags.DEFINE_enum(
  "family", "", ["", "policy_gradient", "preference"], "Empty: both."
)
WORKERS = flags.DEFINE_integer("workers", 2, "Processes side by side.")
MINUTES = flags.DEFINE_float("minutes", 1e6, "No run begins after these.")
FOLDER = flags.DEFINE_string(
  "folder", "/tmp/sitrain_objectives", "Folder of the runs."
)
ONE = flags.DEFINE_string("one", "", "FAMILY;ARM;RATE;SEED, in this process.")
RESULTS = pathlib.Path(__file__).parent / "results" / "objectives"

TURNS = countdown.TURNS[:1]
BUDGET, GRADIENT_STEPS = 51_200, 400
RATES = {
  "policy_gradient": (2e-4, 5e-4, 1e-3),
  "preference": (5e-5, 1e-4, 2e-4, 5e-4),
}
TUNING = (0,)
SEEDS = (100, 101, 102, 103, 104)
PARTS = 25  # points of a curve


class Arm(NamedTuple):
  """A config, whose last stage is the arm, and what is changed in it."""

  config: str
  rows: int = 512  # sampled at most in a step
  method: dict = {}
  stage: dict = {}


FAMILIES = {
  "policy_gradient": {
    "reinforce": Arm("single_turn", method={
      "beta1": 0.0, "kl": "none", "baseline": "leave_one_out"
    }),
    "rloo": Arm("rloo"),
    "grpo": Arm("grpo"),
    "dr_grpo": Arm("dr_grpo"),
    "dapo": Arm("dapo", rows=1024, stage={"rounds": 2}),
    "dapo, one round": Arm("dapo", stage={"rounds": 1}),
    "gspo": Arm("gspo"),
    "cispo": Arm("cispo"),
    "sapo": Arm("sapo"),
    "clip_cov": Arm("clip_cov"),
    "kl_cov": Arm("kl_cov"),
    "maxrl": Arm("grpo", method={
      "estimate": "maximum_likelihood", "beta": 0.0, "kl": "none"
    }),
    "reinforce_pp": Arm("reinforce_pp"),
    "reinforce_pp, 8 samples": Arm("reinforce_pp", method={"samples": 8}),
    "ppo": Arm("ppo"),
  },
  "preference": {
    "dpo": Arm("dpo", rows=2048),
    "dpo, smoothed": Arm("dpo", rows=2048, method={"smoothing": 0.1}),
    "ipo": Arm("ipo", rows=2048),
    "kto": Arm("kto", rows=2048, method={"samples": 8}),
    "simpo": Arm("simpo", rows=2048),
    "orpo": Arm("orpo", rows=2048),
    "best_of_n": Arm("best_of_n", rows=2048),
  },
}


class Piece(NamedTuple):
  """One run; the base of a seed is the arm "base" of every family."""

  family: str
  arm: str
  rate: float
  seed: int


def workdir_of(piece: Piece) -> pathlib.Path:
  """Where it trains."""
  root = pathlib.Path(FOLDER.value)
  if piece.arm == "base":
    return root / f"base-{piece.seed}"
  name = f"{piece.arm}-{piece.rate:g}-{piece.seed}".replace(", ", "_")
  return root / piece.family / name.replace(" ", "_")


def log_of(piece: Piece) -> pathlib.Path:
  """What its process prints."""
  return pathlib.Path(f"{workdir_of(piece)}.log")


def config_of(piece: Piece) -> ConfigDict:
  """The base alone, or one stage of an arm, which starts from it."""
  config = common.base_config()
  config.seed, config.task = piece.seed, ConfigDict(countdown.TASK)
  # Tuning uses other problems than the reported runs.
  config.evaluate.seed = 8 if piece.seed in TUNING else 7
  config.evaluate.turns = 2 * TURNS
  if piece.arm == "base":
    common.add_base_model(config)
    config.stage.base.steps = countdown.BASE_STEPS
    config.stage.base.method.turns = TURNS
    return config
  arm = FAMILIES[piece.family][piece.arm]
  module = importlib.import_module(f"sitrain.configs.{arm.config}")
  theirs = module.get_config()
  if "roles" in theirs:
    config.roles = theirs.roles
  stage = theirs.stage[theirs.stages[-1]]
  base = f"{workdir_of(piece._replace(arm='base'))}/base/last"
  stage.start = base
  if stage.held:
    stage.held = ConfigDict({"reference": base})
  samples = (arm.method | stage.method.to_dict()).get("samples", 1)
  stage.steps = BUDGET // arm.rows
  stage.steps_per_call = 5
  stage.minibatches = GRADIENT_STEPS // stage.steps
  stage.update({
    "waves": arm.rows // 512, "microbatches": 2, "best": "", "epochs": 1,
  } | arm.stage)
  if "rounds" in arm.stage:
    stage.waves = 1
  rows = arm.rows // arm.stage.get("rounds", 1)
  stage.method.update(
    {"turns": TURNS} | arm.method | {"problems": rows // samples}
  )
  if "samples" in arm.method:
    stage.method.problems = rows // arm.method["samples"]
  stage.optimizer = ConfigDict(
    {"name": "adamw", "learning_rate": piece.rate}
  )
  common.add(config, "arm", stage)
  return config


def run_piece(piece: Piece) -> None:
  """Trains and evaluates; writes result.json into its workdir."""
  from sitrain import main as mains  # Its flags clash with another main's.

  began = time.process_time()
  workdir = workdir_of(piece)
  row = mains.train(plain(config_of(piece)), str(workdir))["stages"][-1]
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  records = [json.loads(line) for line in lines]
  curve = lambda name: in_parts([
    record[name] for record in records if record.get(name) is not None
  ])
  (workdir / "result.json").write_text(json.dumps(piece._asdict() | {
    "accuracy": row["accuracy_1"], "resample": row["resample"]["accuracy"],
    "steps": len(records),
    "reward": curve("judge/reward_1"), "entropy": curve("learn/entropy_1"),
    "length": curve("generate/length_1"), "pass": curve("judge/pass_1"),
    "seconds_of_core": time.process_time() - began,
  }))


def in_parts(values: list[float]) -> list[float]:
  """Means over PARTS stretches of a run, to four digits."""
  parts = np.array_split(values, PARTS) if values else ()
  return [float(f"{part.mean():.4g}") for part in parts if len(part)]


def finished(family: str) -> dict[Piece, dict]:
  """The stored results of a family."""
  path = RESULTS / f"{family}.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  rows = [json.loads(line) for line in lines]
  return {Piece(*(row[f] for f in Piece._fields)): row for row in rows}


def wanted(family: str) -> list[Piece]:
  """The runs to be had: tuning, then the reported ones with the best rates."""
  tuning = [
    Piece(family, arm, rate, seed)
    for arm in FAMILIES[family] for rate in RATES[family] for seed in TUNING
  ]
  found = finished(family)
  if not all(piece in found for piece in tuning):
    return tuning
  return [
    Piece(family, arm, rate_of(family, arm), seed)
    for seed in SEEDS for arm in FAMILIES[family]
  ]


def rate_of(family: str, arm: str) -> float:
  """The learning rate with the best mean on the tuning seeds."""
  found = finished(family)
  score = lambda rate: np.mean([
    found[Piece(family, arm, rate, seed)]["accuracy"] for seed in TUNING
  ])
  return max(RATES[family], key=score)


def has_base(piece: Piece) -> bool:
  """Whether the base that a run starts from has been trained."""
  base = workdir_of(piece._replace(arm="base"))
  return piece.arm == "base" or (base / "summary.json").exists()


def run_all(pieces: list[Piece], until: float) -> bool:
  """Runs what has no result; True when every run has one."""
  found = finished(pieces[0].family)
  missing = [piece for piece in pieces if piece not in found]
  bases = dict.fromkeys(
    piece._replace(arm="base", rate=0.0) for piece in missing
  )
  waiting = [base for base in bases if not has_base(base._replace(arm=""))]
  waiting += missing
  count = itertools.count(1)

  def start(piece: Piece) -> subprocess.Popen:
    return side_by_side.begin(
      "benchmarks.objectives",
      [f"--folder={FOLDER.value}", "--one=" + ";".join(map(str, piece))],
      log_of(piece),
    )

  def ended(piece: Piece, code: int) -> None:
    said = f"exit code {code}; see {log_of(piece)}"
    if not code:
      result = json.loads((workdir_of(piece) / "result.json").read_text())
      said = f"{100 * result['accuracy']:.1f} % right"
      if piece.arm != "base":
        with open(RESULTS / f"{piece.family}.jsonl", "a") as file:
          file.write(json.dumps(result) + "\n")
    print(f"{next(count)}/{len(waiting)} {' '.join(map(str, piece))}: {said}",
          flush=True)

  side_by_side.run_all(
    waiting, start, ended, workers=WORKERS.value, may_start=has_base,
    until=until,
  )
  found = finished(pieces[0].family)
  return all(piece in found for piece in pieces)


LAST = 0.1  # the part of a run whose mean the table gives


def results(family: str) -> dict[str, list[dict]]:
  """The reported results by arm, in the order of seeds."""
  found = finished(family)
  return {
    arm: [found[Piece(family, arm, rate_of(family, arm), s)] for s in SEEDS]
    for arm in FAMILIES[family]
  }


def at_end(result: dict, name: str) -> float:
  """The mean of a training metric over the last part of a run."""
  curve = result[name]
  values = curve[-max(1, round(LAST * len(curve))):]
  return float(np.mean(values)) if values else float("nan")


def write(family: str) -> None:
  """Writes the table and the picture of a family beside its results."""
  found = results(family)
  compared = next(iter(found)) if family == "preference" else "grpo"
  lines = [
    f"| arm | rate | right, % | less {compared}'s | entropy, nat |"
    " right in 8, % | s of a core |",
    "|---|---|---|---|---|---|---|",
  ]
  accuracy = {a: [r["accuracy"] for r in each] for a, each in found.items()}
  order = sorted(found, key=lambda arm: -np.mean(accuracy[arm]))
  for arm in order:
    gaps = np.subtract(accuracy[arm], accuracy[compared])
    cells = [
      f"`{arm}`", f"{found[arm][0]['rate']:g}", percent(accuracy[arm]),
      "" if arm == compared else percent(list(gaps)),
      average(found[arm], "entropy", 1, 3), average(found[arm], "pass", 100, 1),
      f"{np.mean([r['seconds_of_core'] for r in found[arm]]):.0f}",
    ]
    lines.append("| " + " | ".join(cells) + " |")
  (RESULTS / f"{family}.md").write_text("\n".join(lines) + "\n")
  picture(found, order).savefig(RESULTS / f"{family}.png", dpi=110)
  print("\n".join(lines))


def average(rows: list[dict], name: str, scale: float, digits: int) -> str:
  """The mean over runs of a metric at their ends; - where there is none."""
  mean = scale * np.mean([at_end(row, name) for row in rows])
  return "-" if np.isnan(mean) else f"{mean:.{digits}f}"


def percent(values: list[float]) -> str:
  """Mean and 95 % interval over seeds."""
  mean, low, high = (100 * x for x in interval(values))
  return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def picture(found: dict, order: list[str]) -> matplotlib.figure.Figure:
  """Accuracies with intervals, and the training reward over the budget."""
  figure = matplotlib.figure.Figure((11, 5), layout="constrained")
  left, right = figure.subplots(1, 2)
  for place, arm in enumerate(reversed(order)):
    values = [result["accuracy"] for result in found[arm]]
    mean, low, high = (100 * x for x in interval(values))
    color = f"C{place % 10}"
    left.plot([low, high], [place, place], color=color, lw=2)
    left.plot(mean, place, "o", color=color)
    curve = np.mean([result["reward"] for result in found[arm]], axis=0)
    right.plot(
      np.linspace(BUDGET / len(curve), BUDGET, len(curve)), 100 * curve,
      color=color, label=arm, ls="-" if place < 10 else "--",
    )
  left.set_yticks(range(len(order)), order[::-1])
  left.set_xlabel("right, % (mean and 95 % interval over seeds)")
  right.set_xlabel("episodes sampled")
  right.set_ylabel("right while training, %")
  right.legend(fontsize=7)
  for panel in (left, right):
    panel.grid(alpha=0.3)
  return figure


def main(argv: list[str]) -> None:
  """Runs one piece, or what remains of a family or of both."""
  if ONE.value:
    family, arm, rate, seed = ONE.value.split(";")
    run_piece(Piece(family, arm, float(rate), int(seed)))
    return
  until = time.time() + 60 * MINUTES.value
  RESULTS.mkdir(parents=True, exist_ok=True)
  for family in [FAMILY.value] if FAMILY.value else list(FAMILIES):
    complete = run_all(wanted(family), until) and run_all(
      wanted(family), until
    )
    if not complete:
      print(f"{family}: some runs are missing; run the same command again")
      continue
    write(family)


if __name__ == "__main__":
  app.run(main)
