"""Every config builds, as it is and quick, and says how it is run."""

import importlib.util
import json
import os
import pathlib
import runpy

import jax
import jax.numpy as jnp
import loops
import mains
import numpy as np
import pytest
import qwen
from absl import flags
from jax.sharding import AbstractMesh
from test_contracts import METHODS

from sitrain.judge.verifier import verdict_metrics
from sitrain.runtime import (
  batches,
  build,
  checks,
  fields,
  glossary,
  overrides,
  test_sets,
)
from sitrain.runtime.host import on_host, shapes_only
from sitrain.runtime.options import ConfigError
from sitrain.runtime.sharding import AXES
from sitrain.runtime.stage import parts_of
from sitrain.runtime.start import layout
from sitrain.runtime.task import check_context, describe
from sitrain.tasks import word_problems
from sitrain.tasks.verifiers import sandbox
from sitrain.types import Verdict

FOLDER = mains.ROOT / "configs"
DATA = os.environ.get("SITRAIN_DATA", "")
MADE = sorted(
  path for path in FOLDER.glob("*.py") if "def get_config" in path.read_text()
)
TEST_SETS = [path for path in MADE if "text.test_set(" in path.read_text()]
FILES = [path for path in MADE if path not in TEST_SETS]
CONTRACTS = {
  row.make.__module__.rpartition(".")[2] for row in METHODS.values()
}
looped = set()  # kinds of loops that were traced


def name_of(path):
  return path.stem


def config_of(path, argument):
  """The config of a file as the main hands it on."""
  return build.plain(runpy.run_path(str(path))["get_config"](argument))


READS = 16384  # tokens of a dialogue, for the hub's model


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
  """The folder of a tiny model with a tokenizer, for configs that name one."""
  texts = [row.message for row in word_problems.rows(count=50)]
  folder = qwen.folder(tmp_path_factory.mktemp("qwen"), texts)
  # Its tokenizer needs more tokens for a text than a model's own.
  path = pathlib.Path(folder) / "config.json"
  known = json.loads(path.read_text())
  path.write_text(json.dumps(known | {"max_position_embeddings": READS}))
  return folder


ROWS = {
  "gsm8k": "gsm8k_train.jsonl", "math": "math_train.jsonl",
  "mbpp": "mbpp.jsonl", "chat": "gsm8k_train.jsonl",
}
TESTED = {
  "gsm8k": ("gsm8k_test.jsonl", 1319), "math500": ("math500.jsonl", 500),
  "mbpp": ("mbpp.jsonl", 500), "humaneval": ("HumanEval.jsonl.gz", 164),
}


def at_home(config, hub):
  """The config with what it would load from the hub replaced by files."""
  config["task"]["count" if "count" in config["task"] else "limit"] = 64
  config["model"]["path"] = str(hub)
  name = config["task"]["name"]
  if name not in ROWS:  # Its rows are made, and short.
    for stage in config["stage"].values():
      stage["method"]["turns"] = (64, 64)
    config["evaluate"]["turns"] = (64, 64)
    return
  if not DATA:
    pytest.skip("SITRAIN_DATA names no folder with the rows of " + name)
  if name == "mbpp":
    try:
      sandbox.check()
    except ValueError as error:
      pytest.skip(str(error))
  config["task"]["source"] = str(pathlib.Path(DATA) / ROWS[name])
  # The tiny tokenizer needs more tokens for a text than the model's own.
  config["task"]["prompt_length"] = 0
  for stage in config["stage"].values():
    stage["method"]["turns"] = (2048, 2048)
  config["evaluate"]["turns"] = (2048, 2048)
  if name != "mbpp":
    config["task"]["split"] = ""


def stages_of(config, workdir):
  if not config["model"].get("path", ""):
    config["model"]["layers"] = 1  # Each is traced.
  task = on_host(build.task_from(config, str(workdir)))
  model = build.model_from(config, task)
  run = build.run_from(config, task, model, loops.mesh_of(1))
  build.check_evaluation(config, task)
  return run, task, build.stages_from(config, task, run, str(workdir))


