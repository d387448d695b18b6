"""One program in one sandbox, its tests in another; see tests_side.py."""

import contextlib
import functools
import inspect
import marshal
import math
import queue
import socket
import subprocess
from collections.abc import Callable
from typing import NamedTuple

from sitrain.tasks.verifiers import (
  messages,
  program_side,
  sandbox_process,
  serialization,
  tests_side,
)
from sitrain.tasks.verifiers.serialization import encode

# The first code of an interpreter in a sandbox: it reads its modules.
LOADER = """
import marshal, posix, sys
def read(size):
  data = b""
  while len(data) < size:
    part = posix.read(0, size - len(data))
    if not part:
      posix._exit(1)
    data += part
  return data
for name, code in marshal.loads(read(int.from_bytes(read(4), "big"))):
  sys.modules[name] = module = type(sys)(name)
  exec(code, vars(module))
module.main()
"""


class TestsSandbox(NamedTuple):
  """A sandbox that runs the tests of one program after another."""

  process: subprocess.Popen
  control: socket.socket


class RunResult(NamedTuple):
  """The result of a program and its tests."""

  status: str  # of tests_side; "late", "unstarted", "broken"
  line: int  # of the tests, 0: none
  message: str
  seconds: float  # since the interpreter was up


@functools.cache
def packed_modules(side) -> bytes:
  """The modules of one side, as LOADER reads them."""
  modules = []
  for module in (serialization, messages, side):
    name = module.__name__
    code = compile(
      inspect.getsource(module), name.rpartition(".")[2], "exec",
      dont_inherit=True, optimize=2,
    )
    modules.append((name, code))
  data = marshal.dumps(modules)
  return len(data).to_bytes(4, "big") + data


def start(launch: Callable[..., subprocess.Popen]) -> TestsSandbox:
  """A sandbox for tests. launch: starts LOADER with these streams."""
  here, there = socket.socketpair()
  try:
    with there:
      process = launch(stdin=there, stdout=subprocess.DEVNULL)
  except BaseException:
    here.close()
    raise
  here.settimeout(sandbox_process.START_SECONDS)
  with contextlib.suppress(OSError):  # it has ended: `judge` reports that
    here.sendall(packed_modules(tests_side))
  return TestsSandbox(process, here)


def close(tests: TestsSandbox, *, group: bool) -> str:
  """Ends a sandbox with all its processes; returns its last error line."""
  tests.control.close()
  with tests.process.stderr:
    sandbox_process.end(tests.process, patient=False, group=group)
    return sandbox_process.last_error_line(tests.process)


def judge(
  free: queue.SimpleQueue,
  launch: Callable[..., subprocess.Popen],
  launch_tests: Callable[..., subprocess.Popen],
  order: tuple,
  seconds: float,
  *,
  group: bool,
) -> RunResult:
  """Runs a program with its tests.

  free: the free TestsSandboxes, and None for each that may still be started;
  its size limits the programs that run at a time. The program's sandbox starts
  before a TestsSandbox is taken and ends after that is free again, as starting
  and ending take longer than most programs run. order: the code, the tests,
  the names and modules that the tests use.
  """
  data = encode((*order, math.ceil(seconds) + 1))
  with sandbox_process.pipes(2) as ((source, sink), (theirs, ours)):
    sandbox_process.fill(sink, packed_modules(program_side))
    process = launch(stdin=source, stdout=ours)
    try:
      mine = _acquire(free, launch_tests)
    except BaseException:
      sandbox_process.end(process, patient=False, group=group)
      raise
    with contextlib.suppress(OSError):  # it has ended: `read_output` reports it
      size = len(data).to_bytes(4, "big")
      socket.send_fds(mine.control, [size], [theirs, sink])
      mine.control.sendall(data)
  output, late, spent = b"", False, 0.0
  try:
    output, late, spent = sandbox_process.read_output(
      mine.control.fileno(), b"started\n", seconds, _complete
    )
  except OSError:
    pass
  finally:
    usable = _complete(output) and b"broken\t" not in output
    why = "" if usable else close(mine, group=group)
    free.put(mine if usable else None)
    with process.stderr:
      code = sandbox_process.end(
        process, patient=b"left\t" in output, group=group
      )
      error = sandbox_process.last_error_line(process)
  return _result(output, late, spent, code, why or error)


def _acquire(free, launch) -> TestsSandbox:
  """Waits for a free sandbox of tests, and starts it if needed."""
  found = free.get()
  try:
    return found or start(launch)
  except BaseException:
    free.put(None)
    raise


def _complete(output: bytes) -> bool:
  """Whether the output has the verdict, the only line with tabs."""
  return b"\t" in output and output.endswith(b"\n")


def _result(output, late, spent, code, error) -> RunResult:
  """The verdict, or why there is none."""
  started = output.startswith(b"started\n")
  if not _complete(output):
    if late:
      return RunResult("late" if started else "unstarted", 0, "", spent)
    return RunResult("broken", 0, error, spent)
  line = output.decode(errors="replace").removeprefix("started\n").rstrip("\n")
  status, number, message = line.split("\t", 2)
  if status == "left" and not started:
    return RunResult("unstarted", 0, error or f"status {code}", spent)
  if status == "left":
    message = message or f"left before its tests had run ({code})"
  return RunResult(status, int(number), message, spent)
