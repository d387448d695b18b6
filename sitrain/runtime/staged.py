"""The loop of a stage whose judge runs on the host, wave by wave.

The same verbs, keys and results as the fused loop of train.py, in separate
programs. Waves are dispatched without waiting, so the host judges one while the
device samples the next. Nothing else is dispatched meanwhile, because it would
be queued after them. Verifying first attempts while second ones are sampled
would split the one loop over all turns; waves hide the same time without that.
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

from sitrain.rollout import by_turn
from sitrain.runtime import activity
from sitrain.runtime.host import shapes_only
from sitrain.runtime.own_rows import hosts_of, of_own_rows
from sitrain.runtime.sharding import replicated, shard_rows
from sitrain.train import (
  at_round,
  join_waves,
  merge_rounds,
  round_metrics,
  split_rows,
)
from sitrain.types import (
  PolicyTargets,
  Problems,
  Reply,
  Stage,
  TrainState,
)

GAP, OLD_GAP = "generate/sampler_gap", "generate/delay_gap"

# What the device does in an iteration, by name:
#   pose      (state, root_key, iterations ahead, round) -> _Posed
#   generate  (keys, state, problems) -> rows of a wave; where the host writes
#             replies, "begin" and "go_on" of rollout/by_turn.py stand for it
#   join      (problems, rows, verdicts of waves) -> those of the round
#   learn     (state, key, problems, rows, verdicts) -> (state, metrics); where
#             an iteration has several rounds, their number comes last
#   wanted    (problems, rows, verdicts) -> which problems are wanted [P]
#   merge     (round, round) -> (round, which problems are wanted [P])
NAMES = (
  "pose", "generate", "begin", "go_on", "join", "learn", "wanted", "merge"
)


class _Posed(NamedTuple):
  """The keys and problems of an iteration; lists have one entry per wave."""

  step: Array  # the step that its verbs see
  row_keys: list[Array]
  problems: list[Problems]
  judge_keys: list[Array]
  learn_key: Array


def lower_staged(
  stage: Stage, learn: Callable, mesh: Mesh, abstract: TrainState, key: Any
) -> dict[str, Any]:
  """The programs of a stage, lowered from the shapes of its state and key.

  `learn` is that of `train.make_parts`. Raises ValueError if `delay` is set and
  the loss does not weigh samples of an older policy.
  """
  method, waves = stage.method, stage.parts["waves"]
  everywhere, by_row = replicated(mesh), shard_rows(mesh)
  pose = jax.jit(functools.partial(_pose, stage), out_shardings=everywhere)
  generate = jax.jit(method.generate, out_shardings=by_row)
  place = jax.tree.map(lambda x: x.sharding, abstract)
  learn = jax.jit(
    functools.partial(_learn, learn), donate_argnums=0,
    out_shardings=(place, everywhere),
  )
  number = jax.ShapeDtypeStruct((), jnp.int32)
  posing = abstract, key, number, number
  posed = _like(jax.eval_shape(pose, *posing), everywhere)
  first = posed.row_keys[0], abstract, posed.problems[0]
  sampling = {"pose": pose.lower(*posing)} | _lower_generate(
    method.generate, generate, by_row, *first
  )
  if stage.writes:
    return sampling
  with shapes_only():
    rows = _like(jax.eval_shape(generate, *first), by_row)
    judged = posed.judge_keys[0], abstract, posed.problems[0], rows
    verdicts, _ = jax.eval_shape(method.judge, *judged)
  verdicts = _like(verdicts, by_row)
  if stage.delay:
    _check_delay(stage, *judged, verdicts)
  join = jax.jit(_join, out_shardings=(everywhere, by_row, by_row))
  waved = posed.problems, [rows] * waves, [verdicts] * waves
  out = jax.eval_shape(join, *waved)
  sampled = tuple(map(_like, out, (everywhere, by_row, by_row)))
  drawn = [number] if stage.rounds > 1 else []
  programs = sampling | {
    "join": join.lower(*waved),
    "learn": learn.lower(abstract, posed.learn_key, *sampled, *drawn),
  }
  if stage.rounds > 1:
    merge = jax.jit(
      functools.partial(_merge, method.wanted),
      out_shardings=((everywhere, by_row, by_row), everywhere),
    )
    programs["merge"] = merge.lower(sampled, sampled)
    wanted = jax.jit(method.wanted, out_shardings=everywhere)
    programs["wanted"] = wanted.lower(*sampled)
  return programs


def _lower_generate(generate, jitted, by_row, keys, state, problems):
  """The program that generates, or both where the host writes replies."""
  if not hasattr(generate, "by_turn"):
    return {"generate": jitted.lower(keys, state, problems)}
  turns = generate.by_turn
  begin = jax.jit(turns.begin, out_shardings=by_row)
  go_on = jax.jit(turns.go_on, out_shardings=by_row, donate_argnums=1)
  playing = _like(jax.eval_shape(begin, keys, state, problems), by_row)
  rows = playing.alive.shape[0]
  reply = Reply(
    jax.ShapeDtypeStruct((rows, turns.reply.columns), jnp.int32),
    jax.ShapeDtypeStruct((rows,), bool),
  )
  ended = jax.ShapeDtypeStruct((), jnp.int32)
  return {
    "begin": begin.lower(keys, state, problems),
    "go_on": go_on.lower(state, playing, _like(reply, by_row), ended),
  }


class Sampler(NamedTuple):
  """The first verbs of a staged iteration."""

  begin: Callable  # (state, root_key, iterations ahead, round) -> sampling
  judge: Callable  # (state, sampling) -> (verdicts of waves, metrics)
  finish: Callable  # (state, sampling) -> ((problems, rows, verdicts), metrics)
  total: Callable  # metrics of this process -> those of all


def make_sampler(stage: Stage, programs: dict, mesh: Mesh) -> Sampler:
  """Poses and generates wave by wave, and judges on the host."""
  judge, total = of_own_rows(stage.method.judge, mesh)
  turns = getattr(stage.method.generate, "by_turn", None)
  if turns is not None:
    turns = turns._replace(begin=programs["begin"], go_on=programs["go_on"])
    hosts = hosts_of(mesh)

  def begin(state, root_key, ahead, number):
    posed = programs["pose"](
      state, root_key, np.int32(ahead), np.int32(number)
    )
    then = state._replace(step=posed.step)
    waves, played = zip(posed.row_keys, posed.problems), []
    if turns is not None:
      with activity.during("sampling, and waiting for replies", seldom=True):
        played = by_turn.play_all([
          by_turn.playing(turns, k, then, wave, hosts=hosts)
          for k, wave in waves
        ])
      return posed, played
    for i, (k, wave) in enumerate(waves, start=1):
      # On a CPU the call itself may block as long as the sampling takes.
      what = f"sampling wave {i} of {len(posed.problems)}"
      with activity.during(what, seldom=True):
        played.append(programs["generate"](k, then, wave))
    return posed, played

  def judge_waves(state, sampling):
    posed, played = sampling
    then = state._replace(step=posed.step)
    waves, judged = zip(posed.judge_keys, posed.problems, played), []
    for i, (k, wave, rows) in enumerate(waves, start=1):
      of = f"wave {i} of {len(played)}"
      with activity.during(f"sampling {of}", seldom=True):
        jax.block_until_ready(rows)
      with activity.during(f"judging {of}", seldom=True):
        judged.append(judge(k, then, wave, rows))
    verdicts, metrics = zip(*judged)
    metrics = jax.tree.map(lambda *x: sum(x), *metrics)
    counted = {} if turns is None else turns.reply.counted()
    return list(verdicts), metrics | counted

  def finish(state, sampling):
    posed, played = sampling
    verdicts, metrics = judge_waves(state, sampling)
    return programs["join"](posed.problems, played, verdicts), metrics

  return Sampler(begin, judge_waves, finish, total)


def make_staged(stage: Stage, programs: dict, mesh: Mesh) -> Callable:
  """`steps_per_call` iterations: (state, root_key) -> (state, metrics [steps]).

  `programs` are compiled. With a delay of 1 an iteration is sampled before the
  previous update, so verifying overlaps with sampling even with one wave. The
  first iteration of a call is not, so that a call depends on its arguments
  alone. Keys and problems are those of `train.make_iteration`. The loss weighs
  every token by its ratio to the policy that sampled it. The prefixes, and with
  them the KL term, come from that policy and are not corrected.
  """
  sampler = make_sampler(stage, programs, mesh)
  steps, delay = stage.steps_per_call, stage.delay

  def finish(state, root_key, sampling):
    sampled, judged = sampler.finish(state, sampling)
    drawn, extra = [], {}
    if stage.rounds > 1:
      again = functools.partial(sampler.begin, state, root_key, 0)
      sampled, judged, number, extra = _more_rounds(
        stage, programs, sampler, state, again, sampled, judged
      )
      drawn = [np.int32(number)]
    with activity.during("updating", seldom=True):
      state, learned = programs["learn"](
        state, sampling[0].learn_key, *sampled, *drawn
      )
    return state, judged, learned | extra

  def loop(state, root_key):
    begun, rows, count = [], [], 0
    for step in range(steps):
      while count < min(step + delay + 1, steps):
        begun.append(sampler.begin(state, root_key, count - step, 0))
        count += 1
      state, *metrics = finish(state, root_key, begun.pop(0))
      rows.append(metrics)
    with activity.during("updating", seldom=True):
      judged, learned = (_stacked(jax.device_get(x)) for x in zip(*rows))
    measured = sampler.total(judged) | learned
    return state, _fresh(measured) if delay and GAP in measured else measured

  return loop


def _more_rounds(stage, programs, sampler, state, again, sampled, judged):
  """Poses again until all problems are wanted, like train.sample_until."""
  kept = programs["wanted"](*sampled)
  number = 1
  while number < stage.rounds and not np.all(jax.device_get(kept)):
    more, metrics = sampler.finish(state, again(number))
    sampled, kept = programs["merge"](sampled, more)
    judged = jax.tree.map(lambda x, y: x + y, judged, metrics)
    number += 1
  return sampled, judged, number, round_metrics(jnp.int32(number), kept)


def _pose(stage, state, root_key, ahead, number) -> _Posed:
  """The keys and problems of train.make_iteration and train.make_parts."""
  method, waves = stage.method, stage.parts["waves"]
  state = state._replace(step=state.step + ahead)
  key = jax.random.fold_in(root_key, state.step)
  collect_key, judge_key, learn_key = jax.random.split(key, 3)
  posing = state
  if stage.rounds > 1:
    posing = at_round(state, number)
    collect_key, judge_key = (
      jax.random.fold_in(key, number) for key in (collect_key, judge_key)
    )
  pose_key, row_key = jax.random.split(collect_key)
  problems = method.pose(pose_key, posing)
  keys = jax.random.split(row_key, problems.prompt.shape[0])
  each = lambda tree: [
    jax.tree.map(operator.itemgetter(i), tree) for i in range(waves)
  ]
  return _Posed(
    state.step, *map(each, split_rows((keys, problems), waves)),
    [judge_key] * waves, learn_key,
  )


def _join(problems, rows, verdicts):
  """Joins lists of waves into one round, in the order of a single wave."""
  stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
  count = sum(len(wave.prompt) for wave in problems)
  problems = jax.tree.map(
    lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), stack(problems)
  )
  return problems, *(join_waves(stack(x), count) for x in (rows, verdicts))


def _merge(wanted, kept, more):
  sampled = merge_rounds(kept, more, wanted)
  return sampled, wanted(*sampled)


def _learn(learn, state, key, problems, rows, verdicts, *drawn):
  """`learn`, with the step incremented, and the rounds that were drawn."""
  for number in drawn:
    state = at_round(state, number)
  state, metrics = learn(state, key, problems, rows, verdicts)
  return state._replace(step=state.step + 1), metrics


def _like(tree, place):
  """Shapes with the sharding `place`."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree
  )


def _check_delay(stage, *judged) -> None:
  batch, _ = jax.eval_shape(stage.method.curate, *judged)
  is_policy = lambda x: isinstance(x, PolicyTargets)
  families = jax.tree.leaves(batch.targets, is_leaf=is_policy)
  if not any(map(is_policy, families)):
    raise ValueError(
      f"config.stage.{stage.name}.delay=1: the loss of its method does not "
      "weigh samples of an older policy: set it to 0"
    )


def _stacked(rows):
  return jax.tree.map(lambda *x: np.stack(x), *rows)


def _fresh(measured: dict[str, Any]) -> dict[str, Any]:
  """Renames the sampler gap of delayed steps [steps] to OLD_GAP.

  There the gap comes from an update, not from a defect of the sampler.
  """
  gap = measured[GAP]
  first = np.arange(len(gap.count)) == 0
  only = lambda mask: jax.tree.map(lambda x: np.where(mask, x, 0), gap)
  return measured | {GAP: only(first), OLD_GAP: only(~first)}
