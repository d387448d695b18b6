"""Runs pieces side by side, each in a process of its own and on one core.

What has been run is never run again, unless its parameters are needed and gone.
"""

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.score_table import pieces
from benchmarks.score_table.arms import Piece, before

ONE_CORE = (
  "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1 "
  "--xla_force_host_platform_device_count=1"
)


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
  waiting = left(wanted, folder)
  running: dict[Piece, subprocess.Popen] = {}
  total, ended = len(waiting), 0
  while True:
    ready = [p for p in waiting if may_run(p, folder)]
    while ready and len(running) < workers and time.time() < until:
      piece = ready.pop(0)
      waiting.remove(piece)
      running[piece] = begin(piece, folder)
    if not running:
      return not left(wanted, folder)
    time.sleep(1.0)
    for piece, process in list(running.items()):
      if process.poll() is not None:
        del running[piece]
        ended += 1
        if process.returncode > 0:
          pieces.write(piece, {"failed": process.returncode})
        tell(f"{ended}/{total} {said(piece, process.returncode)}")


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
  workdir = folder / piece.task / pieces.name_of(piece)
  workdir.mkdir(parents=True, exist_ok=True)
  command = [
    sys.executable, "-m", "benchmarks.score_table", f"--folder={folder}",
    "--one=" + ",".join(map(str, piece)),
  ]
  environment = os.environ | {"XLA_FLAGS": ONE_CORE}
  with open(f"{workdir}.log", "a") as log:
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment)
