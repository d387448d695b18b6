"""Rows that a stage writes to a table, and the table as a later stage reads it.

WORKDIR/STAGE/rows.jsonl grows by one part for each iteration (runtime/parts.py)
and becomes one file in the end. A row holds token ids, so nothing is decoded
and encoded again, and its text for people.
"""

import math
import operator
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from sitrain.runtime import logs, parts, signals
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
  """Which rows of a stage become a table; see `table_of`."""

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
  """The table that a stage writes."""
  return epath.Path(workdir) / stage / "rows.jsonl"


def write_stage(
  run: Run, stage: Stage, compiled: Any, first: int = 0
) -> tuple[tuple, Progress]:
  """Poses, generates and judges, and writes all rows; trains nothing.

  What a stopped run has written stays; it goes on with the next iteration.
  Raises ConfigError where the table is there and another run wrote it.
  """
  path = path_of(run.workdir, stage.name)
  check_new(run, stage)
  folder(run, stage.name).mkdir(parents=True, exist_ok=True)
  parts.begin(path, {"stage": stage.name, "steps": stage.steps})
  done, count, whole = from_first(lambda: _so_far(path))
  # A run may go on with more steps than it was begun with.
  finished = whole and done >= stage.steps
  first = began_at(run, stage, first)
  progress = Progress(stage.name, done, {}, -math.inf, count, finished, first)
  if finished:
    return (), progress
  sampler = compiled.result()
  state = start_state(run, stage, layout(run, stage), first)
  meet(stage.name)
  begun()
  with signals.training(lambda: None):
    progress = _write_rows(run, stage, sampler, state, progress, path)
  if jax.process_index() == 0:
    parts.finish(path)
  meet(f"{stage.name} written")
  return (), progress._replace(done=True)


def _so_far(path: epath.Path) -> tuple[int, int, bool]:
  """Iterations and rows that are written, and whether that is all."""
  rows = parts.read(path)
  steps = 1 + max((row["step"] for row in rows), default=-1)
  return steps, len(rows), path.exists()


def _write_rows(run, stage, sampler, state, progress, path) -> Progress:
  key, first = keys_of(run)[1], progress.first
  while progress.step < stage.steps:
    now = state._replace(step=np.int32(first + progress.step))
    posed, played = sampling = sampler.begin(now, key, 0, 0)
    verdicts, told = sampler.judge(now, sampling)
    waves = jax.device_get(_everywhere((posed.problems, played, verdicts)))
    rows = records(stage.task, list(zip(*waves)), step=progress.step)
    rows = [{"row": progress.rows + i} | row for i, row in enumerate(rows)]
    if jax.process_index() == 0:
      parts.add(path, rows)
    progress = progress._replace(
      step=progress.step + 1, rows=progress.rows + len(rows)
    )
    record = {n: float(m.total / m.count) for n, m in told.items() if m.count}
    run.show(stage.name, progress.step, stage.steps, record, float("nan"))
    if stop_agreed():
      raise signals.Stopped(
        signals.stopped(f" after step {progress.step} of {stage.name}")
      )
  logs.note(f"{stage.name} wrote {progress.rows} rows to {path}")
  return progress


def _everywhere(tree: Any) -> Any:
  if jax.process_count() == 1:
    return tree
  return multihost_utils.process_allgather(tree, tiled=True)


def records(task: Any, waves: list[tuple], *, step: int) -> list[dict]:
  """Rows of a round as JSON: ids of the prompt and of every turn, rewards.

  `waves` holds (problems, rows, verdicts) of each; the rows stand kind by kind
  and problem by problem, in the order of one wave (train.join_waves).
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
  """A table like the one that a stage is going to write, of one row."""
  one, blank = problem_shape(stage.task), lambda x: np.zeros(x.shape, np.int32)
  # How long its solutions will be is not known yet; a token stands for them.
  solution = np.zeros((1, 1), np.int32)
  return Problems(*map(blank, one))._replace(solution=solution)


def read_table(workdir: Any, asked: Table) -> Problems:
  """The kept rows as problems whose solutions are their turns.

  Raises ValueError where no row is kept.
  """
  path, kept, seen = path_of(workdir, asked.stage), [], {}
  for row in parts.read(path):
    known = row["known"][-1] > 0 and row["reward"][-1] >= asked.least
    if not known or row["kind"] != asked.kind:
      continue
    name = str((row["prompt"], row["answer"]))
    seen[name] = seen.get(name, 0) + 1
    if not asked.per_problem or seen[name] <= asked.per_problem:
      kept.append(row)
  if not kept:
    raise ValueError(
      f"{path} has no row of kind {asked.kind!r} with a reward of at least "
      f"{asked.least}: lower table.least, or write more rows"
    )
  solutions = [sum(row["turns"], []) for row in kept]
  return Problems(
    prompt=padded([row["prompt"] for row in kept], left=True, width=1),
    answer=np.asarray([row["answer"] for row in kept], np.int32),
    solution=padded(solutions, left=False, width=1),
  )


def check_new(run: Run, stage: Stage) -> None:
  """Raises ConfigError where the table is there and is not this run's."""
  path = path_of(run.workdir, stage.name)
  header = parts.header_of(path)
  there = path.exists() or parts.folder_of(path).exists()
  if there and not header.exists():
    raise ConfigError(
      f"config.stage.{stage.name} writes {path}, which exists and which this "
      "run did not write: move it away, or give another --workdir"
    )
