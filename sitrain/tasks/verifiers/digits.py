"""The strict verifier of GSM8K on the device: the number after the last ####.

It decides as `gsm8k_numbers.strict` does, from token ids, so that a fused loop
needs no host. A `Table` gives the characters of the tokens.
"""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from sitrain.tasks.verifiers.gsm8k_numbers import SCALES
from sitrain.types import PAD, Chat, Episodes, Task, Tokenizer, Verdict

DIGIT = 1  # code of the digit 0; code 0 is no character
(DOT, COMMA, HASH, DOLLAR, MINUS, SPACE, OTHER, LINE, LETTER) = range(
  DIGIT + 10, DIGIT + 19
)
# A letter of a word of SCALES has a code of its own, all others are LETTER.
LETTERS = sorted(set("".join(SCALES)))
CODES = {
  **{str(digit): DIGIT + digit for digit in range(10)},
  ".": DOT, ",": COMMA, "#": HASH, "$": DOLLAR, "-": MINUS, " ": SPACE,
  "\n": LINE, "\r": LINE, "x": LETTER,
  **{letter: LETTER + 1 + i for i, letter in enumerate(LETTERS)},
}
BITS = 5  # of a letter of LETTERS; 0 is any other
LIMB = 9  # decimal digits of an int32
HEAD = re.compile(r"[0-9.,#$\- ]*")
POWERS = np.array([*(10**i for i in range(LIMB)), 0], np.int32)


class Table(NamedTuple):
  """The characters of each token: up to W codes of its kind, then 0.

  A vocabulary has few kinds, because most characters change no answer.
  """

  kind: Int[Array, " V"]
  codes: UInt8[Array, "C W"]


class Number(NamedTuple):
  """An integer, `high * 10**9 + low`, both with its sign."""

  high: Int[Array, " B"]
  low: Int[Array, " B"]
  found: Bool[Array, " B"]  # False: no number, or none that fits


def strings(tokenizer: Tokenizer, size: int) -> list[str]:
  """The text that each of the ids below `size` adds to a decoded text.

  Each is decoded after another token, because the first one of a text may lose
  its space.
  """
  before = tokenizer.encode("#")
  start = len(tokenizer.decode(before))
  return [tokenizer.decode([*before, i])[start:] for i in range(size)]


def table(tokens: Sequence[str | bytes]) -> Table:
  """The table of a vocabulary: `tokens[i]` is the text that id i adds.

  Characters that cannot change an answer are left out, so that W stays small
  and no token is cut. A token keeps the last marker, the characters of a number
  at its start or after the marker, whether a digit follows on the line, and its
  first word, if that may be part of one of SCALES.
  """
  short = [_shortened(token) for token in tokens]
  width = max(1, *(len(codes) for codes in short))
  codes = np.zeros((len(short), width), np.uint8)
  for row, found in zip(codes, short):
    row[: len(found)] = found
  codes, kind = np.unique(codes, axis=0, return_inverse=True)
  small = len(codes) <= np.iinfo(np.uint16).max
  return Table(kind.reshape(-1).astype(np.uint16 if small else np.int32), codes)


def _shortened(token: str | bytes) -> list[int]:
  # Bytes beyond ASCII are parts of characters that all have the code OTHER.
  text = token.decode("latin-1") if isinstance(token, bytes) else token
  mark = text.rfind("####")
  start = HEAD.match(text, max(mark, 0))
  # Three or more of these in a row are no number; two stand for all.
  head = re.sub(r"([ .,$\-])\1{2,}", r"\1\1", start[0])
  head = re.sub(r"#{5,}", "####", head)
  short = head + _rest(text[start.end():], start=not head)
  return [CODES.get(character, OTHER) for character in short]


