"""What the next attempt changes, by words or by letters."""

import re
from typing import NamedTuple

from rapidfuzz.distance import Indel

MOST = 4_000  # pieces of a text, up to which changes are looked for


class Change(NamedTuple):
  """A part of two texts; it is a change where one of both is empty."""

  before: str
  after: str


def changes(before: str, after: str) -> list[Change]:
  """Two texts in parts: what both have, and what only one of them has.

  By words where there are words, else by letters. Texts of more than MOST
  pieces are not compared, and are one part.
  """
  one, two = pieces(before), pieces(after)
  if before == after or max(len(one), len(two)) > MOST:
    return [Change(before, after)]
  return [
    Change(
      "".join(one[step.src_start : step.src_end]),
      "".join(two[step.dest_start : step.dest_end]),
    )
    for step in Indel.opcodes(one, two)
  ]


def pieces(text: str) -> list[str]:
  """Words and what stands between them; the letters of a text without any."""
  found = re.findall(r"\w+|\s+|[^\w\s]", text)
  return found if re.search(r"\s", text.strip()) else list(text)
