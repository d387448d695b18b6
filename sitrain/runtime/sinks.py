"""Where records go: files of the workdir; services.py has the others.

Every sink takes records of metrics, and some take samples: dialogues as text.
"""

import importlib
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from sitrain.runtime import extras, scratch
from sitrain.runtime.metrics import Record, to_line
from sitrain.runtime.options import ConfigError
from sitrain.runtime.storage import (
  explaining,
  is_remote,
  write_object,
  write_whole,
)


def ignore(_: Any) -> None:
  """Writes nothing."""


class Sink(NamedTuple):
  """A destination of records."""

  write: Callable[[Record], None]
  close: Callable[[], None]
  flush: Callable[[], None] = lambda: None  # makes all records so far durable
  samples: Callable[[list[Record]], None] = ignore  # those of one step


def silent() -> Sink:
  """Writes nothing; for all processes but the first."""
  return Sink(write=ignore, close=lambda: None)


def samples_to(file: Sink) -> Sink:
  """Writes samples to a file, a line each, and no metrics."""

  def write(samples: list[Record]) -> None:
    for one in samples:
      file.write(one)

  return Sink(ignore, file.close, file.flush, write)


COLUMNS = (
  "prompt", "turn", "given", "text", "rewards", "known", "advantage", "cut"
)


def table_of(samples: Sequence[Record]) -> list[list[Any]]:
  """The rows of a table with COLUMNS, one for every turn of every sample."""
  return [
    [one["prompt"], k, *(_cell(turn.get(name)) for name in COLUMNS[2:])]
    for one in samples for k, turn in enumerate(one["turns"], start=1)
  ]


def _cell(value: Any) -> Any:
  if not isinstance(value, dict):
    return value
  return ", ".join(f"{name} {x}" for name, x in value.items())


def text_of(samples: Sequence[Record]) -> str:
  """The same table in Markdown."""
  clean = lambda x: str(x).replace("|", "\\|").replace("\n", "<br>")
  lines = [COLUMNS, ["---"] * len(COLUMNS), *table_of(samples)]
  return "\n".join("| " + " | ".join(map(clean, x)) + " |" for x in lines)


def title(samples: Sequence[Record]) -> str:
  """The name of samples of one step."""
  return f"{samples[0]['stage']}/samples"


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
    with explaining(path.parent), open(path, "a", encoding="utf-8") as file:
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
    if not isinstance(record, dict):
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
    text = path.read_bytes().decode(errors="replace")
  lines = text.splitlines(keepends=True)
  kept = _kept(lines, stage, step)
  write_whole(path, "".join(kept))
  return len(lines) - len(kept)


def drop_later(workdir: Any, stage: str, step: int) -> None:
  """`truncate` for the records and samples of a run, before it goes on."""
  for name in ("metrics.jsonl", "samples.jsonl"):
    truncate(epath.Path(workdir) / name, stage, step)


def numbers(record: Record) -> dict[str, float]:
  """The finite numbers of a record, by "<stage>/<name>"."""
  stage = record.get("stage", "run")
  return {
    f"{stage}/{name}": float(value)
    for name, value in record.items()
    if name != "iteration"
    and isinstance(value, (int, float)) and math.isfinite(value)
  }


def iteration(record: Record) -> int:
  """That of the run: steps start again in every stage."""
  return record.get("iteration", record.get("step", 0))


def optional(module: str, field: str = "") -> Any:
  """A module that may be missing; ConfigError then says what to install.

  `field` is the one that asks for it, as config.run.wandb.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    why = extras.line(error) or f"{module} cannot be imported: {error}"
    line = f"{field}: {why}, or leave the field out" if field else why
    raise ConfigError(line) from error


def tensorboard(folder: Any, *, every: float = 30.0) -> Sink:
  """Scalars "<stage>/<name>" by iteration of the run, through tensorboardX.

  Events that an earlier process wrote for the iterations of this one are
  purged. For gs:// events are written to a local folder, which is copied on
  `flush`, at most every `every` seconds, and at the end.
  """
  if jax.process_index() != 0:
    return silent()
  make = optional("tensorboardX.writer").FileWriter
  if is_remote(folder):
    return _copied(make, epath.Path(folder), every)
  return _events(make(str(folder)))


def _events(writer: Any) -> Sink:
  """One event per record; one per number would take a lock for each."""
  protos = optional("tensorboardX.proto.summary_pb2")
  events = optional("tensorboardX.proto.event_pb2")
  text = optional("tensorboardX.summary").text
  began = []

  def begin(step: int) -> None:
    # What SummaryWriter(purge_step=step) writes.
    start = events.SessionLog(status=events.SessionLog.START)
    writer.add_event(events.Event(step=step, file_version="brain.Event:2"))
    writer.add_event(events.Event(step=step, session_log=start))
    began.append(step)

  def write(record: Record) -> None:
    value, step = protos.Summary.Value, iteration(record)
    if not began:
      begin(step)
    values = [value(tag=n, simple_value=x) for n, x in numbers(record).items()]
    writer.add_summary(protos.Summary(value=values), step)

  def write_samples(samples: list[Record]) -> None:
    if not began:
      begin(iteration(samples[0]))
    writer.add_summary(
      text(title(samples), text_of(samples)), iteration(samples[0])
    )

  return Sink(write, writer.close, writer.flush, write_samples)


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

  return Sink(sink.write, close, flush, sink.samples)


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

  def write_samples(samples: list[Record]) -> None:
    for sink in sinks:
      sink.samples(samples)

  return Sink(write, close, flush, write_samples)
