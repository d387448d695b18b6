"""Reward functions on token arrays, for runs that never leave the device.

  reward(tokens, answer, turn) -> [B]

in jax.numpy, of `tokens [B T]`, the turn of each row without its end token,
`answer [B A]`, the answer of its row, both with PAD (-1) behind them, and
`turn`, from 1. NaN is not known. A function names those that it reads.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from sitrain.tasks import rewards
from sitrain.tasks.own_functions import ERRORS, last_line
from sitrain.tasks.rewards import Reward
from sitrain.tasks.text import padded
from sitrain.types import PAD, Chat, Episodes, Task, Verdict


def parse(text: str) -> list[Reward]:
  """The rewards of the option device_reward; none for ""."""
  return rewards.parse("device_reward", text, rewards.DEVICE_ASKS)


def on_device(
  task: Task, chat: Chat, own: Sequence[Reward],
  answers: Sequence[Sequence[int]], *, cut: str,
) -> Task:
  """A text task, judged on the device by `own`.

  `answers` has the tokens of every row's answer, which join the number of the
  row in `Problems.answer`. Raises ValueError for a function that fails, or does
  not return a number for each row.
  """
  for one in own:
    _check(one)
  row = np.asarray(task.table.answer)[:, 0]
  given = padded([answers[i] for i in row], left=False, width=1)

  def verify(
    answer: Int[Array | np.ndarray, "B A"], episodes: Episodes, turns: int
  ) -> Verdict:
    answer = jnp.asarray(answer)
    each = [
      _judged(own, answer[:, 1:], *_turn(episodes, k + 1, chat.eos), k + 1, cut)
      for k in range(turns)
    ]
    return jax.tree.map(lambda *x: jnp.stack(x, axis=1), *each)

  def final(episodes: Episodes, turns: int) -> Int[Array, "B K"]:
    each = [_answer_id(*_turn(episodes, k + 1, chat.eos)) for k in range(turns)]
    return jnp.stack(each, axis=1)

  names = tuple(one.name for one in own) if len(own) > 1 else ()
  table = task.table._replace(
    answer=np.concatenate([task.table.answer, given], axis=1)
  )
  return task._replace(
    table=table, verify=verify, final=final, on_host=False, rewards=names
  )


def _check(one: Reward) -> None:
  """Traces a function with five rows."""
  shapes = jnp.zeros((5, 7), jnp.int32), jnp.zeros((5, 3), jnp.int32)
  try:
    found = jax.eval_shape(lambda *rows: _call(one, *rows, 1), *shapes)
  except ERRORS as error:
    raise ValueError(
      f"device_reward: {one.shown} cannot be traced: {last_line(error)}: write "
      "it in jax.numpy, without branches on values"
    ) from error
  if getattr(found, "shape", ()) != (5,):
    raise ValueError(
      f"device_reward: {one.shown} returns {found} for 5 rows: return a number "
      "for each, of shape [5]"
    )


def _call(one: Reward, tokens: Any, answer: Any, turn: int) -> Any:
  known = {"tokens": tokens, "answer": answer, "turn": turn}
  return one.own.function(**{name: known[name] for name in one.asks})


def _judged(own, answer, tokens, ended, turn: int, cut: str) -> Verdict:
  parts = {}
  for one in own:
    value = jnp.asarray(_call(one, tokens, answer, turn), jnp.float32)
    if cut != "judge":
      blank = jnp.nan if cut == "unknown" else 0.0
      value = jnp.where(ended, value, blank)
    parts[one.name] = value
  return Verdict(*rewards.total(own, parts, jnp))


def _turn(
  episodes: Episodes, turn: int, eos: tuple[int, ...]
) -> tuple[Array, Array]:
  """The tokens of a turn from column 0 on, and whether it ended."""
  tokens = jnp.asarray(episodes.tokens)
  own = jnp.asarray(episodes.turn) == turn
  end = own & jnp.isin(tokens, jnp.asarray(eos, jnp.int32))
  keep = own & ~end
  order = jnp.argsort(~keep, axis=1, stable=True)
  tokens = jnp.where(keep, tokens, PAD)
  return jnp.take_along_axis(tokens, order, axis=1), jnp.any(end, axis=1)


def _answer_id(tokens: Array, ended: Array) -> Int[Array, " B"]:
  """A hash of a turn's tokens; -1 where it was cut."""
  mix: Callable = lambda code, token: (
    jnp.where(token == PAD, code, code * 1000003 + token + 1), None
  )
  code, _ = jax.lax.scan(mix, jnp.zeros(len(tokens), jnp.int32), tokens.T)
  return jnp.where(ended, code & jnp.int32(2**31 - 1), -1)
