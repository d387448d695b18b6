"""One run of one arm: its config, its stored result, and its path."""

import json
import pathlib
import time
from functools import partial

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from benchmarks.score_table import grid
from benchmarks.score_table.arms import ARMS, Piece, before
from benchmarks.score_table.tasks import SIZES, add_base, config_of
from sitrain.configs import common
from sitrain.evaluate import player, run, studies
from sitrain.runtime import build, policy, sharding

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "score_table"
CURVE = 20  # steps that a point of a curve is the mean of
CURVES = (
  "judge/reward_1", "judge/reward_2", "judge/changed_2", "learn/kl_1",
  "learn/kl_2", "learn/entropy_1", "learn/entropy_2",
)
LEVEL = (
  "problems", "accuracy_1", "accuracy_2", "incorrect_to_correct",
  "correct_to_incorrect",
)
STUDIED = ("base", "multi_turn", "score")  # many turns, and budgets
BUDGETS = (2, 4, 8, 16, 32)


def name_of(piece: Piece) -> str:
  """The name of its files."""
  return f"{piece.arm}-{piece.setting}-{piece.seed}"


def path_of(piece: Piece) -> pathlib.Path:
  """The path of its result."""
  return RESULTS / piece.task / f"{name_of(piece)}.json"


def read(piece: Piece) -> dict:
  """Its result; {} if there is none."""
  path = path_of(piece)
  return json.loads(path.read_text()) if path.exists() else {}


def run_piece(piece: Piece, folder: pathlib.Path) -> None:
  """Trains, evaluates and writes the result."""
  # Imported here, because the mains define flags, which may clash.
  from sitrain import main as mains

  began, workdir = time.monotonic(), folder / piece.task / name_of(piece)
  config = config_for(piece, folder)
  row = mains.train(build.plain(config), str(workdir))["stages"][-1]
  curves, steps = curves_of(workdir)
  result = {
    **piece._asdict(), "options": ARMS[piece.arm].grid[piece.setting],
    "steps": steps, "row": row, "curves": curves,
    "studies": study(piece, build.plain(config), workdir),
    "seconds": time.monotonic() - began, "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
  }
  write(piece, result)


def write(piece: Piece, result: dict) -> None:
  """Writes a result, numbers to five digits, of levels only the shares."""
  path = path_of(piece)
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_suffix(".tmp")
  part.write_text(json.dumps(_short(_thin(result))))
  part.replace(path)


def _thin(result: dict) -> dict:
  """The result, with the numbers of LEVEL alone of each level."""
  if "by_level" not in result.get("row", {}):
    return result
  levels = {
    level: {name: each[name] for name in LEVEL if name in each}
    for level, each in result["row"]["by_level"].items()
  }
  return result | {"row": result["row"] | {"by_level": levels}}


def config_for(piece: Piece, folder: pathlib.Path) -> ConfigDict:
  """The run: one stage, from the parameters of the piece before."""
  config = config_of(piece.task, piece.seed)
  if piece.arm == "base":
    add_base(config, piece.task)
    return config
  earlier = root = before(piece)
  steps = grid.STEPS
  if earlier.arm != "base":
    steps, root = steps - read(earlier)["steps"], before(earlier)
  if piece.arm == "stage1":
    steps = SIZES[piece.task].stage_one
  last = lambda p: f"{folder / p.task / name_of(p)}/{p.arm}/last"
  arm = ARMS[piece.arm]
  setting = arm.grid[piece.setting]
  stage = arm.stage(setting, steps, last(earlier), last(root))
  stage.method.turns = config.evaluate.turns
  common.add(config, piece.arm, stage)
  return config


def curves_of(workdir: pathlib.Path) -> tuple[dict[str, list], int]:
  """Means over stretches of CURVE steps, and the number of steps.

  None where there is no value, as of a turn that was not sampled.
  """
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  records = [json.loads(line) for line in lines]
  curves = {
    name: [
      _mean([r[name] for r in records[i : i + CURVE]])
      for i in range(0, len(records), CURVE)
    ]
    for name in CURVES
    if records and name in records[0]
  }
  return curves, len(records)


def _mean(values: list[float | None]) -> float | None:
  known = [value for value in values if value is not None]
  return float(np.mean(known)) if known else None


def study(piece: Piece, config: dict, workdir: pathlib.Path) -> dict:
  """Greedy attempts; of some arms many turns and budgets; Self-Refine."""
  if piece.seed in grid.TUNING:
    return {}
  mesh = sharding.make_mesh(**config["mesh"])
  task = build.task_from(config)
  model, turns = build.model_from(config, task), config["evaluate"]["turns"]
  params = policy.of_stage(
    config, model, mesh, epath.Path(workdir) / piece.arm, "last"
  )
  options = {"problems": config["evaluate"]["problems"]}
  key = jax.random.key(config["evaluate"]["seed"], impl="threefry2x32")
  players = run.make_player(model, task, turns=turns, jit=jax.jit)
  greedy = run.evaluate(
    players, params, task, key, temperature=0.0, **options
  )
  found = {"greedy": {n: greedy[n] for n in ("accuracy_1", "accuracy_2")}}
  options["temperature"] = config["evaluate"]["temperature"]
  make = partial(player.make, model, task, reply=task.reply, jit=jax.jit)
  if piece.arm in STUDIED:
    long = make(turns=(turns[0],) * 10, samples=1)
    found["many_turns"] = studies.many_turns(long, params, key, **options)
    pairs = make(turns=turns, samples=max(BUDGETS))
    found["scaling"] = studies.scaling(
      pairs, params, key, budgets=BUDGETS, **options | {"problems": 512}
    )
  if piece.arm == "base":
    refiners = run.make_refiner(
      model, task, turns=(turns[0],) * 3, jit=jax.jit
    )
    found["self_refine"] = run.self_refine(refiners, params, key, **options)
  return found


def _short(value):
  """Numbers to five digits, texts of dialogues left out."""
  if isinstance(value, dict):
    return {k: _short(v) for k, v in value.items() if k != "dialogues"}
  if isinstance(value, (list, tuple)):
    return [_short(v) for v in value]
  return float(f"{value:.5g}") if isinstance(value, float) else value
