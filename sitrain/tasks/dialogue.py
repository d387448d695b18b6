"""Dialogues as text, for who answers the policy on the host."""

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from sitrain.types import GIVEN, PAD, Chat, Task

NO_ROW = -1  # stands for the number of a row where somebody typed the problem


class NoSeedInReward(NamedTuple):
  """Stands for `seed` in rewards, so that an error says why there is none."""


class Dialogue(NamedTuple):
  """What an environment sees of a row, after a turn of the policy."""

  prompt: str  # the first message
  turns: tuple[str, ...]  # what the policy has written, one text a turn
  replies: tuple[str, ...]  # what it has read between two turns
  row: Any  # tasks.text.Row of the problem; () where it is drawn, or typed
  answer: tuple[int, ...]  # of the problem, as the verifier gets it
  ended: bool  # whether the last turn ended by itself; else it was cut
  # For random choices: of the row and its turn, the same whatever the batch is.
  seed: int | type[NoSeedInReward]
  # The row as a user gave it, to be read only; {} of tasks with rows of theirs.
  fields: Mapping[str, Any] = MappingProxyType({})


class Replies(NamedTuple):
  """What an environment does, if it is no function or class of a user."""

  reply: Callable[[Dialogue], str | None]  # None: the dialogue is over
  reward: Callable[[Dialogue], float | None] | None  # of the last turn of it


class Form(NamedTuple):
  """How replies are written as tokens, and read from them as text."""

  write: Callable[[str, bool], list[int]]  # (text, whether the turn ended)
  read: Callable[[Any], str]  # tokens -> the text that was written
  read_turn: Callable[[Any], str]  # tokens of a turn -> its text


def form_of_chat(chat: Chat) -> Form:
  """Replies as the messages of a chat.

  A turn that was cut at its limit gets an end token first, so that the dialogue
  keeps its form.
  """
  decode = chat.tokenizer.decode
  one, other = (decode(chat.again(letter)) for letter in "ab")
  before, after = _common(one, other), _common(one[::-1], other[::-1])[::-1]
  end = decode(chat.eos[:1])

  def write(text: str, ended: bool) -> list[int]:
    first = [] if ended else [chat.eos[0]]
    return [*first, *chat.again(text)]

  def read(tokens: Any) -> str:
    text = decode(tokens)
    if not text.startswith(before):
      text = text.removeprefix(end)
    return text.removeprefix(before).removesuffix(after)

  def read_turn(tokens: Any) -> str:
    tokens = np.asarray(tokens)
    ended = len(tokens) and int(tokens[-1]) in chat.eos
    return decode(tokens[:-1] if ended else tokens)

  return Form(write, read, read_turn)


def _common(one: str, other: str) -> str:
  """What both begin with."""
  same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other))
  return "".join(letter for letter, _ in same)


def form_of_tokens(task: Task) -> Form:
  """Replies as their tokens alone, for tasks that are no chats.

  The token that ends a turn is a part of its text.
  """
  decode = task.tokenizer.decode
  return Form(
    lambda text, ended: task.tokenizer.encode(text), decode, decode
  )


def dialogue_of(
  form: Form,
  task: Task,
  answer: Int[np.ndarray, " A"],
  tokens: Int[np.ndarray, " T"],
  mark: Int[np.ndarray, " T"],
  turn: int,
  seed: int | type[NoSeedInReward],
) -> Dialogue:
  """The dialogue of a row up to the end of `turn`, from 1.

  `tokens` and `mark` are those of the row in Episodes.
  """
  own = [np.flatnonzero(mark == k) for k in range(1, turn + 1)]
  first = own[0][0] if len(own[0]) else len(mark)
  row, given = (), {}
  if task.texts != () and (number := int(answer[0])) != NO_ROW:
    row = task.texts.rows[number]
    given = task.texts.fields[number] if task.texts.fields else {}
  gaps = [
    tokens[a[-1] + 1 : b[0]] if len(a) and len(b) else tokens[:0]
    for a, b in zip(own, own[1:])
  ]
  last = tokens[own[-1]]
  return Dialogue(
    prompt=row.message if row != () else task.tokenizer.decode(tokens[:first]),
    turns=tuple(form.read_turn(tokens[at]) for at in own),
    replies=tuple(form.read(gap) for gap in gaps),
    row=row,
    answer=tuple(int(i) for i in answer),
    ended=bool(len(last) and int(last[-1]) in task.eos),
    seed=seed,
    fields=MappingProxyType(given),
  )


def failed(
  mark: Int[np.ndarray, "B T"],
) -> Int[np.ndarray, " B"]:
  """The turn after which an error ended the row, 0 for none.

  Text behind the last turn is such an error, see `rollout.by_turn.playing`.
  """
  count = np.sum(mark != PAD, axis=1)
  at = np.maximum(count - 1, 0)
  last = np.take_along_axis(mark, at[:, None], axis=1)[:, 0]
  return np.where((count > 0) & (last == GIVEN), np.max(mark, axis=1), 0)
