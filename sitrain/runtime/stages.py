"""Runs the stages of a config that are left; summary.json grows with each."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
from etils import epath

from sitrain.runtime import activity, alarms, checkpoint, memory
from sitrain.runtime import workdir as workdirs
from sitrain.runtime.agree import from_first
from sitrain.runtime.page.files import read_records
from sitrain.runtime.stage import compile_ahead, run_stage
from sitrain.runtime.start import Run, check_sources
from sitrain.runtime.written import check_new, write_stage
from sitrain.types import Stage

_LOG = logging.getLogger("sitrain")
_SUMMARY = "summary.json"


class Start(NamedTuple):
  """The start of a run: its time, and the programs that are compiling."""

  began: float  # on the monotonic clock
  programs: list[Future]  # of the unfinished stages
  took: dict[str, float]  # seconds to the first steps
  reached: dict[str, Future]  # by stage, set when its table is written


def check_left(run: Run, stages: list) -> None:
  """Raises ConfigError if an unfinished stage cannot start or resume.

  Call it before the workdir is claimed. The reason is a checkpoint of another
  run that does not fit, a state that is larger than the memory, or a table that
  another run has written.
  """
  left = _unfinished(stages, _read_summary(run))
  check_sources(run, [stage for stage in left if not callable(stage.frozen)])
  for stage in left:
    if not callable(stage.frozen):
      memory.check_stage(run, stage, memory.free())
    if stage.writes:
      check_new(run, stage)


def summarize(
  run: Run, stages: list, judge: Callable[..., dict], digest: str,
  start: Start,
) -> tuple[dict, bool]:
  """Runs the unfinished stages in order; summary.json grows with each.

  The first stage starts when its program is compiled; the other programs are
  compiled meanwhile, in parallel. Returns the summary, and whether any stage
  was unfinished.
  """
  summary = _read_summary(run) or _empty(run, digest)
  left = _unfinished(stages, summary)
  if not left:
    check_kept(run.workdir, [x.name for x in stages if not x.writes])
  for stage in left:
    after = start.programs[:1]
    if callable(stage.frozen):  # Its table is not there yet.
      after = [*after, start.reached.setdefault(stage.name, Future())]
    start.programs.append(compile_ahead(run, stage, after=after))
  first = summary["stages"][-1]["end"] if summary["stages"] else 0
  for stage, compiled in zip(left, start.programs):
    began = time.monotonic()
    if stage.name in start.reached:
      start.reached[stage.name].set_result(True)
    run_one = write_stage if stage.writes else run_stage
    params, progress = run_one(run, stage, compiled, first)
    first = progress.first + progress.step
    summary["start"] = start.took
    with activity.during(f"evaluating {stage.name}") as say:
      row = judge(params, say) if params != () else {}
    summary["dialogues"] = row.get("dialogues", summary["dialogues"])
    seconds = time.monotonic() - began
    row = {"name": stage.name, "seconds": seconds, "end": first} | row
    run.sink.flush()
    if jax.process_index() == 0 and (heard := _alarms(run, stage)):
      row["alarms"] = heard
    summary["stages"].append(row)
    summary["seconds"] += seconds
    if jax.process_index() == 0:
      workdirs.write_json(_path(run), summary)
  return summary, bool(left)


def check_kept(workdir: Any, names: Sequence[str]) -> None:
  """Warns of stages that are done and whose last checkpoint is damaged.

  A finished run reads none, and would not notice.
  """
  for name in names:
    try:
      found = checkpoint.damage(epath.Path(workdir) / name)
    except (ValueError, OSError) as error:
      found = str(error)
    if found:
      _LOG.warning(
        "%s; the numbers below are from before. Remove %s, and the same command"
        " trains %s again from the checkpoint before it, if there is one",
        found, epath.Path(workdir) / _SUMMARY, name,
      )


def _alarms(run: Run, stage: Stage) -> dict[str, dict[str, int]]:
  """What alarms.history makes of the stage's records."""
  records = read_records(epath.Path(run.workdir) / "metrics.jsonl")
  return alarms.history(r for r in records if r.get("stage") == stage.name)


def _path(run: Run) -> epath.Path:
  return epath.Path(run.workdir) / _SUMMARY


def _read_summary(run: Run) -> dict:
  """The summary as process 0 sees it; {} before the first stage is done."""
  path = _path(run)
  return from_first(lambda: workdirs.read_json(path) if path.exists() else {})


def _unfinished(stages: list, summary: dict) -> list:
  done = {row["name"] for row in summary.get("stages", ())}
  return [stage for stage in stages if stage.name not in done]


def _empty(run: Run, digest: str) -> dict:
  device = jax.devices()[0]
  kind = f"{jax.device_count()} x {device.device_kind} ({device.platform})"
  return {
    "config_hash": digest, "seed": run.seed, "device": kind,
    "jax": jax.__version__, "seconds": 0.0, "stages": [], "dialogues": [],
  }
