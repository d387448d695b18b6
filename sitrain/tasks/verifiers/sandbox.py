"""Runs programs that a model wrote, each alone in a sandbox of its own.

bubblewrap (0.8 or later, Linux) gives a program its own process, network and
mount namespaces: it sees /usr and the interpreter, read-only, and 16 MB at
/tmp; no network, no /proc, no environment, no file of the project. It has no
capabilities and cannot gain any. Limits hold on processes, memory, processor
time, files and their size; the wall clock is kept outside. When a program
ends, all that it started ends with it.

As root, bubblewrap itself runs as root (it can then show an interpreter that
lies in root's home, and needs no user namespace) and the program runs under a
user id of its own: limits on processes mean nothing for root. As another user
the program runs in a user namespace under that user's id.

What a pass is worth: every run draws two tokens. The second comes out only
after all tests have run, and until then lies in a pipe. Leaving early,
printing, catching every exception, replacing built-in functions, and answers
with comparisons of their own do not pass. What remains: program and tests
share one interpreter, so code that was written against `sandbox_child` could
read that pipe, or the tests in the frames above it; so could patching a module
that the tests import (`math.isclose`). A program that lists the answers of
the tests it was shown passes them, as everywhere. The kernel is shared too:
against programs that attack it, put the whole run in a virtual machine.
"""

import functools
import inspect
import math
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from sitrain.tasks.verifiers import bubble, sandbox_child
from sitrain.tasks.verifiers.guard import guarded
from sitrain.tasks.verifiers.sandbox_process import (
  START_SECONDS,
  end,
  filled_pipe,
  listen,
)

REPORTED = ("fail", "error", "oom")  # what the child says itself
PROCESSES = 4  # of one program, threads included
FILES = 32  # open at once
FILE_SIZE = 8 * 2**20  # bytes of one file
LEAST_MEMORY = 2**26  # bytes of address space
LONGEST = 2**19  # bytes of program and tests together
FIRST_USER, USERS = 50_000, 10_000  # user ids of programs, where root runs
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
  own: tuple[str, ...] = ()  # built-in names that the tests mean as the code's


class Outcome(NamedTuple):
  """How a run ended: pass; fail: a test did not hold; error: it raised, could
  not be read, or left early; timeout; oom: out of memory; sandbox: it could
  not be run, which says nothing about the program."""

  status: str
  message: str  # one line: the test that failed, the exception
  seconds: float  # wall clock since the interpreter was up


def run(
  programs: Sequence[Program],
  *,
  seconds: float = 5.0,
  memory: int = 2**29,
  workers: int = 2,
  run_programs_without_sandbox: bool = False,
) -> list[Outcome]:
  """Runs every program with its tests; outcomes in the same order.

  seconds: wall clock of one program; memory: bytes of address space of one
  process; workers: programs at a time. ValueError where there is no sandbox.
  """
  if not programs:
    return []
  if not (0 < seconds < math.inf and workers > 0):
    raise ValueError(
      f"seconds={seconds}, workers={workers}: both must be above 0 and finite"
    )
  if memory < LEAST_MEMORY:
    raise ValueError(
      f"memory={memory}: Python itself needs {LEAST_MEMORY} bytes to start"
    )
  if not run_programs_without_sandbox:
    check()
  return _run(programs, seconds, memory, workers, run_programs_without_sandbox)


@functools.cache
def check() -> None:
  """ValueError where programs cannot be run in a sandbox; tries one, once."""
  problem = "programs cannot be run in a sandbox here:"
  if sys.platform != "linux":
    raise ValueError(f"{problem} it needs Linux; {FIX}")
  for tool in ("bwrap", "prlimit", "setpriv"):
    if shutil.which(tool) is None:
      raise ValueError(f"{problem} {tool} is not installed; {FIX}")
  trivial = Program("x = 1", "assert x == 1")
  status, message, _ = _run([trivial], 10.0, 2**29, 1, False)[0]
  if status != "pass":
    raise ValueError(
      f"{problem} {message or status}; allow user namespaces or run as root "
      f"with CAP_SYS_ADMIN, {FIX}"
    )


def _run(programs, seconds, memory, workers, bare) -> list[Outcome]:
  """`run` without its checks."""
  packed = [(p, guarded(p.tests)) for p in programs]

  def one(item):
    try:
      return _run_one(*item, seconds, memory, bare)
    except OSError as error:
      return Outcome("sandbox", f"could not be started: {error}", 0.0)

  # Threads only wait for processes here. On Ctrl-C no further one is started.
  pool = ThreadPoolExecutor(workers)
  try:
    return list(pool.map(one, packed))
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


def _run_one(program, tests, seconds, memory, bare) -> Outcome:
  """One program in one sandbox."""
  start, finish = (secrets.token_hex(16).encode() for _ in range(2))
  texts = (program.code, tests, " ".join(program.own))
  texts = [text.encode(errors="replace") for text in texts]
  if sum(map(len, texts)) > LONGEST:
    return Outcome("error", f"longer than {LONGEST} bytes", 0.0)
  parts = b"".join(
    len(part).to_bytes(8, "big") + part for part in (start, *texts, finish)
  )
  with filled_pipe(parts) as source, filled_pipe(bubble.call_filter()) as rules:
    process = subprocess.Popen(
      _command(seconds, memory, rules, bare),
      stdin=source,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      pass_fds=(rules,),
      # Not even bubblewrap itself gets the environment of the run.
      env={"PYTHONHASHSEED": "0"},
      cwd="/",
      start_new_session=True,  # Ctrl-C at the terminal is for the run only
    )
  said, late, spent = listen(process, start, seconds)
  code = end(process, patient=not late, group=bare)
  return _outcome(said, start, finish, late, code, spent, program.tests)


def _command(seconds, memory, rules, bare) -> list[str]:
  """The command line of one sandbox, from the outside in."""
  limits = [
    bubble.path_of("prlimit"), f"--cpu={math.ceil(seconds) + 1}",
    f"--as={memory}", f"--fsize={FILE_SIZE}", f"--nofile={FILES}", "--core=0",
  ]
  python = [bubble.python(), *PYTHON_OPTIONS, "-c", _child()]
  if bare:
    return [*limits, "--", *python]
  if os.getuid() == 0:
    # Another user id every time, as processes are counted by user id.
    outside = bubble.as_root(FIRST_USER + secrets.randbelow(USERS), rules)
  else:
    outside = bubble.as_user(rules)
  return [*outside, *limits, f"--nproc={PROCESSES}", "--", *python]


@functools.cache
def _child() -> str:
  """The source that the interpreter inside runs."""
  return inspect.getsource(sandbox_child)


def _outcome(said, start, finish, late, code, spent, tests) -> Outcome:
  """What the tokens, the words and the exit status amount to."""
  before, started, after = said.partition(start)
  if not started:
    words = before.decode(errors="replace").split("\n")
    last = next((w for w in reversed(words) if w.strip()), f"status {code}")
    if late:
      last = f"it took more than {START_SECONDS:.0f} s"
    return Outcome("sandbox", "did not start: " + last.strip(), spent)
  if after == finish:
    return Outcome("pass", "", spent)
  if late:
    return Outcome("timeout", "took too long", spent)
  status, _, rest = after.decode(errors="replace").partition("\n")
  line, _, message = rest.partition("\n")
  if status in REPORTED and line.isdecimal():
    lines = ["", *tests.splitlines()]
    at = lines[int(line)].strip() if int(line) < len(lines) else ""
    return Outcome(status, f"{message} at: {at}" if at else message, spent)
  return Outcome("error", f"left before its tests had run ({code})", spent)
