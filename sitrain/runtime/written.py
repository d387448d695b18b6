"""Rows that a stage writes to a table, and the table for a later stage.

WORKDIR/STAGE/rows.jsonl grows by one part per iteration (runtime/rows_file.py),
which are merged in the end. A row has token ids, so nothing is decoded and
encoded again, and its text, for reading.
"""

import math
import operator
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from sitrain.runtime import activity, logs, peers, rows_file, signals
from sitrain.runtime.agree import from_first
from sitrain.runtime.distributed import meet, stop_agreed
from sitrain.runtime.errors import begun
from sitrain.runtime.options import ConfigError
from sitrain.runtime.start import (
  Run,
  began_at,
  folder,
  keys_of,
  layout,
  start_state,
)
from sitrain.tasks.rows import problem_shape
from sitrain.tasks.text import padded
from sitrain.types import (
  GIVEN,
  PAD,
  Episodes,
  Problems,
  Progress,
  Stage,
)


class Table(NamedTuple):
  """The selection of rows that become a table; see `table_of`."""

  stage: str
  kind: str
  least: float
  per_problem: int


def table_of(
  *, stage: str, kind: str = "", least: float = 1.0, per_problem: int = 0
) -> Table:
  """The options of config.stage.NAME.table.

  Args:
    stage: the stage before it that writes rows.
    kind: of its rows, where the method has more than one.
    least: the smallest known reward of a row's last turn that is kept.
    per_problem: the most rows of a problem, the first ones; 0: all.

  Raises ValueError where that is below 0.
  """
  if per_problem < 0:
    raise ValueError(f"per_problem={per_problem}: set 1 or more, or 0 for all")
  return Table(stage, kind, least, per_problem)


def path_of(workdir: Any, stage: str) -> epath.Path:
  """The path of the table that a stage writes."""
  return epath.Path(workdir) / stage / "rows.jsonl"


def write_stage(
  run: Run, stage: Stage, compiled: Any, first: int = 0
) -> tuple[tuple, Progress]:
  """Poses, generates and judges, and writes all rows; trains nothing.

  A stopped run keeps its rows and resumes with the next iteration. Raises
  ConfigError if another run wrote the table.
  """
  path = path_of(run.workdir, stage.name)
  check_new(run, stage)
  folder(run, stage.name).mkdir(parents=True, exist_ok=True)
  rows_file.begin(path, {"stage": stage.name, "steps": stage.steps})
  done, count, whole = from_first(lambda: _so_far(path))
  # A resumed run may have more steps than at its start.
  finished = whole and done >= stage.steps
  first = began_at(run, stage, first)
  progress = Progress(stage.name, done, {}, -math.inf, count, finished, first)
  if finished:
    activity.say(f"{stage.name} is written: all {count} rows are there")
    return (), progress
  if done:
    activity.say(f"{stage.name} goes on after step {done}")
  with activity.during(f"compiling {stage.name}"):
    sampler = compiled.result()
  state = start_state(run, stage, layout(run, stage), first)
  meet(stage.name)
  begun()
  with signals.training(peers.leave):
    progress = _write_rows(run, stage, sampler, state, progress, path)
  if jax.process_index() == 0:
    rows_file.finish(path)
  meet(f"{stage.name} written")
  return (), progress._replace(done=True)


def _so_far(path: epath.Path) -> tuple[int, int, bool]:
  """Iterations and rows written so far, and whether the table is complete."""
  rows = rows_file.read(path)
  steps = 1 + max((row["step"] for row in rows), default=-1)
  return steps, len(rows), path.exists()


def _write_rows(run, stage, sampler, state, progress, path) -> Progress:
  key, first = keys_of(run)[1], progress.first
  while progress.step < stage.steps:
    done = progress.step
    signals.working(signals.Working(
      stage.name, done, done + 1, time.monotonic(), math.nan,
      saved=lambda done=done: done,
    ))  # fmt: skip
    now = state._replace(step=np.int32(first + progress.step))
    posed, played = sampling = sampler.begin(now, key, 0, 0)
    verdicts, metrics = sampler.judge(now, sampling)
    waves = jax.device_get(_everywhere((posed.problems, played, verdicts)))
    rows = records(stage.task, list(zip(*waves)), step=progress.step)
    rows = [{"row": progress.rows + i} | row for i, row in enumerate(rows)]
    if jax.process_index() == 0:
      rows_file.add(path, rows)
    progress = progress._replace(
      step=progress.step + 1, rows=progress.rows + len(rows)
    )
    record = {
      n: float(m.total / m.count) for n, m in metrics.items() if m.count
    }
    run.show(stage.name, progress.step, stage.steps, record, float("nan"))
    if stop := stop_agreed():
      raise signals.Stopped(
        stop, f" after step {progress.step} of {stage.name}"
      )
  logs.note(f"{stage.name} wrote {progress.rows} rows to {path}")
  return progress


