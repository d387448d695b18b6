"""The quickstart over many seeds, with its baselines at the same samples.

python -m benchmarks.quickstart_seeds --seeds=100-119 --workers=2

For every seed: the run of configs/quickstart.py, then single_turn and
multi_turn from the same base model, with the steps and samples that SCoRe took.
Results are stored in --folder after each seed, and the same command continues.
The table is written to benchmarks/results/quickstart_seeds.json.
"""

import json
import math
import pathlib
import shutil

import numpy as np
from absl import app, flags

from benchmarks import side_by_side
from benchmarks.intervals import interval
from sitrain import main as mains
from sitrain.configs import common, quickstart
from sitrain.runtime.build import plain

SEEDS = flags.DEFINE_string("seeds", "100-119", "First-last, both included.")
WORKERS = flags.DEFINE_integer("workers", 2, "Processes side by side.")
FOLDER = flags.DEFINE_string(
  "folder", "/tmp/sitrain_seeds", "Folder of the results of each seed."
)
ONE = flags.DEFINE_integer("one", -1, "Run this seed in this process.")
RESULT = pathlib.Path(__file__).parent / "results" / "quickstart_seeds.json"
ARMS = ("base", "stage1", "stage2", "single_turn", "multi_turn")
NUMBERS = (
  "accuracy_1", "accuracy_2", "gain", "incorrect_to_correct",
  "correct_to_incorrect",
)


def run_score(seed: int, folder: pathlib.Path) -> dict:
  """The quickstart itself."""
  config = quickstart.get_config()
  config.seed = seed
  return mains.train(plain(config), str(folder / "score"))


def steps_taken(workdir: pathlib.Path) -> int:
  """Steps of both stages of SCoRe, from the records of the run."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  stages = [json.loads(line)["stage"] for line in lines]
  return stages.count("stage1") + stages.count("stage2")


def run_baselines(seed: int, folder: pathlib.Path, steps: int) -> dict:
  """Both baselines from the base model of the quickstart."""
  config = common.base_config()
  config.seed = seed
  common.add_base_model(config)
  for name in ("single_turn", "multi_turn"):
    common.add(config, name, common.reinforce(name, steps))
  target = folder / "baselines" / "base"
  if not target.exists():
    shutil.copytree(folder / "score" / "base", target)
  return mains.train(plain(config), str(folder / "baselines"))


def one_seed(seed: int) -> None:
  """Runs all arms of a seed; writes its file after each run."""
  folder = pathlib.Path(FOLDER.value) / str(seed)
  rows = run_score(seed, folder)["stages"]
  steps = steps_taken(folder / "score")
  write_piece(folder, seed, steps, rows, complete=False)
  rows = rows + run_baselines(seed, folder, steps)["stages"][1:]
  write_piece(folder, seed, steps, rows, complete=True)


def write_piece(
  folder: pathlib.Path, seed: int, steps: int, rows: list, *, complete: bool
) -> None:
  """Writes the numbers of the finished arms."""
  keys = ("name", *NUMBERS, "resample", "cs", "corrects", "seconds")
  piece = {
    "seed": seed, "steps": steps, "complete": complete,
    "rows": [{key: row[key] for key in keys} for row in rows],
  }
  (folder / "piece.json").write_text(json.dumps(piece))


def run_pieces(seeds: list[int]) -> None:
  """Runs the missing seeds, `workers` at a time, one core each."""
  side_by_side.run_all(
    [seed for seed in seeds if not read_piece(seed).get("complete")],
    lambda seed: side_by_side.begin(
      "benchmarks.quickstart_seeds",
      [f"--one={seed}", f"--folder={FOLDER.value}"],
      pathlib.Path(FOLDER.value, str(seed), "log"),
    ),
    lambda seed, code: print(f"seed {seed}: exit {code}", flush=True),
    workers=WORKERS.value,
  )


def read_piece(seed: int) -> dict:
  """The stored results of a seed; {} if there are none."""
  path = pathlib.Path(FOLDER.value, str(seed), "piece.json")
  return json.loads(path.read_text()) if path.exists() else {}


def gather(seeds: list[int]) -> dict:
  """Means over seeds with 95 % intervals, and the figures of `bars`."""
  pieces = [piece for piece in map(read_piece, seeds) if piece]
  table = {}
  for arm in ARMS:
    rows = [r for p in pieces for r in p["rows"] if r["name"] == arm]
    if rows:
      table[arm] = {n: interval([r[n] for r in rows]) for n in NUMBERS}
      table[arm]["cs"] = interval([r["cs"] for r in rows])
      resampled = [r["resample"]["cs"] for r in rows]
      table[arm]["resample_cs"] = interval(resampled)
      table[arm]["corrects"] = sum(bool(r["corrects"]) for r in rows)
      table[arm]["seeds"] = len(rows)
  return {"seeds": [p["seed"] for p in pieces], "table": table,
          "bars": bars(pieces), "pieces": pieces}


def bars(pieces: list[dict]) -> dict:
  """The figures that the quickstart must reach."""
  last = [by_name(p)["stage2"] for p in pieces]
  both = [by_name(p) for p in pieces if "single_turn" in by_name(p)]
  second = [r["accuracy_2"] for r in last]
  spoiled = [r["correct_to_incorrect"] for r in last]
  return {
    "seeds with accuracy@2 >= 0.85": sum(x >= 0.85 for x in second),
    "mean accuracy@2": float(np.mean(second)),
    "mean accuracy@1 minus single_turn's": float(np.mean(
      [x["stage2"]["accuracy_1"] - x["single_turn"]["accuracy_1"] for x in both]
    )) if both else math.nan,
    "largest c->i": max(spoiled),
    "mean c->i": float(np.mean(spoiled)),
    "seeds that correct beyond resampling": sum(r["corrects"] for r in last),
  }


def by_name(piece: dict) -> dict:
  return {row["name"]: row for row in piece["rows"]}


def main(argv: list[str]) -> None:
  """One seed, or all of them and the table."""
  if ONE.value >= 0:
    one_seed(ONE.value)
    return
  first, _, last = SEEDS.value.partition("-")
  seeds = list(range(int(first), int(last or first) + 1))
  run_pieces(seeds)
  result = gather(seeds)
  RESULT.parent.mkdir(exist_ok=True)
  RESULT.write_text(json.dumps(result, indent=1))
  for arm, row in result["table"].items():
    cells = [
      "{} {:.1f} [{:.1f}, {:.1f}]".format(n, *(100 * x for x in row[n]))
      for n in NUMBERS
    ]
    print(f"{arm:12s} {row['seeds']} seeds ", "  ".join(cells))
  for name, value in result["bars"].items():
    print(f"{name}: {value:.3f}")


if __name__ == "__main__":
  app.run(main)
