"""Attempts in which a value may be withdrawn, and the next one replaces it.

A value is one token, and the mark `fix` behind it withdraws it. What stands is
what is left without marks and what they withdraw. A mark that is not behind a
value makes an attempt malformed.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.tasks.attempt import attempt
from sitrain.tasks.roles import pack
from sitrain.types import PAD, Episodes, Task, Verdict

WRITTEN = ("slips", "mended", "doubted")
Due = Callable[[Array, Array, Array], Array]  # see with_withdrawals


def with_withdrawals(
  task: Task,
  verify_steps: Callable[..., Verdict],
  due: Due,
  *,
  fix: int,
  values: int,
  longest: int,
  steps: int,
) -> Task:
  """The task with attempts of up to `longest` tokens that withdraw values.

  verify_steps: as Task.verify, of what stands, with the parts right and step_1
    to step_{steps}.
  due: (answer [B A], value before [B N], number of the step, from 0 on) ->
    [B N], the value that has to follow, PAD behind the last step.
  values: the tokens below it are values.
  """

  def standing(episodes: Episodes, turns: int) -> Episodes:
    """Rows of all turns without what was withdrawn; malformed ones are empty.

    A turn is not known by its tokens alone if it was never written, so what is
    malformed keeps one mark, which no verifier takes for an answer.
    """
    parts = [_standing(written(episodes, k), fix, values) for k in
             range(1, turns + 1)]
    marks = [jnp.full_like(part, k) for k, part in enumerate(parts, 1)]
    tokens = jnp.concatenate(parts, axis=1)
    turn = jnp.where(tokens == PAD, PAD, jnp.concatenate(marks, axis=1))
    zero = jnp.zeros_like(tokens)
    return episodes._replace(
      tokens=tokens, turn=turn, path=zero, logprob=zero.astype(jnp.float32)
    )

  def written(episodes, turn):
    return attempt(episodes, turn, longest + 1)

  def verify(answer, episodes: Episodes, turns: int) -> Verdict:
    verdict = verify_steps(answer, standing(episodes, turns), turns)
    each = [
      shares(written(episodes, k), partial_due(answer), fix, values)
      for k in range(1, turns + 1)
    ]
    named = zip(WRITTEN, jnp.stack(each, axis=2), strict=True)
    return verdict._replace(parts=verdict.parts | dict(named))

  def partial_due(answer):
    return lambda before, number: due(answer, before, number)

  return task._replace(
    verify=verify,
    final=lambda episodes, turns: task.final(standing(episodes, turns), turns),
    rewards=("right", *(f"step_{k + 1}" for k in range(steps)), *WRITTEN),
  )


def _withdrawn(walk, fix, values) -> Bool[Array, "B N"]:
  """Values with a mark behind them."""
  after = jnp.pad(walk[:, 1:], ((0, 0), (0, 1)), constant_values=PAD)
  return (walk >= 0) & (walk < values) & (after == fix)


def _standing(walk, fix, values):
  """What stands of attempts [B N], PAD behind it.

  One `fix` alone where there is a mark behind no value, and where an attempt
  takes all of its columns, as it is too long then.
  """
  gone = _withdrawn(walk, fix, values)
  mark = walk == fix
  lone = jnp.any(mark & ~jnp.pad(gone[:, :-1], ((0, 0), (1, 0))), axis=1)
  bad = (lone | (walk[:, -1] != PAD))[:, None]
  kept = pack(jnp.where(gone | mark, PAD, walk))
  alone = jnp.where(jnp.arange(walk.shape[1]) == 0, fix, PAD)
  return jnp.where(bad, alone, kept)


def shares(
  walk: Int[Array, "B N"],
  due: Callable[[Array, Array], Array],
  fix: int,
  values: int,
) -> Float[Array, "3 B"]:
  """slips, mended and doubted of attempts; NaN where nothing counts.

  A value is compared with what has to follow the value that stands before it.
  """
  value = (walk >= 0) & (walk < values)
  gone = _withdrawn(walk, fix, values)
  stands = value & ~gone
  number = jnp.cumsum(stands, axis=1) - stands
  place = jnp.where(stands, jnp.arange(walk.shape[1]), -1)
  last = jnp.pad(
    jax.lax.cummax(place, axis=1)[:, :-1], ((0, 0), (1, 0)), constant_values=-1
  )
  before = jnp.take_along_axis(walk, jnp.maximum(last, 0), axis=1)
  right = value & (walk == due(before, number))
  wrong = value & ~right
  replaced = jnp.pad(right[:, 2:], ((0, 0), (0, 2)))
  share = lambda x, of: jnp.where(
    jnp.any(of, axis=1), jnp.sum(x & of, axis=1) / jnp.sum(of, axis=1), jnp.nan
  )
  return jnp.stack([
    share(wrong, value), share(gone & replaced, wrong), share(gone, right)
  ])
