"""What rollouts start from: rows of prompts, and new contexts out of old rows.

Everything goes by token ids: what was sampled is never decoded and encoded
again. Rows of `Episodes` start at column 0 and have their padding at the end;
prompts of `Problems` have theirs at the start.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from sitrain.types import GIVEN, OFFLINE, PAD, ROOT, Episodes, Problems, Reply


class Segment(NamedTuple):
  """A part of a context: what every row has of one turn."""

  episodes: Episodes
  turn: int | Int[Array, " B"]  # GIVEN: the prompt, up to the first turn
  length: int = 0  # columns it may take; 0: as many as the rows have


def begin(problems: Problems, samples: int) -> Episodes:
  """The prompts as rows [P * samples S], in which nothing is written yet."""
  prompt = jnp.repeat(problems.prompt, samples, axis=0)
  problem = jnp.repeat(jnp.arange(problems.prompt.shape[0]), samples)
  return align_left(Episodes(
    tokens=prompt,
    turn=jnp.where(prompt == PAD, PAD, GIVEN),
    logprob=jnp.zeros(prompt.shape, jnp.float32),
    path=jnp.zeros(prompt.shape, jnp.int32),
    problem=problem.astype(jnp.int32),
    parent=jnp.full(prompt.shape[0], ROOT, jnp.int32),
  ))


def append(
  episodes: Episodes,
  tokens: Int[Array, "B F"],
  turn: int | Int[Array, " B"] = GIVEN,
) -> Episodes:
  """Adds tokens at the end of the text of every row: [B T] -> [B T + F].

  They are marked as given, or as written in `turn`, with log-probability 0.
  PAD among them takes no place.
  """
  mark = jnp.asarray(turn, jnp.int32).reshape(-1, 1)
  more = Episodes(
    tokens=tokens,
    turn=jnp.where(tokens == PAD, PAD, mark),
    logprob=jnp.zeros(tokens.shape, episodes.logprob.dtype),
    path=jnp.zeros(tokens.shape, episodes.path.dtype),
    problem=episodes.problem,
    parent=episodes.parent,
  )
  joined = _by_column(
    lambda old, new: jnp.concatenate([old, new], axis=1), episodes, more
  )
  order = jnp.argsort(joined.turn == PAD, axis=1, stable=True)
  return _by_column(
    lambda x: jnp.take_along_axis(x, order, axis=1), joined
  )


def before(episodes: Episodes, turn: int) -> Episodes:
  """The rows up to the first token of a turn, or whole where they lack it."""
  kept = jnp.cumsum(episodes.turn == turn, axis=1) == 0
  return episodes._replace(
    tokens=jnp.where(kept, episodes.tokens, PAD),
    turn=jnp.where(kept, episodes.turn, PAD),
    logprob=jnp.where(kept, episodes.logprob, 0.0),
    path=jnp.where(kept, episodes.path, 0),
  )


def append_reply(episodes: Episodes, reply: Reply) -> Episodes:
  """Appends replies to the rows whose episodes have not ended."""
  return append(episodes, jnp.where(reply.done[:, None], PAD, reply.tokens))


def join(
  first: Episodes, reply: Int[Array, "B F"], second: Int[Array, "B U"]
) -> Episodes:
  """Rows of `first`, then the reply, then `second` as the next turn.

  The rows are marked OFFLINE: the policy did not write them as they stand.
  """
  last = jnp.max(first.turn, axis=1)
  rows = append(append(first, reply), second, last + 1)
  return rows._replace(
    logprob=jnp.zeros_like(rows.logprob),
    parent=jnp.full_like(rows.parent, OFFLINE),
  )


def compose(problems: Problems, *parts: Any) -> Problems:
  """Problems whose prompts are made of constant ids and parts of old rows.

  Args:
    problems: those that the rows answer.
    parts: in their order, `Segment`s of B rows, or token ids: a sequence for
      all rows, or an array [B F] with PAD where a row has fewer.

  Row b of the result has its answer and solution from the problem of row b of
  the first segment. Raises ValueError where there is no segment, and where
  segments differ in their number of rows.
  """
  segments = [part for part in parts if isinstance(part, Segment)]
  counts = {segment.episodes.problem.shape[0] for segment in segments}
  if len(counts) != 1:
    raise ValueError(
      f"compose: segments of {sorted(counts)} rows; it needs one segment at "
      "least, and all of the same rows"
    )
  (count,) = counts
  columns = [_tokens_of(part, count) for part in parts]
  prompt = _pack_right(jnp.concatenate(columns, axis=1))
  problem = segments[0].episodes.problem
  return Problems(prompt, problems.answer[problem], problems.solution[problem])


def _tokens_of(part, count):
  """The tokens [B F] of a part of a context, with PAD anywhere."""
  if not isinstance(part, Segment):
    ids = jnp.asarray(part, jnp.int32)
    return jnp.broadcast_to(ids, (count, ids.shape[-1]))
  rows, turn = part.episodes, jnp.asarray(part.turn).reshape(-1, 1)
  # Replies are given too, but they are no part of the prompt.
  in_prompt = jnp.cumsum(rows.turn > GIVEN, axis=1) == 0
  chosen = (rows.turn == turn) & ((turn != GIVEN) | in_prompt)
  tokens = jnp.where(chosen, rows.tokens, PAD)
  return pack_left(tokens)[:, : part.length] if part.length else tokens


def as_one_turn(episodes: Episodes, problems: Problems) -> Episodes:
  """Marks all tokens after the prompt as turn 1.

  For verifiers, which read a turn; log-probabilities stay unchanged.
  """
  slots = jnp.sum(problems.prompt != PAD, axis=1)[episodes.problem]
  text = episodes.turn != PAD
  after = jnp.cumsum(text, axis=1) > slots[:, None]
  return episodes._replace(
    turn=jnp.where(text, jnp.where(after, 1, GIVEN), PAD)
  )


def given(
  problems: Problems,
  *,
  reply: Callable[..., Reply],
  turns: tuple[int, ...],
  eos: tuple[int, ...],
) -> Episodes:
  """Episodes from given solutions, as if the policy had sampled them.

  `solution [P L]` holds the turns one after the other, each with its end token.
  A turn that is longer than its limit is cut there, and so has no end token;
  see `fits`. Replies stand between turns as in `play`; a row ends with the last
  of its given turns, or where the reply says so. Log-probabilities are 0.
  """
  rows, number = begin(problems, 1), _numbers_of_turns(problems.solution, eos)
  going = jnp.ones(problems.prompt.shape[0], bool)
  for turn, limit in enumerate(turns, 1):
    own = going[:, None] & (number == turn)
    tokens = pack_left(jnp.where(own, problems.solution, PAD))
    rows = append(rows, _fit(tokens, limit), turn)
    if turn < len(turns):
      answered = reply(problems.answer, rows, jnp.full(going.shape, turn))
      going &= ~answered.done & jnp.any(number == turn + 1, axis=1)
      rows = append_reply(rows, answered._replace(done=~going))
  return rows


def fits(
  problems: Problems, turns: tuple[int, ...], eos: tuple[int, ...]
) -> Bool[Array, " P"]:
  """Whether no given turn is longer than its limit, and so would be cut.

  Given turns beyond the last of `turns` are not looked at: they are left out.
  """
  number = _numbers_of_turns(problems.solution, eos)
  played = jnp.arange(1, len(turns) + 1)
  length = jnp.sum(number[:, None] == played[:, None], axis=2)
  return jnp.all(length <= jnp.asarray(turns), axis=1)


def only_turn(
  problems: Problems, turn: int, eos: tuple[int, ...]
) -> Problems:
  """The problems with one of their given turns, from 1, as the only one."""
  own = _numbers_of_turns(problems.solution, eos) == turn
  kept = pack_left(jnp.where(own, problems.solution, PAD))
  return problems._replace(solution=kept)


def _numbers_of_turns(solution, eos):
  """The turn, from 1, to which every token of a solution belongs; else PAD."""
  end = jnp.isin(solution, jnp.asarray(eos, jnp.int32))
  before = jnp.cumsum(end, axis=1, dtype=jnp.int32) - end
  return jnp.where(solution == PAD, PAD, before + 1)


def pack_left(tokens: Int[Array, "B F"]) -> Int[Array, "B F"]:
  """The same tokens without PAD between them; it follows them."""
  order = jnp.argsort(tokens == PAD, axis=1, stable=True)
  return jnp.take_along_axis(tokens, order, axis=1)


def _pack_right(tokens):
  """The same tokens without PAD between them; it precedes them."""
  order = jnp.argsort(tokens != PAD, axis=1, stable=True)
  return jnp.take_along_axis(tokens, order, axis=1)


def _fit(tokens, width):
  """The first `width` columns, with PAD where there are fewer."""
  more = max(0, width - tokens.shape[1])
  return jnp.pad(tokens[:, :width], ((0, 0), (0, more)), constant_values=PAD)


def align_left(episodes: Episodes) -> Episodes:
  """Moves every row to column 0; its padding follows it."""
  return _shift(episodes, jnp.argmax(episodes.turn != PAD, axis=1))


def align_right(episodes: Episodes) -> Episodes:
  """Moves every row to the last column; its padding precedes it."""
  padding = jnp.argmax(episodes.turn[:, ::-1] != PAD, axis=1)
  return _shift(episodes, -padding)


def _shift(episodes, left):
  """Moves every row by `left [B]` columns, with padding where it was."""
  length = episodes.tokens.shape[1]
  source = jnp.arange(length) + left[:, None]
  inside = (source >= 0) & (source < length)

  def move(values, fill):
    at = jnp.clip(source, 0, length - 1)
    moved = jnp.take_along_axis(values, at, axis=1)
    return jnp.where(inside, moved, fill).astype(values.dtype)

  return episodes._replace(
    tokens=move(episodes.tokens, PAD),
    turn=move(episodes.turn, PAD),
    logprob=move(episodes.logprob, 0.0),
    path=move(episodes.path, 0),
  )


def _by_column(function, *episodes):
  """Rows with a function applied to all that they have per column."""
  return episodes[0]._replace(**{
    name: function(*(getattr(rows, name) for rows in episodes))
    for name in ("tokens", "turn", "logprob", "path")
  })


def widen(episodes: Episodes, length: int) -> Episodes:
  """The same rows with padding up to `length` columns."""
  pad = ((0, 0), (0, length - episodes.tokens.shape[1]))
  return episodes._replace(
    tokens=jnp.pad(episodes.tokens, pad, constant_values=PAD),
    turn=jnp.pad(episodes.turn, pad, constant_values=PAD),
    logprob=jnp.pad(episodes.logprob, pad),
    path=jnp.pad(episodes.path, pad),
  )


def narrow(episodes: Episodes, length: int) -> Episodes:
  """The first `length` columns; all text must be in them."""
  return _by_column(lambda x: x[:, :length], episodes)


def either(
  chosen: Bool[Array, " B"], first: Episodes, second: Episodes
) -> Episodes:
  """Rows of `first` where they are chosen, else those of `second`."""
  length = max(first.tokens.shape[1], second.tokens.shape[1])
  both = zip(widen(first, length), widen(second, length), strict=True)
  return Episodes(*(
    jnp.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), x, y) for x, y in both
  ))


def stack(*parts: Episodes) -> Episodes:
  """All rows of all parts, one part after the other, at the widest's width.

  A parent is a row of its own part, and is renumbered with it.
  """
  length = max(part.tokens.shape[1] for part in parts)
  counts = [part.problem.shape[0] for part in parts]
  moved = [
    widen(part, length)._replace(
      parent=jnp.where(part.parent >= 0, part.parent + before, part.parent)
    )
    for part, before in zip(parts, np.cumsum([0, *counts[:-1]]), strict=True)
  ]
  return Episodes(*(jnp.concatenate(x) for x in zip(*moved, strict=True)))


def side_by_side(parts: tuple[Episodes, ...], problems: int) -> Episodes:
  """All rows of all parts, those of a problem together: [P * (S1 + S2 ..) T].

  Rows of a part are problem by problem, [P * S1 T]. A parent is a row of its
  own part, and is renumbered with it. Raises ValueError where the rows of a
  part are no multiple of `problems`.
  """
  counts = [part.problem.shape[0] for part in parts]
  if any(count % problems for count in counts):
    raise ValueError(
      f"side_by_side: parts of {counts} rows for {problems} problems; each "
      "part needs as many rows for one problem as for another"
    )
  order = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
  order = [rows.reshape(problems, -1) for rows in order]
  order = np.concatenate(order, axis=1).reshape(-1)
  place = jnp.asarray(np.argsort(order), jnp.int32)
  rows = Episodes(*(leaf[order] for leaf in stack(*parts)))
  parent = jnp.where(rows.parent >= 0, place[rows.parent], rows.parent)
  return rows._replace(parent=parent)
