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
  crossing,
  program_side,
  sandbox_process,
  talking,
  tests_side,
)
from sitrain.tasks.verifiers.crossing import encode

# What an interpreter inside begins with: it reads its modules as code.
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


class Bench(NamedTuple):
  """A sandbox in which tests run, one program's after the other's."""

  process: subprocess.Popen
  control: socket.socket


class Said(NamedTuple):
  """What came of a program and its tests."""

  status: str  # of tests_side; "late", "unstarted", "broken"
  line: int  # of the tests, 0: none
  message: str
  seconds: float  # since the interpreter was up


@functools.cache
def packed(side) -> bytes:
  """The modules of a side of the sandbox, as LOADER reads them."""
  modules = []
  for module in (crossing, talking, side):
    name = module.__name__
    code = compile(
      inspect.getsource(module), name.rpartition(".")[2], "exec",
      dont_inherit=True, optimize=2,
    )
    modules.append((name, code))
  data = marshal.dumps(modules)
  return len(data).to_bytes(4, "big") + data


def start(launch: Callable[..., subprocess.Popen]) -> Bench:
  """A sandbox for tests. launch: starts LOADER with these streams."""
  here, there = socket.socketpair()
  try:
    with there:
      process = launch(stdin=there, stdout=subprocess.DEVNULL)
  except BaseException:
    here.close()
    raise
  here.settimeout(sandbox_process.START_SECONDS)
  with contextlib.suppress(OSError):  # it has ended: `judge` says so
    here.sendall(packed(tests_side))
  return Bench(process, here)


def close(bench: Bench, *, group: bool) -> str:
  """Ends it, with what runs in it; its last words."""
  bench.control.close()
  with bench.process.stderr:
    sandbox_process.end(bench.process, patient=False, group=group)
    return sandbox_process.last_words(bench.process)


def judge(
  benches: queue.SimpleQueue,
  launch: Callable[..., subprocess.Popen],
  launch_bench: Callable[..., subprocess.Popen],
  order: tuple,
  seconds: float,
  *,
  group: bool,
) -> Said:
  """Runs a program with its tests.

  benches: those that are free, and None for each that may be started; as many
  programs run at a time. The sandbox of the program starts before one is free,
  and ends when it is free again: that takes longer than most programs. order:
  the code, the tests, the names and modules that they use.
  """
  data = encode((*order, math.ceil(seconds) + 1))
  with sandbox_process.pipes(2) as ((source, sink), (theirs, ours)):
    sandbox_process.fill(sink, packed(program_side))
    process = launch(stdin=source, stdout=ours)
    try:
      mine = _taken(benches, launch_bench)
    except BaseException:
      sandbox_process.end(process, patient=False, group=group)
      raise
    with contextlib.suppress(OSError):  # it has ended: `listen` says so
      size = len(data).to_bytes(4, "big")
      socket.send_fds(mine.control, [size], [theirs, sink])
      mine.control.sendall(data)
  said, late, spent = b"", False, 0.0
  try:
    said, late, spent = sandbox_process.listen(
      mine.control.fileno(), b"started\n", seconds, _complete
    )
  except OSError:
    pass
  finally:
    usable = _complete(said) and b"broken\t" not in said
    why = "" if usable else close(mine, group=group)
    benches.put(mine if usable else None)
    with process.stderr:
      code = sandbox_process.end(
        process, patient=b"left\t" in said, group=group
      )
      words = sandbox_process.last_words(process)
  return _said(said, late, spent, code, why or words)


def _taken(benches, launch) -> Bench:
  """Waits for a bench, and starts it where it is a new one."""
  mine = benches.get()
  try:
    return mine or start(launch)
  except BaseException:
    benches.put(None)
    raise


def _complete(said: bytes) -> bool:
  """Whether the line of the verdict is there, which alone has tabs."""
  return b"\t" in said and said.endswith(b"\n")


def _said(said, late, spent, code, words) -> Said:
  """The verdict, or why there is none."""
  started = said.startswith(b"started\n")
  if not _complete(said):
    if late:
      return Said("late" if started else "unstarted", 0, "", spent)
    return Said("broken", 0, words, spent)
  line = said.decode(errors="replace").removeprefix("started\n").rstrip("\n")
  status, number, message = line.split("\t", 2)
  if status == "left" and not started:
    return Said("unstarted", 0, words or f"status {code}", spent)
  if status == "left":
    message = message or f"left before its tests had run ({code})"
  return Said(status, int(number), message, spent)
