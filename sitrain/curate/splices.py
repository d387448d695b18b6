"""Wrong steps spliced into right solutions, each with its correction.

Solutions have one turn, and steps are segments of it (curate/segments.py),
numbered from 1 on.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sitrain.curate.edits import inject
from sitrain.curate.segments import step_numbers
from sitrain.curate.select import imitation_batch, row_noise
from sitrain.judge.groups import FULL, right_turns
from sitrain.rollout import contexts
from sitrain.tasks.attempt import attempt
from sitrain.types import (
  OFFLINE,
  PAD,
  Batch,
  Episodes,
  Problems,
  Verdict,
  Weights,
)


class WrongStep(NamedTuple):
  """A wrong step for each solution."""

  number: Int[Array, " B"]  # of the right step before which it may stand
  tokens: Int[Array, "B W"]  # PAD behind them
  found: Bool[Array, " B"]


class Spliced(NamedTuple):
  """Solutions with a wrong step in each."""

  rows: Episodes  # [B U], with U = T + W + 1
  wrong: Bool[Array, "B U"]  # the tokens of the wrong step


def check(
  share: float, wrong: float, values: str, *, tries: int, step: int,
  rollouts: int,
) -> None:
  """Raises ValueError for options that splice nothing, or what is right."""
  if not 0.0 <= share <= 1.0:
    raise ValueError(f"share={share}: set it from 0 to 1")
  if not 0.0 <= wrong < float("inf"):
    raise ValueError(f"wrong={wrong}: set it to 0 or more, but not inf")
  if tries < 1 or step < 1 or rollouts < 0:
    raise ValueError(
      f"tries={tries}, step={step}, rollouts={rollouts}: set tries and step to "
      "1 or more, and rollouts to 0 or more"
    )
  if len(values) == 1 or len(set(values)) < len(values):
    raise ValueError(
      f"values={values!r}: give two or more, each once, as one of them takes "
      "the place of another"
    )


def batch_of(
  solution: Episodes,
  right: Bool[Array, " B"],
  spliced: Spliced,
  used: Bool[Array, " B"],
  weight: float,
) -> Batch:
  """Imitation of right solutions; those `used` have their wrong step in them.

  L = -sum_t w_t log p(y_t | x, y_<t) with w = `weight`, 0 in the paper, on
  wrong steps, and 1 elsewhere. What has the weight 0 is not in the mean.
  """
  rows = contexts.either(used, spliced.rows, solution)
  weights = jnp.where(used[:, None] & spliced.wrong, weight, 1.0)
  batch = imitation_batch(rows, right[:, None], jnp.ones(right.shape))
  return batch._replace(
    mask=batch.mask * (weights > 0), targets=Weights(weights)
  )


def splice(
  solution: Episodes, wrong: WrongStep, tag: int, ends: tuple[int, ...]
) -> Spliced:
  """prefix | wrong step | tag | right step | rest, all of it turn 1.

  The form of the data of S3c-Math (arXiv:2409.01524), where a sentence of
  reflection stands in the place of the tag.
  """
  later = step_numbers(solution, ends) >= wrong.number[:, None]
  rows = solution._replace(
    tokens=jnp.where(later, PAD, solution.tokens),
    turn=jnp.where(later, PAD, solution.turn),
  )
  first = jnp.sum(rows.turn != PAD, axis=1, keepdims=True)
  after = first + jnp.sum(wrong.tokens != PAD, axis=1, keepdims=True)
  rest = contexts.pack_left(jnp.where(later, solution.tokens, PAD))
  mark = jnp.full((later.shape[0], 1), tag, rest.dtype)
  for part in (wrong.tokens, mark, rest):
    rows = contexts.append(rows, part, 1)
  rows = contexts.narrow(rows, later.shape[1] + wrong.tokens.shape[1] + 1)
  column = jnp.arange(rows.tokens.shape[1])
  return Spliced(
    rows._replace(
      logprob=jnp.zeros_like(rows.logprob),
      parent=jnp.full_like(rows.parent, OFFLINE),
    ),
    (column >= first) & (column < after),
  )


def wrong_steps(
  key: Key[Array, ""],
  problems: Problems,
  rows: dict[str, Episodes],
  verdict: Verdict,
  *,
  ids: tuple[int, ...],
  names: Sequence[str],
  tries: int,
  eos: tuple[int, ...],
  **step: Any,
) -> WrongStep:
  """Of rows "solve" and "step" as of rollout.branches.make: see `sampled`.

  With `ids`, values, one of them is `replaced` by another.
  """
  solution, keys = rows["solve"], jax.random.split(key, 3)
  if not ids:
    return sampled(
      keys[0], problems, solution, rows["step"], verdict, names=names,
      tries=tries, eos=eos, **step,
    )
  noise, shift = (row_noise(k, solution.tokens) for k in keys[1:])
  return replaced(solution, noise, shift[:, 0], ids=ids, **step)


def sampled(
  key: Key[Array, ""],
  problems: Problems,
  solution: Episodes,
  rows: Episodes,
  verdict: Verdict,
  *,
  names: Sequence[str],
  tries: int,
  eos: tuple[int, ...],
  ends: tuple[int, ...],
  limit: int,
) -> WrongStep:
  """A random wrong one of the steps that rollout.branches.alternatives took.

  A step is wrong where its verdict, the part of `names` with its number, says
  so; without names, where no continuation of it is right. Of what cannot be
  judged nothing is taken, nor a copy of the solution's own step, nor one with a
  token of `eos`, which ends its turn: nothing could take it back. `verdict`: of
  all tokens after the prompt as one turn.
  """
  count = solution.tokens.shape[0]
  each = rows.tokens.shape[0] // count // tries
  number, tokens = _taken(rows, problems, ends, limit)
  right, known = verdict.reward[:, 0] >= FULL, verdict.known[:, 0] > 0
  if names:
    parts = jnp.stack([verdict.parts[x][:, 0] for x in names], axis=1)
    right = right_steps(parts, number)
  right, known = (x.reshape(count, tries, each) for x in (right, known))
  number, tokens = (
    x[::each].reshape(count, tries, *x.shape[1:]) for x in (number, tokens)
  )
  own = jax.vmap(
    lambda number: step_at(solution, number, ends, limit), 1, 1
  )(number)
  wrong = jnp.all(known & ~right, axis=2) & jnp.any(tokens != own, axis=2)
  wrong &= ~jnp.any(jnp.isin(tokens, jnp.asarray(eos, jnp.int32)), axis=2)
  noise = row_noise(key, rows.tokens[::each])[:, 0].reshape(count, tries)
  best = jnp.argmax(jnp.where(wrong, noise, -1.0), axis=1)[:, None]
  take = lambda x: jnp.take_along_axis(x, best, axis=1)[:, 0]
  chosen = jnp.take_along_axis(tokens, best[..., None], axis=1)[:, 0]
  return WrongStep(take(number), chosen, take(wrong))


def replaced(
  solution: Episodes,
  noise: Float[Array, "B T"],
  shift: Float[Array, " B"],
  *,
  ids: tuple[int, ...],
  ends: tuple[int, ...],
  limit: int,
) -> WrongStep:
  """A step of each solution with another number in it: see edits.inject."""
  edited = inject(solution, noise, shift, ids=ids, ends=ends)
  number = jnp.where(edited.step, step_numbers(solution, ends), 0)
  number = jnp.max(number, axis=1)
  tokens = step_at(edited.rows, number, ends, limit)
  return WrongStep(number, tokens, edited.found)


def step_at(
  rows: Episodes, number: Int[Array, " B"], ends: tuple[int, ...], limit: int
) -> Int[Array, "B L"]:
  """The first `limit` tokens of a step of each row, PAD behind them."""
  own = step_numbers(rows, ends) == number[:, None]
  marked = rows._replace(turn=jnp.where(own & (rows.turn > 0), 1, PAD))
  return attempt(marked, 1, limit)


def right_steps(
  verdicts: Float[Array, "B S"], number: Int[Array, " B"]
) -> Bool[Array, " B"]:
  """Whether the step of this number is right; none beyond the last one is."""
  count = verdicts.shape[1]
  at = jnp.clip(number - 1, 0, count - 1)[:, None]
  found = jnp.take_along_axis(verdicts, at, axis=1)[:, 0]
  return (found > 0) & (number <= count)


def all_right(
  solution: Episodes,
  verdict: Verdict,
  ends: tuple[int, ...],
  names: Sequence[str],
) -> Bool[Array, " B"]:
  """Whether an answer is right, and each step by the parts `names` of turn 1.

  A right answer may stand behind wrong steps, which would be trained as right
  ones. Without names, where the task does not judge steps, the answer alone.
  """
  right = right_turns(verdict)[:, 0]
  if not names:
    return right
  parts = jnp.stack([verdict.parts[x][:, 0] for x in names], axis=1)
  count = jnp.max(step_numbers(solution, ends), axis=1)[:, None]
  used = jnp.arange(1, len(names) + 1) <= count
  right &= jnp.all((parts > 0) | ~used, axis=1)
  return right & (count[:, 0] <= len(names))


def _taken(rows, problems, ends, limit):
  """(number, tokens) of the step, turn 1, that each row has after a prefix.

  The number counts the steps of the prefix, too.
  """
  whole = contexts.as_one_turn(rows, problems)
  number = step_numbers(whole, ends)
  own = jnp.where(rows.turn == 1, number, number.shape[1])
  return jnp.min(own, axis=1), attempt(rows, 1, limit)
