"""Who is asked to stop does so in order where it trains, and else at once.

A first SIGTERM is what preempts a machine; a second signal of any kind ends the
process wherever it is. The first Ctrl-C is Python's own.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

RESTART = 75  # EX_TEMPFAIL: the same command resumes; launchers give it again
INTERRUPTED = 130
TOGETHER = 1.0  # seconds in which launchers may pass on one signal twice


class Stopped(ValueError):
  """Training has ended before its time, and was saved where it ended."""


_HEARD: list[tuple[int, float]] = []  # (signal, when), the first alone
_TRAINING = threading.Event()


def asked() -> bool:
  """Whether this process was sent SIGTERM."""
  return any(number == signal.SIGTERM for number, _ in _HEARD)


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
  signal.signal(signal.SIGTERM, lambda *_: None)
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  threading.Thread(
    target=_hear, args=(reader, leave), name="signals", daemon=True
  ).start()


def _hear(reader: int, leave: Callable[[int, str], None]) -> None:
  while True:
    number, now = os.read(reader, 1)[0], time.monotonic()
    if number not in (signal.SIGINT, signal.SIGTERM):
      continue
    if not _HEARD:
      _HEARD.append((number, now))
      if number == signal.SIGTERM and not in_training():
        leave(RESTART, stopped())
    elif now - _HEARD[0][1] > TOGETHER:
      code = INTERRUPTED if number == signal.SIGINT else RESTART
      leave(code, "asked to stop twice: finished checkpoints are kept")


@contextlib.contextmanager
def training(leave: Callable[[int, str], None]) -> Iterator[None]:
  """Inside, SIGTERM waits: it is for the caller to look at `asked`."""
  _TRAINING.set()
  try:
    yield
  finally:
    _TRAINING.clear()
  if asked():
    leave(RESTART, stopped())


def stopped(where: str = "") -> str:
  """The line of a process that was sent SIGTERM."""
  return f"stopped by SIGTERM{where}: the same command resumes"
