"""The characters that decide of each token, for the verifier in digits.py.

What is kept of a token changes an answer; all else is left out, so that few
places and few kinds of tokens suffice.
"""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Int, UInt8

from sitrain.tasks.verifiers.gsm8k_numbers import SCALES, is_strange
from sitrain.types import Tokenizer

DIGIT = 1  # code of the digit 0; a place without a character has code 0
(DOT, COMMA, HASH, DOLLAR, MINUS, SPACE, OTHER, LINE, STRANGE, LETTER) = range(
  DIGIT + 10, DIGIT + 20
)
# A letter of a word of SCALES has a code of its own, all others are LETTER.
LETTERS = sorted(set("".join(SCALES)) - {" "})
CODES = {
  **{str(digit): DIGIT + digit for digit in range(10)},
  ".": DOT, ",": COMMA, "#": HASH, "$": DOLLAR, "-": MINUS, " ": SPACE,
  "\n": LINE, "\r": LINE, "!": STRANGE, "x": LETTER,
  **{letter: LETTER + 1 + i for i, letter in enumerate(LETTERS)},
}
# What is known of a token without its characters, in one integer: how many
# there are, how many # stand at its end and its start, the end of the last ####
# inside, and whether a digit, a letter stands before its first line end.
PLACES = 9  # bits of a number of characters
TRAIL, LEAD, MARK = PLACES, PLACES + 3, PLACES + 6
HAS_DIGIT, HAS_LETTER, HAS_LINE = (1 << 2 * PLACES + 6 + i for i in range(3))
HEAD = re.compile(r"[0-9.,#$\- ]*")


class Table(NamedTuple):
  """The characters of each token: those of its kind, W of them, 0 behind.

  A vocabulary has few kinds, for most characters change no answer. The last two
  are those of PAD and of ids beyond the vocabulary.
  """

  kind: Int[Array, " V"]
  codes: UInt8[Array, "C W"]
  marks: Int[Array, " C"]  # see PLACES


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

  What cannot change an answer is left out, so that W stays small and no token
  is ever cut: of a token kept are the last marker, the characters of a number
  at its start or behind the marker, then whether a digit follows on the line
  and its first word, if that may be part of one of SCALES. Raises ValueError
  for a token of hundreds of digits.
  """
  short = [_shortened(token) for token in tokens]
  width = max(1, *(len(codes) for codes in short))
  if width >= 1 << PLACES:
    raise ValueError(f"a token of {width} digits: verify on the host")
  codes = np.zeros((len(short), width), np.uint8)
  for row, found in zip(codes, short):
    row[: len(found)] = found
  codes, kind = np.unique(codes, axis=0, return_inverse=True)
  small = len(codes) <= np.iinfo(np.uint16).max - 2
  kind = kind.reshape(-1).astype(np.uint16 if small else np.int32)
  others = np.zeros((2, width), np.uint8)
  others[1, 0] = OTHER
  codes = np.concatenate([codes, others])
  return Table(kind, codes, np.array([_marks(row) for row in codes], np.int32))


def _marks(codes: np.ndarray) -> int:
  """What is known of a token without its characters; see PLACES."""
  text = bytes(codes[codes > 0])
  size = len(text)
  trail = size - len(text.rstrip(bytes([HASH])))
  lead = size - len(text.lstrip(bytes([HASH])))
  inner = max((x.end() for x in re.finditer(b"%c{4,}" % HASH, text)), default=0)
  line = text.split(bytes([LINE]))[0]
  found = size | trail << TRAIL | lead << LEAD | inner << MARK
  found |= HAS_DIGIT * any(code < DIGIT + 10 for code in line)
  found |= HAS_LETTER * any(code >= LETTER for code in line)
  return found | HAS_LINE * (len(line) < size)


def _shortened(token: str | bytes) -> list[int]:
  text = token
  if isinstance(token, bytes):
    text = token.decode("utf-8", "replace")
  mark = text.rfind("####")
  start = HEAD.match(text, max(mark, 0))
  # Three of these in a row spoil a number, just as many of them do.
  head = re.sub(r"([ .,$\-])\1{2,}", r"\1\1", start[0])
  head = re.sub(r"#{5,}", "####", head)
  short = head + _rest(text[start.end():], start=not head)
  return [CODES.get(x, STRANGE if is_strange(x) else OTHER) for x in short]


def _rest(text: str, *, start: bool) -> str:
  """What stands behind the characters of a number in a token, in short."""
  if not text:
    return ""
  hashes = re.search(r"#*$", text)[0][-3:]
  line = re.match(r"[^\r\n]*", text)[0]
  end = "\n" if len(line) < len(text) else ""
  other = "!" if is_strange(line[:1]) else "?"
  if re.search(r"[0-9]", line):
    return other + "0" + end + hashes
  word = re.search(r"[A-Za-z]+", line)
  if not word:
    return (other if line else "") + end + hashes
  first = other if word.start() else ""
  open_start = start and not word.start()  # it may go on a word before
  kept = _part(word[0].lower(), open_start)
  close = "?" if word.end() < len(line) else ""
  return first + kept + close + end + hashes


@functools.lru_cache(maxsize=65536)
def _part(word: str, inside: bool) -> str:
  """What of a word may spell one of SCALES, and "x" for what follows.

  inside: it may stand behind the first letters of one, too.
  """
  longest = 0
  for scale in SCALES:
    for i in range(len(scale) if inside else 1):
      same = [a == b for a, b in zip(word, scale[i:])] + [False]
      longest = max(longest, same.index(False))
  return word[:longest] + ("x" if len(word) > longest else "")
