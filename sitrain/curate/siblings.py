"""Nodes of search trees, as rows: their values, and siblings as pairs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.curate.pairs import best_and_worst, differ, take_rows
from sitrain.types import GIVEN, PAD, Episodes, Verdict

RIGHT, WRONG = 1.0, -0.5  # what an attempt brings; Xie et al. 2024


def outcome(verdict: Verdict) -> Float[Array, " B"]:
  """What the attempt of each node brought; 0 where nothing is known of it."""
  known, reward = verdict.known[:, 0] > 0, verdict.reward[:, 0]
  return jnp.where(known, jnp.where(reward > 0.5, RIGHT, WRONG), 0.0)


def tree_values(
  verdict: Verdict, parent: Int[Array, " B"], depth: int
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
  """Q of each row: mean known outcome in and below it, and how many there are.

  `parent` is the row above, negative for none; no row is deeper than `depth`
  below another. Without an outcome the mean is 0.
  """
  own = outcome(verdict), (verdict.known[:, 0] > 0).astype(jnp.float32)
  rows = parent.shape[0]
  above = jnp.where(parent >= 0, parent, rows)  # what has none is dropped
  total, count = own
  for _ in range(depth):
    total, count = (
      x + jax.ops.segment_sum(y, above, rows)
      for x, y in zip(own, (total, count), strict=True)
    )
  return total / jnp.maximum(count, 1.0), count


def sibling_pairs(
  rows: Episodes, verdict: Verdict, *, problems: int, depth: int
) -> tuple[Int[Array, " N"], Int[Array, " N"], Bool[Array, " N"]]:
  """The best and the worst child of each row of the main line of each tree.

  By `tree_values`. The main line begins at a problem's first row and goes to
  the child with the most outcomes, of equal ones the best, of equal ones the
  first; `depth` of its rows are taken, so N = problems * depth, problem by
  problem. Children without an outcome do not count. Returns (best, worst,
  whether their values and their steps differ).
  """
  count = rows.problem.shape[0]
  value, visits = tree_values(verdict, rows.parent, depth)
  child = (rows.parent >= 0) & (visits > 0)
  group = jnp.maximum(rows.parent, 0)
  best, worst, unequal = best_and_worst(value, child, group, count)
  order = jnp.lexsort((-jnp.arange(count), value, visits))
  rank = jnp.zeros(count).at[order].set(jnp.arange(count, dtype=jnp.float32))
  most, _, _ = best_and_worst(rank, child, group, count)
  has_child = jax.ops.segment_sum(child.astype(jnp.int32), group, count) > 0
  at, line, inside = jnp.arange(problems) * (count // problems), [], []
  going = jnp.ones(problems, bool)
  for _ in range(depth):
    going &= has_child[at]
    line.append(at)
    inside.append(going)
    at = jnp.where(going, most[at], at)
  line = jnp.stack(line, axis=1).reshape(-1)
  inside = jnp.stack(inside, axis=1).reshape(-1)
  best, worst = best[line], worst[line]
  steps = (own_step(take_rows(rows, row)) for row in (best, worst))
  return best, worst, inside & unequal[line] & differ(*steps)


def own_step(rows: Episodes) -> Episodes:
  """The rows without what follows their step: rollouts make no difference."""
  inside = (rows.turn == GIVEN) | (rows.turn == 1)
  return rows._replace(
    tokens=jnp.where(inside, rows.tokens, PAD),
    turn=jnp.where(inside, rows.turn, PAD),
  )
