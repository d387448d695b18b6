"""Runs pieces side by side, each in its own process and on one core.

A finished piece runs again only if its parameters are needed and deleted.
"""

import itertools
import pathlib
import subprocess
from collections.abc import Callable, Sequence

from benchmarks import side_by_side
from benchmarks.score_table import pieces
from benchmarks.score_table.arms import Piece, before


def remaining(wanted: Sequence[Piece], folder: pathlib.Path) -> list[Piece]:
  """The pieces to run, each after the one that it starts from."""
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
  """Whether it is finished and its parameters exist."""
  at = folder / piece.task / pieces.name_of(piece) / "summary.json"
  return "row" in pieces.read(piece) and at.exists()


def may_run(piece: Piece, folder: pathlib.Path) -> bool:
  """Whether the parameters that it starts from exist."""
  return piece.arm == "base" or usable(before(piece), folder)


def run_all(
  wanted: Sequence[Piece], folder: pathlib.Path, *, workers: int,
  until: float, report: Callable[[str], None],
) -> bool:
  """Runs the remaining pieces, `workers` at a time, none begun after `until`.

  A piece that ends with an error is stored as a failure, and pieces that start
  from it are left out; one that a signal ended runs again the next time. True
  when none remain.
  """
  waiting, count = remaining(wanted, folder), itertools.count(1)

  def ended(piece, code):
    if code > 0:
      pieces.write(piece, {"failed": code})
    report(f"{next(count)}/{len(waiting)} {status_line(piece, code)}")

  side_by_side.run_all(
    waiting, lambda piece: begin(piece, folder), ended, workers=workers,
    may_start=lambda piece: may_run(piece, folder), until=until,
  )
  return not remaining(wanted, folder)


def status_line(piece: Piece, code: int) -> str:
  """The result of a piece in one line."""
  name = f"{piece.task} {pieces.name_of(piece)}"
  if code:
    return f"{name} ended with exit code {code}; see its log"
  row = pieces.read(piece)["row"]
  first, second = 100 * row["accuracy_1"], 100 * row["accuracy_2"]
  return f"{name} {first:.1f} -> {second:.1f}"


def begin(piece: Piece, folder: pathlib.Path) -> subprocess.Popen:
  """Starts the process of a piece, with a log next to its workdir."""
  return side_by_side.begin(
    "benchmarks.score_table",
    [f"--folder={folder}", "--one=" + ",".join(map(str, piece))],
    folder / piece.task / f"{pieces.name_of(piece)}.log",
  )
