"""P(True): how likely a policy finds its own attempt right.

Source: Kadavath et al. 2022, arXiv:2207.05221, section 3: the probability of
the answer "True" after "Is the proposed answer: (A) True (B) False". Here the
question and the labels are token ids: of a task with critiques there is no
question, and the label is `<ok>`.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sitrain.models.logprobs import score_rows
from sitrain.types import GIVEN, PAD, Episodes, Params, Policy


def p_true(
  model: Policy,
  params: Params,
  episodes: Episodes,
  *,
  turn: int,
  question: Sequence[int] = (),
  right: Sequence[int],
  wrong: Sequence[int] = (),
  temperature: float = 1.0,
) -> Float[Array, " B"]:
  """Probability of a right label after a turn and the question.

  right, wrong: ids of single tokens. With wrong ones the value is p(right) /
  (p(right) + p(wrong)), as the source has it; without, p(right) among all
  tokens. NaN where the row has not written the turn. All labels are branches
  behind one row, which is read once. Raises ValueError without a right label,
  and for labels that repeat.
  """
  labels = [*right, *wrong]
  if not right or len(set(labels)) < len(labels):
    raise ValueError(
      f"right={list(right)}, wrong={list(wrong)}: give one or more ids of "
      "single tokens, each once"
    )
  rows, start, written = asked(episodes, turn, question, labels)
  scores = score_rows(model, params, rows, temperature=temperature).logprob
  place = start[:, None] + jnp.arange(len(labels))
  chance = jnp.exp(jnp.take_along_axis(scores, place, axis=1))
  yes = jnp.sum(chance[:, : len(right)], axis=1)
  value = yes / jnp.sum(chance, axis=1) if wrong else yes
  return jnp.where(written, value, jnp.nan)


def asked(
  episodes: Episodes,
  turn: int,
  question: Sequence[int],
  labels: Sequence[int],
) -> tuple[Episodes, Int[Array, " B"], Array]:
  """Rows up to the end of a turn, the question, and each label on a path.

  Also the column of the first label [B], and whether the turn is there [B].
  """
  own = episodes.turn == turn
  length = own.shape[1]
  end = length - jnp.argmax(own[:, ::-1], axis=1)
  written = jnp.any(own, axis=1)
  end = jnp.where(written, end, 0)[:, None]
  more = jnp.array([*question, *labels], jnp.int32)
  column = jnp.arange(length + more.size)
  after = column - end  # 0 and more: the question, then the labels
  tail = jnp.take(more, jnp.clip(after, 0, more.size - 1))
  kept = jnp.pad(episodes.tokens, ((0, 0), (0, more.size)))
  tokens = jnp.where(after < 0, kept, tail)
  inside = (after < more.size) & written[:, None]
  path = jnp.maximum(after - len(question) + 1, 0)
  rows = episodes._replace(
    tokens=jnp.where(inside, tokens, PAD),
    turn=jnp.where(inside, GIVEN, PAD),
    logprob=jnp.zeros(tokens.shape, jnp.float32),
    path=jnp.where(inside, path, 0),
  )
  return rows, end[:, 0] + len(question), written
