"""The only place that divides means; records, and where they are written."""

import importlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Array

from sitrain.types import Mean, Metrics

Record = dict[str, Any]  # "stage", "step" and numbers by name


class Sink(NamedTuple):
  """Where records go."""

  write: Callable[[Record], None]
  close: Callable[[], None]


def silent() -> Sink:
  """Writes nothing: what all processes but the first have."""
  return Sink(write=lambda record: None, close=lambda: None)


def divide(mean: Mean) -> np.ndarray:
  """total / count on the host; NaN where nothing was counted."""
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


def finite(value: Any) -> Any:
  """`value` with None for what JSON cannot say: NaN and infinities."""
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


def _remote(path: epath.Path) -> bool:
  return "://" in str(path)


def jsonl(path: Any, *, every: float = 30.0) -> Sink:
  """Appends a line per record to a file; each is on the disk at once.

  Objects on gs:// cannot be appended to: there the file is written anew, at
  most every `every` seconds and at the end.
  """
  if jax.process_index() != 0:
    return silent()
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  return _rewritten(path, every) if _remote(path) else _appended(path)


def _appended(path: epath.Path) -> Sink:
  def write(record: Record) -> None:
    with open(path, "a", encoding="utf-8") as file:
      file.write(to_line(record))

  return Sink(write, lambda: None)


def _rewritten(path: epath.Path, every: float) -> Sink:
  lines = [path.read_text()] if path.exists() else []
  last = [time.monotonic()]

  def flush() -> None:
    path.write_text("".join(lines))
    last[0] = time.monotonic()

  def write(record: Record) -> None:
    lines.append(to_line(record))
    if time.monotonic() - last[0] > every:
      flush()

  return Sink(write, flush)


def _kept(lines: Sequence[str], stage: str, step: int) -> list[str]:
  """The lines from before `stage`, and of it those up to `step`."""
  kept, seen = [], False
  for line in lines:
    try:
      record = json.loads(line)
    except ValueError:  # The last line of a killed run may be cut.
      continue
    mine = record.get("stage") == stage
    seen = seen or mine
    if (mine and record.get("step", 0) <= step) or not seen:
      kept.append(line if line.endswith("\n") else line + "\n")
  return kept


def truncate(path: Any, stage: str, step: int) -> int:
  """Drops records beyond `step` of `stage`, and of the stages after it.

  The file is replaced as a whole. Returns how many lines were dropped.
  """
  path = epath.Path(path)
  if jax.process_index() != 0 or not path.exists():
    return 0
  lines = path.read_text().splitlines(keepends=True)
  kept = _kept(lines, stage, step)
  if _remote(path):  # Writing an object on gs:// replaces it as a whole.
    path.write_text("".join(kept))
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
    if isinstance(value, (int, float)) and math.isfinite(value)
  }


def _optional(module: str, package: str) -> Any:
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(
      f"writing metrics to {package} needs it: pip install {package}"
    ) from error


def tensorboard(folder: Any) -> Sink:
  """Scalars "<stage>/<name>" by step of the stage, through tensorboardX."""
  if jax.process_index() != 0:
    return silent()
  writer = _optional("tensorboardX", "tensorboardX").SummaryWriter(str(folder))

  def write(record: Record) -> None:
    for name, value in _numbers(record).items():
      writer.add_scalar(name, value, record.get("step", 0))

  return Sink(write, writer.close)


def wandb(folder: Any, *, project: str, run: str, config: Record) -> Sink:
  """Scalars "<stage>/<name>" to Weights & Biases; `run` is resumed."""
  if jax.process_index() != 0:
    return silent()
  module = _optional("wandb", "wandb")
  logged = module.init(
    project=project, id=run, dir=str(folder), config=config, resume="allow"
  )
  return Sink(lambda record: logged.log(_numbers(record)), logged.finish)


def join(sinks: Sequence[Sink]) -> Sink:
  """Writes every record to all of them."""

  def write(record: Record) -> None:
    for sink in sinks:
      sink.write(record)

  def close() -> None:
    for sink in sinks:
      sink.close()

  return Sink(write, close)
