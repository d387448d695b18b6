"""Tasks whose problems are rows of text and whose answers the host verifies."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from sitrain.tasks import fields
from sitrain.types import PAD, Chat, Episodes, Problems, Reply, Task, Verdict


class Row(NamedTuple):
  """One problem of a data set."""

  message: str  # the complete first message to the policy
  given: tuple[str, ...]  # attempts in the prompt, as if the policy's own
  solutions: tuple[str, ...]  # given turns to imitate
  level: str
  answer: str  # what the verifier compares with, or a reference solution
  name: str = ""  # the id in the data set, if it has one


READERS = {
  "message": fields.text, "given": fields.texts, "solutions": fields.texts,
  "level": fields.text, "answer": fields.text, "name": fields.text,
}


class Grade(NamedTuple):
  """A verifier's judgement of one text."""

  right: float  # 1 or 0
  known: float  # 0 where the verifier itself failed
  status: str  # the reason, in a word


class Texts(NamedTuple):
  """The texts behind the table of a text task."""

  rows: Sequence[Row]
  kept: Sequence[int]  # the row of every problem of the table
  grade: Any  # (texts, numbers of their rows) -> grades; (): ask Task.verify
  claim: Callable[[str], str]
  notes: Sequence[str] = ()  # what was read and left out, a line each
  fields: Sequence[Mapping[str, Any]] = ()  # of the rows, as a user gave them


