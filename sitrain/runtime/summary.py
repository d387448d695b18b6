"""summary.json: which stages of a run are done, and what each has reached."""

import logging
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from sitrain.runtime import alarms, checkpoint, memory
from sitrain.runtime import workdir as workdirs
from sitrain.runtime.agree import from_first
from sitrain.runtime.page.files import read_records
from sitrain.runtime.start import Run, check_sources
from sitrain.runtime.written import check_new
from sitrain.types import Stage

_LOG = logging.getLogger("sitrain")
_SUMMARY = "summary.json"


def check_left(run: Run, stages: list) -> None:
  """Raises ConfigError if an unfinished stage cannot start or resume.

  Call it before the workdir is claimed. The reason is a checkpoint of another
  run that does not fit, a state that is larger than the memory, or a table that
  another run has written.
  """
  left = unfinished(stages, read(run))
  check_sources(run, [stage for stage in left if not callable(stage.frozen)])
  for stage in left:
    if not callable(stage.frozen):
      memory.check_stage(run, stage, memory.free())
    if stage.writes:
      check_new(run, stage)


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


def add_row(run: Run, stage: Stage, summary: dict, row: dict) -> None:
  """Adds a finished stage, with what was noticed about it, and writes all."""
  run.sink.flush()
  if jax.process_index() == 0 and (heard := _alarms(run, stage)):
    row["alarms"] = heard
  summary["stages"].append(row)
  summary["seconds"] += row["seconds"]
  if jax.process_index() == 0:
    workdirs.write_json(_path(run), summary)


def _alarms(run: Run, stage: Stage) -> dict[str, dict[str, int]]:
  """What alarms.history makes of the stage's records."""
  records = read_records(epath.Path(run.workdir) / "metrics.jsonl")
  return alarms.history(r for r in records if r.get("stage") == stage.name)


def _path(run: Run) -> epath.Path:
  return epath.Path(run.workdir) / _SUMMARY


def read(run: Run) -> dict:
  """The summary as process 0 sees it; {} before the first stage is done."""
  path = _path(run)
  return from_first(lambda: workdirs.read_json(path) if path.exists() else {})


def unfinished(stages: list, summary: dict) -> list:
  """The stages that the summary does not have yet."""
  done = {row["name"] for row in summary.get("stages", ())}
  return [stage for stage in stages if stage.name not in done]


def empty(run: Run, digest: str) -> dict:
  """The summary before the first stage; `digest` is the config's hash."""
  device = jax.devices()[0]
  kind = f"{jax.device_count()} x {device.device_kind} ({device.platform})"
  return {
    "config_hash": digest, "seed": run.seed, "device": kind,
    "jax": jax.__version__, "seconds": 0.0, "stages": [], "dialogues": [],
  }
