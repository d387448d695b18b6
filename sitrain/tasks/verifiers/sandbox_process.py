"""Talking to one sandboxed process, and ending it."""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

KEPT = 2**16  # bytes that may come back
START_SECONDS = 30.0  # until the interpreter is up; a busy machine is slow
END_SECONDS = 10.0  # until a killed program is gone


@contextlib.contextmanager
def filled_pipe(data: bytes) -> Iterator[int]:
  """A descriptor from which `data` can be read once; at most 1 MB.

  OSError where the system does not give so large a pipe.
  """
  source, sink = os.pipe()
  try:
    try:
      if len(data) > 2**16:
        fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, 2**20)
      os.set_blocking(sink, False)  # nobody reads yet: never wait for room
      if os.write(sink, data) < len(data):
        raise OSError("a pipe holds less than the program")
    finally:
      os.close(sink)
    yield source
  finally:
    os.close(source)


def listen(
  process: subprocess.Popen, start: bytes, seconds: float
) -> tuple[bytes, bool, float]:
  """(what came back, whether time ran out, seconds since the start token).

  Reads until the sandbox is gone, says too much, or its time is up.
  """
  stream = process.stdout.fileno()
  poller = select.poll()
  poller.register(stream, select.POLLIN)
  said, began = b"", time.monotonic()
  limit, running = began + START_SECONDS, False
  while len(said) <= KEPT:
    left = limit - time.monotonic()
    if left <= 0:
      return said, True, time.monotonic() - began
    if not poller.poll(min(left, 60.0) * 1000):
      continue
    data = os.read(stream, KEPT)
    if not data:
      break
    said += data
    if not running and start in said:
      running, began = True, time.monotonic()
      limit = began + seconds
  return said, False, time.monotonic() - began


def end(process: subprocess.Popen, *, patient: bool, group: bool) -> int:
  """Ends a sandbox and all in it; its exit status.

  patient: leave it a second to end by itself, so that its status is its own;
  group: there is no sandbox, so kill its process group.
  """
  with process.stdout:
    if patient:
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    if group:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
      # The program dies first, so that bubblewrap can reap it.
      for inside in _children(process.pid):
        with contextlib.suppress(ProcessLookupError):
          os.kill(inside, signal.SIGKILL)
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    process.kill()
    return process.wait()


def _children(process: int) -> list[int]:
  """Process ids of its children, none where the kernel does not tell."""
  place = Path(f"/proc/{process}/task/{process}/children")
  try:
    return [int(word) for word in place.read_text().split()]
  except OSError:
    return []
