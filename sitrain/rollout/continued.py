"""Rollouts in which several roles go on from the same first attempts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sitrain.models.roles import params_of
from sitrain.rollout import by_turn, contexts
from sitrain.rollout.play import play, play_on, row_keys
from sitrain.types import ROOT, Task


def make(
  models: dict[str, Any], task: Task, roles: tuple[str, ...], *, samples: int,
  turns: tuple[int, ...], temperature: float, slots: int = 0,
) -> Callable:
  """One first attempt a problem, and `samples` rows of each role behind it.

  The policy attempts; turns 2 and later are the role's. As generate(keys,
  state, problems): rows [P * R * samples T], those of a problem together, in
  the order of `roles`. A role that is listed twice draws other tokens. Raises
  ValueError for a single turn, and where the host replies.
  """
  if len(turns) < 2 or by_turn.on_host(task.reply):
    raise ValueError(
      f"turns={turns}: others go on from a first attempt: give the limits of "
      "two turns or more, and a task that does not reply on the host"
    )
  options = dict(
    reply=task.reply, eos=task.eos, temperature=temperature, slots=slots
  )

  def generate(keys, state, problems):
    count = problems.prompt.shape[0]
    first = play(
      keys, models["policy"], params_of(state, "policy"), problems, samples=1,
      turns=turns[:1], **options,
    )
    reply = task.reply(problems.answer, first, jnp.ones(count, jnp.int32))
    begun = contexts.append_reply(first, reply)
    parts = []
    for number, role in enumerate(roles):
      own = jax.vmap(jax.random.fold_in, (0, None))(row_keys(keys, 1), number)
      rows = play_on(
        own, models[role], params_of(state, role), problems, begun,
        samples=samples, turns=turns[1:], first_turn=2, live=~reply.done,
        **options,
      )
      # What they go on from is no row of the result.
      parts.append(rows._replace(parent=jnp.full_like(rows.parent, ROOT)))
    return contexts.side_by_side(tuple(parts), count)

  return generate
