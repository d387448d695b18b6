"""One loop for every method: collect, judge, learn, and the same again."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from sitrain.curate.trim import trimmed
from sitrain.losses.reduce import value
from sitrain.types import Batch, Mean, Method, Metrics, Params, TrainState


def minibatches(tree: Any, count: int) -> Any:
  """Splits leading rows: [B, ...] -> [count, B / count, ...].

  Part i takes every count-th row, so rows that a device holds stay on it.
  """

  def split(x):
    return jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1)

  return jax.tree.map(split, tree)


def shuffle(key: Key[Array, ""], batch: Batch, count: int) -> Batch:
  """Deals the rows of each block of `count` to the parts in random order."""
  rows = batch.tokens.shape[0]
  noise = jax.random.uniform(key, (rows // count, count))
  order = jnp.argsort(noise, axis=1)

  def deal(x):
    blocks = x.reshape(rows // count, count, *x.shape[1:])
    index = order.reshape(order.shape + (1,) * (x.ndim - 1))
    return jnp.take_along_axis(blocks, index, axis=1).reshape(x.shape)

  return jax.tree.map(deal, batch)


def init_state(
  params: Params, optimizer: Any, *, reference: Params = ()
) -> TrainState:
  """The state of a policy at step 0, with a reference policy or none.

  Where the state is donated, `reference` must not be the same arrays as
  `params`: a copy, `jax.tree.map(jnp.copy, params)`, is enough.
  """
  step, roles = jnp.zeros((), jnp.int32), {"policy": params}
  return TrainState(step, (), roles, optimizer.init(roles), reference, ())


def make_train_step(
  optimizer: Any, loss: Callable, *, microbatches: int = 1
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """One gradient step: (state, batch) -> (state, metrics).

  `loss(params, state, batch) -> (terms, metrics)`; the objective is the sum
  over the terms of total / count, with counts over the whole batch, so the
  number of microbatches changes nothing but memory.
  """

  def train_step(state, batch):
    parts = minibatches(batch, microbatches)
    counts = _counts(loss, state, parts)
    grads, metrics = _gradients(loss, state, parts, counts)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norm = Mean(optax.tree.norm(grads), jnp.ones(()))
    state = state._replace(params=params, opt_state=opt_state)
    return state, metrics | {"learn/gradient_norm": norm}

  return train_step


def _counts(loss, state, parts):
  """How much each term counts in the whole batch.

  Counts do not depend on the parameters, so XLA drops the model here.
  """

  def count(part):
    terms, _ = loss(state.params, state, part)
    return {name: mean.count for name, mean in terms.items()}

  return jax.tree.map(lambda x: jnp.sum(x, axis=0), jax.lax.map(count, parts))


def _gradients(loss, state, parts, counts):
  """Gradients of the sum of total / count, and metrics, over all parts."""

  def objective(params, part):
    terms, metrics = loss(params, state, part)
    shares = [value(Mean(terms[k].total, counts[k])) for k in terms]
    return sum(shares), metrics

  def accumulate(total, part):
    grads, metrics = jax.grad(objective, has_aux=True)(state.params, part)
    return jax.tree.map(jnp.add, total, grads), metrics

  zeros = jax.tree.map(jnp.zeros_like, state.params)
  grads, metrics = jax.lax.scan(accumulate, zeros, parts)
  return grads, _summed(metrics)


def make_parts(
  method: Method, train_step: Callable, *, waves: int = 1,
  minibatches: int = 1, epochs: int = 1, buckets: int = 1,
) -> tuple[Callable, Callable, Callable]:
  """The three parts of an iteration; `judge` alone may run on the host.

  collect(state, key) -> (problems, episodes), judge(state, key, problems,
  episodes) -> (verdict, metrics), learn(state, key, problems, episodes,
  verdict) -> (state, metrics). Arrays between them have a leading axis of
  waves: parts of whole problems, generated and curated one after the other,
  all with the parameters that the iteration started from. Problems must
  divide by `waves`, and rows by `minibatches`. `learn` reads rows up to the
  first of `buckets` equally spaced lengths that holds them all.
  """

  def collect(state, key):
    pose_key, row_key = jax.random.split(key)
    problems = method.pose(pose_key, state)
    count = problems.prompt.shape[0]
    posed = _waves((jax.random.split(row_key, count), problems), waves)
    episodes = _over(
      lambda wave: method.generate(wave[0], state, wave[1]), posed, waves
    )
    return _apart((posed[1], episodes))

  def judge(state, key, problems, episodes):
    verdict, metrics = _over(
      lambda wave: method.judge(wave[0], state, wave[1], wave[2]),
      (jax.random.split(key, waves), problems, episodes), waves,
    )
    return _apart((verdict, _summed(metrics)))

  def learn(state, key, problems, episodes, verdict):
    curate_key, order_key = jax.random.split(key)
    flat = _flat(problems, episodes, verdict)
    state = method.refresh(state, *flat)
    batch, metrics = _over(
      lambda wave: method.curate(wave[0], state, *wave[1:]),
      (jax.random.split(curate_key, waves), problems, episodes, verdict), waves,
    )
    batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
    state, learned = _steps(
      train_step, state, order_key, batch, minibatches, epochs
    )
    return state, _summed(metrics) | learned

  return collect, judge, trimmed(learn, buckets)


def _apart(tree):
  """Keeps XLA from fusing a part with the next one, which rounds otherwise."""
  return jax.lax.optimization_barrier(tree)


def _waves(tree, waves):
  return minibatches(tree, waves)


def _over(function, tree, waves):
  """Maps over the axis of waves; one wave needs no loop."""
  if waves > 1:
    return jax.lax.map(function, tree)
  out = function(jax.tree.map(lambda x: x[0], tree))
  return jax.tree.map(lambda x: x[None], out)


def _summed(metrics: Metrics) -> Metrics:
  return jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)


def _flat(problems, episodes, verdict):
  """The whole round without the axis of waves, problems renumbered."""
  waves, count = problems.prompt.shape[:2]
  first = jnp.arange(waves)[:, None] * count
  episodes = episodes._replace(problem=episodes.problem + first)
  return jax.tree.map(
    lambda x: x.reshape(-1, *x.shape[2:]), (problems, episodes, verdict)
  )


def _steps(train_step, state, key, batch, count, epochs):
  """epochs * count gradient steps, the rows dealt anew in each epoch."""
  if count * epochs == 1:
    return train_step(state, batch)

  def epoch(state, key):
    dealt = minibatches(shuffle(key, batch, count), count)
    return jax.lax.scan(train_step, state, dealt)

  keys = jax.random.split(key, epochs)
  state, metrics = jax.lax.scan(epoch, state, keys)
  return state, {name: _of_steps(name, x) for name, x in metrics.items()}


def _of_steps(name: str, mean: Mean) -> Mean:
  """All gradient steps together; of the sampler only what the first saw.

  The gap to the sampler is a defect of the sampler before the first update
  alone; after it the policy has moved on.
  """
  first = name.startswith("generate/")
  return jax.tree.map(lambda x: x[0, 0] if first else jnp.sum(x, (0, 1)), mean)


def make_iteration(
  collect: Callable, judge: Callable, learn: Callable
) -> Callable[[TrainState, Array], tuple[TrainState, Metrics]]:
  """One round of all six verbs: (state, key) -> (state, metrics).

  Fused when everything is traced together; staged with `jit(collect)`, a judge
  on the host and `jit(learn)`.
  """

  def iteration(state, key):
    collect_key, judge_key, learn_key = jax.random.split(key, 3)
    problems, episodes = collect(state, collect_key)
    verdict, judged = judge(state, judge_key, problems, episodes)
    state, learned = learn(state, learn_key, problems, episodes, verdict)
    return state._replace(step=state.step + 1), judged | learned

  return iteration


def make_loop(
  iteration: Callable, steps: int
) -> Callable[[TrainState, Array], tuple[TrainState, Metrics]]:
  """`steps` iterations in one scan: (state, root_key) -> (state, metrics).

  The key of an iteration is fold_in(root_key, state.step), so a run that is
  cut and resumed draws what it would have drawn. Metrics get an axis [steps].
  """

  def loop(state, root_key):
    draw = functools.partial(_next, iteration, root_key)
    return jax.lax.scan(draw, state, length=steps)

  return loop


def _next(iteration, root_key, state, _):
  return iteration(state, jax.random.fold_in(root_key, state.step))
