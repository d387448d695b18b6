"""The comparison of systems: equal samples, order of runs, and the page."""

import json
import math
from types import SimpleNamespace

import mains
import numpy as np
import pytest

from benchmarks import self_correction_page as page
from sitrain.configs import common
from sitrain.runtime import build
from sitrain.runtime.options import call, find

bench = mains.imported("benchmarks.self_correction")
FLAGS = dict(
  NAMES=[], ARMS_=[], SEEDS=5, WORKERS=2, MINUTES=1e6, QUICK=False, ONE="",
)


@pytest.fixture(autouse=True)
def flagged(tmp_path, monkeypatch):
  """The flags of the benchmark as they are without a command line."""
  for name, value in (FLAGS | {"FOLDER": str(tmp_path)}).items():
    monkeypatch.setattr(bench, name, SimpleNamespace(value=value))
  monkeypatch.setattr(bench, "RESULTS", tmp_path)
  return tmp_path


# Of a row; 2 of all others.
ATTEMPTS_OF = {"single_turn": 1, "pair_sft": 1, "cct": 1, "partial_masking": 1}


@pytest.mark.parametrize("task", bench.TASKS)
def test_arms_sample_as_much_in_as_many_steps(task, flagged):
  for arm, given in bench.ARMS.items():
    config = build.plain(bench.config_of(bench.Piece(task, arm, 5e-4, 0)))
    made = build.task_from(config)
    assert (made.accepts != ()) == given.judged
    assert set(config["evaluate"]["turns"]) == {made.turn_length}
    assert config["evaluate"]["seed"] == 8  # not the reported problems
    model = build.model_from(config, made)
    attempts = steps = 0
    for name in config["stages"]:
      stage = config["stage"][name]
      options = dict(stage["method"])
      maker = find("methods", options.pop("name"), "name")
      call(maker, name, options, {"policy": model}, made, None)
      rounds, n = stage["steps"], options["problems"]
      steps += rounds * stage["minibatches"]
      each = ATTEMPTS_OF.get(arm, 1 + options.get("best_of", 1))
      attempts += rounds * n * options.get("samples", 0) * each
      assert n % stage["waves"] == 0
    if given.stages:
      asked = bench.TASKS[task]
      assert (attempts, steps) == (asked.attempts, asked.steps), arm


def result(piece, first, last, **more):
  cl, cs = (0.9, 0.3) if last > first else (0.8, 0.1)
  control = {"accuracy": first, "cl": 0.7, "cs": 0.2}
  return piece._asdict() | {
    "first": first, "last": last, "gain": last - first, "cl": cl, "cs": cs,
    "incorrect_to_correct": 0.1, "correct_to_incorrect": 0.05, "changed": 0.5,
    "cl_over_resample": cl - 0.7, "cs_over_resample": cs - 0.2, "tokens": 20.0,
    "resample": control, "seconds_of_core": 60.0,
  } | more


def store(folder, *results):
  with open(folder / "chain.jsonl", "a") as file:
    file.writelines(json.dumps(x) + "\n" for x in results)


def test_the_best_rate_of_tuning_is_reported(flagged):
  arms = ["base", "single_turn", "pag"]
  tuning, reported = bench.pieces_of("chain", arms)
  assert {p.seed for p in tuning} == {bench.TUNING}
  assert {p.arm for p in tuning} == {"single_turn", "pag"}
  assert {p.seed for p in reported} == set(range(100, 105))
  low, middle, high = bench.TASKS["chain"].rates
  store(
    flagged,
    result(bench.Piece("chain", "single_turn", low, 0), 0.9, 0.1),
    result(bench.Piece("chain", "single_turn", high, 0), 0.8, 0.9),
    result(bench.Piece("chain", "pag", low, 0), 0.9, 0.1),
    result(bench.Piece("chain", "pag", high, 0), 0.1, 0.2),
  )
  rate = {p.arm: p.rate for p in bench.pieces_of("chain", arms)[1]}
  assert rate == {"base": 0.0, "single_turn": low, "pag": high}
  # The least of all rates is the best of one arm: half of it is tried there.
  assert min(p.rate for p in tuning) == low
  store(flagged, *(
    result(bench.Piece("chain", arm, middle, 0), 0.05, 0.05)
    for arm in arms[1:]
  ))
  tuning, _ = bench.pieces_of("chain", arms)
  assert [p.arm for p in tuning if p.rate < low] == ["single_turn"]
  piece = bench.Piece("chain", "pag", high, 100)
  assert bench.base_of(piece) == ("chain", "base_judged", 0.0, 100)
  assert not bench.has_base(piece) and bench.has_base(bench.base_of(piece))


def test_the_page_has_what_there_is(flagged):
  pieces = [bench.Piece("chain", "base", 0.0, 100 + i) for i in range(2)]
  judged = [
    bench.Piece("chain", "base_judged", 0.0, 100 + i) for i in range(2)
  ]
  store(flagged, result(pieces[0], 0.5, 0.4), result(pieces[1], 0.6, 0.5), *(
    result(p, 0.5, 0.7, verdict_accuracy=0.8, verdict_recall=math.nan)
    for p in judged
  ))
  found = {"chain": bench.reported("chain")}
  assert list(found["chain"]) == ["base", "base_judged"]
  text = page.write(flagged, found).read_text()
  (own, other) = (
    line for line in text.splitlines() if line.startswith("| `base")
  )
  assert "| 2 | 55.0 [-8.5, 118.5] |" in own and "| 60 |" in own
  cells = [cell.strip() for cell in other.split("|")]
  assert "80.0 [80.0, 80.0]" in cells and "-" in cells
  assert (flagged / "frontier.png").stat().st_size > 5000
  # An arm without wrong first attempts has no CS, and no point.
  nothing = {"base": [found["chain"]["base"][0] | {"cs": math.nan}]}
  (panel,) = page.picture({"chain": nothing}).axes
  assert not panel.lines


def test_the_share_of_accepted_right_attempts_follows_from_the_others():
  """Against a count over drawn attempts and verdicts."""
  rng = np.random.default_rng(0)
  right, said = rng.random(200) < 0.3, rng.random(200) < 0.6
  row = {
    "first": right.mean(), "verdict_accuracy": (said == right).mean(),
    "verdict_recall": (~said[~right]).mean(),
  }
  (found,) = page.accepted(row).values()
  assert found == pytest.approx(said[right].mean())
  assert page.accepted(row | {"first": 0.0}) == {}
  assert page.accepted({"first": 0.5}) == {}


def test_quick_runs_are_stored_elsewhere(flagged, monkeypatch):
  monkeypatch.setattr(bench, "QUICK", SimpleNamespace(value=True))
  tuning, reported = bench.pieces_of("chain", list(bench.ARMS))
  assert tuning == [] and len(reported) == len(bench.ARMS)
  assert bench.results_at() != flagged
  config = bench.config_of(reported[-1])
  assert config.stage.arm.steps == 2
  assert config.model.width == 16 < common.base_config().model.width
