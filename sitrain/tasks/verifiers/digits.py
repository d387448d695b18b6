"""The strict verifier of GSM8K on the device: the number after the last ####.

It decides as `gsm8k_numbers.strict` does, from token ids, so that a fused loop
needs no host. What the tokens mean comes in a `Table`, an argument of jit. The
marker and the end of its line are found token by token; only the WINDOW tokens
from the marker on are read character by character.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from sitrain.tasks.verifiers.digit_tokens import (
  CODES,
  COMMA,
  DIGIT,
  DOLLAR,
  DOT,
  HAS_DIGIT,
  HAS_LETTER,
  HAS_LINE,
  LEAD,
  LETTER,
  LINE,
  MARK,
  MINUS,
  PLACES,
  SPACE,
  STRANGE,
  TRAIL,
  Table,
  strings,
  table,
)
from sitrain.tasks.verifiers.gsm8k_numbers import SCALES
from sitrain.types import PAD, Chat, Episodes, Task, Verdict

BITS = 5  # of a letter: 1 for one that is not among them, 0 for no letter
LIMB = 9  # decimal digits of an int32
WINDOW = 40  # tokens; a number that goes on after them is not found
POWERS = np.array([*(10**i for i in range(LIMB)), 0], np.int32)


class Number(NamedTuple):
  """An integer, `high * 10**9 + low`, both with its sign."""

  high: Int[Array, " B"]
  low: Int[Array, " B"]
  found: Bool[Array, " B"]  # False: no number, or none that fits


def gold(numbers: Sequence[str]) -> Number:
  """The gold answers for `equal`; ValueError for one that is no integer.

  Numbers are decimal, without commas, of up to 18 digits.
  """
  for number in numbers:
    if not re.fullmatch(r"-?[0-9]{1,18}", number):
      raise ValueError(
        f"{number!r} is no integer of up to 18 digits: verify it on the host"
      )
  values = [int(number) for number in numbers]
  sign = [-1 if value < 0 else 1 for value in values]
  limbs = [divmod(abs(value), 10**LIMB) for value in values]
  return Number(
    np.array([s * high for s, (high, _) in zip(sign, limbs)], np.int32),
    np.array([s * low for s, (_, low) in zip(sign, limbs)], np.int32),
    np.ones(len(values), bool),
  )


def equal(one: Number, other: Number) -> Bool[Array, " B"]:
  """True where both are found and the same."""
  same = (one.high == other.high) & (one.low == other.low)
  return one.found & other.found & same


def on_device(task: Task, chat: Chat, numbers: Sequence[str]) -> Task:
  """A task of text whose answers are integers, verified on the device.

  task: see text.make; its `answer` is the number of a row, and becomes that
  number and the two limbs of the row's gold answer. numbers: the gold answers
  of the rows. As on the host, a turn that did not end is wrong; `final` gives
  -1 where the host may find a number that is no integer, and where a character
  touches the number that the vocabulary has in pieces only: it may be a digit.
  The kinds of the vocabulary (2 V bytes) become a constant of the program.
  Raises ValueError for gold answers that are no integers of up to 18 digits.
  """
  known = gold(numbers)
  row = np.asarray(task.table.answer)[:, 0]
  limbs = np.stack([row, known.high[row], known.low[row]], axis=1)
  size = chat.tokenizer.size
  characters = table(strings(chat.tokenizer, size))

  def final_of(episodes, turn):
    found = _claim(episodes, turn, chat.eos, characters)
    mixed = (found.low + found.high * 999983) & jnp.int32(2**31 - 1)
    return jnp.where(found.found, mixed, -1)

  def final(episodes: Episodes, turns: int) -> Int[Array, "B K"]:
    each = [final_of(episodes, k + 1) for k in range(turns)]
    return jnp.stack(each, axis=1)

  def verify(
    answer: Int[Array, "B A"], episodes: Episodes, turns: int
  ) -> Verdict:
    expected = Number(answer[:, 1], answer[:, 2], jnp.ones(len(answer), bool))
    right = [
      equal(expected, _claim(episodes, k + 1, chat.eos, characters))
      for k in range(turns)
    ]
    reward = jnp.stack(right, axis=1).astype(jnp.float32)
    return Verdict(reward, jnp.ones_like(reward))

  return task._replace(
    table=task.table._replace(answer=limbs), verify=verify, final=final,
    on_host=False,
  )


def _claim(episodes, turn, eos, table):
  """The number of a turn, not found where the turn did not end."""
  own = episodes.turn == turn
  end = own & jnp.isin(episodes.tokens, jnp.asarray(eos, jnp.int32))
  number = answers(jnp.where(own & ~end, episodes.tokens, PAD), table)
  return number._replace(found=number.found & jnp.any(end, axis=1))


def answers(tokens: Int[Array, "B N"], table: Table) -> Number:
  r"""The integer after the last `####` of each row.

  tokens: PAD, which reads as nothing, may stand anywhere. Ids beyond the table
  read as an unknown character. Found is what `gsm8k_numbers.strict` finds, if
  it is an integer (42.00 is one) of up to 18 digits that ends in the window.
  """
  size, others = len(table.kind), len(table.codes) - 2
  kind = jnp.asarray(table.kind)[jnp.clip(tokens, 0, size - 1)]
  kind = jnp.where(tokens < 0, others, kind.astype(jnp.int32))
  kind = jnp.where(tokens >= size, others + 1, kind)
  marks = jnp.asarray(table.marks)[kind]
  first, mark = _last_mark(marks)
  code, place = _characters(_window(kind, first, others), table)
  near = [_near(code, place, mark) >> 6 * i & 63 for i in range(3)]
  dollar = near[1] == DOLLAR
  minus = jnp.where(dollar, near[2], near[1]) == MINUS
  start = mark + 2 + dollar + minus
  digit = (code >= DIGIT) & (code < DIGIT + 10)
  read = digit | (code == DOT) | (code == COMMA)
  after = (code > 0) & (place >= start[:, None])
  stop = _first(place, after & ~read)
  inside = after & (place < stop[:, None])
  found, high, low = _value(code, place, inside, digit)
  found &= (first >= 0) & (near[0] == SPACE)
  rest = after & (place >= stop[:, None])
  found &= ~_continues(code, place, rest, stop, _beyond(marks, first))
  sign = jnp.where(minus, -1, 1)
  return Number(
    jnp.where(found, sign * high, 0), jnp.where(found, sign * low, 0), found
  )


def _last_mark(marks):
  """(token in which the last marker ends, place of its last # in there).

  The token is -1 without one. A marker may be cut into tokens: a run of # goes
  on from the last character that is none.
  """
  count = marks & (1 << PLACES) - 1
  trail, lead = marks >> TRAIL & 7, marks >> LEAD & 7
  end = jnp.cumsum(count, axis=1)
  last = jnp.where(trail < count, end - trail, 0)
  run = end - jax.lax.cummax(last, axis=1)
  before = jnp.pad(run, ((0, 0), (1, 0)))[:, :-1]
  inner = marks >> MARK & (1 << PLACES) - 1
  closes = jnp.where((lead > 0) & (before + lead >= 4), lead, 0)
  here = jnp.where(inner > 0, inner, closes)
  index = jnp.arange(marks.shape[1], dtype=jnp.int32) << PLACES
  best = jnp.max(jnp.where(here > 0, index | here, -1), axis=1)
  return best >> PLACES, (best & (1 << PLACES) - 1) - 1


def _window(kind, first, nothing):
  """The kinds of the WINDOW tokens from `first` on."""
  length = kind.shape[1]
  index = jnp.maximum(first, 0)[:, None] + jnp.arange(min(WINDOW, length))
  found = jnp.take_along_axis(kind, jnp.minimum(index, length - 1), axis=1)
  return jnp.where(index < length, found, nothing)


def _beyond(marks, first):
  """(any character, a digit, a letter): whether it stands after the window.

  Digits and letters of the line that goes on as far, if none ends before.
  """
  index = jnp.arange(marks.shape[1], dtype=jnp.int32)
  far = index >= first[:, None] + WINDOW
  line = _first(index[None], far & (marks & HAS_LINE > 0))
  on = far & (index <= line[:, None])
  some = jnp.bitwise_or.reduce(jnp.where(on, marks, 0), axis=1)
  return some > 0, some & HAS_DIGIT > 0, some & HAS_LETTER > 0


def _near(code, place, mark):
  """The three characters after a place, six bits each."""
  away = place - mark[:, None] - 1
  some = (away >= 0) & (away < 3) & (code > 0)
  value = jnp.where(some, code, 0).astype(jnp.int32)
  return jnp.sum(value << jnp.where(some, 6 * away, 0), axis=1)


def _first(place, which):
  """The first place of some characters; the largest integer if none."""
  return jnp.min(
    jnp.where(which, place, jnp.iinfo(place.dtype).max), axis=1
  )


def _continues(code, place, rest, stop, beyond):
  """Whether the rest of the line makes something else of the number.

  beyond: what stands after the window, see there.
  """
  line = _first(place, rest & (code == LINE))
  digit = _first(place, rest & (code < DIGIT + 10))
  letter = _first(place, rest & (code >= LETTER))
  away = place - letter[:, None]
  some = (code >= LETTER) & (away >= 0) & (away < 6)
  value = jnp.where(some, code - LETTER + 1, 0).astype(jnp.int32)
  word = jnp.sum(value << jnp.where(some, BITS * away, 0), axis=1)
  scale = jnp.zeros_like(letter, bool)
  for name in SCALES:
    packed = sum(
      CODES[x] - LETTER + 1 << BITS * i for i, x in enumerate(name) if x != " "
    )
    scale |= word & (1 << BITS * len(name)) - 1 == packed
  none = jnp.iinfo(place.dtype).max
  first = _first(place, rest & (code != SPACE))
  strange = first == _first(place, rest & (code == STRANGE))
  # A letter at `stop` touches the number.
  continues = (digit < line) | (letter < line) & ((letter == stop) | scale)
  continues |= strange & (first < none)
  more, more_digits, more_letters = beyond
  unread = more_digits | more_letters & (letter == none)
  return continues | (line == none) & unread | (stop == none) & more


def _characters(kind, table):
  """Codes [B, N * W], and the place of each character in its row's window."""
  codes = jnp.asarray(table.codes)[kind]
  width = codes.shape[-1]
  count = jnp.asarray(table.marks)[kind] & (1 << PLACES) - 1
  before = jnp.cumsum(count, axis=1) - count
  place = before[..., None] + jnp.arange(width)
  shape = (len(kind), -1)
  # Narrow integers where they suffice: the passes below are many.
  narrow = jnp.int16 if place[0].size < 2**15 else jnp.int32
  codes, place = codes.reshape(shape), place.reshape(shape)
  return codes.astype(jnp.int8), place.astype(narrow)


def _value(code, place, inside, digit):
  """(is an integer that fits, high limb, low limb) of the number."""
  digit &= inside
  # Stops and commas after the last digit belong to the sentence.
  last = jnp.max(jnp.where(digit, place, -1), axis=1, keepdims=True)
  inside &= place <= last
  dot = inside & (code == DOT)
  point = _first(place, dot)[:, None]
  integer = digit & (place < point)
  value = jnp.where(digit, code - DIGIT, 0).astype(jnp.int32)
  # The power of ten of a digit is the number of integer digits after it.
  upto = jnp.cumsum(integer, axis=1)
  power = upto[:, -1:] - upto

  def limb(least):
    here = integer & (power >= least) & (power < least + LIMB)
    ten = jnp.asarray(POWERS)[jnp.where(here, power - least, LIMB)]
    return jnp.sum(value * ten, axis=1)

  broken = (digit & ~integer | integer & (power >= 2 * LIMB)) & (value > 0)
  # Commas must precede every group of three digits, or none. Each has its own
  # bit, and the sum of the bits shows whether every group has exactly one.
  comma = inside & (code == COMMA)
  group = power // 3
  good = (power % 3 == 0) & (group > 0) & (group < 30) & (place < point)
  bits = jnp.sum(
    jnp.where(comma & good, 1 << jnp.clip(group, 0, 29), 0), axis=1
  )
  groups = jnp.clip((upto[:, -1] - 1) // 3, 0, 29)
  grouped = (bits == 0) | (bits == (2 << groups) - 2)
  # Two counts in one sum: decimal points, and characters that are invalid.
  wrong = broken | comma & ~good
  count = jnp.sum(jnp.where(wrong, 1 << 16, 0) + dot, axis=1)
  found = (last[:, 0] >= 0) & (count <= 1) & grouped
  return found, limb(LIMB), limb(0)
