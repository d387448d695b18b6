"""What --show and --list print, and what follows from a few given fields."""

import json
import math

import loops
import pytest
from test_bad_input import parsed
from test_identity import ROWS, rows_at

from sitrain.configs import quickstart, reward_model, rft, score_gsm8k
from sitrain.runtime import build, checks, listing
from sitrain.runtime.options import makers, takes_functions

CONFIGS = {
  "quickstart": quickstart, "rft": rft, "reward_model": reward_model,
  "score_gsm8k": score_gsm8k,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_is_shown_can_be_pasted_back(name):
  given = build.plain(CONFIGS[name].get_config(""))
  full = listing.resolved(given)
  config = CONFIGS[name].get_config("")
  lines = listing.shown(full, given)
  exec("\n".join(lines), {"config": config})
  again = build.plain(config)
  same = lambda tree: json.dumps(tree, sort_keys=True)
  assert same(listing.resolved(again)) == same(full)
  checks.check_config(again)
  assert all(line.startswith("config.") and "=" in line for line in lines)


def test_defaults_are_resolved_and_what_is_given_stays():
  full = listing.resolved(build.plain(quickstart.get_config("")))
  base, two = full["stage"]["base"], full["stage"]["stage2"]
  assert base["optimizer"]["steps"] == 300 and base["optimizer"]["b2"] == 0.98
  assert two["method"]["bonus"] == 2.0 and two["method"]["discount"] == 0.0
  assert full["task"]["hinted"] == 0.5 and full["task"]["doors"] == 2
  assert full["evaluate"]["resamples"] == 8
  text = "\n".join(listing.shown(full, full))
  assert 'config.stage.stage2.method.clip = float("inf")' in text
  assert "config.stage.base.trained = ('policy',)" in text
  assert two["method"]["clip"] == math.inf


def test_the_list_has_every_method_and_task_with_its_options():
  text = "\n".join(listing.listed())
  for package in ("methods", "tasks"):
    for name, maker in makers(package).items():
      taken = takes_functions(maker)
      assert (f"  name={name}\n" in text) != taken, name
  for line in (
    "name=score.stage_two", "bonus: float = 10.0", "name=word_problems",
    "samples: int (to be set)  # episodes of each, at least 2.",
    "learning_rate: float (to be set)  # its peak.", "  epochs = 1",
    "resamples: int = 8", "  heads: int", "GSM8K: grade-school",
  ):
    assert line in text, line


def test_what_follows_from_another_data_set(tmp_path):
  """A file has no splits, and the test set is of the same source."""
  source = f"--config.task.source={tmp_path / 'rows.jsonl'}"
  config = parsed("--config=configs/score_gsm8k.py", source)
  assert config["task"]["split"] == "" == config["evaluate"]["task"]["split"]
  assert "source" not in config["evaluate"]["task"]
  test = "--config.evaluate.task.split=test"
  config = parsed("--config=configs/score_gsm8k.py", source, test)
  assert config["evaluate"]["task"]["split"] == "test"  # It is refused later.
  hub = "--config.task.source=owner/rows"
  config = parsed("--config=configs/score_gsm8k.py", hub)
  assert config["task"]["split"] == "train"
  # The splits of MBPP are ranges of its numbers.
  config = parsed("--config=configs/score_mbpp.py", source)
  assert config["task"]["split"] == "train"


def test_another_task_has_options_of_its_own(tmp_path):
  source = f"--config.task.source={tmp_path / 'rows.jsonl'}"
  words = "--config=configs/score_gsm8k.py", "--config.task.name=chat", source
  config = parsed(*words)
  assert set(config["task"]) == {"name", "source"}
  assert config["evaluate"]["task"] == {}
  more = "--config.evaluate.task.limit=3", "--config.task.split=train"
  config = parsed(*words, *more)
  assert config["task"]["split"] == "train"
  assert config["evaluate"]["task"] == {"limit": 3}
  # The same name changes nothing.
  same = parsed("--config=configs/score_gsm8k.py", "--config.task.name=gsm8k")
  assert same["task"]["verifier"] == "strict"


def test_what_follows_from_another_batch():
  stage = "--config.stage.stage1"
  file = "--config=configs/score_gsm8k.py"
  one = parsed(file)["stage"]["stage1"]
  two = parsed(file, f"{stage}.method.problems=8")["stage"]["stage1"]
  # 8 rows at a time, and 16 problems in a wave.
  assert (one["microbatches"], one["waves"]) == (64, 4)
  assert (two["microbatches"], two["waves"]) == (8, 1)
  more = f"{stage}.method.problems=8", f"{stage}.microbatches=2"
  assert parsed(file, *more)["stage"]["stage1"]["microbatches"] == 2


def test_a_checkpoint_decides_the_shape_of_a_model():
  config = parsed("--config=configs/quickstart.py", "--config.model.path=a/b")
  assert set(config["model"]) == {
    "path", "dtype", "scan", "remat", "residual", "attention"
  }
  checks.check_model(config["model"])


def test_quick_keeps_a_data_set_of_the_user(tmp_path):
  """And makes up what would be loaded from the hub: here the model."""
  source = rows_at(tmp_path / "rows.jsonl", ROWS)
  config = parsed(
    "--config=configs/score_gsm8k.py:quick", f"--config.task.source={source}"
  )
  assert config["task"]["name"] == "gsm8k" and "path" not in config["model"]
  assert config["stage"]["stage1"]["method"]["turns"] == (320, 320)
  ready = build.prepare(config, str(tmp_path / "run"), loops.mesh_of(1))
  assert [stage.steps for stage in ready.stages] == [2, 2]
  assert len(ready.task.table.prompt) == len(ROWS)


def test_quick_keeps_a_model_of_the_user(tmp_path):
  file = "--config=configs/score_gsm8k.py:quick"
  config = parsed(file, "--config.model.path=owner/name")
  assert config["model"]["path"] == "owner/name"
  assert config["task"] == {"name": "word_problems", "count": 64}
  assert config["evaluate"]["task"] == {"seed": 1}
  both = parsed(
    file, "--config.model.path=owner/name", "--config.task.source=rows.jsonl"
  )
  assert both["task"]["name"] == "gsm8k" and both["task"]["limit"] == 64
  assert both["task"]["prompt_length"] == 320
  assert both["stage"]["stage1"]["microbatches"] == 8
  # Nothing is given: nothing is loaded.
  config = parsed(file)
  assert "path" not in config["model"] and "split" not in config["evaluate"]
  assert config["evaluate"]["task"] == {"seed": 1}
