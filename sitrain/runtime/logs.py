"""The log of each host, the heartbeat file, and stacks of hanging calls."""

import faulthandler
import logging
import math
import shlex
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from etils import epath

from sitrain.runtime import activity, scratch
from sitrain.runtime import workdir as workdirs
from sitrain.runtime.storage import is_remote

_HOST_LOG = logging.getLogger("sitrain.host")  # Only in the file.
_PACKAGE_LOG = logging.getLogger("sitrain")  # On the screen too.


class Log(NamedTuple):
  """The log file of a host, on its disk, and how to copy it to the workdir."""

  file: Any  # open for appending
  copy: Callable[[], None]  # copies it to a workdir on gs://


_OPEN: list[tuple[Log, logging.Handler]] = []  # At most one.


def note(text: str) -> None:
  """Writes a line with the time to the log of this host."""
  _HOST_LOG.info(text)


def open_log(workdir: Any, facts: dict[str, str]) -> Log:
  """Starts appending to workdir/logs/host_<process>.log, `facts` first.

  Objects on gs:// cannot be appended to: then the file is on the host's own
  disk, and `copy` uploads it to the workdir. A crash of the interpreter dumps
  its stacks to it. The log of an earlier run in the same process is closed.
  """
  target = epath.Path(workdir) / "logs" / f"host_{jax.process_index()}.log"
  path = _local(target)
  file = open(path, "a", encoding="utf-8", buffering=1)
  handler = logging.StreamHandler(file)
  # On a full disk a line is lost; logging would print a traceback for each.
  handler.handleError = lambda record: None
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
  _HOST_LOG.propagate = False
  _HOST_LOG.setLevel(logging.INFO)
  for logger in (_HOST_LOG, _PACKAGE_LOG):
    logger.addHandler(handler)
  faulthandler.enable(file)

  def copy() -> None:
    if str(path) != str(target):
      target.write_text(epath.Path(path).read_text())

  _close()  # Only now: faulthandler writes to the new file already.
  note(f"--- {shlex.join(sys.argv)}")
  note(", ".join(f"{name} {value}" for name, value in facts.items()))
  took = lambda one: note(f"{one.what}: {activity.seconds(one):.1f} s")
  did = lambda one: None if one.seldom else took(one)
  activity.follow("log", activity.IDLE._replace(did=did, say=note))
  _OPEN.append((Log(file, copy), handler))
  return _OPEN[-1][0]


def _close() -> None:
  """Closes the log that is open, if there is one."""
  # A call that failed left its watchdog awake. It knows only the number of the
  # file, which the next file that is opened gets, such as metrics.jsonl.
  faulthandler.cancel_dump_traceback_later()
  for log, handler in _OPEN:
    ignoring_errors(log.copy)
    for logger in (_HOST_LOG, _PACKAGE_LOG):
      logger.removeHandler(handler)
    log.file.close()
  _OPEN.clear()


def copy_all() -> None:
  """Copies the log to its workdir, if possible."""
  for log, _ in _OPEN:
    ignoring_errors(log.copy)


def ignoring_errors(write: Callable[[], None]) -> None:
  """Runs `write`, on which no run depends; logs an error of it."""
  try:
    write()
  except Exception as error:  # noqa: BLE001  Storage raises many types.
    note(f"not written: {type(error).__name__}: {error}")


def _local(target: epath.Path) -> str:
  """The path to write the log to; it starts with the content of the target."""
  if not is_remote(target):
    target.parent.mkdir(parents=True, exist_ok=True)
    return str(target)
  path = epath.Path(scratch.folder("log")) / target.name
  path.write_text(target.read_text() if target.exists() else "")
  return str(path)


def heartbeat(
  workdir: Any, log: Log, *, every: float = 30.0
) -> Callable[..., None]:
  """(stage, step, steps, record, tokens_per_second) -> heartbeat.json.

  Process 0 replaces the file after each call; on gs:// at most every `every`
  seconds. All processes log their progress as often. Between calls the file is
  written as often, with the current activity and its duration.
  """
  path = epath.Path(workdir) / "heartbeat.json"
  remote, last = is_remote(path), [-every, time.monotonic()]
  # A resumed run keeps the old progress until its first step.
  known = {"stage": "", "step": -1, "steps": -1, "tokens_per_second": math.nan}
  if path.exists():
    ignoring_errors(lambda: known.update(workdirs.read_json(path)))
  writing = threading.Lock()

  def write(now: list[activity.Activity]) -> None:
    with writing:
      known.update(time=time.time(), doing="", seconds=0.0)
      for one in now:
        known.update(doing=one.what, seconds=activity.seconds(one))
      last[1] = time.monotonic()
      ignoring_errors(lambda: workdirs.write_json(path, known))

  def beat(stage: str, step: int, steps: int, _: Any, rate: float) -> None:
    due = time.monotonic() - last[0] >= every
    if due:
      last[0] = time.monotonic()
      note(f"{stage} {step}/{steps} {rate:.0f} tokens/s")
      ignoring_errors(log.copy)
    if jax.process_index() == 0 and (due or not remote):
      known.update(stage=stage, step=step, steps=steps, tokens_per_second=rate)
      write([])

  def at(now: list[activity.Activity]) -> None:
    if now and time.monotonic() - last[1] >= every:
      write(now)

  if jax.process_index() == 0:
    activity.follow("heartbeat", activity.IDLE._replace(at=at))
  return beat


_LIBRARIES = (
  # Orbax, when a save is due before the last one is written (fast steps).
  "Waiting for previous save to complete",
)


def quiet_libraries() -> None:
  """Hides log lines of libraries that do not help a user."""
  log = logging.getLogger("absl")
  log.setLevel(logging.WARNING)
  log.addFilter(_of_use)
  # On a new machine it says that it builds a cache of fonts.
  logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _of_use(record: logging.LogRecord) -> bool:
  return not record.getMessage().startswith(_LIBRARIES)


class Watchdog(NamedTuple):
  """Dumps the stacks of a call that takes too long; wrap every call in it."""

  before: Callable[[], None]
  after: Callable[[float], None]  # the seconds that the call took


ASLEEP = Watchdog(lambda: None, lambda seconds: None)


def watchdog(file: Any, *, factor: float, floor: float) -> Watchdog:
  """Dumps the stacks of all threads to `file`, once for a call that hangs.

  A call hangs if it takes `factor` times the median of the calls before it, and
  at least `floor` seconds. For the first call `floor` replaces the median.
  The call itself is never interrupted.
  """
  took: deque[float] = deque(maxlen=101)

  def limit() -> float:
    return max(floor, factor * statistics.median(took or [floor]))

  def before() -> None:
    # A C thread writes them, even if the interpreter itself is stuck.
    faulthandler.dump_traceback_later(limit(), file=file)

  def after(seconds: float) -> None:
    faulthandler.cancel_dump_traceback_later()
    if seconds > limit():
      note(
        f"the call above took {seconds:.1f} s, more than the limit of"
        f" {limit():.1f} s: see the stacks"
      )
    took.append(seconds)

  return Watchdog(before, after)
