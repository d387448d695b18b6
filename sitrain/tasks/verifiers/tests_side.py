"""What runs in the process of the tests: they alone, and the verdict.

A server in its own sandbox, in which no program ever runs. It forks one process
after the other, ahead of time. Each gets an order with two pipes, from and to
the program's process, runs the tests and ends. The functions that the tests
call are stubs that call the program's by messages. The control socket, on
descriptor 0, carries the orders, and back the lines "started" and status, tab,
line of the tests or 0, tab, message.
"""

import builtins
import gc
import posix
import resource
import socket
import sys

from sitrain.tasks.verifiers.messages import (
  PROGRAM_LIMITS,
  TESTS_LIMITS,
  make_peer,
  receive,
  send,
  value_of,
  wait_for_answer,
)
from sitrain.tasks.verifiers.serialization import decode

__builtins__ = vars(builtins).copy()  # as in serialization.py

MAX_MESSAGE = 500
# Modules that tests import or answers need: imported before the fork.
PRELOADED = (
  "collections", "copy", "datetime", "decimal", "fractions", "itertools",
  "math", "random", "string",
)


def main():
  """Serves until the control socket is closed."""
  control = socket.socket(fileno=posix.dup(0))
  nothing = posix.open("/dev/null", posix.O_RDWR)
  for stream in (0, 1, 2):
    posix.dup2(nothing, stream)
  for name in PRELOADED:
    __import__(name)
  gc.freeze()  # so that forked processes share this memory
  while True:
    child = posix.fork()
    if child == 0:
      _judge(control, *_order(control))
    _, status = posix.waitpid(child, 0)
    if status:
      control.sendall(b"broken\t0\tthe process of the tests was ended\n")
      posix._exit(1)


def _order(control):
  """The pipes and the decoded fields of the next order."""
  data, pipes, _, _ = socket.recv_fds(control, 4, 2)
  size = int.from_bytes(data, "big")
  order = b""
  while data and len(order) < size:
    data = control.recv(size - len(order))
    order += data
  if not data:
    posix._exit(1)  # the run has ended
  return *pipes, *decode(order)


def _judge(control, source, sink, code, tests, names, modules, seconds):
  """Runs the tests of one program, sends the verdict and leaves."""
  def finish(status, line=0, message=""):
    message = " ".join(message[:MAX_MESSAGE].split())
    text = f"{status}\t{line}\t{message}\n"
    control.sendall(text.encode(errors="replace"))
    posix._exit(0)

  reserve = bytearray(1 << 20)  # to report from, when memory has run out
  resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
  program = make_peer(
    source, sink, lost=lambda why: finish("left", 0, why),
    refuse=lambda error: finish("left_out", 0, f"they hand over {error}"),
    serve=lambda *_: finish("left", 0, "sent an unknown request"),
    receive_limits=PROGRAM_LIMITS, send_limits=TESTS_LIMITS, program=True,
  )
  try:
    send(program, "run", code, names)  # read when the program's side is up
    if receive(program) == ("hello",):
      control.sendall(b"started\n")
    space = {name: __import__(name) for name in modules}
    found = value_of(wait_for_answer(program))
    for name in names:
      if name in found:
        space[name] = _named(found[name], name)
    # A module, so that what the tests define has one. It is __main__, so that
    # code under `if __name__ == "__main__"` runs, too.
    module = sys.modules["tests"] = type(sys)("__main__")
    sys.modules["__main__"] = module
    vars(module).update(space, __in_place__=_in_place)
    exec(compile(tests, "tests", "exec", dont_inherit=True), vars(module))
  except BaseException as error:
    reserve.clear()
    finish(*_report(error))
  finish("pass")


def _named(value, name):
  """The value; a function gets the name that the tests use."""
  if type(value) is type(_named):
    value.__name__ = value.__qualname__ = name
  return value


def _in_place(function):
  """The function that a call as a statement uses; see messages.call."""
  if type(function) is type(_in_place) and hasattr(function, "statement"):
    return function.statement
  return function


def _report(error):
  """(status, line of the tests or 0, message) of what was raised."""
  line, at, last = 0, error.__traceback__, ""
  while at is not None:
    last = at.tb_frame.f_code.co_filename
    if last == "tests":
      line = at.tb_lineno
    at = at.tb_next
  status = "error"
  if isinstance(error, MemoryError):
    status = "oom"
  elif isinstance(error, AssertionError):
    status = "fail"
  elif isinstance(error, ImportError) and last == "tests":
    status = "left_out"  # the tests import a module that is missing
  try:
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
  except BaseException:
    text = "an exception that cannot be shown"
  return status, line, text
