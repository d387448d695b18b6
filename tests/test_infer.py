"""`sitrain infer`: budgets, what is refused, and the main itself."""

import ast
import json
from functools import partial
from types import SimpleNamespace

import fakes
import jax
import jax.numpy as jnp
import mains
import numpy as np
import pytest

from sitrain.configs import quickstart
from sitrain.models import decoder
from sitrain.runtime import build, checkpoint, requested_answers
from sitrain.runtime.options import ConfigError, makers
from sitrain.types import PAD, Problems, Progress, TrainState

AGAIN, END = [5, 6], 3
GIVEN = dict(
  workdir="", stage="", which="last", output="", temperature=1.0, top_k=0,
  top_p=1.0, problems=0, batch=64, seed=None, draws=50, mesh=[], tokens=[],
  measure="total", samples=None, rounds=None, keep=None, distil=None,
)
CONFIG = {
  "task": {"name": "fake"}, "model": {"path": "m"},
  "evaluate": {"turns": (4, 4), "task": {}, "seed": 7},
}


def chosen(*strategy, config=CONFIG, **given):
  """Of problems of 3 and 6 tokens, whose attempts have up to 4."""
  given = SimpleNamespace(**GIVEN | {"strategy": list(strategy)} | given)
  task = fakes.task(
    fakes.constant_verdict(1.0), again=AGAIN, eos=(END,), prompt=[1]
  )
  posed = Problems(
    np.array([[PAD] * 3 + [1, 2, 1], [1] * 6], np.int32),
    np.zeros((2, 1), np.int32), np.full((2, 1), PAD, np.int32),
  )
  plan = requested_answers.plan_from(config, given)
  return requested_answers.strategies_from(
    config, plan, given, play=print, task=task, posed=posed
  )


@pytest.fixture(autouse=True)
def looked_at_once(monkeypatch):
  """What the task replies is compiled to be looked at."""
  monkeypatch.setattr(
    requested_answers.needs, "kind_of_reply", lambda *_: "instruction"
  )


def test_help_names_every_strategy():
  source = (mains.ROOT / "sitrain" / "infer.py").read_text()
  text = ast.get_docstring(ast.parse(source))
  for name in makers("strategies"):
    assert f" {name}" in text.replace("\n", " "), name


def test_a_budget_is_filled_and_never_exceeded():
  """Prompts of 6, attempts of 4, an instruction of 2, in the worst case."""
  found = {
    (one.name, one.budget): one for one in chosen(
      "self_consistency", "best_of_n", "sequential", "pdr", tokens=["50", "80"]
    )
  }
  assert len(found) == 8 and found["pdr", 80].label == "pdr@80"
  for (name, budget), samples, cost in (
    (("self_consistency", 50), 5, 50), (("self_consistency", 80), 8, 80),
    (("best_of_n", 50), 5, 50),
  ):
    assert found[name, budget].options == {"samples": samples}
    assert found[name, budget].cost.total == cost
  # 6 + 4 + (2 + 4) (rounds - 1)
  assert found["sequential", 50].options == {"rounds": 7}
  assert found["sequential", 80].options == {"rounds": 12}
  # 10 a draft, and the last call 6 + (4 + 2) + 4
  for budget, samples in ((50, 3), (80, 6)):
    one, last = found["pdr", budget], 16
    assert one.options == {
      "samples": samples, "rounds": 2, "keep": 1, "distil": "vote"
    }
    assert one.cost == (10 + last, samples * 10 + last, samples + 1, last)


def test_budgets_that_change_nothing_or_do_not_suffice_are_left_out(caplog):
  given = {"tokens": ["20", "50", "80"], "rounds": 2}
  found = chosen("self_refine", "pdr", **given)
  # Its two attempts take 16 in all; drafts, workspace and answer 26 at least.
  labels = [one.label for one in found]
  assert labels == ["self_refine@20", "pdr@50", "pdr@80"]
  assert "pdr --rounds=2 may take 26 total tokens" in caplog.text
  caplog.clear()
  chosen("sequential", rounds=3)
  assert "sequential has up to 3 turns in a context, and" in caplog.text


def test_a_budget_of_the_longest_chain():
  one, two = chosen(
    "self_consistency", "sequential", tokens=["30"], measure="sequential"
  )
  # Samples side by side do not change it: the default stays.
  assert one.options == {"samples": 8} and one.cost.sequential == 10
  assert two.options == {"rounds": 4} and two.cost.sequential == 28
  with pytest.raises(ConfigError, match="may take 10 sequential tokens a pro"):
    chosen("self_consistency", tokens=["9"], measure="sequential")


def test_without_a_budget_flags_and_defaults_count():
  one, two = chosen("pdr", "self_refine", samples=3, rounds=4)
  assert one.options == {
    "samples": 3, "rounds": 4, "keep": 1, "distil": "vote"
  }
  assert two.options == {"rounds": 4} and one.budget == 0
  (greedy,) = chosen("self_consistency", samples=1, temperature=0.0)
  assert greedy.cost.total == 10