class Lengths(NamedTuple):
  """Statistics of the lengths of texts, in tokens."""

  count: int
  median: int
  most: int  # the 95th percentile
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
    again: the message between two attempts.
    grade: (texts, numbers of their rows) -> grades. A text that was cut at the
      limit of its turn is wrong and is not graded.
    claim: the final answer of a text, the same for equal answers; "" where
      there is none.
    prompt_length: the most tokens of a prompt; 0: no limit.
    long_prompts: what happens to longer ones: "refuse" or "drop".

  Raises ValueError for no rows, a field that is not text, an empty message, a
  given turn with an end token inside, and prompts that are too long.
  """
  if not rows:
    raise ValueError("the data set has no rows: name one with problems")
  for number, row in enumerate(rows, 1):
    _check_row(row, f"row {number}")
  prompts = [_prompt(chat, row, again) for row in rows]
  kept = fitting_prompts(
    prompts, limit=prompt_length, long_prompts=long_prompts
  )
  return of_prompts(
    chat, Texts(rows, kept, grade, claim), prompts,
    verify=_verifier(chat, grade), reply=replier(chat, (again,)),
    prompt_length=prompt_length,
  )


def of_prompts(
  chat: Chat, texts: Texts, prompts: Sequence[Sequence[int]], *,
  verify: Callable[..., Verdict], reply: Callable[..., Reply],
  prompt_length: int,
) -> Task:
  """The task of rows whose prompts are token ids already, one for each row.

  The table has the rows `texts.kept`, as often as they stand there. `verify`
  and `reply` are those of the task. Raises ValueError for a given turn with an
  end token inside.
  """
  rows, kept = texts.rows, texts.kept
  given = [
    [_turn(chat, text, f"row {i + 1}") for text in rows[i].solutions]
    for i in kept
  ]
  names = sorted({rows[i].level for i in kept})
  level = np.array([names.index(row.level) if row.level in names else 0
                    for row in rows], np.int32)
  sizes = [len(turn) for turns in given for turn in turns]
  solutions = [[t for turn in turns for t in turn] for turns in given]
  table = Problems(
    prompt=padded([prompts[i] for i in kept], left=True, width=prompt_length),
    answer=np.array(kept, np.int32)[:, None],
    solution=padded(solutions, left=False, width=1),
  )
  return Task(
    problems=_refuse_to_draw,
    verify=verify,
    reply=reply,
    final=_final_answers(chat, texts.claim),
    level=lambda problems: jnp.asarray(level)[problems.answer[:, 0]],
    levels=tuple(names),
    eos=chat.eos,
    # A limit that cuts half of the given turns would cut the policy's, too. A
    # method that imitates them checks that each of them fits.
    turn_length=lengths(sizes).median if sizes else 1,
    tokenizer=chat.tokenizer,
    table=table,
    on_host=True,
    texts=texts,
  )


def grade_by_row(
  grade: Callable[[Sequence[str], Sequence[str]], Sequence[Grade]],
  answers: Sequence[str],
) -> Callable[[Sequence[str], Sequence[int]], Sequence[Grade]]:
  """`grade(answers, texts)` as a function of (texts, row numbers)."""
  return lambda texts, rows: grade([answers[row] for row in rows], texts)


def _refuse_to_draw(key, n):
  raise ValueError("the problems of a text task are the rows of its table")


def _check_row(row: Row, where: str) -> None:
  for name, value in row._asdict().items():
    fields.read(value, READERS[name], f"{where}: {name}")
  if not row.message.strip():
    raise ValueError(f"{where}: the problem is empty: leave the row out")


def _turn(chat: Chat, text: str, where: str) -> list[int]:
  """The tokens of a given turn with its only end token."""
  tokens = chat.tokenizer.encode(text)
  if ends := [token for token in tokens if token in chat.eos]:
    raise ValueError(
      f"{where}: a given turn holds {chat.tokenizer.decode(ends[:1])!r}, which "
      "ends a turn: take it out of the text"
    )
  return [*tokens, chat.eos[0]]


def _prompt(chat: Chat, row: Row, again: str) -> list[int]:
  """The message, and each given attempt with the message after it."""
  tokens = list(chat.ask(row.message))
  for attempt in row.given:
    tokens += chat.tokenizer.encode(attempt)
    tokens += [chat.eos[0], *chat.again(again)]
  return tokens


def fitting_prompts(
  prompts: Sequence[Sequence[int]], *, limit: int, long_prompts: str
) -> list[int]:
  """Numbers of the prompts of at most `limit` tokens; 0: no limit.

  `long_prompts` is "refuse" or "drop". Raises ValueError for another value, for
  a longer prompt under "refuse", and where no prompt is left.
  """
  if long_prompts not in ("refuse", "drop"):
    raise ValueError(f"long_prompts={long_prompts!r}: set 'refuse' or 'drop'")
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
  """Statistics of lengths; zeros for none."""
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


def turn_tokens(
  episodes: Any, turn: int, eos: tuple[int, ...]
) -> tuple[list[np.ndarray], list[bool]]:
  """Tokens of a turn of every episode without its end, and whether it ended.

  `episodes` needs the fields tokens and turn [B T] only.
  """
  tokens, mark = np.asarray(episodes.tokens), np.asarray(episodes.turn)
  rows = [t[m == turn] for t, m in zip(tokens, mark)]
  ended = [bool(len(row)) and row[-1] in eos for row in rows]
  return [row[:-1] if end else row for row, end in zip(rows, ended)], ended


def _verifier(chat, grade):
  """Reward 1 for each turn that ended and is right."""

  def verify(answer: Any, episodes: Episodes, turns: int) -> Verdict:
    numbers = np.asarray(answer)[:, 0]
    reward = np.zeros((len(numbers), turns), np.float32)
    known = np.ones_like(reward)
    complete = []
    for k in range(turns):
      rows, ended = turn_tokens(episodes, k + 1, chat.eos)
      complete += [(b, k, rows[b]) for b in np.flatnonzero(ended)]
    texts = [chat.tokenizer.decode(row) for _, _, row in complete]
    grades = grade(texts, [int(numbers[b]) for b, _, _ in complete])
    for (b, k, _), given in zip(complete, grades):
      reward[b, k], known[b, k] = given.right, given.known
    return Verdict(reward, known)

  return verify


def _final_answers(chat, claim):
  """`Task.final`: the ids of the final answers, equal for equal ones."""

  def final(episodes: Episodes, turns: int) -> Int[np.ndarray, "B K"]:
    found = np.full((len(episodes.problem), turns), -1, np.int32)
    for k in range(turns):
      rows, ended = turn_tokens(episodes, k + 1, chat.eos)
      for b in np.flatnonzero(ended):
        found[b, k] = answer_id(claim(chat.tokenizer.decode(rows[b])))
    return found

  return final


def answer_id(text: str) -> int:
  """A hash of 31 bits, the same in every process; -1 for no text."""
  return zlib.crc32(text.encode()) & 0x7FFFFFFF if text else -1


def replier(chat: Chat, messages: Sequence[str]) -> Callable[..., Reply]:
  """`Task.reply` with constant messages, in the form of the chat.

  After turn k the k-th message is read, and the last one after all later turns.
  A turn that was cut at its limit gets an end token first, so that the dialogue
  keeps its form.
  """
  again = [chat.again(message) for message in messages]
  after_cut = [[chat.eos[0], *tokens] for tokens in again]
  # After an end, and after a cut; by the turn.
  both = padded([*again, *after_cut], left=False, width=1)
  table = both.reshape(2, len(messages), -1)

  def reply(
    answer: Int[Array, "B A"], episodes: Episodes, turn: Int[Array, " B"]
  ) -> Reply:
    end = jnp.isin(episodes.tokens, jnp.asarray(chat.eos, jnp.int32))
    ended = jnp.any(end & (episodes.turn == turn[:, None]), axis=1)
    which = jnp.clip(turn - 1, 0, len(messages) - 1)
    tokens = jnp.asarray(table)[1 - ended.astype(jnp.int32), which]
    return Reply(tokens, jnp.zeros(turn.shape, bool))

  return reply
