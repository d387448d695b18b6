"""Who is asked to stop does so in order where it trains, and else at once.

SIGTERM is what preempts a machine, SIGINT is Ctrl-C. Both are acknowledged at
once: where it trains, the running call ends first and is saved. A second signal
of any kind ends the process wherever it is.
"""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sitrain.runtime import activity

RESTART = 75  # EX_TEMPFAIL: the same command resumes; launchers give it again
INTERRUPTED = 130
# Seconds in which one signal may come twice: launchers pass it on.
TOGETHER = {signal.SIGTERM: 1.0, signal.SIGINT: 0.3}
# Seconds between a notice and the end of a machine: spot VMs and TPUs of
# Google, and pods of Kubernetes, have so many.
NOTICE = 30.0


class Working(NamedTuple):
  """Where training is."""

  stage: str
  step: int  # steps that are done
  last: int  # the step that the running call ends with
  began: float  # when the running call did, on the monotonic clock
  call: float  # seconds that a call takes; NaN where not known yet
  saved: Callable[[], int]  # the step of the last checkpoint that is whole


class Stopped(ValueError):
  """Training has ended before its time, and was saved where it ended."""

  def __init__(self, number: int, where: str):
    super().__init__(stopped(number, where))
    self.code = code_of(number)


_RECEIVED: list[tuple[int, float]] = []  # (signal, when), the first alone
_WORKING: list[Working] = []  # of the running call, if there is one
_TRAINING = threading.Event()


def stop_requested() -> int:
  """The signal that asked this process to stop, or 0."""
  return _RECEIVED[0][0] if _RECEIVED else 0


def code_of(number: int) -> int:
  """The exit code of who was asked to stop by a signal."""
  return INTERRUPTED if number == signal.SIGINT else RESTART


def in_training() -> bool:
  """Whether the process is inside of `training`."""
  return _TRAINING.is_set()


def listen(leave: Callable[[int, str], None]) -> None:
  """Begins to listen; `leave(code, why)` is to end the process at once.

  To be called in the main thread. A thread of its own hears of a signal also
  while the main thread is inside of a compiler.
  """
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  for number in TOGETHER:
    signal.signal(number, lambda *_: None)
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  threading.Thread(
    target=_read_signals, args=(reader, leave), name="signals", daemon=True
  ).start()


def _read_signals(reader: int, leave: Callable[[int, str], None]) -> None:
  while True:
    number, now = os.read(reader, 1)[0], time.monotonic()
    if number not in TOGETHER:
      continue
    if not _RECEIVED:
      _RECEIVED.append((number, now))
      if not in_training():
        leave(code_of(number), stopped(number))
      activity.say(acknowledged(number))
    elif now - _RECEIVED[0][1] > TOGETHER[number]:
      leave(
        code_of(number), "asked to stop twice: finished checkpoints are kept"
      )


@contextlib.contextmanager
def training(leave: Callable[[int, str], None]) -> Iterator[None]:
  """Inside, a signal waits until the caller looks at `stop_requested`."""
  _TRAINING.set()
  try:
    yield
  finally:
    _TRAINING.clear()
    _WORKING.clear()
  if stop_requested():
    leave(code_of(stop_requested()), stopped(stop_requested()))


def working(where: Working) -> None:
  """Says where training is, at the beginning of a call."""
  _WORKING[:] = [where]


def _name(number: int) -> str:
  return "Ctrl-C" if number == signal.SIGINT else "SIGTERM"


def acknowledged(number: int) -> str:
  """What is said at once to who asks a process that trains to stop."""
  if not _WORKING:
    return f"{_name(number)}: the run ends as soon as it can be resumed"
  (where,) = _WORKING
  line = (
    f"{_name(number)}: step {where.last} of {where.stage} ends first"
    f"{_when(where)}, and is saved; a second signal ends at once"
    f"{_loss(where)}"
  )
  if number == signal.SIGTERM and not where.call <= NOTICE:
    line += f". A machine that is preempted has {NOTICE:.0f} s"
  return line


def _when(where: Working) -> str:
  """When the running call will have ended."""
  if math.isnan(where.call):
    return " (the first of this start: how long it takes is not known)"
  left = where.began + where.call - time.monotonic()
  return f", in about {max(left, 1.0):.0f} s"


def _loss(where: Working) -> str:
  """What is lost where the running call is not waited for."""
  try:
    saved = where.saved()
  except Exception:  # noqa: BLE001  Of a bucket, say: this is but a line.
    return " and goes back to the last checkpoint"
  lost = f"{where.step - saved} finished step(s)"
  if not saved:
    return f" and loses {lost}, for none is saved yet"
  return f" and goes back to the checkpoint of step {saved}, by {lost}"


def slow(call: float) -> str:
  """What is to be known of calls that outlast the notice of a machine's end."""
  return (
    f"a call takes {call:.0f} s: SIGTERM and Ctrl-C end the run after the"
    f" running one. A machine that is preempted has {NOTICE:.0f} s, and goes"
    " back to its last checkpoint"
  )


def stopped(number: int, where: str = "") -> str:
  """The line of a process that was asked to stop."""
  return f"stopped by {_name(number)}{where}: the same command resumes"
