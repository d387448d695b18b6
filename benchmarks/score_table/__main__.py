"""SCoRe's table: all arms, many seeds, equal effort.

  python -m benchmarks.score_table --workers=2

Runs the missing pieces of both tasks (a piece is one arm of one seed, and its
result a small file under benchmarks/results/score_table), and writes the
tables, the pictures and the page. The same command continues an interrupted
one, and --minutes limits its time. One row:

  python -m benchmarks.score_table --task=maze --arm=score

The runs are defined in grid.py, arms.py and tasks.py.
"""

import os
import pathlib
import time

from absl import app, flags

from benchmarks.score_table import page, pieces, schedule, table
from benchmarks.score_table.arms import ARMS, Piece, reported, tuning
from benchmarks.score_table.tasks import SIZES

TASK = flags.DEFINE_list("task", ["maze", "countdown"], "Tasks.")
ARM = flags.DEFINE_list("arm", [], "Arms; default: all.")
SEED = flags.DEFINE_list("seed", [], "Seeds; default: those of the grid.")
WORKERS = flags.DEFINE_integer(
  "workers", os.cpu_count(), "Processes side by side, one core each."
)
FOLDER = flags.DEFINE_string(
  "folder", "/tmp/sitrain_score_table", "Folder of the runs."
)
MINUTES = flags.DEFINE_float("minutes", 1e6, "No piece begins after these.")
ONE = flags.DEFINE_list("one", [], "A piece, to be run in this process.")


def selected(wanted: list[Piece]) -> list[Piece]:
  """The pieces of --arm and --seed."""
  arms = ARM.value or list(ARMS)
  seeds = [int(s) for s in SEED.value] or [p.seed for p in wanted]
  return [p for p in wanted if p.arm in arms and p.seed in seeds]


def run_task(task: str, until: float) -> bool:
  """Runs tuning, then the reported pieces; True when all are finished."""
  options = dict(
    workers=WORKERS.value, until=until, report=lambda t: print(t, flush=True)
  )
  folder = pathlib.Path(FOLDER.value)
  wanted = tuning(task)
  if ARM.value:  # Only the settings of these arms are needed.
    named = {ARMS[name].chosen for name in ARM.value}
    wanted = [p for p in wanted if p.arm in named]
  if not schedule.run_all(wanted, folder, **options):
    return False
  wanted = selected(reported(task, table.chosen(task, wanted)))
  return schedule.run_all(wanted, folder, **options)


def one() -> Piece:
  """The piece of --one=TASK,ARM,SETTING,SEED."""
  try:
    task, arm, setting, seed = ONE.value
    known = task in SIZES and setting in ARMS[arm].grid
    piece = Piece(task, arm, setting, int(seed))
  except (ValueError, KeyError):
    known = False
  if not known:
    raise app.UsageError(f"--one={ONE.value}: give TASK,ARM,SETTING,SEED")
  return piece


def check() -> None:
  """Raises UsageError for a task or an arm that is not known."""
  for name, known in ((TASK, SIZES), (ARM, ARMS)):
    for value in name.value:
      if value not in known:
        raise app.UsageError(
          f"--{name.name}={value}: choose from {', '.join(known)}"
        )


def main(argv: list[str]) -> None:
  """Runs one piece, or all that remain, then writes the page."""
  check()
  if ONE.value:
    pieces.run_piece(one(), pathlib.Path(FOLDER.value))
    return
  until = time.time() + 60 * MINUTES.value
  complete = all([run_task(task, until) for task in TASK.value])
  if not complete:
    print("some pieces are missing: run the same command again")
  print(f"page: {page.write(TASK.value)}")


if __name__ == "__main__":
  app.run(main)
