"""Where the rows of a user's task come from: one source, or a mixture."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from sitrain.tasks import tables

_WEIGHTED = re.compile(r"(.+)\*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
MOST = 1000  # times that a mixture may repeat a row


class Source(NamedTuple):
  """One of the sources of a mixture."""

  name: str
  weight: float  # its share of the problems; 0: as many as it has rows


class Found(NamedTuple):
  """A row as it was read."""

  row: dict[str, Any]
  where: str  # "row 7 of a.jsonl"
  source: int  # its place in the mixture


def parse(text: str) -> list[Source]:
  """The sources of "a.jsonl" or "a.jsonl*0.7,b.jsonl*0.3".

  Raises ValueError for an empty one, and where some have a weight and others
  none.
  """
  found = []
  for part in text.split(","):
    weighted = _WEIGHTED.fullmatch(part.strip())
    name, weight = weighted.groups() if weighted else (part.strip(), 0.0)
    if not name:
      raise ValueError(
        f"source={text!r}: name a file, a folder or a data set of the hub"
      )
    if weighted and not float(weight):
      raise ValueError(f"source={text!r}: leave out {name}, of weight 0")
    found.append(Source(name, float(weight)))
  if len({source.weight > 0 for source in found}) > 1:
    raise ValueError(
      f"source={text!r}: give every source a weight, as in "
      "a.jsonl*0.7,b.jsonl*0.3, or none"
    )
  return found


def read(text: str, *, split: str, limit: int) -> list[Found]:
  """The rows of all sources, at most `limit` of each; 0: all.

  Raises ValueError as `tables.read` does, and for a source without rows.
  """
  found, sources = [], parse(text)
  short = [_short(source.name) for source in sources]
  for number, source in enumerate(sources):
    name = short[number] if short.count(short[number]) == 1 else source.name
    name = f"{name} ({split})" if split else name
    rows = list(tables.whole_rows(source.name, split=split))
    if not rows:
      raise ValueError(f"{name} has no rows: name a data set that has some")
    found += [
      Found(row, f"row {i} of {name}", number)
      for i, row in enumerate(tables.first(rows, limit), 1)
    ]
  return found


def _short(name: str) -> str:
  """A file without its folder."""
  return name.rpartition("/")[2] if name.endswith(tables.FILES) else name


def mixed(
  kept: Sequence[int], source: Sequence[int], sources: Sequence[Source]
) -> list[int]:
  """The rows `kept`, repeated until every source has its share.

  `source` is that of every row. The least number of problems is taken in which
  no row is left out; a source with fewer rows than its share is read again from
  its start. Raises ValueError for a source of which no row is left, and for
  more than MOST repetitions.
  """
  if not sources[0].weight:
    return list(kept)
  rows = [[i for i in kept if source[i] == k] for k in range(len(sources))]
  total = sum(one.weight for one in sources)
  for one, own in zip(sources, rows):
    if not own:
      raise ValueError(f"source: no row of {one.name} is left: leave it out")
  size = max(len(r) * total / s.weight for s, r in zip(sources, rows))
  found = []
  for one, own in zip(sources, rows):
    count = round(size * one.weight / total)
    if count > MOST * len(own):
      raise ValueError(
        f"source: a weight of {one.weight:g} would pose each of the "
        f"{len(own)} rows of {one.name} {count // len(own)} times as often as "
        "others: lower it"
      )
    found += [own[i % len(own)] for i in range(count)]
  return found
