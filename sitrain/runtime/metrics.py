"""Metrics: divides means into numbers (only here) and writes the records."""

import importlib
import json
import math
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Array

from sitrain.runtime import scratch
from sitrain.runtime.options import ConfigError
from sitrain.runtime.storage import explaining, is_remote, write_object
from sitrain.types import Mean, Metrics

# "stage", "step" of the stage, "iteration" of the run, and numbers by name
Record = dict[str, Any]


class Sink(NamedTuple):
  """A destination of records."""

  write: Callable[[Record], None]
  close: Callable[[], None]
  flush: Callable[[], None] = lambda: None  # makes all records so far durable


def silent() -> Sink:
  """Writes nothing; for all processes but the first."""
  return Sink(write=lambda record: None, close=lambda: None)


def divide(mean: Mean) -> np.ndarray:
  """total / count on the host; NaN where the count is 0."""
  total = np.asarray(mean.total, np.float64)
  count = np.asarray(mean.count, np.float64)
  safe = np.where(count == 0, 1.0, count)
  return np.where(count == 0, np.nan, total / safe)


def records(metrics: Metrics) -> list[dict[str, float]]:
  """One dict of numbers per step from the metrics of one fused call.

  Args:
    metrics: means whose totals and counts are [steps].
  """
  host = jax.device_get(metrics)
  numbers = {name: divide(mean) for name, mean in host.items()}
  steps = {len(x) for x in numbers.values()}
  if len(steps) > 1:
    raise ValueError(f"metrics of different numbers of steps: {sorted(steps)}")
  return [
    {name: float(x[i]) for name, x in numbers.items()}
    for i in range(steps.pop() if steps else 0)
  ]


_VERBS = ("generate/", "judge/", "curate/", "learn/")  # in the order of a step


def not_finite(measured: Metrics) -> tuple[int, str, float]:
  """(index of the step, name, value) of the first metric that is not finite.

  Within a step the first in the order of the verbs, because it spreads to the
  later ones; (-1, "", 0.0) if all are finite. Means with a count of 0 are
  skipped.
  """
  order = lambda name: [not name.startswith(verb) for verb in _VERBS]
  names = sorted(measured, key=order)
  if not names:
    return -1, "", 0.0
  # One array [names, steps], as this runs between any two calls.
  total = np.array([measured[name].total for name in names], np.float64)
  count = np.array([measured[name].count for name in names], np.float64)
  bad = ~np.isfinite(total + count) & (count != 0)
  if not bad.any():
    return -1, "", 0.0
  step, first = np.argwhere(bad.T)[0]
  return int(step), names[first], float(total[first, step])