def one_call(stage, task, mesh, abstract):
  """Shapes of the state and the metrics after one call of a stage."""
  key = jax.random.key(0)
  if stage.fused:
    return jax.eval_shape(loops.loop_of(stage, mesh), abstract, key)
  collect, _, learn = parts_of(stage, mesh)
  with shapes_only():  # An environment answers on the host.
    problems, episodes = jax.eval_shape(collect, abstract, key)
  reward = jnp.zeros((*episodes.problem.shape, len(QUICK_TURNS)))
  verdict = Verdict(reward, reward, {name: reward for name in task.rewards})
  state, learned = jax.eval_shape(
    learn, abstract, key, problems, episodes, verdict
  )
  # The judge's metrics; its verifier runs on the host and cannot be traced.
  silent = task._replace(final=lambda episodes, turns: jnp.zeros(
    (*episodes.problem.shape, turns), jnp.int32
  ))
  judged = jax.eval_shape(
    lambda e, v: verdict_metrics(silent, e, v), episodes, verdict
  )
  return state, learned | judged


QUICK_TURNS = (40, 40)  # as configs/text.py has them


def test_there_are_configs():
  assert {"quickstart", "star", "pair_sft", "multi_turn"} <= {
    path.stem for path in FILES
  }


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_docstring_has_the_command(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  command = f"sitrain train --config={path.stem} --workdir=/"
  assert command in module.__doc__
  assert module.get_config.__doc__


@pytest.mark.parametrize("path", TEST_SETS, ids=name_of)
def test_a_test_set_needs_no_more_than_a_model(path, hub):
  command = f"sitrain sample --config={path.stem} "
  assert command in path.read_text()
  with pytest.raises(ValueError, match="--problems=8"):
    config_of(path, "quick")
  config = config_of(path, "")
  with pytest.raises(ConfigError, match="sitrain sample"):
    checks.check_config(config)
  checks.check_config(config, trains=False)
  assert config["evaluate"]["temperature"] == 0.0
  if not DATA:
    pytest.skip("SITRAIN_DATA names no folder with the rows of a test set")
  file, count = TESTED[path.stem]
  words = ["main", f"--config={path}", f"--config.model.path={hub}",
           f"--config.task.source={DATA}/{file}"]
  known = flags.FlagValues()
  overrides.define("", flag_values=known, sys_argv=words)
  overrides.parse(words, known)
  config = build.plain(known["config"].value)
  if path.stem in ("mbpp", "humaneval"):
    config["task"]["run_programs_without_sandbox"] = True  # None is run.
  (task,) = test_sets.tasks_of(config, "", verifiers=("lenient",)).values()
  build.check_evaluation(config, task)
  assert len(task.table.prompt) == count


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_config_builds(path, hub, tmp_path):
  config = config_of(path, "")
  if "path" in config["model"]:
    at_home(config, hub)
  elif "tokenizer" in config:
    config["task"]["count"] = 64
  elif config["task"]["name"] == "countdown_traces":
    config["task"]["rows"] = 64
  *_, stages = stages_of(config, tmp_path)
  assert [stage.name for stage in stages] == list(config["stages"])
  assert set(config["stage"]) == set(config["stages"]), "a stage is never run"
  for stage in stages:
    assert stage.steps >= 1 and stage.steps % stage.steps_per_call == 0


def loop_kind(config, stage):
  """What the program around a method's verbs depends on."""
  memory = jax.eval_shape(stage.method.memory, jax.random.key(0))
  return (
    stage.fused, stage.writes, stage.delay > 0, stage.rounds > 1, stage.trained,
    tuple(stage.held), tuple(config.get("roles", ())), stage.task.on_host,
    stage.task.table == (), bool(jax.tree.leaves(memory)),
    tuple(name for name, count in stage.parts.items() if count > 1),
  )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_quick_stages_trace(path, tmp_path, monkeypatch):
  """Verbs and metrics are traced when a stage is built, and small is small.

  A whole call is traced once for every kind of loop: what a method makes of it
  is in test_contracts.py.
  """
  config = config_of(path, "quick")
  assert config["model"].get("layers", 1) <= 2
  run, task, stages = stages_of(config, tmp_path)
  writers = {stage.name: stage for stage in stages if stage.writes}
  monkeypatch.setattr(  # Nothing has been written.
    build.written, "read_table",
    lambda workdir, asked: build.written.shape_of(writers[asked.stage]),
  )
  for stage in stages:
    method = config["stage"][stage.name]["method"]["name"].split(".")[0]
    assert method in CONTRACTS, f"{method} has no row in test_contracts.py"
    kind = loop_kind(config, stage)
    if kind in looped:
      continue
    looped.add(kind)
    abstract = layout(run, stage)
    state, metrics = one_call(stage, task, run.mesh, abstract)
    assert jax.tree.structure(state) == jax.tree.structure(abstract)
    for want, got in zip(jax.tree.leaves(abstract), jax.tree.leaves(state)):
      assert (want.shape, want.dtype) == (got.shape, got.dtype)
    assert "learn/gradient_norm" in metrics
    # The record has the effective sample size in the place of the square.
    names = {*metrics, "learn/effective_sample"} - {"learn/ratio_squared"}
    assert not [name for name in names if not glossary.find(name)]
    # A metric that is not there would never be the best, nor end a stage.
    assert stage.best == "" or stage.best in metrics
    until = config["stage"][stage.name]["until"]
    assert "metric" not in until or until["metric"] in metrics
  params = layout(run, stages[-1]).params
  size = sum(np.prod(x.shape) for x in jax.tree.leaves(params))
  assert size < 10_000 and max(stage.steps for stage in stages) == 2


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_unknown_arguments_are_refused(path):
  with pytest.raises(ValueError, match="'quick'"):
    config_of(path, "quik")


def test_a_method_without_its_reference_is_refused(tmp_path):
  config = config_of(FOLDER / "star.py", "quick")
  config["stage"]["star"]["held"]["reference"] = "nowhere/last"
  with pytest.raises(ConfigError, match="config.stage.star.held.reference"):
    stages_of(config, tmp_path)
  config["stage"]["star"]["held"] = {}
  with pytest.raises(ConfigError, match="stage.star: this method restarts"):
    stages_of(config, tmp_path)


@pytest.mark.parametrize("groups", [1, 8, 16, 64])
def test_parts_of_score_math_fit_any_number_of_groups(groups):
  """64 problems of 8 samples: fewer waves and microbatches change no result."""
  config = config_of(FOLDER / "score_math.py", "")
  mesh = AbstractMesh((groups, 1, 1), AXES)
  for name in ("stage1", "stage2"):
    asked = fields.STAGE | config["stage"][name]
    problems = asked["method"]["problems"]
    rows = problems * asked["method"]["samples"]
    counts = batches.Counts(problems, rows, rows, 0)
    found = batches.fit(f"stage.{name}", asked, counts, mesh)
    for part, size in (("waves", problems), ("microbatches", rows)):
      assert 1 <= found[part] <= asked[part]
      assert size // groups % found[part] == 0


def test_the_schedule_of_star_ends_with_every_round():
  """Each round restarts the optimizer, so a schedule over all never ends."""
  stage = config_of(FOLDER / "star.py", "")["stage"]["star"]
  assert stage["steps"] > 1
  updates = stage["minibatches"] * stage["epochs"]
  assert stage["optimizer"]["steps"] == updates


# test_main runs quickstart, and test_text_run those of texts.
@pytest.mark.nightly
@pytest.mark.parametrize("name", ["star", "pair_sft"])
def test_two_more_configs_run(name, cache, tmp_path):
  done = mains.finish(mains.start(
    [f"--config=configs/{name}.py:quick", "--config.model.layers=1",
     f"--workdir={tmp_path / 'run'}"], cache,
  ))
  assert done.code == 0, done.err[-3000:]
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  assert [row["name"] for row in summary["stages"]] == ["base", name]
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  rows = [row for row in map(json.loads, lines) if row["stage"] == name]
  assert len(rows) == 2
  assert all("curate/kept" in row for row in rows)


def test_dialogues_that_the_model_cannot_read_are_refused(hub, tmp_path):
  config = config_of(FOLDER / "score_gsm8k.py", "")
  at_home(config, hub)
  task = build.task_from(config)
  said = describe(task)
  assert said.startswith("64 problems; prompts of ") and "given" in said
  field = "evaluate.turns"
  with pytest.raises(ConfigError, match=f"evaluate.turns .*reads {READS}"):
    check_context(config, field, task, READS)
  check_context(config, field, task, READS // 2)
  config["stage"]["stage1"]["method"]["turns"] = (READS // 2,) * 2
  with pytest.raises(ConfigError, match="stage.stage1.method.turns and"):
    stages_of(config, tmp_path)
