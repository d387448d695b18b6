"""Rows of one problem, paired."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sitrain.curate.advantage import token_mask
from sitrain.judge.groups import FULL
from sitrain.models.logprobs import score_rows
from sitrain.rollout import contexts
from sitrain.tasks.attempt import attempt
from sitrain.types import (
  PAD,
  ROOT,
  Batch,
  Episodes,
  Params,
  PreferenceTargets,
  Verdict,
)


def partners(
  key: Key[Array, ""],
  wanted: Bool[Array, " B"],
  group: Int[Array, " B"],
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
  """For each row a random other row of its group among the `wanted`.

  Returns the partner's row number [B], and whether there is one [B]. Each
  eligible partner is equally likely. Group ids lie in [0, B).
  """
  rows = wanted.shape[0]
  # The wanted rows of a group stand together in `order`, from `first` on.
  order = jnp.lexsort((~wanted, group))
  place = jnp.zeros(rows, jnp.int32).at[order].set(jnp.arange(rows))
  first = jax.ops.segment_min(place, group, rows)[group]
  count = jax.ops.segment_sum(wanted.astype(jnp.int32), group, rows)[group]
  others = count - wanted
  noise = jax.random.uniform(key, (rows,))
  nth = jnp.minimum((noise * others).astype(jnp.int32), others - 1)
  # A wanted row counts the others only, so it is stepped over.
  nth += wanted & (nth >= place - first)
  found = others > 0
  return order[jnp.where(found, first + nth, 0)], found


def best_and_worst(
  value: Float[Array, " B"],
  known: Bool[Array, " B"],
  problem: Int[Array, " B"],
  problems: int,
) -> tuple[Int[Array, " P"], Int[Array, " P"], Bool[Array, " P"]]:
  """Rows of the highest and the lowest known value of each problem.

  Of equal ones the first row. Returns (best, worst, whether they differ).
  """
  rows = value.shape[0]
  number = jnp.arange(rows)

  def row_of(x):
    most = jax.ops.segment_max(x, problem, problems)[problem]
    at = jnp.where((x == most) & known, number, rows)
    return jnp.minimum(jax.ops.segment_min(at, problem, problems), rows - 1)

  best = row_of(jnp.where(known, value, -jnp.inf))
  worst = row_of(jnp.where(known, -value, -jnp.inf))
  differ = known[best] & known[worst] & (value[best] > value[worst])
  own = (problem[best] == jnp.arange(problems))
  return best, worst, differ & own


def right_and_wrong(
  noise: Float[Array, " B"],
  value: Float[Array, " B"],
  known: Bool[Array, " B"],
  problem: Int[Array, " B"],
  problems: int,
) -> tuple[Int[Array, " P"], Int[Array, " P"], Bool[Array, " P"]]:
  """A random right and a random wrong row of each problem.

  Right is a full reward, wrong a smaller one. Those of the highest `noise`,
  uniform in [0, 1). Returns (right, wrong, whether there are both).
  """
  rows = value.shape[0]

  def pick(wanted):
    drawn = jnp.where(wanted, noise, -1.0)
    most = jax.ops.segment_max(drawn, problem, problems)[problem]
    at = jnp.where(wanted & (drawn == most), jnp.arange(rows), rows)
    row = jax.ops.segment_min(at, problem, problems)
    return jnp.minimum(row, rows - 1), row < rows

  right, some = pick(known & (value >= FULL))
  wrong, other = pick(known & (value < FULL))
  return right, wrong, some & other


RULES = {  # (noise [B], value, known, problem, problems) -> as best_and_worst
  "best_and_worst": lambda noise, *rows: best_and_worst(*rows),
  "right_and_wrong": right_and_wrong,
}


def diverged(
  chosen: Int[Array, "N T"],
  rejected: Int[Array, "N T"],
) -> Bool[Array, "N T"]:
  """Where two rows have parted: at their first different token and behind it.

  The prefix that both share has the same log-probability in both, so it adds
  nothing to a difference of sums but does to means (Xie et al. 2024, MCTS-DPO,
  train behind it only).
  """
  return jnp.cumsum(chosen != rejected, axis=1) > 0


def pair_batch(
  chosen: Episodes,
  rejected: Episodes,
  reference_logprob: Float[Array, "N 2 T"],
  *,
  trained: Bool[Array, "N K"],
  label: Float[Array, " N"],
) -> Batch:
  """Pairs as a batch [N 2 T], the chosen row first; rows of equal width."""
  pair = lambda x, y: jnp.stack([x, y], axis=1)
  turn = pair(chosen.turn, rejected.turn)
  mask = pair(
    token_mask(chosen.turn, trained), token_mask(rejected.turn, trained)
  )
  tokens = pair(chosen.tokens, rejected.tokens)
  return Batch(
    inputs=tokens,
    tokens=tokens,
    turn=turn,
    path=pair(chosen.path, rejected.path),
    mask=mask,
    targets=PreferenceTargets(reference_logprob, label),
  )


def score_pairs(
  model: Any,
  params: Params,
  chosen: Episodes,
  rejected: Episodes,
  *,
  temperature: float,
) -> Float[Array, "N 2 T"]:
  """Log-probabilities of pairs under a model, as `pair_batch` takes them."""
  scores = [
    score_rows(model, params, rows, temperature=temperature).logprob
    for rows in (chosen, rejected)
  ]
  return jnp.stack(scores, axis=1)


def differ(first: Episodes, second: Episodes) -> Bool[Array, " N"]:
  """Whether the texts of two rows, or the turns that wrote them, differ.

  Equal rows make a pair without a gradient, which would still count in means.
  """
  text = first.tokens != second.tokens
  return jnp.any(text | (first.turn != second.turn), axis=1)


def trained_differ(batch: Batch) -> Bool[Array, " N"]:
  """Whether the trained tokens of both rows differ, of pairs [N 2 T]."""
  text = jnp.where(batch.mask > 0, batch.tokens, PAD)
  return jnp.any(text[:, 0] != text[:, 1], axis=1)


def take_rows(rows: Episodes, index: Int[Array, " N"]) -> Episodes:
  """The rows with these numbers."""
  return jax.tree.map(lambda x: x[index], rows)


def chosen_rows(batch: Batch) -> Episodes:
  """The chosen row of each pair of a batch [N 2 T], log-probabilities 0."""
  tokens, turn, path = (
    x[:, 0] for x in (batch.tokens, batch.turn, batch.path)
  )
  of = jnp.arange(tokens.shape[0], dtype=jnp.int32)
  return Episodes(
    tokens, turn, jnp.zeros(tokens.shape), path, of, jnp.full_like(of, ROOT)
  )


def attempts_of(
  episodes: Episodes, first: Bool[Array, " B"], turn: int, length: int
) -> tuple[Episodes, Episodes]:
  """(chosen, rejected): turns 1 and 2 of each row, both as its `turn`.

  Each stands behind what is before that turn: with turn=2 the first attempt and
  the reply, and then it may be a copy of that attempt. `first`: whether turn 1
  is the chosen one. `length` is the longer limit of the two.
  """
  begun = contexts.before(episodes, turn)
  texts = [attempt(episodes, k, length) for k in (1, 2)]
  chosen, rejected = (
    contexts.append(begun, jnp.where(one[:, None], *texts), turn)
    for one in (first, ~first)
  )
  return chosen, rejected


def best_pairs(
  rows: Episodes, verdict: Verdict, problems: int
) -> tuple[Batch, Float[Array, " P"]]:
  """One pair [P 2 T] a problem: its best and its worst row by the last reward.

  For losses without a reference. Returns (batch, 1 where the rewards differ);
  the mask of other pairs is 0.
  """
  known = jnp.all(verdict.known > 0, axis=1)
  best, worst, found = best_and_worst(
    verdict.reward[:, -1], known, rows.problem, problems
  )
  trained = (problems, verdict.known.shape[1])
  batch = pair_batch(
    take_rows(rows, best), take_rows(rows, worst),
    jnp.zeros((problems, 2, rows.tokens.shape[1])),
    trained=jnp.broadcast_to(found[:, None], trained),
    label=jnp.ones(problems),
  )
  return batch, found.astype(jnp.float32)
