"""Handles SIGTERM and SIGINT: training saves first, everything else ends.

Preemption sends SIGTERM, Ctrl-C sends SIGINT. Both are acknowledged at once. In
training the running call ends first and is saved. A second signal of either
kind ends the process immediately.
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

RESTART = 75  # EX_TEMPFAIL: launchers run the same command again, which resumes
INTERRUPTED = 130
# Seconds within which a repeated signal counts once: launchers forward signals.
TOGETHER = {signal.SIGTERM: 1.0, signal.SIGINT: 0.3}
# Seconds between the notice and the end of a machine, for Google's spot VMs and
# TPUs and for Kubernetes pods.
NOTICE = 30.0


class Working(NamedTuple):
  """The progress of the running call."""

  stage: str
  step: int  # steps done
  last: int  # the last step of the running call
  began: float  # start of the running call, on the monotonic clock
  call: float  # seconds per call; NaN where not known yet
  saved: Callable[[], int]  # the step of the last complete checkpoint


class Stopped(ValueError):
  """Training stopped early on a signal, and was saved."""

  def __init__(self, number: int, where: str):
    super().__init__(stopped(number, where))
    self.code = code_of(number)


_RECEIVED: list[tuple[int, float]] = []  # (signal, time) of the first one
_WORKING: list[Working] = []  # the running call, if there is one
_TRAINING = threading.Event()


def stop_requested() -> int:
  """The signal that asked this process to stop, or 0."""
  return _RECEIVED[0][0] if _RECEIVED else 0


def code_of(number: int) -> int:
  """The exit code of a process that a signal stopped."""
  return INTERRUPTED if number == signal.SIGINT else RESTART


def in_training() -> bool:
  """Whether the process is inside `training`."""
  return _TRAINING.is_set()


def listen(leave: Callable[[int, str], None]) -> None:
  """Starts handling signals; `leave(code, why)` ends the process at once.

  Call it in the main thread. A separate thread reads the signals, so they are
  handled while the main thread is inside a compiler.
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


def ignore() -> None:
  """From here on signals change nothing: the exit code is decided.

  Python takes its handlers back while it shuts down, and a second SIGTERM would
  end the process by itself.
  """
  usual = (signal.SIG_DFL, signal.default_int_handler)
  for number in TOGETHER:
    if signal.getsignal(number) not in usual:
      signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def training(leave: Callable[[int, str], None]) -> Iterator[None]:
  """Inside, signals do not end the process; callers poll `stop_requested`."""
  _TRAINING.set()
  try:
    yield
  finally:
    _TRAINING.clear()
    _WORKING.clear()
  if stop_requested():
    leave(code_of(stop_requested()), stopped(stop_requested()))


def working(*where: Working) -> None:
  """Records the call that a signal would end after; none after the last.

  Call it as soon as a signal can no longer end the call before.
  """
  _WORKING[:] = where


def _name(number: int) -> str:
  return "Ctrl-C" if number == signal.SIGINT else "SIGTERM"


def acknowledged(number: int) -> str:
  """The line printed at once when a signal arrives in training."""
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
  """When the running call will end."""
  if math.isnan(where.call):
    return " (the first of this start: how long it takes is not known)"
  left = where.began + where.call - time.monotonic()
  return f", in about {max(left, 1.0):.0f} s"


def _loss(where: Working) -> str:
  """What is lost if the running call is not waited for."""
  try:
    saved = where.saved()
  except Exception:  # noqa: BLE001  A bucket may fail.
    return " and goes back to the last checkpoint"
  lost = f"{where.step - saved} finished step(s)"
  if not saved:
    return f" and loses {lost}, for none is saved yet"
  return f" and goes back to the checkpoint of step {saved}, by {lost}"


def slow(call: float) -> str:
  """A warning about calls that take longer than the notice of a preemption."""
  return (
    f"a call takes {call:.0f} s: SIGTERM and Ctrl-C end the run after the"
    f" running one. A machine that is preempted has {NOTICE:.0f} s, and goes"
    " back to its last checkpoint"
  )


def stopped(number: int, where: str = "") -> str:
  """The line of a process that was asked to stop."""
  return f"stopped by {_name(number)}{where}: the same command resumes"
