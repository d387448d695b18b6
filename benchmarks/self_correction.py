"""Systems of self-correction against each other, at equal numbers of samples.

  python -m benchmarks.self_correction --seeds=3 --workers=2
  python -m benchmarks.self_correction --task=chain --arms=score,pag
  python -m benchmarks.self_correction --quick --task=chain

Countdown, modular arithmetic and programs of a stack machine; and by its name
alone `--task=countdown_4`, for a GPU: four numbers and 25 M parameters. Every
arm of a task samples as many attempts at most and takes as many gradient steps,
from the base of its seed: one that has seen two attempts, or one that has seen
a true verdict between them, whose first attempts are of the same corpus. The
learning rate of an arm is the best of three on the TUNING seed, by the accuracy
of its last attempt; where the least of them is best, half of it is tried as
well. The reported seeds are others, with other problems. Each run is held to
one core.

A finished run is a line of benchmarks/results/self_correction/TASK.jsonl; the
same command continues an interrupted one. What is there is written to README.md
beside it, with self_correction_findings.md and the picture: CL, the share of
right first attempts that stay right, and CS, the share of wrong ones that are
mended, beside those of an independent second attempt. --quick is two steps of a
tiny model, stored under --folder: whether all arms run.
"""

import itertools
import json
import pathlib
import subprocess
import time
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict

from benchmarks import self_correction_page as page
from benchmarks import side_by_side
from benchmarks.self_correction_arms import ARMS, SMALL, TASKS
from sitrain.configs import common
from sitrain.runtime import logs
from sitrain.runtime.build import plain
from sitrain.runtime.errors import run_main

NAMES = flags.DEFINE_list("task", [], "Tasks; default: the small ones.")
ARMS_ = flags.DEFINE_list("arms", [], "Arms; default: all.")
SEEDS = flags.DEFINE_integer("seeds", 5, "Reported seeds.", lower_bound=1)
WORKERS = flags.DEFINE_integer("workers", 2, "Processes side by side.")
MINUTES = flags.DEFINE_float("minutes", 1e6, "No run begins after these.")
FOLDER = flags.DEFINE_string(
  "folder", "/tmp/sitrain_self_correction", "Folder of the runs."
)
QUICK = flags.DEFINE_bool("quick", False, "Two steps of a tiny model, a seed.")
ONE = flags.DEFINE_string("one", "", "TASK;ARM;RATE;SEED, in this process.")
RESULTS = pathlib.Path(__file__).parent / "results" / "self_correction"

TUNING, FIRST_SEED = 0, 100


class Piece(NamedTuple):
  """One run."""

  task: str
  arm: str
  rate: float  # 0 of a base
  seed: int


def base_of(piece: Piece) -> Piece:
  """The piece whose parameters this one starts from; itself if it is one."""
  arm = "base_judged" if ARMS[piece.arm].judged else "base"
  return piece._replace(arm=arm, rate=0.0)


def workdir_of(piece: Piece) -> pathlib.Path:
  """Where it trains."""
  name = f"{piece.arm}-{piece.rate:g}-{piece.seed}"
  return pathlib.Path(FOLDER.value) / piece.task / name


def config_of(piece: Piece) -> ConfigDict:
  """The base alone, or the stages of an arm, which start from it."""
  sizes, arm = TASKS[piece.task], ARMS[piece.arm]
  config = common.base_config()
  name = sizes.name + (".critic" if arm.judged else "")
  turns = (sizes.length,) * (3 if arm.judged else 2)
  config.seed = piece.seed
  config.task = ConfigDict({"name": name} | sizes.options)
  config.model.update(sizes.model)
  # Tuning uses other problems than the reported runs.
  config.evaluate.seed = 8 if piece.seed == TUNING else 7
  config.evaluate.turns = turns
  if arm.stages is None:
    common.add_base_model(config)
    config.stage.base.steps = sizes.base_steps
    config.stage.base.optimizer.learning_rate = sizes.base_rate
  else:
    base = f"{workdir_of(base_of(piece))}/base/last"
    for name, stage in arm.stages(piece.rate, base, sizes.steps).items():
      common.add(config, name, stage)
  for name in config.stages:
    single = config.stage[name].method.name == "single_turn"
    config.stage[name].method.turns = turns[:1] if single else turns
  return common.finish(config, "quick" if QUICK.value else "")


KEPT = (
  "gain", "incorrect_to_correct", "correct_to_incorrect", "cl", "cs",
  "cl_over_resample", "cs_over_resample", "changed", "tokens",
  "verdict_accuracy", "verdict_recall",
)


def run_piece(piece: Piece) -> None:
  """Trains and evaluates; writes result.json into its workdir."""
  from sitrain import main as mains  # Its flags clash with another main's.

  began, workdir = time.process_time(), workdir_of(piece)
  config = plain(config_of(piece))
  row = mains.train(config, str(workdir))["stages"][-1]
  last = len(config["evaluate"]["turns"])
  result = piece._asdict() | {
    "first": row["accuracy_1"], "last": row[f"accuracy_{last}"],
    "resample": {name: row["resample"][name] for name in (
      "accuracy", "cl", "cs", "incorrect_to_correct"
    )},
    "seconds_of_core": time.process_time() - began,
  } | {name: row[name] for name in KEPT if name in row}
  (workdir / "result.json").write_text(json.dumps(result))


def results_at() -> pathlib.Path:
  """The folder of the results."""
  return pathlib.Path(FOLDER.value) / "results" if QUICK.value else RESULTS


def finished(task: str) -> dict[Piece, dict]:
  """The stored results of a task."""
  path = results_at() / f"{task}.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  rows = [json.loads(line) for line in lines]
  return {Piece(*(row[f] for f in Piece._fields)): row for row in rows}


