"""The loop of a stage whose judge runs on the host, wave by wave.

The same verbs, keys and results as the fused loop of train.py, in three
programs. The waves are sampled without waiting, so the host judges one while
the device samples the next ones; nothing but these programs is put on the
device meanwhile, for it would wait behind them. To verify a first attempt while
the second is sampled would cut the one loop over all turns; waves hide the
same time without that.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from sitrain.runtime.host import HostOnly
from sitrain.runtime.own_rows import of_own_rows
from sitrain.runtime.sharding import replicated, shard_rows
from sitrain.train import minibatches
from sitrain.types import (
  Metrics,
  PolicyTargets,
  Problems,
  Stage,
  TrainState,
  Verdict,
)

GAP, OLD_GAP = "generate/sampler_gap", "generate/delay_gap"


class Programs(NamedTuple):
  """What the device does in an iteration: jitted, lowered or compiled."""

  pose: Any  # (state, root_key, iterations ahead) -> _Posed
  generate: Any  # (keys, state, problems) -> episodes of a wave
  learn: Any  # (state, key, problems, played, verdicts) -> (state, metrics)


class _Posed(NamedTuple):
  """The draws of an iteration before its samples; lists have one a wave."""

  step: Array
  row_keys: list[Array]
  problems: list[Problems]
  judge_keys: list[Array]
  learn_key: Array


def lower_staged(
  stage: Stage, learn: Callable, mesh: Mesh, abstract: TrainState, key: Any
) -> Programs:
  """The programs of a stage, lowered from the shapes of its state and key.

  `learn` is that of `train.make_parts`. Raises ValueError where samples of an
  older policy are asked for and the loss does not weigh them.
  """
  method, waves = stage.method, stage.parts["waves"]
  whole, rows = replicated(mesh), shard_rows(mesh)
  pose = jax.jit(functools.partial(_pose, method, waves), out_shardings=whole)
  generate = jax.jit(method.generate, out_shardings=rows)
  place = jax.tree.map(lambda x: x.sharding, abstract)
  learn = jax.jit(
    functools.partial(_learn, learn), donate_argnums=0,
    out_shardings=(place, whole),
  )
  ahead = jax.ShapeDtypeStruct((), jnp.int32)
  posed = _like(jax.eval_shape(pose, abstract, key, ahead), whole)
  first = posed.row_keys[0], abstract, posed.problems[0]
  played = _like(jax.eval_shape(generate, *first), rows)
  judged = posed.judge_keys[0], abstract, posed.problems[0], played
  verdict = _like(_verdict_like(method, *judged), rows)
  if stage.delay:
    _check_delay(stage, *judged, verdict)
  waved = ([x] * waves for x in (played, verdict))
  return Programs(
    pose.lower(abstract, key, ahead), generate.lower(*first),
    learn.lower(abstract, posed.learn_key, posed.problems, *waved),
  )


def make_staged(stage: Stage, programs: Programs, mesh: Mesh) -> Callable:
  """`steps_per_call` iterations: (state, root_key) -> (state, metrics [steps]).

  `programs` are compiled. With a delay of 1 an iteration is sampled before the
  update of the one before it, so that verifying hides behind sampling in one
  wave too; the first of a call is not, so that a call depends on its arguments
  alone. Keys and problems stay those of `train.make_iteration`. The loss weighs
  every token by its ratio to the policy that wrote it; that its prefix, and
  with it the KL term, is of that policy stays as it is.
  """
  judge, total = of_own_rows(stage.method.judge, mesh)
  steps, delay = stage.steps_per_call, stage.delay

  def begin(state, root_key, ahead):
    posed = programs.pose(state, root_key, np.int32(ahead))
    then = state._replace(step=posed.step)
    waves = zip(posed.row_keys, posed.problems)
    return posed, [programs.generate(k, then, wave) for k, wave in waves]

  def finish(state, posed, played):
    waves = zip(posed.judge_keys, posed.problems, played)
    judged = [judge(k, state, wave, rows) for k, wave, rows in waves]
    verdicts, told = zip(*judged)
    state, learned = programs.learn(
      state, posed.learn_key, posed.problems, played, list(verdicts)
    )
    return state, jax.tree.map(lambda *x: sum(x), *told), learned

  def loop(state, root_key):
    begun, rows, count = [], [], 0
    for step in range(steps):
      while count < min(step + delay + 1, steps):
        begun.append(begin(state, root_key, count - step))
        count += 1
      state, *told = finish(state, *begun.pop(0))
      rows.append(told)
    judged, learned = (_stacked(jax.device_get(x)) for x in zip(*rows))
    measured = total(judged) | learned
    return state, _fresh(measured) if delay and GAP in measured else measured

  return loop


def _pose(method, waves, state, root_key, ahead) -> _Posed:
  state = state._replace(step=state.step + ahead)
  key = jax.random.fold_in(root_key, state.step)
  collect_key, judge_key, learn_key = jax.random.split(key, 3)
  pose_key, row_key = jax.random.split(collect_key)
  problems = method.pose(pose_key, state)
  keys = jax.random.split(row_key, problems.prompt.shape[0])
  apart = lambda tree: [
    jax.tree.map(operator.itemgetter(i), tree) for i in range(waves)
  ]
  return _Posed(
    state.step, *map(apart, minibatches((keys, problems), waves)),
    apart(jax.random.split(judge_key, waves)), learn_key,
  )


def _learn(learn, state, key, *waved):
  """`learn` on stacked waves, and the next step."""
  stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
  state, told = learn(state, key, *map(stack, waved))
  return state._replace(step=state.step + 1), told


def _like(tree, place):
  """Shapes with where their arrays are to live."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree
  )


def _verdict_like(method, key, state, problems, episodes) -> Verdict:
  try:
    verdict, _ = jax.eval_shape(method.judge, key, state, problems, episodes)
    turns = verdict.reward.shape[1]
  except HostOnly as error:
    turns = error.turns
  each = jax.ShapeDtypeStruct((episodes.problem.shape[0], turns), jnp.float32)
  return Verdict(each, each)


def _check_delay(stage, *judged) -> None:
  batch, _ = jax.eval_shape(stage.method.curate, *judged)
  if not isinstance(batch.targets, PolicyTargets):
    raise ValueError(
      f"config.stage.{stage.name}.delay=1: the loss of its method does not "
      "weigh samples of an older policy: set it to 0"
    )


def _stacked(rows):
  return jax.tree.map(lambda *x: np.stack(x), *rows)


def _fresh(measured: Metrics) -> Metrics:
  """Of delayed steps [steps] the gap to the sampler gets a name of its own.

  It is an update's doing there and no defect of the sampler.
  """
  gap = measured[GAP]
  first = np.arange(len(gap.count)) == 0
  only = lambda mask: jax.tree.map(lambda x: np.where(mask, x, 0), gap)
  return measured | {GAP: only(first), OLD_GAP: only(~first)}