def test_what_does_not_fit_is_one_line():
  for message, names, given in (
    ("--strategy=pag: runs of pag are played by --strategy=verify_and_revise",
     ["pag"], {}),
    ("--strategy is missing: choose one of best_of_n, pdr, self_", [], {}),
    ("=self_consistancy: did you mean 'self_consistency'", ["self_consistancy"],
     {}),
    ("--keep=4: set it from 1 to samples=3", ["pdr"],
     {"samples": 3, "keep": 4}),
    ("--rounds=1: set it to 2 or more", ["self_refine"], {"rounds": 1}),
    ("--samples is not read by self_refine, sequential: leave it out",
     ["self_refine", "sequential"], {"samples": 2}),
    ("--strategy=pdr may take 26 total tokens a problem, and --tokens=25: give "
     "26 or more", ["pdr"], {"tokens": ["25"]}),
    ("--strategy=self_consistency --samples=5 may take 50 total tokens a",
     ["self_consistency"], {"samples": 5, "tokens": ["49"]}),
    ("--tokens=-3: give a number of tokens", ["pdr"], {"tokens": ["-3"]}),
    ("--strategy=pdr of --temperature=0 would repeat", ["pdr"],
     {"temperature": 0.0}),
    ("=verify_and_revise needs a task whose policy writes the verdicts",
     ["verify_and_revise"], {}),
    ("--output=x.txt: give a file whose name ends in .jsonl", ["pdr"],
     {"output": "x.txt"}),
    ("--output=/dev/null/a.jsonl", ["pdr"], {"output": "/dev/null/a.jsonl"}),
    ("--strategy=file:/no.py: ", ["file:/no.py"], {}),
  ):
    with pytest.raises(ConfigError) as error:
      chosen(*names, **given)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_feedback_of_a_task_is_known_from_its_options(monkeypatch):
  monkeypatch.setattr(
    requested_answers.needs, "kind_of_reply", lambda *_: "attempt"
  )
  with pytest.raises(ConfigError, match="a move in a game"):
    chosen("self_consistency")
  told = CONFIG | {"task": {"name": "fake", "feedback": "full"}}
  assert len(chosen("self_consistency", config=told)) == 1
  with pytest.raises(ConfigError, match="tell what its verifier found"):
    chosen("self_refine", config=told)


def test_a_strategy_of_ones_own(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(
    "from sitrain.strategies import self_consistency\n"
    "def twice(play, task, *, turns):\n"
    "  return self_consistency.make(play, task, turns=turns, samples=2)\n"
  )
  (one,) = chosen(f"file:{path}:twice")
  assert one.strategy.rows == 2 and one.cost.total == 20


@pytest.fixture
def run(tmp_path):
  """The folder of a run of one stage with random parameters."""
  config = build.plain(quickstart.get_config("quick"))
  folder = tmp_path / "run"
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(config))
  model = build.model_from(config, build.task_from(config))
  shapes = jax.eval_shape(
    partial(decoder.init, model), jax.random.key(0)
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes
  )
  state = TrainState(jnp.int32(1), {}, {"policy": params}, (), {}, ())
  manager = checkpoint.open_manager(folder / "stage1")
  progress = Progress("stage1", 1, {}, 0.5, 0, False)
  checkpoint.save(manager, 1, state, progress, 0.5)
  checkpoint.finish(manager)
  return folder


def test_strategies_of_a_run_are_compared(run, ask, tmp_path):
  """The one test of the main: files, table, picture; and again, from files."""
  words = (
    f"{run}", "--strategy=self_consistency,sequential", "--rounds=2",
    "--samples=3", "--problems=4", f"--output={tmp_path}/a.jsonl",
  )  # fmt: skip
  done = ask(*words, module="sitrain.infer")
  assert done.code == 0, done.err
  for word in ("self_consistency", "samples=3", "sequential", "4 problems"):
    assert word in done.out
  for name in ("self_consistency.jsonl", "sequential.jsonl", "summary.json"):
    assert f"written: {tmp_path}/a.{name}\n" in done.out
  rows = [
    json.loads(line) for line in
    (tmp_path / "a.self_consistency.jsonl").read_text().splitlines()
  ]
  assert [row["row"] for row in rows] == [0, 1, 2, 3]
  for row in rows:
    assert len(row["attempts"]) == 3
    assert row["answer"] == row["attempts"][row["choice"]]["text"]
  told = json.loads((tmp_path / "a.summary.json").read_text())
  assert told["sequential"]["total"] <= told["sequential"]["at_most"]["total"]
  assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
  done = ask(*words, module="sitrain.infer")
  assert done.code == 0 and "compiling" not in done.err + done.out
  assert json.loads((tmp_path / "a.summary.json").read_text()) == told
