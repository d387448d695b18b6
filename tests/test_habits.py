"""benchmarks.habits: its runs, what it measures, and its page."""

import copy
import json
from types import SimpleNamespace

import mains
import numpy as np

from benchmarks import habits_page as page
from sitrain.configs import backtracking
from sitrain.runtime import build
from sitrain.tasks import countdown_habits as writer
from sitrain.tasks import countdown_traces

bench = mains.imported("benchmarks.habits")


def stage(accuracy, most, backtracks, flops=(10.0, 20.0)):
  """A canned result of a stage."""
  samples = zip((1, 32), flops, (accuracy, most))
  return {
    "accuracy": accuracy, "tokens": 20.0, "distinct": 0.5, "likeness": 0.25,
    "pass": {str(k): most if k == 32 else accuracy for k in bench.COUNTS},
    "habits": {
      "backtracking": backtracks, "verification": 1.0, "subgoals": 0.0,
      "backward_chaining": 0.0,
    },
    "samples": [
      {"samples": k, "flops": x * 1e6, "accuracy": y} for k, x, y in samples
    ],
    "budgets": [
      {"budget": b, "flops": x * 1e6, "accuracy": a} for b, x, a in
      ((16, 5, accuracy / 2), (64, 15, accuracy))
    ],
  }


def four(seed):
  ends = {"none": 0.1, "dots": 0.2, "backtracking": 0.35, "all": 0.5,
          "no_positive": 0.48}
  return [{
    "arm": arm, "seed": seed, "seconds_of_core": 60.0,
    "curves": {"rl": [0.1, 0.2]},
    "stages": {
      "base" if arm == "none" else "prime": stage(0.05, 0.5, 1.0),
      "rl": stage(end, 0.6, 1.0 + (arm in page.HABITS)),
    },
  } for arm, end in ends.items()]


def searches(seed):
  ends = {
    "search": (0.3, 0.5), "direct": (0.2, 0.7), "search_rl": (0.5, 0.6),
    "direct_rl": (0.4, 0.5), "spared_rl": (0.35, 0.6),
  }
  stages = {name: stage(*end, 1.0) for name, end in ends.items()}
  return [{"arm": "", "seed": seed, "stages": stages}]


def test_the_page_has_the_criteria_and_whether_they_are_met(tmp_path):
  path = page.write(tmp_path, four(0) + four(1), searches(0))
  text = path.read_text()
  assert text.count("**met**") == 6 and "missed" not in text
  assert "`backtracking`, +15.0 against the highest, `dots`" in text
  assert "| `all` | 2 | 5.0 [5.0, 5.0] -> 50.0 [50.0, 50.0] |" in text
  assert "within 3 points of `all`: -2.0" in text
  # 15 Mflop lie in the middle between one sample and 32; 5 buy none.
  assert "| 64 | 15.00 | 30.0 | 45.0 | 15.00 | 50.0 | 45.0 | 47.5 |" in text
  assert "| 16 | 5.00 | 15.0 | - |" in text
  assert {p.name for p in tmp_path.glob("*.png")} == {
    "four_habits.png", "backtracking.png"
  }


def test_what_is_missed_is_said(tmp_path):
  rows, search = copy.deepcopy(four(0)), copy.deepcopy(searches(0))
  rows[2]["stages"]["rl"]["accuracy"] = 0.25  # 5 points above dots
  rows[1]["stages"]["rl"]["habits"]["backtracking"] = 1.5  # dots backtracks
  rows[4]["stages"]["rl"]["accuracy"] = 0.6
  stages = search[0]["stages"]
  stages["direct_rl"]["pass"]["32"] = 0.7
  stages["search_rl"]["budgets"][0]["accuracy"] = 0.1
  stages["spared_rl"]["pass"]["32"] = 0.6
  text = page.write(tmp_path, rows, search).read_text()
  assert text.count("**missed**") == 6 and "**met**" not in text


def test_arms_share_the_base_of_their_seed(tmp_path, monkeypatch):
  folder = SimpleNamespace(value=str(tmp_path))
  monkeypatch.setattr(bench, "FOLDER", folder)
  own = bench.config_of("four_habits", "none", 3)
  assert own["stages"] == ("base", "rl") and own["seed"] == 3
  other = bench.config_of("four_habits", "all", 3)
  assert other["stages"] == ("prime", "rl") == tuple(other["stage"])
  start = other["stage"]["prime"]["start"]
  assert start.endswith("/four_habits-none-3/base/last")
  both = bench.config_of("backtracking", "", 3)
  assert both["stages"][:2] == ("search", "direct")
  folders = {bench.workdir_of("four_habits", arm, 3) for arm in bench.ARMS}
  folders.add(bench.workdir_of("backtracking", "", 3))
  assert len(folders) == len(bench.ARMS) + 1
  for config in (own, other, both):
    assert json.loads(json.dumps(build.plain(config)))


def test_likeness_is_that_of_the_steps():
  options = backtracking.TASK | {"rows": 8}
  task = countdown_traces.make(**{
    name: value for name, value in options.items() if name != "name"
  })
  posed = task.table
  texts = [task.tokenizer.decode(row) for row in posed.solution]
  assert bench.likeness(posed, texts, task) == 1.0
  assert bench.likeness(posed, ["<answer>"] * 8, task) == 0.0
  shorter = [text[text.index("<answer>"):] for text in texts]
  shares = [
    len(set(bench.STEP.findall(a))) / len(set(bench.STEP.findall(b)))
    for a, b in zip(shorter, texts)
  ]
  assert bench.likeness(posed, shorter, task) == np.mean(shares)
  assert writer.ANSWER in texts[0]


def test_curves_are_means_of_ten_steps(tmp_path):
  rows = [{"stage": "rl", "judge/reward_1": float(i)} for i in range(20)]
  rows.append({"stage": "prime", "learn/nll": 1.0})
  (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
  assert bench.curves(tmp_path) == {"rl": [4.5, 14.5]}