def _rest(text: str, *, start: bool) -> str:
  """A short form of the text after the characters of a number in a token."""
  if not text:
    return ""
  hashes = re.search(r"#*$", text)[0][-3:]
  line = re.match(r"[^\r\n]*", text)[0]
  end = "\n" if len(line) < len(text) else ""
  if re.search(r"[0-9]", line):
    return "?0" + end + hashes
  word = re.search(r"[A-Za-z]+", line)
  if not word:
    return ("?" if line else "") + end + hashes
  first = "?" if word.start() else ""
  open_start = start and not word.start()  # it may continue a word
  kept = _part(word[0].lower(), open_start)
  close = "?" if word.end() < len(line) else ""
  return first + kept + close + end + hashes


@functools.lru_cache(maxsize=65536)
def _part(word: str, inside: bool) -> str:
  """The letters of a word that may spell one of SCALES, and "x" for the rest.

  inside: it may continue the first letters of one, too.
  """
  longest = 0
  for scale in SCALES:
    for i in range(len(scale) if inside else 1):
      same = [a == b for a, b in zip(word, scale[i:])] + [False]
      longest = max(longest, same.index(False))
  return word[:longest] + ("x" if len(word) > longest else "")


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
  -1 where the host may find a number that is no integer. The kinds of the
  vocabulary (2 V bytes) become a constant of the program. Raises ValueError
  for gold answers that are no integers of up to 18 digits.
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
  it is an integer (42.00 is one) of up to 18 digits.
  """
  code, place = _characters(tokens, table)
  mark = _last_mark(code, place)
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
  found &= (mark >= 0) & (near[0] == SPACE)
  found &= ~_continues(code, place, after & (place >= stop[:, None]), stop)
  sign = jnp.where(minus, -1, 1)
  return Number(
    jnp.where(found, sign * high, 0), jnp.where(found, sign * low, 0), found
  )


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


def _continues(code, place, rest, stop):
  """Whether the rest of the line changes the number."""
  line = _first(place, rest & (code == LINE))
  digit = _first(place, rest & (code < DIGIT + 10))
  letter = _first(place, rest & (code >= LETTER))
  away = place - letter[:, None]
  # Another letter is 0, and so is no letter.
  some = (code > LETTER) & (away >= 0) & (away < 6)
  value = jnp.where(some, code - LETTER, 0).astype(jnp.int32)
  word = jnp.sum(value << jnp.where(some, BITS * away, 0), axis=1)
  scale = jnp.zeros_like(letter, bool)
  for name in SCALES:
    packed = sum(
      CODES[x] - LETTER << BITS * i for i, x in enumerate(name)
    )
    scale |= word & (1 << BITS * len(name)) - 1 == packed
  # A letter at `stop` touches the number.
  return (digit < line) | (letter < line) & ((letter == stop) | scale)


def _characters(tokens, table):
  """Codes [B, N * W], and the place of each character in its row's text."""
  size, width = table.kind.shape[0], table.codes.shape[1]
  kind = jnp.asarray(table.kind)[jnp.clip(tokens, 0, size - 1)]
  codes = jnp.asarray(table.codes)[kind].astype(jnp.int32)
  strange = jnp.array([OTHER] + [0] * (width - 1), jnp.int32)
  codes = jnp.where((tokens >= size)[..., None], strange, codes)
  codes = jnp.where((tokens < 0)[..., None], 0, codes)
  count = jnp.sum(codes > 0, axis=-1)
  before = jnp.cumsum(count, axis=1) - count
  place = before[..., None] + jnp.arange(width)
  shape = (len(tokens), -1)
  # Narrow integers where they suffice, because many passes follow.
  narrow = jnp.int16 if place[0].size < 2**15 else jnp.int32
  codes, place = codes.reshape(shape), place.reshape(shape)
  return codes.astype(jnp.int8), place.astype(narrow)


def _last_mark(code, place):
  """Place of the last # of the last marker, -1 without one.

  A # ends a marker if the last other character is four or more places before.
  """
  plain = (code > 0) & (code != HASH)
  last = jax.lax.cummax(jnp.where(plain, place, -1), axis=1)
  ends = (code == HASH) & (place - last >= 4)
  return jnp.max(jnp.where(ends, place, -1), axis=1)


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
