"""Runs pieces side by side, each in a process of its own and on one core.

What has been run is never run again, unless its parameters are needed and gone.
"""

import itertools
import pathlib
import subprocess
from collections.abc import Callable, Sequence

from benchmarks import side_by_side
from benchmarks.score_table import pieces
from benchmarks.score_table.arms import Piece, before


def left(wanted: Sequence[Piece], folder: pathlib.Path) -> list[Piece]:
  """What has to be run, each piece after the one that it starts from."""
  order: dict[Piece, None] = {}
  for piece in wanted:
    if pieces.read(piece):
      continue
    line = [piece]
    while line[-1].arm != "base" and not usable(before(line[-1]), folder):
      line.append(before(line[-1]))
    if not any("failed" in pieces.read(each) for each in line):
      order |= dict.fromkeys(reversed(line))
  return list(order)


def usable(piece: Piece, folder: pathlib.Path) -> bool:
  """Whether it has been run and its parameters are there."""
  at = folder / piece.task / pieces.name_of(piece) / "summary.json"
  return "row" in pieces.read(piece) and at.exists()


def may_run(piece: Piece, folder: pathlib.Path) -> bool:
  """Whether what it starts from is there."""
  return piece.arm == "base" or usable(before(piece), folder)


def run_all(
  wanted: Sequence[Piece], folder: pathlib.Path, *, workers: int,
  until: float, tell: Callable[[str], None],
) -> bool:
  """Runs what is left, `workers` at a time, none begun after `until`.

  A piece that ends with an error is kept as a failure, and what starts from it
  is left out; one that a signal has ended is run again the next time. True when
  nothing is left.
  """
  waiting, count = left(wanted, folder), itertools.count(1)

  def ended(piece, code):
    if code > 0:
      pieces.write(piece, {"failed": code})
    tell(f"{next(count)}/{len(waiting)} {said(piece, code)}")

  side_by_side.run_all(
    waiting, lambda piece: begin(piece, folder), ended, workers=workers,
    may_start=lambda piece: may_run(piece, folder), until=until,
  )
  return not left(wanted, folder)


def said(piece: Piece, code: int) -> str:
  """How a piece ended, in a line."""
  name = f"{piece.task} {pieces.name_of(piece)}"
  if code:
    return f"{name} ended with exit code {code}; see its log"
  row = pieces.read(piece)["row"]
  first, second = 100 * row["accuracy_1"], 100 * row["accuracy_2"]
  return f"{name} {first:.1f} -> {second:.1f}"


def begin(piece: Piece, folder: pathlib.Path) -> subprocess.Popen:
  """Its process, with a log beside its workdir."""
  return side_by_side.begin(
    "benchmarks.score_table",
    [f"--folder={folder}", "--one=" + ",".join(map(str, piece))],
    folder / piece.task / f"{pieces.name_of(piece)}.log",
  )
