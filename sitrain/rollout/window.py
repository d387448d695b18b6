"""Rollouts whose later turns see the last attempts alone."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Key

from sitrain.rollout import contexts
from sitrain.rollout.contexts import Segment
from sitrain.rollout.play import play, play_on, row_keys
from sitrain.tasks.attempt import attempt
from sitrain.types import GIVEN, Episodes, Params, Problems


def play_in_window(
  keys: Key[Array, " P"],
  model: Any,
  params: Params,
  problems: Problems,
  *,
  window: int,
  samples: int,
  reply: Callable,
  turns: tuple[int, ...],
  **options: Any,
) -> Episodes:
  """Samples episodes [P * samples T] like `play.play`, with forgetting.

  A turn sees the prompt and the last `window` - 1 attempts with their replies,
  so that many turns read like the `window` turns that were trained (RISE's
  evaluation, arXiv:2407.18219). The rows hold all turns, one after the other,
  and log-probabilities of 0 for turns after `window`: they are no rows to train
  on. Other options as in `play.play_on`. Raises ValueError for a window of
  less than 2.
  """
  check_window(window)
  rows = play(
    keys, model, params, problems, samples=samples, reply=reply,
    turns=turns[:window], **options,
  )
  keys, count = row_keys(keys, samples), rows.problem.shape[0]
  replies = [
    reply(problems.answer[rows.problem], rows, jnp.full(count, k, jnp.int32))
    for k in range(1, len(turns[:window]))
  ]
  live = jnp.ones(count, bool)
  for answered in replies:
    live &= ~answered.done
  for turn in range(window + 1, len(turns) + 1):
    last = jnp.full(count, turn - 1, jnp.int32)
    answered = reply(problems.answer[rows.problem], rows, last)
    live &= ~answered.done
    replies.append(answered)
    seen = range(turn - window + 1, turn)
    context = contexts.compose(
      problems, Segment(rows, GIVEN), *(
        part for k in seen
        for part in (Segment(rows, k, turns[k - 1]), replies[k - 1].tokens)
      ),
    )
    played = play_on(
      keys, model, params, context, contexts.begin(context, 1), samples=1,
      reply=reply, turns=turns[turn - 1 : turn], first_turn=turn, live=live,
      **options,
    )
    rows = contexts.append_reply(rows, answered._replace(done=~live))
    rows = contexts.append(rows, attempt(played, turn, turns[turn - 1]), turn)
  return rows


def check_window(window: int) -> None:
  """Raises ValueError for a window in which no turn sees another."""
  if window < 2:
    raise ValueError(
      f"window={window}: set it to 2 or more, a turn and the one before it"
    )
