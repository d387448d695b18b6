"""Tasks whose problems are rows of text and whose answers the host verifies."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from sitrain.tasks import fields
from sitrain.types import PAD, Chat, Episodes, Problems, Reply, Task, Verdict


class Row(NamedTuple):
  """One problem of a data set."""

  message: str  # what the policy is asked, whole
  given: tuple[str, ...]  # attempts that it is shown as its own
  solutions: tuple[str, ...]  # given turns, to be imitated
  level: str
  answer: str  # what the verifier compares with, or shows what was wanted
  name: str = ""  # in the data set, if it has one


READERS = {
  "message": fields.text, "given": fields.texts, "solutions": fields.texts,
  "level": fields.text, "answer": fields.text, "name": fields.text,
}


class Grade(NamedTuple):
  """What a verifier says of one text."""

  right: float  # 1 or 0
  known: float  # 0 where the verifier itself failed
  status: str  # why, in a word


class Texts(NamedTuple):
  """What the table of a text task was made of."""

  rows: Sequence[Row]
  kept: Sequence[int]  # the row of every problem of the table
  grade: Callable[[Sequence[str], Sequence[int]], Sequence[Grade]]
  claim: Callable[[str], str]


class Lengths(NamedTuple):
  """Tokens of many texts."""

  count: int
  median: int
  most: int  # of 95 %
  longest: int


def make(
  chat: Chat,
  rows: Sequence[Row],
  *,
  again: str,
  grade: Callable[[Sequence[str], Sequence[int]], Sequence[Grade]],
  claim: Callable[[str], str],
  prompt_length: int,
  long_prompts: str,
) -> Task:
  """The task of `rows`, posed in the form of `chat`.

  Args:
    chat: how text becomes token ids.
    rows: the problems; the answer of a problem is the number of its row.
    again: what the policy reads between two attempts.
    grade: (texts, numbers of their rows) -> grades; a text that was cut at the
      limit of its turn is never asked about, it is wrong.
    claim: the final answer of a text, the same for equal answers; "" where
      there is none.
    prompt_length: tokens that a prompt may have; 0: the longest has.
    long_prompts: what happens to longer ones: "refuse" or "drop".

  Raises ValueError for no rows, a row that holds no text where text should be,
  an empty message, a given turn with an end token inside, and prompts that are
  too long.
  """
  if not rows:
    raise ValueError("the data set has no rows: name one with problems")
  for number, row in enumerate(rows, 1):
    _check_row(row, f"row {number}")
  prompts = [_prompt(chat, row, again) for row in rows]
  kept = fitting(prompts, limit=prompt_length, long_prompts=long_prompts)
  given = [
    [_turn(chat, said, f"row {i + 1}") for said in rows[i].solutions]
    for i in kept
  ]
  names = sorted({rows[i].level for i in kept})
  level = np.array([names.index(row.level) if row.level in names else 0
                    for row in rows], np.int32)
  turns = [len(turn) for solution in given for turn in solution]
  whole = [[t for turn in solution for t in turn] for solution in given]
  table = Problems(
    prompt=padded([prompts[i] for i in kept], left=True, width=prompt_length),
    answer=np.array(kept, np.int32)[:, None],
    solution=padded(whole, left=False, width=1),
  )
  return Task(
    problems=_drawn,
    verify=_verifier(chat, grade),
    reply=replier(chat, again),
    final=_finder(chat, claim),
    level=lambda problems: jnp.asarray(level)[problems.answer[:, 0]],
    levels=tuple(names),
    eos=chat.eos,
    # Where half of the given turns would be cut, so would the policy's. That
    # each of them fits is asked for where they are imitated.
    turn_length=lengths(turns).median if turns else 1,
    tokenizer=chat.tokenizer,
    table=table,
    on_host=True,
    texts=Texts(rows, kept, grade, claim),
  )


def graded_by(
  grade: Callable[[Sequence[str], Sequence[str]], Sequence[Grade]],
  answers: Sequence[str],
) -> Callable[[Sequence[str], Sequence[int]], Sequence[Grade]]:
  """`grade(answers, texts)` as `make` wants it."""
  return lambda texts, rows: grade([answers[row] for row in rows], texts)


def _drawn(key, n):
  raise ValueError("the problems of a text task are the rows of its table")


def _check_row(row: Row, where: str) -> None:
  for name, value in row._asdict().items():
    fields.read(value, READERS[name], f"{where}: {name}")
  if not row.message.strip():
    raise ValueError(f"{where}: the problem is empty: leave the row out")


def _turn(chat: Chat, said: str, where: str) -> list[int]:
  """The tokens of a given turn and its end token, which comes once."""
  tokens = chat.tokenizer.encode(said)
  if ends := [token for token in tokens if token in chat.eos]:
    raise ValueError(
      f"{where}: a given turn holds {chat.tokenizer.decode(ends[:1])!r}, which "
      "ends a turn: take it out of the text"
    )
  return [*tokens, chat.eos[0]]


def _prompt(chat: Chat, row: Row, again: str) -> list[int]:
  """The message, and each given attempt with what follows it."""
  tokens = list(chat.ask(row.message))
  for attempt in row.given:
    tokens += chat.tokenizer.encode(attempt)
    tokens += [chat.eos[0], *chat.again(again)]
  return tokens


def fitting(
  prompts: Sequence[Sequence[int]], *, limit: int, long_prompts: str
) -> list[int]:
  """Numbers of the prompts of at most `limit` tokens; 0 limits nothing.

  `long_prompts` is "refuse" or "drop". Raises ValueError for another word, for
  a longer prompt under "refuse", and where nothing is left.
  """
  if long_prompts not in ("refuse", "drop"):
    raise ValueError(f"long_prompts={long_prompts!r}: say 'refuse' or 'drop'")
  sizes = [len(prompt) for prompt in prompts]
  kept = [i for i, size in enumerate(sizes) if not limit or size <= limit]
  dropped = len(sizes) - len(kept)
  if dropped and (long_prompts == "refuse" or not kept):
    raise ValueError(
      f"{dropped} of {len(sizes)} prompts have more than prompt_length={limit}"
      f" tokens (the longest {max(sizes)}): raise it, or leave them out by "
      "long_prompts='drop'"
    )
  return kept


def lengths(sizes: Sequence[int] | Int[np.ndarray, " N"]) -> Lengths:
  """Median, 95 % and longest of some lengths; zeros for none."""
  if not len(sizes):
    return Lengths(0, 0, 0, 0)
  middle, most = np.percentile(sizes, (50, 95), method="higher")
  return Lengths(len(sizes), int(middle), int(most), int(max(sizes)))


def padded(
  rows: Sequence[Sequence[int]], *, left: bool, width: int
) -> Int[np.ndarray, "N T"]:
  """Token lists as one array, at least `width` wide, PAD at one side."""
  width = max(width, *(len(row) for row in rows), 0)
  table = np.full((len(rows), width), PAD, np.int32)
  for i, row in enumerate(rows):
    table[i, width - len(row) if left else 0:][: len(row)] = row
  return table


def written(
  episodes: Any, turn: int, eos: tuple[int, ...]
) -> tuple[list[np.ndarray], list[bool]]:
  """Tokens of a turn of every episode without its end, and whether it ended.

  Of `episodes`, tokens and turn [B T] are read.
  """
  tokens, mark = np.asarray(episodes.tokens), np.asarray(episodes.turn)
  rows = [t[m == turn] for t, m in zip(tokens, mark)]
  whole = [bool(len(row)) and row[-1] in eos for row in rows]
  return [row[:-1] if end else row for row, end in zip(rows, whole)], whole


def _verifier(chat, grade):
  """Reward 1 for each turn that ended and is right."""

  def verify(answer: Any, episodes: Episodes, turns: int) -> Verdict:
    numbers = np.asarray(answer)[:, 0]
    reward = np.zeros((len(numbers), turns), np.float32)
    known = np.ones_like(reward)
    asked = []
    for k in range(turns):
      rows, whole = written(episodes, k + 1, chat.eos)
      asked += [(b, k, rows[b]) for b in np.flatnonzero(whole)]
    texts = [chat.tokenizer.decode(row) for _, _, row in asked]
    grades = grade(texts, [int(numbers[b]) for b, _, _ in asked])
    for (b, k, _), given in zip(asked, grades):
      reward[b, k], known[b, k] = given.right, given.known
    return Verdict(reward, known)

  return verify


def _finder(chat, claim):
  """A number for the final answer of each row: equal for equal answers."""

  def final(episodes: Episodes, turns: int) -> Int[np.ndarray, "B K"]:
    found = np.full((len(episodes.problem), turns), -1, np.int32)
    for k in range(turns):
      rows, ended = written(episodes, k + 1, chat.eos)
      for b in np.flatnonzero(ended):
        found[b, k] = number_of(claim(chat.tokenizer.decode(rows[b])))
    return found

  return final


def number_of(text: str) -> int:
  """31 bits of a text that processes agree on; -1 for the empty one."""
  return zlib.crc32(text.encode()) & 0x7FFFFFFF if text else -1


def replier(chat: Chat, message: str) -> Callable[..., Reply]:
  """What the policy reads after a turn: `message`, in the form of the chat.

  A turn that was cut at its limit is ended first, so that the dialogue keeps
  its form.
  """
  again = chat.again(message)
  after_end = np.array([*again, PAD], np.int32)
  after_cut = np.array([chat.eos[0], *again], np.int32)

  def reply(
    answer: Int[Array, "B A"], episodes: Episodes, turn: Int[Array, " B"]
  ) -> Reply:
    end = jnp.isin(episodes.tokens, jnp.asarray(chat.eos, jnp.int32))
    ended = jnp.any(end & (episodes.turn == turn[:, None]), axis=1)
    tokens = jnp.where(ended[:, None], after_end, after_cut)
    return Reply(tokens, jnp.zeros(turn.shape, bool))

  return reply
