"""What runs in a program's process: the program, and calls of its functions.

Descriptors 0 and 1 are the pipes from and to the process of the tests. This
process gets nothing but the program, the names in it that the tests use, and
the arguments of the calls so far. It ends when the tests do.
"""

import builtins
import posix
import sys

from sitrain.tasks.verifiers.messages import (
  PROGRAM_LIMITS,
  TESTS_LIMITS,
  execute,
  make_peer,
  receive,
  send,
  send_answer,
)
from sitrain.tasks.verifiers.serialization import Refused, encode

__builtins__ = vars(builtins).copy()  # as in serialization.py


def serve(tests, message):
  """Runs the program; answers the values of the names that the tests use."""
  _, code, names = message
  space, found = _run(code), {}
  for name in names:
    try:
      encode(space[name], tests)
      found[name] = space[name]
    except (KeyError, Refused):
      pass  # a test that uses it raises NameError
  return "returns", found, None


def _run(code):
  module = type(sys)("program")
  sys.modules["program"] = sys.modules["__main__"] = module
  module.__dict__["__builtins__"] = builtins  # exec would add the copy
  exec(compile(code, "program", "exec", dont_inherit=True), module.__dict__)
  return module.__dict__


def main():
  """Sends "hello", then answers requests until the tests end."""
  source, sink, process = posix.dup(0), posix.dup(1), posix.getpid()
  nothing = posix.open("/dev/null", posix.O_RDWR)
  for stream in (0, 1, 2):
    posix.dup2(nothing, stream)
  for name in [n for n in sys.modules if n.startswith("sitrain")]:
    del sys.modules[name]
  tests = make_peer(
    source, sink, lost=lambda why: posix._exit(1), refuse=lambda error: None,
    serve=serve, receive_limits=TESTS_LIMITS, send_limits=PROGRAM_LIMITS,
    program=False,
  )
  send(tests, "hello")
  while True:
    message = receive(tests)
    reserve = bytearray(1 << 20)  # to answer with when memory has run out
    answer = execute(tests, message)
    del reserve
    if posix.getpid() != process:  # a copy that the program made of itself
      posix._exit(0)
    send_answer(tests, answer)
