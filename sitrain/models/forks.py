"""Rows of one problem as one forked row, which reads their prompt once.

Rows [P G T] of P problems have G copies of a prompt. Here they are P rows of
`trunk` columns, the prompt, and G branches of `length` columns each: with 8
samples, prompts of 64 and answers of 32 tokens that is 0.42 of the columns.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.models import blocks
from sitrain.types import GIVEN, PAD


class Fork(NamedTuple):
  """The columns of a forked row."""

  trunk: int
  branches: int
  length: int  # of a branch


class Prefix(NamedTuple):
  """What the rows of a problem begin with, all of them."""

  length: Int[Array, " P"]  # columns
  row: Int[Array, " P"]  # a row that has it


def common_prefix(
  turn: Int[Array, "P G T"], inputs: Int[Array, "P G T"], most: int
) -> Prefix:
  """The leading columns that are given, and equal in all rows of a problem.

  Up to `most` of them; pads may be among them. Rows of pads alone are equal to
  any.
  """
  empty = jnp.all(turn == PAD, axis=-1, keepdims=True)
  row = jnp.argmin(empty[..., 0], axis=1).astype(jnp.int32)
  first = lambda x: jnp.take_along_axis(x, row[:, None, None], axis=1)
  same = (turn == first(turn)) & (turn <= GIVEN)
  same &= (inputs == first(inputs)) | (turn == PAD)
  equal = jnp.all((same | empty)[..., :most], axis=1)
  length = jnp.sum(jnp.cumprod(equal, axis=-1, dtype=jnp.int32), axis=-1)
  return Prefix(length, row)


def fork_rows(
  x: Int[Array, "P G T"], prefix: Prefix, fork: Fork, fill: int
) -> Int[Array, "P Q"]:
  """The common prefix of a problem's rows, then what each has behind it.

  Trunk and branches are filled up with `fill`.
  """
  column, start = jnp.arange(fork.trunk), prefix.length
  first = jnp.take_along_axis(x, prefix.row[:, None, None], axis=1)[:, 0]
  trunk = jnp.where(column < start[:, None], first[:, : fork.trunk], fill)
  rest = branches_of(x, start, fork.length, fill)
  return jnp.concatenate([trunk, rest.reshape(x.shape[0], -1)], axis=1)


def branches_of(
  x: Int[Array, "P G T"], start: Int[Array, " P"], length: int, fill: int
) -> Int[Array, "P G L"]:
  """`length` columns from `start` on, with `fill` behind the last."""
  index, last = start[:, None, None] + jnp.arange(length), x.shape[2] - 1
  taken = jnp.take_along_axis(x, jnp.minimum(index, last), axis=2)
  return jnp.where(index <= last, taken, fill)


def paths_of(fork: Fork, rows: int) -> Int[Array, "P Q"]:
  """`Episodes.path` of forked rows: 0 in the trunk, then 1 to G."""
  branch = jnp.repeat(jnp.arange(1, fork.branches + 1), fork.length)
  path = jnp.concatenate([jnp.zeros(fork.trunk, jnp.int32), branch])
  return jnp.broadcast_to(path.astype(jnp.int32), (rows, path.size))


def before(
  hidden: Float[Array, "P Q D"], start: Int[Array, " P"], fork: Fork
) -> Float[Array, "P G L D"]:
  """Of every token of a branch the hidden state one token before it.

  That of the first is the prompt's last; the branch may be read without its
  last column, so L is fork.length + 1.
  """
  rows, width = hidden.shape[0], hidden.shape[2]
  column = jnp.arange(fork.trunk)
  # A sum and no gather: the gradient of a gather is a slow scatter.
  chosen = (column == start[:, None] - 1)[..., None]
  last = jnp.sum(jnp.where(chosen, hidden[:, : fork.trunk], 0), axis=1)
  last = jnp.broadcast_to(
    last[:, None, None], (rows, fork.branches, 1, width)
  )
  rest = hidden[:, fork.trunk :].reshape(rows, fork.branches, -1, width)
  return jnp.concatenate([last, rest], axis=2)


def to_rows(
  x: Float[Array, "P G L"], start: Int[Array, " P"], columns: int
) -> Float[Array, "P G T"]:
  """Numbers of branches at the columns that their tokens had; 0 elsewhere."""
  index, last = jnp.arange(columns) - start[:, None, None], x.shape[2] - 1
  taken = jnp.take_along_axis(x, jnp.clip(index, 0, last), axis=2)
  return jnp.where((index >= 0) & (index <= last), taken, 0)


def attend(
  query: Float[Array, "B N G Q H"],
  key: Float[Array, "B N Q H"],
  value: Float[Array, "B N Q H"],
  visible: Bool[Array, "B Q Q"],
  cap: float,
  fork: Fork,
) -> Float[Array, "B N G Q H"]:
  """`blocks.attend` of forked rows: a branch sees the trunk and itself.

  Of the scores only those are made that `visible` can have, and the softmax of
  a branch goes over both parts.
  """
  end, f32 = fork.trunk, dict(preferred_element_type=jnp.float32)
  trunk = blocks.attend(
    query[..., :end, :], key, value, visible[:, :end, :end], cap
  )
  mine, far_value = query[..., end:, :], value[:, :, :end]
  own_key, own_value = (_apart(x[:, :, end:], 2, fork) for x in (key, value))
  far = jnp.einsum("bngqh,bnth->bngqt", mine, key[:, :, :end], **f32)
  near = jnp.einsum(
    "bngrqh,bnrth->bngrqt", _apart(mine, 3, fork), own_key, **f32
  ).reshape(*far.shape[:-1], fork.length)
  seen = jnp.concatenate([visible[:, end:, :end], _own(visible, fork)], -1)
  scores = blocks.soft_cap(jnp.concatenate([far, near], axis=-1), cap)
  scores = jnp.where(seen[:, None, None], scores, blocks.MASKED)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  far = jnp.einsum("bngqt,bnth->bngqh", weights[..., :end], far_value)
  near = jnp.einsum(
    "bngrqt,bnrth->bngrqh", _apart(weights[..., end:], 3, fork), own_value
  )
  return jnp.concatenate([trunk, far + near.reshape(far.shape)], axis=3)


def _apart(x, axis, fork):
  """An axis of the columns of all branches as two."""
  shape = x.shape[:axis], x.shape[axis + 1 :]
  return x.reshape(*shape[0], fork.branches, fork.length, *shape[1])


def _own(visible, fork):
  """What each branch sees of itself: [B Q Q] -> [B G * L, L]."""
  mine = visible[:, fork.trunk :, fork.trunk :]
  blocks_of = _apart(_apart(mine, 1, fork), 3, fork)
  own = jnp.moveaxis(jnp.diagonal(blocks_of, axis1=1, axis2=3), -1, 1)
  return own.reshape(mine.shape[0], -1, fork.length)
