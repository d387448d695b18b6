"""One loop for every method: collect, judge, learn, and the same again."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from sitrain.losses.reduce import value
from sitrain.types import (
  PAD,
  Batch,
  Episodes,
  Mean,
  Method,
  Metrics,
  Params,
  TrainState,
)


def split_rows(tree: Any, count: int) -> Any:
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
  params: dict[str, Params], optimizer: Any, *,
  held: dict[str, Params] | None = None, memory: Any = (), rounds: int = 1,
) -> TrainState:
  """The state at step 0: roles that are trained, and roles that are held.

  Where the state is donated, held roles must not be the same arrays as trained
  ones: a copy, `jax.tree.map(jnp.copy, params)`, is enough. `memory` is what
  `method.memory(key)` returns, and `rounds` is that of `make_iteration`.
  """
  zero, opt_state = jnp.zeros((), jnp.int32), optimizer.init(params)
  posed = jnp.copy(zero) if rounds > 1 else ()
  return TrainState(zero, {}, params, opt_state, held or {}, memory, posed)


def make_train_step(
  optimizer: Any, loss: Callable, *, microbatches: int = 1
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """One gradient step: (state, batch) -> (state, metrics).

  `loss(params, state, batch) -> (terms, metrics)`; the objective is the sum
  over the terms of total / count, with counts over the whole batch, so the
  number of microbatches changes nothing but memory.
  """

  def train_step(state, batch):
    parts = split_rows(batch, microbatches)
    counts = _counts(loss, state, parts)
    grads, metrics = _gradients(loss, state, parts, counts)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = state._replace(params=params, opt_state=opt_state)
    # A finite gradient may end in parameters that are not.
    norms = {"gradient_norm": _norm(grads), "parameter_norm": _norm(params)}
    return state, metrics | {f"learn/{n}": x for n, x in norms.items()}

  return train_step


def _norm(tree):
  wide = jax.tree.map(lambda x: x.astype(jnp.float32), tree)
  return Mean(optax.tree.norm(wide), jnp.ones(()))


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
  return grads, jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)


def make_parts(
  method: Method, train_step: Callable, *, waves: int = 1,
  minibatches: int = 1, epochs: int = 1, buckets: int = 1,
) -> tuple[Callable, Callable, Callable]:
  """The three parts of an iteration; `judge` alone may run on the host.

  collect(state, key) -> (problems, rows), judge(state, key, problems, rows) ->
  (verdicts, metrics), learn(state, key, problems, rows, verdicts) -> (state,
  metrics). Problems are generated in `waves` parts, one after the other, all
  with the parameters that the iteration started from; the other verbs see the
  whole round. Problems must divide by `waves`, and rows of the batch by
  `minibatches`. `learn` reads rows up to the first of `buckets` equally spaced
  lengths that holds them all.
  """

  def collect(state, key):
    pose_key, row_key = jax.random.split(key)
    problems = method.pose(pose_key, state)
    count = problems.prompt.shape[0]
    posed = split_rows((jax.random.split(row_key, count), problems), waves)
    rows = _over(
      lambda wave: method.generate(wave[0], state, wave[1]), posed, waves
    )
    return _barrier((problems, join_waves(rows, count)))

  def judge(state, key, problems, rows):
    return _barrier(method.judge(key, state, problems, rows))

  def learn(state, key, problems, rows, verdicts):
    curate_key, order_key = jax.random.split(key)
    state = method.refresh(state, problems, rows, verdicts)
    batch, metrics = method.curate(curate_key, state, problems, rows, verdicts)
    state, learned = _steps(
      train_step, state, order_key, batch, minibatches, epochs
    )
    return state, metrics | learned

  return collect, judge, trimmed(learn, buckets)


def _barrier(tree):
  """Keeps XLA from fusing a part with the next one, which rounds otherwise."""
  return jax.lax.optimization_barrier(tree)


def _over(function, tree, waves):
  """Maps over the axis of waves; one wave needs no loop."""
  if waves > 1:
    return jax.lax.map(function, tree)
  out = function(jax.tree.map(lambda x: x[0], tree))
  return jax.tree.map(lambda x: x[None], out)


def join_waves(rows: Any, problems: int) -> Any:
  """Rows [W, B / W, ...] of waves as the rows of a round, problem by problem.

  Wave w holds every W-th problem from w on (`split_rows`). `problem` then
  counts the problems of the round and `parent` its rows, as if there had been
  one wave. Episodes and verdicts alike, of one kind or by name; arrays keep
  their order within a problem.
  """

  def in_order(x):
    waves, size = x.shape[:2]
    each = problems // waves, size * waves // problems
    x = x.reshape(waves, *each, *x.shape[2:]).swapaxes(0, 1)
    return x.reshape(-1, *x.shape[3:])

  def one(kind):
    if not isinstance(kind, Episodes):
      return in_order(kind)
    waves, size = kind.problem.shape
    wave, each = jnp.arange(waves)[:, None], size * waves // problems
    parent, own = kind.parent, kind.parent >= 0
    moved = (parent // each * waves + wave) * each + parent % each
    kind = kind._replace(
      problem=kind.problem * waves + wave,
      parent=jnp.where(own, moved, parent),
    )
    return jax.tree.map(in_order, kind)

  return jax.tree.map(one, rows, is_leaf=lambda x: isinstance(x, Episodes))


COLUMNS = ("tokens", "turn", "logprob", "path")  # fields with an axis of them


def trimmed(learn: Callable, buckets: int) -> Callable:
  """`learn` on as many columns of the rows as the longest asks for.

  The columns are the least that hold it of `buckets` equally spaced lengths,
  each of which is a branch of one program. What is cut off is padding, so the
  result is the same up to rounding. Raises ValueError for less than one.
  """
  if buckets < 1:
    raise ValueError(f"buckets={buckets}: set it to at least 1")
  is_kind = lambda x: isinstance(x, Episodes)
  length = lambda kind, i: -(-kind.tokens.shape[-1] * i // buckets)

  def cut(kind, i):
    columns = {n: getattr(kind, n)[..., : length(kind, i)] for n in COLUMNS}
    return kind._replace(**columns)

  def bucket_of(kind):
    column = jnp.arange(1, kind.tokens.shape[-1] + 1)
    longest = jnp.max(jnp.where(kind.turn != PAD, column, 0))
    ends = jnp.array([length(kind, i) for i in range(1, buckets)], jnp.int32)
    return jnp.sum(longest > ends)

  def on_columns(i, state, key, problems, rows, verdicts):
    rows = jax.tree.map(lambda kind: cut(kind, i), rows, is_leaf=is_kind)
    return learn(state, key, problems, rows, verdicts)

  def learn_trimmed(state, key, problems, rows, verdicts):
    kinds = jax.tree.leaves(rows, is_leaf=is_kind)
    bucket = functools.reduce(jnp.maximum, map(bucket_of, kinds))
    branches = [functools.partial(on_columns, i + 1) for i in range(buckets)]
    given = state, key, problems, rows, verdicts
    return jax.lax.switch(bucket, branches, *given)

  return learn_trimmed if buckets > 1 else learn


def _steps(train_step, state, key, batch, count, epochs):
  """epochs * count gradient steps, the rows dealt anew in each epoch."""
  if count * epochs == 1:
    return train_step(state, batch)

  def epoch(state, key):
    dealt = split_rows(shuffle(key, batch, count), count)
    return jax.lax.scan(train_step, state, dealt)

  state, metrics = jax.lax.scan(epoch, state, jax.random.split(key, epochs))
  return state, {name: _of_steps(name, x) for name, x in metrics.items()}


def _of_steps(name: str, mean: Mean) -> Mean:
  """All gradient steps together; of the sampler only what the first saw.

  The gap to the sampler is a defect of the sampler before the first update
  alone; after it the policy has moved on.
  """
  first = name.startswith("generate/")
  return jax.tree.map(lambda x: x[0, 0] if first else jnp.sum(x, (0, 1)), mean)


def make_iteration(
  collect: Callable, judge: Callable, learn: Callable, *,
  wanted: Callable | None = None, rounds: int = 1,
) -> Callable[[TrainState, Array], tuple[TrainState, Metrics]]:
  """One round of all six verbs: (state, key) -> (state, metrics).

  Fused when everything is traced together; staged with `jit(collect)`, a judge
  on the host and `jit(learn)`.

  Dynamic sampling (Yu et al. 2025, DAPO, section 3.2): with
  `wanted(problems, rows, verdicts) -> [P]` other problems are posed, up to
  `rounds` times, until P wanted ones have been found; they replace those that
  are not wanted, so that shapes stay. `state.posed` counts the rounds.
  """

  def draw(state, collect_key, judge_key):
    problems, rows = collect(state, collect_key)
    verdicts, metrics = judge(state, judge_key, problems, rows)
    return (problems, rows, verdicts), metrics

  def draw_round(state, keys, number):
    keys = [jax.random.fold_in(key, number) for key in keys]
    return draw(at_round(state, number), *keys)

  def iteration(state, key):
    *keys, learn_key = jax.random.split(key, 3)
    if wanted is None:
      sampled, judged = draw(state, *keys)
    else:
      again = functools.partial(draw_round, state, keys)
      sampled, judged, drawn = sample_until(again, wanted, rounds)
      state = at_round(state, drawn)
    state, learned = learn(state, learn_key, *sampled)
    return state._replace(step=state.step + 1), judged | learned

  return iteration


def at_round(state: TrainState, number: Any) -> TrainState:
  """The state after `number` more rounds, each of the next rows of a table.

  So no row is left out. Raises ValueError for a state that does not count them.
  """
  if isinstance(state.posed, tuple):
    raise ValueError("rounds are counted in state.posed: init_state(rounds=2)")
  return state._replace(posed=state.posed + number)


def sample_until(
  draw: Callable, wanted: Callable, rounds: int
) -> tuple[tuple, Metrics, Array]:
  """Rounds of draw(number) -> (round, metrics) until all are wanted.

  Returns (what is kept of them, metrics, how many there were).
  """

  def more(carry):
    number, kept, _ = carry
    return (number < rounds) & ~jnp.all(wanted(*kept))

  def step(carry):
    number, kept, metrics = carry
    drawn, judged = draw(number)
    metrics = jax.tree.map(jnp.add, metrics, judged)
    return number + 1, merge_rounds(kept, drawn, wanted), metrics

  carry = jnp.ones((), jnp.int32), *draw(0)
  number, kept, metrics = jax.lax.while_loop(more, step, carry)
  return kept, metrics | round_metrics(number, wanted(*kept)), number


def round_metrics(number: Array, kept: Array) -> Metrics:
  """Rounds of an iteration, and which of its problems were wanted."""
  return {
    "generate/rounds": Mean(jnp.float32(number), jnp.ones(())),
    "generate/wanted": Mean(
      jnp.sum(kept, dtype=jnp.float32), jnp.float32(kept.size)
    ),
  }


def merge_rounds(kept: tuple, more: tuple, wanted: Callable) -> tuple:
  """The first P wanted problems of two rounds of P, with their rows.

  Where there are fewer, the others follow in the order in which they were
  drawn. Each round is (problems, rows, verdicts).
  """
  want = jnp.concatenate([wanted(*kept), wanted(*more)])
  count = want.size // 2
  order = jnp.argsort(~want, stable=True)[:count]

  def pick(x, y):
    grouped = lambda x: x.reshape(count, -1, *x.shape[1:])
    both = jnp.concatenate([grouped(x), grouped(y)])
    return both[order].reshape(x.shape)

  def renumber(kind):
    if not isinstance(kind, Episodes):
      return kind
    each = kind.problem.shape[0] // count
    problem = jnp.repeat(jnp.arange(count, dtype=jnp.int32), each)
    parent = problem * each + kind.parent % each
    own = kind.parent >= 0
    parent = jnp.where(own, parent, kind.parent)
    return kind._replace(problem=problem, parent=parent)

  picked = jax.tree.map(pick, kept, more)
  return jax.tree.map(
    renumber, picked, is_leaf=lambda x: isinstance(x, Episodes)
  )


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
