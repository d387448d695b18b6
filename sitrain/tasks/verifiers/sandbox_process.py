"""Sandboxed processes: pipes to them, their output, and ending them."""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_OUTPUT = 2**16  # bytes that are read
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
      fill(sink, data)
    finally:
      os.close(sink)
    yield source
  finally:
    os.close(source)


def fill(sink: int, data: bytes) -> None:
  """Writes into a pipe that is not read yet, without waiting for room."""
  if len(data) > 2**16:
    fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, 2**20)
  os.set_blocking(sink, False)
  if os.write(sink, data) < len(data):
    raise OSError("a pipe holds less than the program")
  os.set_blocking(sink, True)


@contextlib.contextmanager
def pipes(count: int) -> Iterator[list[tuple[int, int]]]:
  """Pipes as (source, sink), which are closed here in the end."""
  made: list[tuple[int, int]] = []
  try:
    for _ in range(count):
      made.append(os.pipe())
    yield made
  finally:
    for stream in (end for pair in made for end in pair):
      os.close(stream)


def read_output(
  stream: int, start: bytes, seconds: float,
  until: Callable[[bytes], bool] = lambda output: False,
) -> tuple[bytes, bool, float]:
  """(output, whether time ran out, seconds since the start token).

  Reads until the stream ends, `until(output)` is true, the output is larger
  than MAX_OUTPUT, or its time is up.
  """
  poller = select.poll()
  poller.register(stream, select.POLLIN)
  output, began = b"", time.monotonic()
  limit, running = began + START_SECONDS, False
  while len(output) <= MAX_OUTPUT and not until(output):
    left = limit - time.monotonic()
    if left <= 0:
      return output, True, time.monotonic() - began
    if not poller.poll(min(left, 60.0) * 1000):
      continue
    data = os.read(stream, MAX_OUTPUT)
    if not data:
      break
    output += data
    if not running and start in output:
      running, began = True, time.monotonic()
      limit = began + seconds
  return output, False, time.monotonic() - began


def last_error_line(process: subprocess.Popen) -> str:
  """The last line that an ended process wrote to stderr."""
  stream = process.stderr.fileno()
  os.set_blocking(stream, False)  # another process may keep it open
  try:
    lines = os.read(stream, MAX_OUTPUT).decode(errors="replace").split("\n")
  except OSError:
    lines = []
  return next((x.strip() for x in reversed(lines) if x.strip()), "")


def end(process: subprocess.Popen, *, patient: bool, group: bool) -> int:
  """Ends a sandbox and all in it; returns its exit status.

  patient: give it a second to exit, so that the status is its own; group: there
  is no sandbox, so kill its process group.
  """
  if patient:
    _wait(process, 1.0)
  if group:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
  elif process.poll() is None:
    # The program dies first, so that bubblewrap can reap it.
    for inside in _children(process.pid):
      with contextlib.suppress(ProcessLookupError):
        os.kill(inside, signal.SIGKILL)
    _wait(process, END_SECONDS)
  process.kill()
  return process.wait()


def _wait(process: subprocess.Popen, seconds: float) -> None:
  """Waits until it has ended; `Popen.wait` with a timeout would poll."""
  try:
    handle = os.pidfd_open(process.pid)
  except OSError:  # an old kernel
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(seconds)
    return
  try:
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    poller.poll(seconds * 1000)
    process.poll()
  finally:
    os.close(handle)


def _children(process: int) -> list[int]:
  """Process ids of its children; none where the kernel does not list them."""
  place = Path(f"/proc/{process}/task/{process}/children")
  try:
    return [int(word) for word in place.read_text().split()]
  except OSError:
    return []
