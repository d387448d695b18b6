"""What a program prints, run in the sandbox (see sandbox.py)."""

import subprocess
from collections.abc import Callable

from sitrain.tasks.verifiers import sandbox, sandbox_process

STARTED = b"\x02started\x02"  # before the program runs: its seconds begin
# The main of the interpreter: reads the program from descriptor 0, which then
# is at its end, and leaves descriptor 1 to it.
CHILD = r"""
import ast, posix, sys

def main():
  parts = []
  while part := posix.read(0, 65536):
    parts.append(part)
  sys.stdout.reconfigure(line_buffering=True, errors="replace")
  posix.write(1, b"\x02started\x02")
  space = {"__name__": "__main__"}
  try:
    tree = ast.parse(b"".join(parts), "program")
    last = tree.body.pop() if tree.body and isinstance(
      tree.body[-1], ast.Expr
    ) else None
    exec(compile(tree, "program", "exec"), space)
    if last is not None:
      value = eval(
        compile(ast.Expression(last.value), "program", "eval"), space
      )
      if value is not None:
        print(repr(value))
  except SystemExit:
    pass
  except BaseException as error:
    line, at = "", error.__traceback__
    while at is not None:
      if at.tb_frame.f_code.co_filename == "program":
        line = f" (line {at.tb_lineno})"
      at = at.tb_next
    if isinstance(error, SyntaxError) and error.filename == "program":
      line = f" (line {error.lineno})"
      error = SyntaxError(error.msg)
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    print(" ".join(text[:500].split()) + line)
  sys.stdout.flush()

main()
"""


def make(
  *, seconds: float, memory: int, run_programs_without_sandbox: bool = False,
) -> Callable[[str], str]:
  """A function of a program's source text that returns what it prints.

  seconds: wall clock of a program; memory: bytes of its address space. What is
  printed is cut at sandbox_process.MAX_OUTPUT bytes; a program that takes too
  long is told so in a last line, and so is one that was killed. The function
  raises OSError where the sandbox fails. Raises ValueError where there is none.
  """
  if memory < sandbox.MIN_MEMORY:
    raise ValueError(
      f"memory={memory}: Python itself needs {sandbox.MIN_MEMORY} bytes to "
      "start"
    )
  if not run_programs_without_sandbox:
    sandbox.check()
  launch = sandbox.launcher(
    seconds=seconds, memory=memory, bare=run_programs_without_sandbox,
    source=CHILD,
  )
  bare = run_programs_without_sandbox

  def run(program: str) -> str:
    code = program.encode(errors="replace")
    if len(code) > sandbox.MAX_SOURCE:
      return f"error: the program is longer than {sandbox.MAX_SOURCE} bytes"
    with sandbox_process.filled_pipe(code) as source:
      process = launch(stdin=source, stdout=subprocess.PIPE)
    with process.stdout, process.stderr:
      output, late, _ = sandbox_process.read_output(
        process.stdout.fileno(), STARTED, seconds
      )
      long = len(output) > sandbox_process.MAX_OUTPUT
      status = sandbox_process.end(
        process, patient=not (late or long), group=bare
      )
      error = sandbox_process.last_error_line(process)
    _, started, rest = output.partition(STARTED)
    if not started:
      raise OSError(f"the sandbox did not start: {error or status}")
    text = rest[: sandbox_process.MAX_OUTPUT].decode(errors="replace")
    if late:
      return _with_line(text, f"TimeoutError: more than {seconds:g} seconds")
    if status and not long:
      return _with_line(text, f"the program was ended (status {status})")
    return text

  return run


def _with_line(text: str, line: str) -> str:
  return f"{text.rstrip()}\n{line}".lstrip()