def finite(value: Any) -> Any:
  """`value` with None for NaN and infinities, which JSON lacks."""
  if isinstance(value, dict):
    return {str(k): finite(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [finite(v) for v in value]
  if isinstance(value, (np.ndarray, np.generic, Array)):
    return finite(np.asarray(value).tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def to_line(record: Record) -> str:
  """One line of valid JSON."""
  return json.dumps(finite(record), allow_nan=False) + "\n"


def jsonl(path: Any, *, every: float = 30.0) -> Sink:
  """Appends a line per record to a file, written at once.

  Objects on gs:// cannot be appended to: there the whole file is rewritten, at
  least every `every` seconds, on `flush`, and at the end.
  """
  if jax.process_index() != 0:
    return silent()
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  return _rewritten(path, every) if is_remote(path) else _appended(path)


def _appended(path: epath.Path) -> Sink:
  def write(record: Record) -> None:
    with open(path, "a", encoding="utf-8") as file:
      file.write(to_line(record))

  return Sink(write, lambda: None)


def _rewritten(path: epath.Path, every: float) -> Sink:
  lines: list[str] = []
  flushed = [0, time.monotonic()]  # how many lines, when

  def flush() -> None:
    if len(lines) > flushed[0]:
      write_object(path, "".join(lines))
    flushed[:] = len(lines), time.monotonic()

  def write(record: Record) -> None:
    # Read it only now: a resumed stage truncates it before its first record.
    if not lines and path.exists():
      lines.append(path.read_text())
    lines.append(to_line(record))
    if time.monotonic() - flushed[1] > every:
      flush()

  return Sink(write, flush, flush)


def _kept(lines: Sequence[str], stage: str, step: int) -> list[str]:
  """The lines before `stage`, and those of it up to `step`."""
  kept, seen = [], False
  for line in lines:
    try:
      record = json.loads(line)
    except ValueError:  # The last line of a killed run may be cut.
      continue
    same = record.get("stage") == stage
    seen = seen or same
    if (same and record.get("step", 0) <= step) or not seen:
      kept.append(line if line.endswith("\n") else line + "\n")
  return kept


def truncate(path: Any, stage: str, step: int) -> int:
  """Drops records after `step` of `stage`, and of later stages.

  The file is replaced atomically. Returns how many lines were dropped.
  """
  path = epath.Path(path)
  if jax.process_index() != 0 or not path.exists():
    return 0
  with explaining(path):
    lines = path.read_text().splitlines(keepends=True)
  kept = _kept(lines, stage, step)
  if is_remote(path):
    write_object(path, "".join(kept))
  else:
    new = f"{path}.new"
    epath.Path(new).write_text("".join(kept))
    os.replace(new, path)
  return len(lines) - len(kept)


def _numbers(record: Record) -> dict[str, float]:
  """The finite numbers of a record, by "<stage>/<name>"."""
  stage = record.get("stage", "run")
  return {
    f"{stage}/{name}": float(value)
    for name, value in record.items()
    if name != "iteration"
    and isinstance(value, (int, float)) and math.isfinite(value)
  }


def _iteration(record: Record) -> int:
  """Counts over all stages; steps start again in every stage."""
  return record.get("iteration", record.get("step", 0))


def _optional(module: str, package: str) -> Any:
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ConfigError(
      f"writing metrics to {package} needs it: pip install {package}"
    ) from error


def check_installed(*, project: str) -> None:
  """Raises ConfigError early if wandb is configured but not installed."""
  if project:
    _optional("wandb", "wandb")


def tensorboard(folder: Any, *, every: float = 30.0) -> Sink:
  """Scalars "<stage>/<name>" by iteration of the run, through tensorboardX.

  Events that an earlier process wrote for the iterations of this one are
  purged. For gs:// events are written to a local folder, which is copied on
  `flush`, at most every `every` seconds, and at the end.
  """
  if jax.process_index() != 0:
    return silent()
  make = _optional("tensorboardX.writer", "tensorboardX").FileWriter
  if is_remote(folder):
    return _copied(make, epath.Path(folder), every)
  return _events(make(str(folder)))


def _events(writer: Any) -> Sink:
  """One event per record; one per number would take a lock for each."""
  protos = _optional("tensorboardX.proto.summary_pb2", "tensorboardX")
  events = _optional("tensorboardX.proto.event_pb2", "tensorboardX")
  began = []

  def begin(step: int) -> None:
    # What SummaryWriter(purge_step=step) writes.
    start = events.SessionLog(status=events.SessionLog.START)
    writer.add_event(events.Event(step=step, file_version="brain.Event:2"))
    writer.add_event(events.Event(step=step, session_log=start))
    began.append(step)

  def write(record: Record) -> None:
    value, step = protos.Summary.Value, _iteration(record)
    if not began:
      begin(step)
    values = [value(tag=n, simple_value=x) for n, x in _numbers(record).items()]
    writer.add_summary(protos.Summary(value=values), step)

  return Sink(write, writer.close, writer.flush)


def _copied(make: Callable, folder: epath.Path, every: float) -> Sink:
  local = epath.Path(scratch.folder("events"))
  sink, copied = _events(make(str(local))), [-math.inf]

  def copy() -> None:
    for file in local.iterdir():
      write_object(folder / file.name, file.read_bytes())
    copied[0] = time.monotonic()

  def flush() -> None:
    if time.monotonic() - copied[0] > every:
      sink.flush()
      copy()

  def close() -> None:
    sink.close()
    copy()
    local.rmtree()

  return Sink(sink.write, close, flush)


def wandb(folder: Any, *, project: str, config: Record) -> Sink:
  """Scalars "<stage>/<name>" by iteration of the run to Weights & Biases.

  A workdir is one run of wandb and stores its id. A resumed run does not log
  iterations again that an earlier process has logged. Raises ConfigError if
  wandb is not installed or cannot start.
  """
  if jax.process_index() != 0:
    return silent()
  module, folder = _optional("wandb", "wandb"), epath.Path(folder)
  local = folder
  if is_remote(folder):  # wandb writes to disks only.
    local = epath.Path(tempfile.mkdtemp(prefix="sitrain_wandb_"))
  try:
    logged = module.init(
      project=project, id=_wandb_id(folder), name=folder.name, dir=str(local),
      config=config, resume="allow",
    )
  except Exception as error:  # noqa: BLE001  It raises many types.
    raise ConfigError(
      f"config.run.wandb={project!r}: Weights & Biases says: {error}: run"
      " `wandb login`, or set WANDB_MODE=offline, or leave it out"
    ) from error
  first = logged.step  # the first iteration that is not logged yet

  def write(record: Record) -> None:
    if (step := _iteration(record)) >= first:
      logged.log(_numbers(record), step=step)

  def close() -> None:
    logged.finish()
    # What an offline run has written is there for `wandb sync`.
    if local != folder and not logged.offline:
      local.rmtree()

  return Sink(write, close)


def _wandb_id(folder: epath.Path) -> str:
  """A random id, drawn once per workdir: folder names are not unique."""
  path = folder / "wandb_id"
  if path.exists() and (known := path.read_text().strip()):
    return known
  write_object(path, drawn := secrets.token_hex(8))
  return drawn


def join(sinks: Sequence[Sink]) -> Sink:
  """Writes every record to all of them."""

  def write(record: Record) -> None:
    for sink in sinks:
      sink.write(record)

  def close() -> None:
    for sink in sinks:
      sink.close()

  def flush() -> None:
    for sink in sinks:
      sink.flush()

  return Sink(write, close, flush)
