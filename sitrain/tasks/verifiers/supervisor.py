"""The supervisor of a pool of processes; see pool.py.

It is a small process with one thread, so it may fork. It forks the workers when
the function is imported, sends them the items, kills overdue workers and
replaces dead ones.
"""

import os
import pickle
import resource
import signal
import sys
import time
from collections import deque
from multiprocessing import connection
from typing import NamedTuple


class _Worker(NamedTuple):
  pid: int
  pipe: connection.Connection


class _Work(NamedTuple):
  index: int  # of the item
  deadline: float


def one_line(error: BaseException) -> str:
  """An error in one line."""
  try:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
  except Exception:
    return type(error).__name__


def supervise() -> None:
  """The main of the supervisor, until its pipe is closed or SIGTERM."""
  parent = connection.Connection(int(sys.argv[1]))
  workers, seconds, memory = int(sys.argv[2]), *map(float, sys.argv[3:])
  running: dict = {}
  name, function = b"", None
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
  try:
    while True:
      requested, items = parent.recv()
      if requested != name:
        _kill_all(running)
        try:
          name, function = requested, pickle.loads(requested)
        except Exception as error:
          name = b""
          parent.send([pickle.dumps((one_line(error), "error"))] * len(items))
          continue
      parent.send(
        _run(function, items, parent, running, workers, seconds, memory)
      )
  except (EOFError, OSError):
    pass  # the program has closed the pool or is gone
  finally:
    _kill_all(running)


def _run(function, items, parent, running, workers, seconds, memory):
  """Pickled (value, status) of each item; raises EOFError without a parent.

  Items go to the workers one at a time: sending some ahead is not faster.
  """
  queue, done, busy = deque(range(len(items))), {}, {}
  for worker in list(running.values()):
    if os.waitpid(worker.pid, os.WNOHANG)[0]:  # died while it had no work
      running.pop(worker.pipe).pipe.close()
  while len(done) < len(items):
    while len(running) < min(workers, len(items)):
      worker = _fork_worker(function, [parent, *running], seconds, memory)
      running[worker.pipe] = worker
    for pipe in running:
      if queue and pipe not in busy:
        busy[pipe] = _Work(queue.popleft(), time.monotonic() + seconds)
        _send(pipe, items[busy[pipe].index])
    due = min(work.deadline for work in busy.values())
    patience = max(0.0, due - time.monotonic())
    ready = connection.wait([parent, *busy], timeout=patience)
    if parent in ready:
      raise EOFError
    for pipe in ready:
      done[busy.pop(pipe).index] = _receive(running, pipe)
    now = time.monotonic()
    for pipe, work in list(busy.items()):
      if work.deadline <= now and not pipe.poll():
        _kill(running.pop(pipe))
        text = (f"took longer than {seconds:g} seconds", "timeout")
        done[busy.pop(pipe).index] = pickle.dumps(text)
  return [done[i] for i in range(len(items))]


def _send(pipe, item):
  try:
    pipe.send_bytes(item)
  except OSError:
    pass  # the worker has died: `_receive` notices it


def _receive(running, pipe):
  """The reply of a worker, or how it died."""
  try:
    reply = pipe.recv_bytes()
  except (EOFError, OSError):
    code = _kill(running.pop(pipe))
    return pickle.dumps((f"its process ended with code {code}", "crash"))
  if reply[:1] == b"-":  # it ran out of memory
    _kill(running.pop(pipe))
  return reply[1:]


def _kill(worker):
  try:
    os.killpg(worker.pid, signal.SIGKILL)  # with whatever it has started
  except (ProcessLookupError, PermissionError):
    pass
  worker.pipe.close()
  return os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])


def _kill_all(running):
  while running:
    _kill(running.popitem()[1])


def _fork_worker(function, others, seconds, memory):
  here, there = connection.Pipe()
  pid = os.fork()
  if pid:
    there.close()
    try:
      os.setpgid(pid, pid)
    except OSError:
      pass  # the child was faster
    return _Worker(pid, here)
  try:
    os.setpgid(0, 0)
    for pipe in (here, *others):
      pipe.close()
    _work(there, function, seconds, int(memory * 2**20))
  finally:
    os._exit(0)


def _work(pipe, function, seconds, memory):
  """The main of a worker, until its pipe is closed."""
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  try:
    with open("/proc/self/statm") as file:
      used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
  except OSError:
    pass  # not Linux: no limit
  while True:
    item = pipe.recv_bytes()
    # The kernel kills a worker that hangs after its supervisor was killed.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 10)
    state = b"+"
    try:
      reply = pickle.dumps((function(pickle.loads(item)), "done"))
    except BaseException as error:
      state = b"-" if isinstance(error, MemoryError) else b"+"
      reply = pickle.dumps((one_line(error), "error"))
    signal.setitimer(signal.ITIMER_REAL, 0)
    pipe.send_bytes(state + reply)
