"""Calls a function for many items in threads, each with its own deadline."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

LATE = "late"


class Outcome(NamedTuple):
  """What a call returned, or the exception that it raised."""

  value: Any
  error: Any  # an exception, LATE, or None
  seconds: float


def call_all(
  function: Callable[[Any], Any], items: Sequence[Any], *, seconds: float,
  workers: int, hung: list[threading.Thread],
) -> list[Outcome]:
  """One Outcome for each item, in their order.

  At most `workers` calls run at a time, each for at most `seconds`. Python
  cannot end a thread: one that is late goes on in `hung`, which the caller
  keeps, and another takes its place. Raises RuntimeError(message, one of the
  late items) where more than `workers` of them are still running.
  """
  found: list[Outcome | None] = [None] * len(items)
  todo, began = deque(range(len(items))), {}
  changed = threading.Condition()

  def work():
    while True:
      with changed:
        if not todo:
          return
        i = todo.popleft()
        began[i] = time.monotonic(), threading.current_thread()
      try:
        value, error = function(items[i]), None
      except BaseException as raised:  # noqa: BLE001 It is the user's code.
        value, error = None, raised
      with changed:
        if found[i] is not None:  # late: another thread is in its place
          return
        spent = time.monotonic() - began.pop(i)[0]
        found[i] = Outcome(value, error, spent)
        changed.notify()

  def start():
    threading.Thread(target=work, daemon=True, name="reply").start()

  for _ in range(min(workers, len(items))):
    start()
  with changed:
    while any(one is None for one in found):
      now = time.monotonic()
      for i in [i for i, (at, _) in began.items() if now - at >= seconds]:
        hung.append(began.pop(i)[1])
        found[i] = Outcome(None, LATE, seconds)
        start()
      hung[:] = [thread for thread in hung if thread.is_alive()]
      if len(hung) > workers:
        late = (i for i, one in enumerate(found) if one and one.error is LATE)
        raise RuntimeError(f"{len(hung)} calls hang", next(late, 0))
      due = [at + seconds for at, _ in began.values()]
      if any(one is None for one in found):
        changed.wait(max(min(due) - now, 0.001) if due else 0.1)
  return found
