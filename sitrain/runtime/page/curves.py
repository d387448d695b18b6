"""From records to curves: one axis over all stages, means of many steps, gaps.

A metric that a record lacks was not measured. One that is null was: nothing was
counted in that step, which the report shows.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sitrain.runtime.page.svg import Gap, Line, Point

Records = Sequence[dict[str, Any]]
BINS = 100  # points of a curve at the most
NORMAL = 1.96  # standard errors of a 95 % interval


class Placed(NamedTuple):
  """The records of some stages on one axis."""

  records: Records
  at: list[float]  # of each record
  borders: list[tuple[float, str]]  # where each stage starts, and its name


def place(records: Records) -> Placed:
  """The records on one axis over all stages.

  A stage starts where the one before it ended.
  """
  at, borders = [], []
  start, last, stage = 0.0, 0.0, ""
  for record in records:
    if record.get("stage", "") != stage or not borders:
      stage, start = record.get("stage", ""), last
      borders.append((start, str(stage)))
    step = record.get("step", 0)
    step = float(step) if isinstance(step, (int, float)) else 0.0
    last = max(last, start + step)
    at.append(start + step)
  return Placed(records, at, borders)


def with_metrics(records: Records, names: Sequence[str]) -> Placed:
  """The stages in which some of the metrics were measured, placed."""
  stages = {
    r.get("stage", "") for r in records if any(name in r for name in names)
  }
  return place([r for r in records if r.get("stage", "") in stages])


def names_of(records: Records, pattern: str) -> list[str]:
  """The metrics whose whole names match, sorted."""
  found = {name for record in records for name in record}
  return sorted(name for name in found if re.fullmatch(pattern, name))


def is_number(value: Any) -> bool:
  """Whether it is a finite number, and no truth value."""
  known = isinstance(value, (int, float)) and not isinstance(value, bool)
  return known and math.isfinite(value)


def curve(
  placed: Placed, name: str, *, label: str, color: int, share: bool = False
) -> Line:
  """A metric over the steps: the mean of each bin, and its 95 % interval.

  That of numbers above 0 ends there, and that of a `share` at 1.
  With as many bins as steps, or fewer steps than that, there is no interval. A
  stage that lacks the metric, and a bin without a value, break the line.
  """
  pieces: list[list[Point]] = []
  for first, end in _stretches(placed, name):
    pieces += _pieces(
      placed.at[first:end], [r[name] for r in placed.records[first:end]],
      max(2, round(BINS * (end - first) / len(placed.records))),
    )
  points = [p for piece in pieces for p in piece]
  least = 0.0 if all(p.y >= 0 for p in points) else -math.inf
  most = 1.0 if share else math.inf
  cut = lambda p: p._replace(low=max(p.low, least), high=min(p.high, most))
  pieces = [list(map(cut, piece)) for piece in pieces]
  return Line(label, pieces, color)


def _stretches(placed, name) -> list[tuple[int, int]]:
  """[first, end) of neighbouring records of a stage that have the metric."""
  found, first = [], -1
  stage = ""
  for i, record in enumerate([*placed.records, {}]):
    same = name in record and record.get("stage", "") == stage
    if first >= 0 and not same:
      found.append((first, i))
      first = -1
    if name in record and first < 0:
      first, stage = i, record.get("stage", "")
  return found


def _pieces(at, values, bins) -> list[list[Point]]:
  """Points of one stretch, split where a bin has no value."""
  pieces: list[list[Point]] = [[]]
  parts = np.array_split(np.arange(len(at)), min(bins, len(at)))
  for part in parts:
    known = np.array([values[i] for i in part if is_number(values[i])], float)
    x = float(np.mean([at[i] for i in part]))
    if not known.size:
      pieces.append([])
      continue
    mean, error = float(known.mean()), math.nan
    if known.size > 2:
      error = NORMAL * float(known.std(ddof=1)) / math.sqrt(known.size)
    pieces[-1].append(Point(x, mean, mean - error, mean + error))
  return [piece for piece in pieces if piece]


def gaps(placed: Placed, names: Sequence[str]) -> list[Gap]:
  """Where one of the metrics was null, neighbours joined."""
  found: list[Gap] = []
  last = -2
  for i, record in enumerate(placed.records):
    if not any(name in record and not is_number(record[name])
               for name in names):
      continue
    at = placed.at[i]
    if last == i - 1:
      found[-1] = found[-1]._replace(last=at + 0.5)
    else:
      found.append(Gap(at - 0.5, at + 0.5))
    last = i
  return found


def measured(
  placed: Placed, name: str, *, problems: int, label: str, color: int
) -> Line:
  """A share of problems that some records have, with its 95 % interval.

  That of Wilson, for `problems` independent problems; 0 where that is unknown.
  """
  found = []
  for at, record in zip(placed.at, placed.records):
    value = record.get(name)
    if is_number(value):
      ends = (math.nan, math.nan)
      if problems and 0 <= value <= 1:
        ends = wilson(value, problems)
      found.append(Point(at, value, *ends))
  return Line(label, [found] if found else [], color)


def wilson(share: float | int, count: int) -> tuple[float, float]:
  """The 95 % interval of a share of `count` (Wilson 1927)."""
  square = NORMAL**2 / count
  middle = (share + square / 2) / (1 + square)
  half = NORMAL / (1 + square) * math.sqrt(
    share * (1 - share) / count + square / (4 * count)
  )
  return max(middle - half, 0.0), min(middle + half, 1.0)


def ends_of(
  stages: Sequence[dict[str, Any]], key: str, *, label: str, color: int
) -> Line:
  """A number of the evaluation after each stage, at its last step."""
  found = []
  for stage in stages:
    if is_number(stage.get(key)) and is_number(stage.get("end")):
      ends = (stage.get("intervals") or {}).get(key) or ()
      known = len(ends) == 2 and all(map(is_number, ends))
      found.append(Point(
        float(stage["end"]), stage[key], *(ends if known else ())
      ))
  return Line(label, [[point] for point in found], color, dots=True)
