"""Rows that a method keeps in its memory, to train on again."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.rollout.contexts import widen
from sitrain.types import PAD, ROOT, Episodes


class Buffer(NamedTuple):
  """At most C rows, the newest first, and what rows were worth lately."""

  rows: Episodes  # [C T]
  reward: Float[Array, " C"]
  step: Int[Array, " C"]  # TrainState.step at which a row came; -1: no row
  history: Float[Array, " H"]  # mean rewards of recent groups; NaN: none yet


def empty(capacity: int, columns: int, history: int) -> Buffer:
  """A buffer without rows, for rows of `columns` tokens."""
  blank = jnp.full((capacity, columns), PAD, jnp.int32)
  zeros = jnp.zeros(capacity, jnp.int32)
  rows = Episodes(
    tokens=blank, turn=blank + 0, logprob=jnp.zeros(blank.shape, jnp.float32),
    path=jnp.zeros_like(blank), problem=zeros, parent=zeros + ROOT,
  )
  return Buffer(
    rows, jnp.zeros(capacity), zeros - 1, jnp.full(history, jnp.nan)
  )


def push(
  buffer: Buffer,
  rows: Episodes,
  reward: Float[Array, " B"],
  keep: Bool[Array, " B"],
  step: Int[Array, ""],
) -> Buffer:
  """Puts the rows to keep in front; the oldest fall out at the end."""
  reward = jnp.where(keep, reward, 0.0)
  rows = widen(rows, buffer.rows.tokens.shape[1])
  new = jnp.where(keep, step, -1)
  steps = jnp.concatenate([new, buffer.step])
  order = jnp.argsort(-steps, stable=True)[: buffer.step.shape[0]]
  take = lambda x, y: jnp.concatenate([x, y])[order]
  return buffer._replace(
    rows=jax.tree.map(take, rows, buffer.rows),
    reward=take(reward, buffer.reward), step=steps[order],
  )


def remember_means(
  buffer: Buffer,
  reward: Float[Array, " B"],
  known: Float[Array, " B"],
  group: Int[Array, " B"],
  groups: int,
) -> Buffer:
  """Puts the mean reward of every group in front of the history."""
  count = jax.ops.segment_sum(known, group, groups)
  total = jax.ops.segment_sum(
    jnp.where(known > 0, reward, 0.0), group, groups
  )
  mean = jnp.where(count > 0, total / jnp.maximum(count, 1.0), jnp.nan)
  size = buffer.history.shape[0]
  return buffer._replace(
    history=jnp.concatenate([mean, buffer.history])[:size]
  )


def advantages(
  buffer: Buffer, step: Int[Array, ""], age: int
) -> tuple[Float[Array, " C"], Bool[Array, " C"]]:
  """Rewards less the median of the history, and which rows are worth replaying.

  Those that came 1 to `age` steps ago and have an advantage above 0; what has
  come in this step is in its batch already. Other rows have 0.
  """
  since = step - buffer.step
  gain = buffer.reward - jnp.nanmedian(buffer.history)
  chosen = (buffer.step >= 0) & (since >= 1) & (since <= age) & (gain > 0)
  return jnp.where(chosen, gain, 0.0), chosen
