"""The strict verifier of GSM8K on the device: the number behind the last ####.

It decides as `grading.gsm8k_answer` does, from token ids, so that a fused loop
needs no host. What the tokens mean comes in a `Table`, an argument of jit.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from sitrain.types import PAD, Chat, Episodes, Task, Tokenizer, Verdict

DIGIT = 1  # code of the digit 0; a place without a character has code 0
DOT, COMMA, HASH, DOLLAR, MINUS, SPACE, OTHER = range(DIGIT + 10, DIGIT + 17)
CODES = {
  **{str(digit): DIGIT + digit for digit in range(10)},
  ".": DOT, ",": COMMA, "#": HASH, "$": DOLLAR, "-": MINUS, " ": SPACE,
}
LIMB = 9  # decimal digits of an int32
POWERS = np.array([*(10**i for i in range(LIMB)), 0], np.int32)


class Table(NamedTuple):
  """The characters of each token: those of its kind, W of them, 0 behind.

  A vocabulary has few kinds, for most characters change no answer.
  """

  kind: Int[Array, " V"]
  codes: UInt8[Array, "C W"]


class Number(NamedTuple):
  """An integer, `high * 10**9 + low`, both with its sign."""

  high: Int[Array, " B"]
  low: Int[Array, " B"]
  found: Bool[Array, " B"]  # False: no number, or none that fits


def strings(tokenizer: Tokenizer, size: int) -> list[str]:
  """What each of the ids below `size` adds to a decoded text.

  Each is decoded behind another token, because the first one of a text may
  lose its space.
  """
  before = tokenizer.encode("#")
  start = len(tokenizer.decode(before))
  return [tokenizer.decode([*before, i])[start:] for i in range(size)]


def table(tokens: Sequence[str | bytes]) -> Table:
  """Characters of the vocabulary: `tokens[i]` is what id i adds to a text.

  Only digits and `.,#$- ` keep their own code. What cannot change an answer is
  left out, so that W stays small and no token is ever cut: all but one of
  neighbouring other characters, and of what stands between the first and the
  last of them all but the number behind the last marker.
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
  # Bytes beyond ASCII belong to characters that are other ones in any case.
  text = token.decode("latin-1") if isinstance(token, bytes) else token
  text = re.sub(r"[^0-9.,#$\- ]+", "x", text)
  text = re.sub(r"#{5,}", "####", text)
  text = re.sub(r",+", ",", text)
  # Two of these in a row spoil a number, just as many of them do.
  text = re.sub(r"([ .$\-])\1{2,}", r"\1\1", text)
  return [CODES.get(character, OTHER) for character in _without_middle(text)]


def _without_middle(text: str) -> str:
  """Without what stands between two x and cannot change an answer."""
  first, last = text.find("x"), text.rfind("x")
  mark = text.rfind("####", max(first, 0), max(last, 0))
  if mark >= 0:
    return "x" + _without_middle(text[mark:])  # nothing before it matters
  return text[:first] + text[last:] if first < last else text


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

  def final(episodes: Episodes, turn: int) -> Int[Array, " B"]:
    found = _claim(episodes, turn, chat.eos, characters)
    mixed = (found.low + found.high * 999983) & jnp.int32(2**31 - 1)
    return jnp.where(found.found, mixed, -1)

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
  mine = episodes.turn == turn
  end = mine & jnp.isin(episodes.tokens, jnp.asarray(eos, jnp.int32))
  number = answers(jnp.where(mine & ~end, episodes.tokens, PAD), table)
  return number._replace(found=number.found & jnp.any(end, axis=1))


def answers(tokens: Int[Array, "B N"], table: Table) -> Number:
  r"""The integer behind the last `####` of each row.

  tokens: PAD, which reads as nothing, may stand anywhere. Ids beyond the table
  read as an unknown character. Found is what `#### \$?(-?[0-9.,]+)` matches at
  the last marker, if it is an integer (42.00 is one) of up to 18 digits.
  """
  code, place = _characters(tokens, table)
  mark = _last_mark(code, place)

  def at(where):
    hit = (place == where[:, None]) & (code > 0)
    return jnp.max(jnp.where(hit, code, 0), axis=1)

  dollar = at(mark + 2) == DOLLAR
  minus = at(mark + 2 + dollar) == MINUS
  start = mark + 2 + dollar + minus
  digit = (code >= DIGIT) & (code < DIGIT + 10)
  read = digit | (code == DOT) | (code == COMMA)
  beyond = jnp.iinfo(jnp.int32).max
  behind = (code > 0) & (place >= start[:, None])
  stop = jnp.min(jnp.where(behind & ~read, place, beyond), axis=1)
  inside = behind & (place < stop[:, None])
  begun = (mark >= 0) & (at(mark + 1) == SPACE)
  found, high, low = _value(code, place, inside, digit)
  sign = jnp.where(minus, -1, 1)
  found &= begun
  return Number(
    jnp.where(found, sign * high, 0), jnp.where(found, sign * low, 0), found
  )


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
  return codes.reshape(shape), place.reshape(shape)


def _last_mark(code, place):
  """Place of the last # of the last marker, -1 without one.

  A # ends a marker if the last character that is none lies four places back.
  """
  plain = (code > 0) & (code != HASH)
  last = jax.lax.cummax(jnp.where(plain, place, -1), axis=1)
  ends = (code == HASH) & (place - last >= 4)
  return jnp.max(jnp.where(ends, place, -1), axis=1)


def _value(code, place, inside, digit):
  """(is an integer that fits, high limb, low limb) of what is inside."""
  dot = inside & (code == DOT)
  beyond = jnp.iinfo(jnp.int32).max
  point = jnp.min(jnp.where(dot, place, beyond), axis=1, keepdims=True)
  digit &= inside
  whole = digit & (place < point)
  value = jnp.where(digit, code - DIGIT, 0)
  # The power of ten of a digit is the number of whole digits behind it.
  upto = jnp.cumsum(whole, axis=1)
  power = upto[:, -1:] - upto

  def limb(least):
    here = whole & (power >= least) & (power < least + LIMB)
    ten = jnp.asarray(POWERS)[jnp.where(here, power - least, LIMB)]
    return jnp.sum(value * ten, axis=1)

  broken = digit & ~whole | whole & (power >= 2 * LIMB)
  found = jnp.any(digit, axis=1) & (jnp.sum(dot, axis=1) <= 1)
  found &= ~jnp.any(broken & (value > 0), axis=1)
  return found, limb(LIMB), limb(0)
