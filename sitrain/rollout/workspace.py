"""A bounded workspace: a prompt, and some drafts as if they were its dialogue.

  prompt | draft 1 | instruction | draft 2 | instruction | ... | (next attempt)

by token ids, so that a policy reads what it was trained on: attempts, each with
the task's instruction behind it. At most keep * (limit + reply) tokens stand
between the prompt and the next attempt, whatever was written before: nothing of
an older workspace is taken over.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sitrain.rollout import contexts
from sitrain.rollout.contexts import Segment
from sitrain.types import GIVEN, PAD, Episodes, Problems, Reply


def compose(
  reply: Callable[..., Reply],
  problems: Problems,
  drafts: Episodes,
  read: Int[Array, "B k"],
  *,
  limit: int,
) -> Problems:
  """Problems [B] whose prompts are workspaces of drafts, which are turn 1.

  `read` has the rows of `drafts` in the order in which they stand, all of the
  same problem. What those rows have read themselves is left out.
  """
  rows = jax.tree.map(lambda x: x[read[:, 0]], drafts)
  prompts = jax.tree.map(
    lambda x: x[rows.problem], contexts.begin(problems, 1)
  )
  parts = [Segment(prompts, GIVEN)]
  for place, number in enumerate(read.T, start=1):
    rows = jax.tree.map(lambda x, number=number: x[number], drafts)
    # The instruction may depend on the number of the attempt.
    rows = rows._replace(turn=jnp.where(rows.turn == 1, place, rows.turn))
    at = jnp.full(rows.problem.shape, place)
    said = reply(problems.answer[rows.problem], rows, at)
    parts += [Segment(rows, place, limit), said.tokens]
  return contexts.compose(problems, *parts)


def at_random(
  keys: Key[Array, " B"],
  votes: Int[Array, "P D"],
  score: Float[Array, "P D"],
  final: Int[Array, "P D"],
  *,
  calls: int,
  keep: int,
) -> Int[Array, "B {keep}"]:
  """Places of `keep` different drafts, drawn anew for each of B calls."""
  del score, final, calls
  draw = lambda key: jax.random.uniform(key, votes.shape[1:])
  return jnp.argsort(jax.vmap(draw)(keys), axis=1)[:, :keep]


def by_vote(
  keys: Key[Array, " B"],
  votes: Int[Array, "P D"],
  score: Float[Array, "P D"],
  final: Int[Array, "P D"],
  *,
  calls: int,
  keep: int,
) -> Int[Array, "B {keep}"]:
  """Places of the `keep` drafts with the most votes, the same for all calls.

  First one draft of every answer, the one with the highest score, by votes;
  copies of an answer and drafts without one only where answers are too few.
  """
  del keys
  order = jnp.lexsort((-score, -votes), axis=1)
  ranked = jnp.take_along_axis(final, order, axis=1)
  same = ranked[:, :, None] == ranked[:, None]
  before = jnp.tril(jnp.ones(same.shape[1:], bool), -1)
  copy = jnp.any(same & before, axis=2) | (ranked == PAD)
  first = jnp.argsort(copy, axis=1, stable=True)
  places = jnp.take_along_axis(order, first, axis=1)[:, :keep]
  return jnp.repeat(places, calls, axis=0)
