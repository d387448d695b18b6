"""A pool of processes in which every item has its own deadline.

The process that trains holds accelerators and threads, so it must not fork,
and a child of `multiprocessing` would import its main module again. So it
starts one small process, the supervisor, that imports the function and forks
the workers: to replace one that hangs or dies takes milliseconds. Linux, macOS.
"""

import atexit
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import Any, NamedTuple

from sitrain.tasks.verifiers.supervisor import one_line

IMPORT_SECONDS = 120.0  # seconds that the imports of a function may take
LONGEST = 1e6  # seconds: the operating system counts milliseconds in 31 bits
COMMAND = (
  "from sitrain.tasks.verifiers.supervisor import supervise; supervise()"
)


class Result(NamedTuple):
  """The result of one item.

  `status` is "done", "timeout", "crash" (the worker died) or "error" (the
  function raised, or its value cannot be pickled). `value` is the value of the
  function if "done", else one line with the reason.
  """

  value: Any
  status: str


class Pool(NamedTuple):
  """`map(function, items)` gives one Result per item, in their order."""

  map: Callable[[Callable[[Any], Any], Sequence[Any]], list[Result]]
  close: Callable[[], None]


def make(*, workers: int, seconds: float, memory: int) -> Pool:
  """Pool that starts at the first `map` and ends with `close` or the program.

  seconds: wall time of one item. memory: MiB that a worker may take beyond
  the memory of the function's module (Linux; elsewhere there is no limit). An
  item that is overdue, crashes or raises affects no other. Functions are
  pickled by name, so they must be in a module. `map` may be called from any
  thread. Raises ValueError for invalid options, and for functions that cannot
  be pickled.
  """
  _check(workers=workers, seconds=seconds, memory=memory)
  lock = threading.Lock()
  running = []  # (process, pipe) of the supervisor, or nothing

  def close() -> None:
    atexit.unregister(close)
    while running:
      process, pipe = running.pop()
      pipe.close()
      process.terminate()  # a waiting thread may keep the pipe open
      try:
        process.wait(timeout=5)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

  def map(
    function: Callable[[Any], Any], items: Sequence[Any]
  ) -> list[Result]:
    message = (_pickled(function), [pickle.dumps(item) for item in items])
    if not len(items):
      return []
    with lock:
      if not running or running[0][0].poll() is not None:
        close()
        running.append(_start(workers, seconds, memory))
        atexit.register(close)
      try:
        replies = _request(running[0][1], message, seconds)
      except (EOFError, OSError):
        close()
        return [Result("the supervisor died", "crash") for _ in items]
      except BaseException:  # a late reply must not answer the next request
        close()
        raise
    return [_result(reply) for reply in replies]

  return Pool(map, close)


def _check(**options: int | float) -> None:
  for name, value in options.items():
    if value <= 0:
      raise ValueError(f"{name} of the pool is {value}: it must be positive")


def _pickled(function: Callable) -> bytes:
  try:
    found = pickle.dumps(function)
  except (pickle.PicklingError, AttributeError, TypeError) as error:
    raise ValueError(
      f"{function!r} cannot be sent to a process: use a function of a module"
    ) from error
  if b"__main__" in found:
    raise ValueError(f"{function!r} is in the main: move it to a module")
  return found


def _start(workers, seconds, memory):
  here, there = connection.Pipe()
  path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
  options = [str(x) for x in (there.fileno(), workers, seconds, memory)]
  process = subprocess.Popen(
    [sys.executable, "-P", "-c", COMMAND, *options],
    pass_fds=(there.fileno(),),
    env={**os.environ, "PYTHONPATH": path},
    stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
    start_new_session=True,  # on Ctrl-C the program closes the pool
  )
  there.close()
  return process, here


def _request(pipe, message, seconds):
  pipe.send(message)
  # The supervisor limits each item; this limits the supervisor.
  limit = IMPORT_SECONDS + (seconds + 1) * len(message[1])
  if not pipe.poll(min(limit, LONGEST)):
    raise EOFError
  return pipe.recv()


def _result(reply: bytes) -> Result:
  try:
    return Result(*pickle.loads(reply))
  except Exception as error:
    return Result(one_line(error), "error")
