"""Episodes from given solutions: the cursor without a model."""

import jax
import jax.numpy as jnp

from sitrain.rollout import cursor as cursors
from sitrain.rollout.cursor import Reply
from sitrain.types import PAD, Episodes, Problems


def recite(
  problems: Problems,
  *,
  reply: Reply,
  turns: tuple[int, ...],
  eos: tuple[int, ...],
) -> Episodes:
  """Writes each problem's solution as if the policy had sampled it.

  `solution [P L]` holds the turns one after the other, each with its end token;
  replies are spliced between them as in `play`, by the same cursor, and PAD
  ends the row. Returns P episodes whose log-probabilities are 0.
  """
  count = problems.prompt.shape[0]
  start = jnp.sum(problems.prompt == PAD, axis=1)
  problem = jnp.arange(count)
  probe = cursors.empty_rows(problems.prompt, problem, problems.prompt.shape[1])
  width = jax.eval_shape(reply, problems.answer, probe, problem).shape[1]
  slots = problems.prompt.shape[1]
  length = cursors.limits_of(turns, slots, width)
  solution = jnp.pad(problems.solution, ((0, 0), (0, 1)), constant_values=PAD)

  def body(carry, column):
    rows, cursor, read = carry
    at = jnp.minimum(read, solution.shape[1] - 1)[:, None]
    given = jnp.take_along_axis(solution, at, axis=1)[:, 0]
    cursor, token, mark, ended = cursors.advance(
      cursor, given, first_turn=1, limits=turns, eos=eos
    )
    rows = rows._replace(
      tokens=rows.tokens.at[:, column].set(token),
      turn=rows.turn.at[:, column].set(mark),
    )
    said = reply(problems.answer, rows, cursor.turn)
    cursor = cursors.take_reply(cursor, ended, said, len(turns))
    return (rows, cursor, read + (mark >= 1)), ()

  rows = cursors.empty_rows(problems.prompt, problem, length)
  carry = rows, cursors.begin(count, width), jnp.zeros(count, jnp.int32)
  (rows, _, _), _ = jax.lax.scan(body, carry, jnp.arange(slots, length))
  return cursors.left_align(rows, start)