def rates_of(
  found: dict[Piece, dict], task: str, arm: str
) -> tuple[tuple[float, ...], float]:
  """(the rates to try, the best of those in `found`) of an arm.

  Half of the least is tried where that has turned out to be the best.
  """
  if not ARMS[arm].stages:
    return (0.0,), 0.0
  by = "first" if arm == "single_turn" else "last"
  given = TASKS[task].rates
  rates = (min(given) / 2, *given)
  known = {
    rate: found[Piece(task, arm, rate, TUNING)][by]
    for rate in rates if Piece(task, arm, rate, TUNING) in found
  }
  best = max(known, key=known.get, default=min(given))
  lower = set(given) <= set(known) and best <= min(given)
  return rates if lower else given, best


def pieces_of(task: str, arms: list[str]) -> tuple[list[Piece], list[Piece]]:
  """(runs of tuning, reported runs), the latter with the best known rates."""
  found = finished(task)
  rates = {arm: rates_of(found, task, arm) for arm in arms}
  if QUICK.value:
    return [], [Piece(task, arm, rates[arm][1], FIRST_SEED) for arm in arms]
  tuning = [
    Piece(task, arm, rate, TUNING)
    for arm in arms if ARMS[arm].stages for rate in rates[arm][0]
  ]
  seeds = range(FIRST_SEED, FIRST_SEED + SEEDS.value)
  return tuning, [
    Piece(task, arm, rates[arm][1], seed) for seed in seeds for arm in arms
  ]


def has_base(piece: Piece) -> bool:
  """Whether the base that a run starts from has been trained."""
  base = workdir_of(base_of(piece))
  return not ARMS[piece.arm].stages or (base / "result.json").exists()


def run_all(pieces: list[Piece], until: float) -> bool:
  """Runs what has no result; True when every run has one."""
  if not pieces:
    return True
  task = pieces[0].task
  missing = [piece for piece in pieces if piece not in finished(task)]
  bases = dict.fromkeys(base_of(p) for p in missing if not has_base(p))
  waiting = list(dict.fromkeys([*bases, *missing]))
  count = itertools.count(1)

  def start(piece: Piece) -> subprocess.Popen:
    options = [f"--folder={FOLDER.value}", f"--quick={QUICK.value}"]
    return side_by_side.begin(
      "benchmarks.self_correction",
      [*options, "--one=" + ";".join(map(str, piece))],
      pathlib.Path(f"{workdir_of(piece)}.log"),
    )

  def ended(piece: Piece, code: int) -> None:
    said = f"exit code {code}; see {workdir_of(piece)}.log"
    if not code:
      result = json.loads((workdir_of(piece) / "result.json").read_text())
      said = f"{100 * result['first']:.1f} -> {100 * result['last']:.1f}"
      with open(results_at() / f"{task}.jsonl", "a") as file:
        file.write(json.dumps(result) + "\n")
    words = " ".join(map(str, piece))
    print(f"{next(count)}/{len(waiting)} {words}: {said}", flush=True)

  side_by_side.run_all(
    waiting, start, ended, workers=WORKERS.value, may_start=has_base,
    until=until,
  )
  found = finished(task)
  return all(piece in found for piece in pieces)


def reported(task: str) -> dict[str, list[dict]]:
  """The results of the table, by arm in the order of seeds."""
  _, pieces = pieces_of(task, list(ARMS))
  found = finished(task)
  return {
    arm: [found[p] for p in pieces if p.arm == arm and p in found]
    for arm in ARMS if any(p.arm == arm and p in found for p in pieces)
  }


def check() -> None:
  """Raises ValueError for a task or an arm that is not known."""
  for flag, known in ((NAMES, TASKS), (ARMS_, ARMS)):
    for name in flag.value:
      if name not in known:
        raise ValueError(
          f"--{flag.name}={name}: choose from {', '.join(known)}"
        )


def piece_of(text: str) -> Piece:
  """The piece of TASK;ARM;RATE;SEED; raises ValueError for another one.

  Also where its base has not been trained.
  """
  try:
    task, arm, rate, seed = text.split(";")
    piece = Piece(task, arm, float(rate), int(seed))
  except ValueError:
    raise ValueError(
      f"--one={text}: give TASK;ARM;RATE;SEED, as countdown;cct;0.0005;100"
    ) from None
  for name, known in ((task, TASKS), (arm, ARMS)):
    if name not in known:
      raise ValueError(
        f"--one={text}: {name!r} is none of {', '.join(known)}"
      )
  if not has_base(piece):
    base = ";".join(map(str, base_of(piece)))
    raise ValueError(f"--one={text}: train its base first: --one='{base}'")
  return piece


def main(argv: list[str]) -> None:
  """Runs one piece, or all that remain, then writes the page."""
  if ONE.value:
    logs.quiet_libraries()
    run_piece(piece_of(ONE.value))
    return
  check()
  until = time.time() + 60 * MINUTES.value
  results_at().mkdir(parents=True, exist_ok=True)
  arms = ARMS_.value or list(ARMS)
  for task in NAMES.value or SMALL:
    # Only after a run the best rates are known, and whether there is another.
    complete = all(run_all(pieces_of(task, arms)[0], until) for _ in range(2))
    if not (complete and run_all(pieces_of(task, arms)[1], until)):
      print(f"{task}: some runs are missing; run the same command again")
  found = {task: reported(task) for task in TASKS}
  found = {task: each for task, each in found.items() if each}
  print(page.write(results_at(), found))


if __name__ == "__main__":
  run_main(main)
