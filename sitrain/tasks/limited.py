"""A call of a user's function that may take a limited time.

In the main thread an alarm ends it, also inside a regular expression, which a
second thread could not. In another thread it goes on by itself when it is
given up. Only a process of a pool can be killed (verifiers/pool.py).
"""

import signal
import threading
from collections.abc import Callable
from typing import Any

AGAIN = 1.0  # seconds after which an alarm that was caught is raised again


class Overdue(ValueError):
  """The function took longer than it may."""


def call(function: Callable[[], Any], seconds: float) -> Any:
  """function(), or Overdue after `seconds`; its own errors are raised."""
  if threading.current_thread() is threading.main_thread():
    return _with_alarm(function, seconds)
  return _in_thread(function, seconds)


def _with_alarm(function: Callable[[], Any], seconds: float) -> Any:
  rung = []

  def ring(number, frame):
    rung.append(number)
    raise Overdue

  before = signal.signal(signal.SIGALRM, ring)
  signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
  try:
    found = function()
  except Exception:
    if rung:  # Whatever the function made of the alarm.
      raise Overdue from None
    raise
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
  if rung:  # It has caught the alarm, and what it returns is not its result.
    raise Overdue
  return found


def _in_thread(function: Callable[[], Any], seconds: float) -> Any:
  found, failed = [], []

  def run():
    try:
      found.append(function())
    except BaseException as error:  # noqa: BLE001 It is raised again below.
      failed.append(error)

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  thread.join(seconds)
  if thread.is_alive():
    raise Overdue
  if failed:
    raise failed[0]
  return found[0]
