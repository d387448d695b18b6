"""A bounded workspace: a prompt, and some drafts as if they were its dialogue.

  prompt | draft 1 | instruction | draft 2 | instruction | ... | (next attempt)

by token ids, so that a policy reads what it was trained on: attempts, each with
the task's instruction behind it. Where the policy judges its attempts, a draft
is an attempt and its verdict on it, and the instruction follows a verdict. At
most keep * (limits + replies) tokens stand between the prompt and the next
attempt, whatever was written before: nothing of an older workspace is taken
over.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from sitrain.rollout import contexts
from sitrain.rollout.contexts import Segment
from sitrain.types import GIVEN, Episodes, Problems, Reply


def compose(
  reply: Callable[..., Reply],
  problems: Problems,
  drafts: Episodes,
  read: Int[Array, "B k"],
  *,
  turns: tuple[int, ...],
) -> Problems:
  """Problems [B] whose prompts are workspaces of drafts.

  `read` has the rows of `drafts` in the order in which they stand, all of the
  same problem, and `turns` the limits of a draft's turns. What those rows have
  read themselves is left out. A reply that would end the episode, as that to
  the verdict `<ok>`, stands there all the same: the operator refines always.
  """
  rows = jax.tree.map(lambda x: x[read[:, 0]], drafts)
  prompts = jax.tree.map(
    lambda x: x[rows.problem], contexts.begin(problems, 1)
  )
  parts = [Segment(prompts, GIVEN)]
  for place, number in enumerate(read.T):
    before = place * len(turns)
    rows = jax.tree.map(lambda x, number=number: x[number], drafts)
    # The instruction may depend on the number of the turn.
    moved = jnp.where(rows.turn > GIVEN, rows.turn + before, rows.turn)
    rows = rows._replace(turn=moved)
    for turn, limit in enumerate(turns, start=before + 1):
      at = jnp.full(rows.problem.shape, turn)
      replied = reply(problems.answer[rows.problem], rows, at)
      parts += [Segment(rows, turn, limit), replied.tokens]
  return contexts.compose(problems, *parts)

