"""Runs programs that a model wrote, each in its own sandbox.

bubblewrap (0.8 or later, Linux) gives a program its own process, network and
mount namespaces: it sees /usr and the interpreter, read-only, and 16 MB at
/tmp; no network, no /proc, no environment, no file of the project. It has no
capabilities and cannot gain any. Processes, memory, processor time, files and
their size are limited; the wall clock is measured outside. When a program ends,
all processes that it started end with it.

As root, bubblewrap itself runs as root (it can then show an interpreter that
lies in root's home, and needs no user namespace) and the program runs under a
user id of its own: limits on processes mean nothing for root. As another user
the program runs in a user namespace under that user's id.

The tests run in another process than the program, in another sandbox, and the
two exchange plain values only (see serialization.py). The program never gets
the expected values. Tests that cannot run that way are left out, and the grade
is unknown. docs/programs.md lists what can be sent, what is refused, and what
is not defended against.
"""

import functools
import math
import os
import queue
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple

from sitrain.tasks.verifiers import bubble, same_process, separate_process
from sitrain.tasks.verifiers.sandbox_process import START_SECONDS, filled_pipe
from sitrain.tasks.verifiers.separate_process import RunResult
from sitrain.tasks.verifiers.separation import separate

PROCESSES = 4  # of one program, threads included
FILES = 32  # open at once
FILE_SIZE = 8 * 2**20  # bytes of one file
MIN_MEMORY = 2**26  # bytes of address space
MIN_MEMORY_OF_TESTS = 2**28  # the same of the process of the tests
MAX_SOURCE = 2**19  # bytes of program and tests together
FIRST_USER, USERS = 50_000, 10_000  # user ids of programs, where root runs
# The first code of an interpreter that root starts in a sandbox.
TAKE_USER = """
import posix
posix.setgroups([])
posix.setresgid({0}, {0}, {0})
posix.setresuid({0}, {0}, {0})
"""
# No site packages, no files written, always UTF-8.
PYTHON_OPTIONS = ("-s", "-S", "-P", "-B", "-X", "utf8")
FIX = (
  "install bubblewrap 0.8 or later (apt-get install bubblewrap), or set "
  "run_programs_without_sandbox=True to run them unprotected"
)


class Program(NamedTuple):
  """A program and what it is tested with, as source text."""

  code: str
  tests: str  # runs after the code, with its names
  own: tuple[str, ...] = ()  # built-in names that the code defines anew
  classes: tuple[str, ...] = ()  # names of classes that the code defines


class Outcome(NamedTuple):
  """How a run ended: pass; fail: an assertion failed; error: it raised, is no
  Python, or exited early; timeout; oom: out of memory. Two leave the grade
  unknown: sandbox: it could not be run; left_out: its tests cannot run in a
  separate process."""

  status: str
  message: str  # one line: the test that failed, the exception
  seconds: float  # wall clock since the interpreter was up


class _Limits(NamedTuple):
  seconds: float
  memory: int
  bare: bool  # no sandbox
  same_process: bool  # where tests cannot run in a separate process


def run(
  programs: Sequence[Program],
  *,
  seconds: float = 5.0,
  memory: int = 2**29,
  workers: int = 2,
  run_programs_without_sandbox: bool = False,
  run_tests_where_programs_can_forge_a_pass: bool = False,
) -> list[Outcome]:
  """Runs every program with its tests; outcomes in the same order.

  seconds: wall clock of one program; memory: bytes of address space of one
  process; workers: programs at a time. Tests that cannot run in a separate
  process run in the program's only where the last option allows it. ValueError
  where there is no sandbox.
  """
  if not programs:
    return []
  if not (0 < seconds < math.inf and workers > 0):
    raise ValueError(
      f"seconds={seconds}, workers={workers}: both must be above 0 and finite"
    )
  if memory < MIN_MEMORY:
    raise ValueError(
      f"memory={memory}: Python itself needs {MIN_MEMORY} bytes to start"
    )
  if not run_programs_without_sandbox:
    check()
  return _run(programs, workers, _Limits(
    seconds, memory, run_programs_without_sandbox,
    run_tests_where_programs_can_forge_a_pass,
  ))


@functools.cache
def check() -> None:
  """Raises ValueError where no sandbox works; runs one program, once."""
  problem = "programs cannot be run in a sandbox here:"
  if sys.platform != "linux":
    raise ValueError(f"{problem} it needs Linux; {FIX}")
  if shutil.which("bwrap") is None:
    raise ValueError(f"{problem} bwrap is not installed; {FIX}")
  trivial = Program("x = 1", "assert x == 1")
  limits = _Limits(10.0, 2**29, False, False)
  status, message, _ = _run([trivial], 1, limits)[0]
  if status != "pass":
    raise ValueError(
      f"{problem} {message or status}; allow user namespaces or run as root "
      f"with CAP_SYS_ADMIN, {FIX}"
    )


