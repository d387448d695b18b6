"""What runs in a program's process: the program, and calls of its functions.

Descriptors 0 and 1 are the pipes from and to the process of the tests. All that
this process is told is the program, the names in it that the tests use, and the
arguments of the calls that were made so far. It ends when the tests do.
"""

import builtins
import posix
import sys

from sitrain.tasks.verifiers.crossing import Refused, encode
from sitrain.tasks.verifiers.talking import (
  PROGRAM,
  TESTS,
  done,
  peer,
  receive,
  send,
  tell,
)

__builtins__ = vars(builtins).copy()  # as in crossing.py


def serve(tests, said):
  """Runs the program; what its names are, as far as the tests use them."""
  _, code, names = said
  space, found = _run(code), {}
  for name in names:
    try:
      encode(space[name], tests)
      found[name] = space[name]
    except (KeyError, Refused):
      pass  # to use it is a NameError
  return "gives", found, None


def _run(code):
  module = type(sys)("program")
  sys.modules["program"] = sys.modules["__main__"] = module
  module.__dict__["__builtins__"] = builtins  # exec would add the copy
  exec(compile(code, "program", "exec", dont_inherit=True), module.__dict__)
  return module.__dict__


def main():
  """Says hello, and answers until the tests are through."""
  source, sink, process = posix.dup(0), posix.dup(1), posix.getpid()
  nothing = posix.open("/dev/null", posix.O_RDWR)
  for stream in (0, 1, 2):
    posix.dup2(nothing, stream)
  for name in [n for n in sys.modules if n.startswith("sitrain")]:
    del sys.modules[name]
  tests = peer(
    source, sink, lost=lambda why: posix._exit(1), refuse=lambda error: None,
    serve=serve, takes=TESTS, gives=PROGRAM,
  )
  send(tests, "hello")
  while True:
    said = receive(tests)
    reserve = bytearray(1 << 20)  # to answer from, when memory has run out
    found = done(tests, said)
    del reserve
    if posix.getpid() != process:  # a copy that the program made of itself
      posix._exit(0)
    tell(tests, found)
