"""SCoRe's table: equal effort, the order of runs, and the page."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import side_by_side
from benchmarks.intervals import interval
from benchmarks.score_table import grid, page, pieces, schedule, table
from benchmarks.score_table.arms import (
  ARMS,
  MAIN,
  Piece,
  before,
  reported,
  tuning,
)
from benchmarks.score_table.tasks import SIZES
from sitrain.runtime import build, origins, sharding

TASKS = ("maze", "countdown")
LETTERS = {name: next(iter(arm.grid)) for name, arm in ARMS.items()}


def row(first, second, problems=2048):
  fixed, spoiled = max(second - first, 0.0), max(first - second, 0.0)
  levels = {"easy": {"accuracy_1": first, "accuracy_2": second}}
  return {
    "accuracy_1": first, "accuracy_2": second, "gain": second - first,
    "incorrect_to_correct": fixed, "correct_to_incorrect": spoiled,
    "cs": fixed / (1 - first), "changed": 0.5, "resample": {"cs": 0.1},
    "problems": problems, "corrects": fixed > 0, "by_level": levels,
    "intervals": {"gain": [second - first - 0.02, second - first + 0.02]},
    "edits": {"edges": [0.0, 0.5, 1.0], "density": [1.5, 0.5]},
  }


@pytest.fixture
def results(tmp_path, monkeypatch):
  monkeypatch.setattr(pieces, "RESULTS", tmp_path)
  return tmp_path


def store(piece, first, second, **more):
  pieces.write(piece, {
    **piece._asdict(), "row": row(first, second), "steps": 300,
    "curves": {"judge/reward_1": [first] * 3}, "studies": {}, "seconds": 60.0,
  } | more)


def test_what_is_stored_is_what_the_page_reads(results):
  piece = Piece("maze", "score", "a", 0)
  levels = {"easy": {"accuracy_1": 0.123456789, "accuracy_2": 1.0,
                     "intervals": {"accuracy_1": [0.1, 0.2]}}}
  whole = row(0.5, 0.9) | {"by_level": levels, "dialogues": ["long"]}
  store(piece, 0.5, 0.9, row=whole)
  stored = pieces.read(piece)["row"]
  assert stored["by_level"] == {
    "easy": {"accuracy_1": 0.12346, "accuracy_2": 1.0}
  }
  assert "dialogues" not in stored and "intervals" in stored
  pieces.write(piece, {"failed": 3})
  assert pieces.read(piece) == {"failed": 3}


@pytest.mark.parametrize("task", [
  "maze", *(pytest.param(task, marks=pytest.mark.nightly)
            for task in SIZES if task != "maze"),
])
def test_all_arms_take_the_same_steps_and_samples(
  task, results, tmp_path, monkeypatch
):
  monkeypatch.setattr(origins, "check_source", lambda *_: None)
  mesh = sharding.make_mesh(-1)
  wanted = grid.STEPS * grid.PROBLEMS * grid.SAMPLES
  for name, arm in ARMS.items():
    if name == "base":
      continue
    piece = Piece(task, name, LETTERS[name], 0)
    spent = 0
    if before(piece).arm == "stage1":
      store(before(piece), 0.5, 0.9)
      spent = 300
    config = build.plain(pieces.config_for(piece, tmp_path))
    config["model"]["layers"] = 1  # Each is traced; their number costs only.
    made = build.task_from(config)
    model = build.model_from(config, made)
    if jax.device_count() == 1:
      run = build.run_from(config, made, model, mesh)
      build.stages_from(config, made, run)
    stage = config["stage"][name]
    options, minibatches = stage["method"], stage["minibatches"]
    samples = options["samples"] + options.get("offline", 0)
    steps = stage["steps"] * minibatches
    rows = stage["steps"] * options["problems"] * samples
    if name == "stage1":
      assert steps == SIZES[task].stage_one
    else:
      # Rounds of imitation that do not divide may lack a few steps.
      assert 0 <= grid.STEPS - spent - steps < 3
      each = grid.PROBLEMS * grid.SAMPLES
      assert 0 <= wanted - each * spent - rows < 3 * each
    assert config["evaluate"]["seed"] == 8  # not the reported problems
    assert set(options["turns"]) == {made.turn_length}
    assert arm.seeds in (grid.MANY, grid.FEWER)


def test_seeds_are_fresh_and_arms_known():
  assert not set(grid.SEEDS) & set(grid.TUNING) and len(grid.SEEDS) == 10
  assert all(len(arm.grid) <= 6 for arm in ARMS.values())
  assert len(MAIN) == 6
  for claim in table.CLAIMS:
    assert claim.arm in ARMS and claim.other in ("", *ARMS)


def test_pieces_run_after_those_that_they_start_from(results, tmp_path):
  piece = Piece("maze", "without_bonus", "b", 200)
  line = [Piece("maze", "base", "a", 200), Piece("maze", "stage1", "b", 200)]
  assert schedule.remaining([piece], tmp_path) == [*line, piece]
  store(line[0], 0.5, 0.4)
  # Its numbers are there, but not its parameters.
  assert schedule.remaining([piece], tmp_path) == [*line, piece]
  assert schedule.remaining(line[:1], tmp_path) == []
  done = tmp_path / "maze" / pieces.name_of(line[0])
  done.mkdir(parents=True)
  (done / "summary.json").write_text("{}")
  assert schedule.remaining([piece], tmp_path) == [line[1], piece]
  assert not schedule.may_run(piece, tmp_path)
  store(piece, 0.7, 0.9)
  assert schedule.remaining([piece], tmp_path) == []


def test_a_curve_has_gaps_where_nothing_was_sampled(tmp_path):
  records = [
    {"judge/reward_1": float(i), "learn/kl_1": None, "learn/kl_2": value}
    for i, value in enumerate([None] * pieces.CURVE + [1.0, 3.0, None])
  ]
  lines = "\n".join(map(json.dumps, records))
  (tmp_path / "metrics.jsonl").write_text(lines + "\n")
  curves, steps = pieces.curves_of(tmp_path)
  assert steps == pieces.CURVE + 3
  assert curves == {
    "judge/reward_1": [(pieces.CURVE - 1) / 2, pieces.CURVE + 1.0],
    "learn/kl_1": [None, None], "learn/kl_2": [None, 2.0],
  }


def test_side_by_side_waits_for_the_start_of_a_run():
  ended = {}

  def start(code):
    words = f"import sys, time; time.sleep({code} / 10); sys.exit({code})"
    return subprocess.Popen([sys.executable, "-c", words])

  side_by_side.run_all(
    [2, 1, 3], start, ended.__setitem__, workers=2,
    may_start=lambda one: one != 2 or 3 in ended,
  )
  assert ended == {1: 1, 2: 2, 3: 3} and list(ended)[-1] == 2
  side_by_side.run_all([1], start, ended.pop, workers=2, until=0.0)
  assert 1 in ended


@pytest.mark.skipif(
  not hasattr(os, "sched_setaffinity"), reason="this system cannot pin"
)
def test_side_by_side_gives_each_run_its_own_core(tmp_path):
  def start(name):
    words = (
      "import os, pathlib, sys, time; time.sleep(0.5); "
      "pathlib.Path(sys.argv[1]).write_text(str(os.sched_getaffinity(0)))"
    )
    return subprocess.Popen([sys.executable, "-c", words, tmp_path / name])

  ended = {}
  side_by_side.run_all("ab", start, ended.__setitem__, workers=2)
  assert ended == {"a": 0, "b": 0}
  first, second = (eval((tmp_path / name).read_text()) for name in "ab")
  assert len(first) == len(second) == 1
  assert (first != second) == (len(os.sched_getaffinity(0)) > 1)


def test_failures_are_kept_and_nothing_starts_from_them(results, tmp_path):
  base, first = Piece("maze", "base", "a", 0), Piece("maze", "stage1", "a", 0)
  last = Piece("maze", "score", "a", 0)
  store(base, 0.5, 0.4)
  pieces.write(first, {"failed": 1})
  assert schedule.remaining([first, last], tmp_path) == []
  for seed in grid.TUNING:
    store(Piece("maze", "score", "a", seed), 0.5, 0.9)
    store(Piece("maze", "score", "b", seed), 0.5, 0.8)
    store(Piece("maze", "score", "c", seed), 0.5, float("nan"))
  pieces.write(Piece("maze", "score", "a", 1), {"failed": 1})
  assert table.chosen("maze", [last]) == {"base": "a", "score": "b"}
  for seed in grid.SEEDS[1:]:
    store(Piece("maze", "score", "a", seed), 0.5, 0.9)
  pieces.write(Piece("maze", "score", "a", grid.SEEDS[0]), {"failed": 1})
  found = table.results("maze", LETTERS)
  assert table.row_of(found["score"])["seeds"] == 9
  lines = page.results_table("maze", found, LETTERS)
  assert "| 9, 1 failed |" in lines[-1]


def test_one_arm_can_be_run_alone(results):
  chosen = {"base": "a", "score": "b"}
  alone = reported("maze", chosen)
  assert {p.arm for p in alone if p.setting == "b"} >= {"score", "weight"}
  assert not {"star", "multi_turn"} & {p.arm for p in alone}


def test_every_piece_is_tuned_or_reported_once(results):
  tuned = tuning("maze")
  assert len(set(tuned)) == len(tuned)
  assert {p.seed for p in tuned} == set(grid.TUNING)
  shown = reported("maze", LETTERS)
  assert len(set(shown)) == len(shown)
  assert {p.arm for p in shown} == set(ARMS)
  assert {p.seed for p in shown} == set(grid.SEEDS)


def test_the_best_setting_of_the_tuning_seeds_is_chosen(results):
  tuned = tuning("maze")
  for piece in tuned:
    good = {"multi_turn": "b", "single_turn": "c"}.get(piece.arm, "a")
    accuracy = 0.6 if piece.setting == good else 0.5
    first = accuracy if piece.arm == "single_turn" else 0.4
    second = 0.1 if piece.arm == "single_turn" else accuracy
    store(piece, first, second)
  found = table.chosen("maze", tuned)
  assert found["multi_turn"] == "b" and found["single_turn"] == "c"
  assert found["score"] == found["base"] == "a"
  assert "weight" not in found and "stage1" not in found


def test_numbers_are_means_over_seeds(results):
  for i, seed in enumerate(grid.SEEDS):
    store(Piece("maze", "score", "a", seed), 0.5, 0.8 + 0.01 * i)
    store(Piece("maze", "multi_turn", "a", seed), 0.5, 0.7 + 0.01 * i)
  found = table.results("maze", LETTERS)
  numbers = table.row_of(found["score"])
  second = [0.8 + 0.01 * i for i in range(10)]
  np.testing.assert_allclose(numbers["accuracy_2"], interval(second))
  assert numbers["seeds"] == 10
  np.testing.assert_allclose(numbers["half_width"], 0.02, rtol=1e-4)
  np.testing.assert_allclose(
    numbers["half_width_300"], 0.02 * (2048 / 300) ** 0.5, rtol=1e-4
  )
  gap = table.difference(found, "score", "multi_turn", "accuracy_2")
  np.testing.assert_allclose(gap, (0.1, 0.1, 0.1, 10), atol=1e-6)
  # A seed that only one of them has is not compared.
  pieces.path_of(Piece("maze", "multi_turn", "a", 203)).unlink()
  found = table.results("maze", LETTERS)
  assert table.difference(found, "score", "multi_turn", "gain")[3] == 9
  assert table.sign(0.1, 0.2) == "above 0" and table.sign(-1, 1) != "above 0"
  assert table.sign(-0.2, -0.1) == "below 0"


def test_corrections_of_a_resample_are_subtracted():
  """0.3 of 0.6 wrong ones are mended, 0.1 of them by a second try as well."""
  found = {"score": [{"row": row(0.4, 0.7), "seed": 200}]}
  control = next(c for c in table.CLAIMS if c.number == "over_resample")
  assert table.estimate_claim(found, control)[0] == pytest.approx(0.4)


def test_the_page_shows_the_results(results):
  for task in TASKS:
    for piece in tuning(task):
      store(piece, 0.4, 0.5)
    for piece in reported(task, table.chosen(task, tuning(task))):
      refined = {"accuracy_1": 0.4, "accuracy_3": 0.3}
      many = {"turns": [1, 2], "accuracy": [0.4, 0.5]}
      scaling = {"budget": [2, 4], "parallel": [0.4, 0.5],
                 "sequential": [0.5, 0.6]}
      studies = {"greedy": {"accuracy_1": 0.5, "accuracy_2": 0.6}}
      if piece.arm in pieces.STUDIED:
        studies |= {"many_turns": many, "scaling": scaling}
      if piece.arm == "base":
        studies["self_refine"] = refined
      store(piece, 0.4, 0.7, studies=studies)
  text = page.write(TASKS).read_text()
  for name, arm in ARMS.items():
    assert f"| {name} | {arm.description} |" in text
  for claim in table.CLAIMS:
    assert claim.description in text
  assert "40.0 [40.0, 40.0] | 70.0 [70.0, 70.0]" in text
  assert text.count("Self-Refine (base") == 2
  named = [line[line.index("(") + 1 : -1] for line in text.splitlines()
           if line.startswith("![")]
  assert len(named) == 7
  assert all((results / name).stat().st_size > 5000 for name in named)


def test_the_page_can_be_written_before_all_pieces_exist(results):
  store(Piece("maze", "base", "a", grid.SEEDS[0]), 0.5, 0.4)
  assert "| base |" not in page.write(["countdown"]).read_text()
  text = page.write(["maze"]).read_text()
  assert "| base |" in text and "| score |" not in text