def _run(programs, workers, limits: _Limits) -> list[Outcome]:
  """`run` without its checks."""
  free: queue.SimpleQueue = queue.SimpleQueue()
  for _ in range(workers):
    free.put(None)

  def one(program):
    try:
      return _run_one(program, free, limits)
    except OSError as error:
      return Outcome("sandbox", f"could not be started: {error}", 0.0)

  def close(_):
    if found := free.get():
      separate_process.close(found, group=limits.bare)

  # Threads only wait for processes here. On Ctrl-C no further one is started.
  # There are two for each running program: one may start or end a sandbox.
  with ThreadPoolExecutor(2 * workers) as pool:
    started = [pool.submit(one, program) for program in programs]
    try:
      return [each.result() for each in started]
    finally:
      for each in started:
        each.cancel()
      wait(started)  # Those that run need what `close` takes away.
      # In the pool, as a sandbox ends with the thread that started it.
      list(pool.map(close, range(workers)))


def _run_one(program: Program, free, limits: _Limits) -> Outcome:
  """One program with its tests."""
  tests = separate(program.tests, program.own, program.classes)
  texts = (program.code, program.tests)
  if sum(len(text.encode(errors="replace")) for text in texts) > MAX_SOURCE:
    return Outcome("error", f"longer than {MAX_SOURCE} bytes", 0.0)
  if not tests.problem:
    order = (program.code, tests.source, tests.names, tests.modules)
    for_tests = limits._replace(
      seconds=math.inf, memory=max(limits.memory, MIN_MEMORY_OF_TESTS)
    )
    loader = separate_process.LOADER
    result = separate_process.judge(
      free, _launcher(limits, loader), _launcher(for_tests, loader), order,
      limits.seconds, group=limits.bare,
    )
  elif limits.same_process:
    result = same_process.judge(
      _launcher(limits, same_process.child_source()), program.code,
      program.tests, program.own, limits.seconds, group=limits.bare,
    )
  else:
    why = f"tests cannot run in a separate process: {tests.problem}"
    result = RunResult("left_out", 0, why, 0.0)
  return _outcome(result, program.tests)


def launcher(
  *, seconds: float, memory: int, bare: bool, source: str
) -> Callable[..., subprocess.Popen]:
  """A function that starts an interpreter on `source` in a sandbox.

  It gets the streams of `subprocess.Popen`, and starts another one each time.
  bare: without a sandbox. The caller reads the output and ends the process, see
  sandbox_process.py.
  """
  return _launcher(_Limits(seconds, memory, bare, False), source)


def _launcher(limits: _Limits, source: str):
  """A function that starts an interpreter on `source` in a sandbox."""
  def launch(**streams) -> subprocess.Popen:
    with filled_pipe(bubble.call_filter()) as rules:
      return subprocess.Popen(
        _command(limits, rules, source),
        stderr=subprocess.PIPE,
        pass_fds=(rules,),
        # Not even bubblewrap itself gets the environment of the run.
        env={"PYTHONHASHSEED": "0"},
        cwd="/",
        start_new_session=True,  # Ctrl-C at the terminal is for the run only
        **streams,
      )

  return launch


def _command(limits: _Limits, rules: int, source: str) -> list[str]:
  """The command line of one sandbox, from the outside in."""
  python = [bubble.python(), *PYTHON_OPTIONS, "-c"]
  if limits.bare:
    shell = f'{_shell_limits(limits)} && exec "$@"'
    return [bubble.SHELL, "-c", shell, "sh", *python, source]
  if os.getuid() != 0:
    return [*bubble.as_user(rules, _shell_limits(limits)), *python, source]
  # Another user id every time, as processes are counted by user id.
  user = TAKE_USER.format(FIRST_USER + secrets.randbelow(USERS))
  return [*bubble.as_root(rules, _shell_limits(limits)), *python, user + source]


def _shell_limits(limits: _Limits) -> str:
  """Shell commands that set the limits of a process and its children.

  The shell is there anyway, and Python's `resource` would take a tenth of the
  time of a whole run to import. Shells count memory in 1024 bytes and files in
  512, and call the number of processes -p or -u.
  """
  words = [
    f"-v {limits.memory // 1024}", f"-f {FILE_SIZE // 512}", f"-n {FILES}",
    "-c 0",
  ]
  if limits.seconds < math.inf:
    words.append(f"-t {math.ceil(limits.seconds) + 1}")
  commands = [f"ulimit {word}" for word in words]
  if not limits.bare:
    count = "{{ ulimit -p {0} 2>/dev/null || ulimit -u {0}; }}"
    commands.append(count.format(PROCESSES))
  return " && ".join(commands)


def _outcome(result: RunResult, tests: str) -> Outcome:
  """The outcome, with the line of the tests where it ended."""
  status, line, message, spent = result
  if status == "late":
    return Outcome("timeout", "took too long", spent)
  if status == "unstarted":
    message = message or f"it took more than {START_SECONDS:.0f} s"
    return Outcome("sandbox", "did not start: " + message, spent)
  if status == "left":
    return Outcome("error", message, spent)
  if status == "broken":
    return Outcome("sandbox", message, spent)
  lines = ["", *tests.splitlines()]
  at = lines[line].strip() if line < len(lines) else ""
  return Outcome(status, f"{message} at: {at}" if at else message, spent)
