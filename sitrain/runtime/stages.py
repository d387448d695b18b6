"""Runs the stages of a config that are left; summary.json grows with each."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

import jax
from etils import epath

from sitrain.runtime import activity, memory
from sitrain.runtime import workdir as workdirs
from sitrain.runtime.agree import from_first
from sitrain.runtime.stage import compile_ahead, run_stage
from sitrain.runtime.start import Run, check_sources
from sitrain.runtime.written import check_new, write_stage


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
  path = epath.Path(run.workdir) / "summary.json"
  begun = lambda: workdirs.read_json(path) if path.exists() else {"stages": []}
  summary = from_first(begun)
  done = {row["name"] for row in summary["stages"]}
  left = [stage for stage in stages if stage.name not in done]
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
  path = epath.Path(run.workdir) / "summary.json"
  begun = lambda: workdirs.read_json(path) if path.exists() else {}
  summary = from_first(begun) or _empty(run, digest)
  done = {row["name"] for row in summary["stages"]}
  left = [stage for stage in stages if stage.name not in done]
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
    summary["dialogues"] = row.pop("dialogues", summary["dialogues"])
    seconds = time.monotonic() - began
    row = {"name": stage.name, "seconds": seconds, "end": first} | row
    summary["stages"].append(row)
    summary["seconds"] += seconds
    if jax.process_index() == 0:
      workdirs.write_json(path, summary)
  return summary, bool(left)


def _empty(run: Run, digest: str) -> dict:
  device = jax.devices()[0]
  kind = f"{jax.device_count()} x {device.device_kind} ({device.platform})"
  return {
    "config_hash": digest, "seed": run.seed, "device": kind,
    "jax": jax.__version__, "seconds": 0.0, "stages": [], "dialogues": [],
  }
