"""Every config builds, as it is and quick, and says how it is run."""

import importlib.util
import json
import runpy

import jax
import loops
import mains
import numpy as np
import pytest

from sitrain.runtime import build
from sitrain.runtime.options import ConfigError
from sitrain.runtime.start import layout

FOLDER = mains.ROOT / "configs"
FILES = sorted(
  path for path in FOLDER.glob("*.py") if "def get_config" in path.read_text()
)
traced = {}  # programs seen before, by all that they depend on


def name_of(path):
  return path.stem


def config_of(path, argument):
  """The config of a file as the main hands it on."""
  return build.plain(runpy.run_path(str(path))["get_config"](argument))


def stages_of(config):
  task = build.task_from(config)
  model = build.model_from(config, task)
  mesh = loops.mesh_of(1)
  build.check_evaluation(config, task)
  return model, build.stages_from(config, task, model, mesh)


def test_there_are_configs():
  assert {"quickstart", "star", "pair_sft", "multi_turn"} <= {
    path.stem for path in FILES
  }


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_docstring_says_the_command(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  command = f"python -m sitrain.main --config=configs/{path.name} --workdir=/"
  assert command in module.__doc__
  assert module.get_config.__doc__


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_config_builds(path):
  config = config_of(path, "")
  _, stages = stages_of(config)
  assert [stage.name for stage in stages] == list(config["stages"])
  assert set(config["stage"]) == set(config["stages"]), "a stage is never run"
  for stage in stages:
    assert stage.steps >= 1 and stage.steps % stage.steps_per_call == 0


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_quick_stages_trace(path):
  """Shapes fit all the way through one call, and small is small."""
  config = config_of(path, "quick")
  model, stages = stages_of(config)
  run = loops.run_of(model)
  for stage in stages:
    known = json.dumps([config["task"], config["stage"][stage.name]])
    if known in traced:
      continue
    traced[known] = path.stem
    abstract = layout(run, stage)
    loop = loops.loop_of(stage, run.mesh)
    state, metrics = jax.eval_shape(loop, abstract, jax.random.key(0))
    assert jax.tree.structure(state) == jax.tree.structure(abstract)
    for want, got in zip(jax.tree.leaves(abstract), jax.tree.leaves(state)):
      assert (want.shape, want.dtype) == (got.shape, got.dtype)
    assert "learn/gradient_norm" in metrics
    # A metric that is not there would never be the best, nor end a stage.
    assert stage.best == "" or stage.best in metrics
    until = config["stage"][stage.name]["until"]
    assert "metric" not in until or until["metric"] in metrics
  size = sum(np.prod(x.shape) for x in jax.tree.leaves(abstract.params))
  assert size < 10_000 and max(stage.steps for stage in stages) == 2


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_unknown_arguments_are_refused(path):
  with pytest.raises(ValueError, match="'quick'"):
    config_of(path, "quik")


def test_a_method_without_its_reference_is_refused():
  config = config_of(FOLDER / "star.py", "quick")
  config["stage"]["star"]["anchor"] = "nowhere/last"
  with pytest.raises(ConfigError, match="config.stage.star.anchor"):
    stages_of(config)


@pytest.mark.parametrize("name", ["star", "pair_sft"])
def test_two_more_configs_run(name, cache, tmp_path):
  done = mains.finish(mains.start(
    [f"--config=configs/{name}.py:quick", f"--workdir={tmp_path / 'run'}"],
    cache,
  ))
  assert done.code == 0, done.err[-3000:]
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  assert [row["name"] for row in summary["stages"]] == ["base", name]
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  rows = [row for row in map(json.loads, lines) if row["stage"] == name]
  assert len(rows) == 2
  assert all("curate/kept" in row for row in rows)