def _everywhere(tree: Any) -> Any:
  if jax.process_count() == 1:
    return tree
  return multihost_utils.process_allgather(tree, tiled=True)


def records(task: Any, waves: list[tuple], *, step: int) -> list[dict]:
  """Rows of a round as JSON: token ids of prompt and turns, and rewards.

  `waves` has (problems, rows, verdicts) of each wave. The rows are sorted by
  kind and problem, in the order of a single wave (train.join_waves).
  """
  found = []
  for w, (problems, rows, verdicts) in enumerate(waves):
    kinds = rows if isinstance(rows, dict) else {"": rows}
    judged = verdicts if isinstance(verdicts, dict) else {"": verdicts}
    for i, (name, kind) in enumerate(kinds.items()):
      for b, problem in enumerate(kind.problem):
        row = _record(task, name, problems, kind, judged[name], b, step)
        found.append(((i, int(problem) * len(waves) + w), row))
  return [row for _, row in sorted(found, key=operator.itemgetter(0))]


def _record(task, name, problems, rows: Episodes, verdict, b, step) -> dict:
  tokens, turn = rows.tokens[b], rows.turn[b]
  begun = np.flatnonzero(turn > GIVEN)
  end = begun[0] if len(begun) else int((turn != PAD).sum())
  count = verdict.known.shape[1]
  turns = [tokens[turn == k + 1].tolist() for k in range(count)]
  return {
    "step": step, "kind": name, "prompt": tokens[:end].tolist(),
    "answer": problems.answer[rows.problem[b]].tolist(), "turns": turns,
    "reward": verdict.reward[b].tolist(), "known": verdict.known[b].tolist(),
    "text": [task.tokenizer.decode(np.asarray(ids, np.int32)) for ids in turns],
  }


def shape_of(stage: Stage) -> Problems:
  """A table of one row, with the shapes of the one that a stage will write."""
  one, blank = problem_shape(stage.task), lambda x: np.zeros(x.shape, np.int32)
  # The length of its solutions is not known yet: one token.
  solution = np.zeros((1, 1), np.int32)
  return Problems(*map(blank, one))._replace(solution=solution)


def read_table(workdir: Any, selection: Table) -> Problems:
  """The selected rows as problems whose solutions are their turns.

  Raises ValueError if no row is selected.
  """
  path, kept, seen = path_of(workdir, selection.stage), [], {}
  for row in rows_file.read(path):
    known = row["known"][-1] > 0 and row["reward"][-1] >= selection.least
    if not known or row["kind"] != selection.kind:
      continue
    name = str((row["prompt"], row["answer"]))
    seen[name] = seen.get(name, 0) + 1
    if not selection.per_problem or seen[name] <= selection.per_problem:
      kept.append(row)
  if not kept:
    raise ValueError(
      f"{path} has no row of kind {selection.kind!r} with a reward of at least "
      f"{selection.least}: lower table.least, or write more rows"
    )
  solutions = [sum(row["turns"], []) for row in kept]
  return Problems(
    prompt=padded([row["prompt"] for row in kept], left=True, width=1),
    answer=np.asarray([row["answer"] for row in kept], np.int32),
    solution=padded(solutions, left=False, width=1),
  )


def check_new(run: Run, stage: Stage) -> None:
  """Raises ConfigError if the table exists and is not from this run."""
  path = path_of(run.workdir, stage.name)
  header = rows_file.header_of(path)
  there = path.exists() or rows_file.folder_of(path).exists()
  if there and not header.exists():
    raise ConfigError(
      f"config.stage.{stage.name} writes {path}, which exists and which this "
      "run did not write: move it away, or give another --workdir"
    )
