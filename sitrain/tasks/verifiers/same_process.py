"""Tests in the program's own process, where a program can forge a pass.

For tests that cannot run in a separate process, where the user allows it.
Every run draws two tokens. The second is printed only after all tests have run,
and stays in a pipe until then. A program written to attack `sandbox_child` can
read that pipe, read the tests in the frames above it, or change what the tests
compare with.
"""

import functools
import inspect
import secrets
import subprocess
from collections.abc import Callable

from sitrain.tasks.verifiers import sandbox_child, sandbox_process
from sitrain.tasks.verifiers.guard import guarded
from sitrain.tasks.verifiers.separate_process import RunResult

REPORTED = ("fail", "error", "oom")  # statuses that the child reports


@functools.cache
def child_source() -> str:
  """The source that the interpreter in the sandbox runs."""
  return inspect.getsource(sandbox_child)


def judge(
  launch: Callable[..., subprocess.Popen], code: str, tests: str,
  own: tuple[str, ...], seconds: float, *, group: bool,
) -> RunResult:
  """Runs a program, then its tests. launch: starts `child_source`."""
  start, finish = (secrets.token_hex(16).encode() for _ in range(2))
  texts = (code, guarded(tests), " ".join(own))
  texts = [text.encode(errors="replace") for text in texts]
  parts = b"".join(
    len(part).to_bytes(8, "big") + part for part in (start, *texts, finish)
  )
  with sandbox_process.filled_pipe(parts) as source:
    process = launch(stdin=source, stdout=subprocess.PIPE)
  with process.stdout, process.stderr:
    output, late, spent = sandbox_process.read_output(
      process.stdout.fileno(), start, seconds
    )
    status = sandbox_process.end(process, patient=not late, group=group)
    error = sandbox_process.last_error_line(process)
  return _result(output, start, finish, late, status, spent, error)


def _result(output, start, finish, late, code, spent, error) -> RunResult:
  """The result by the tokens, the report and the exit status."""
  _, started, after = output.partition(start)
  if not started:
    why = "" if late else error or f"status {code}"
    return RunResult("unstarted", 0, why, spent)
  if after == finish:
    return RunResult("pass", 0, "", spent)
  if late:
    return RunResult("late", 0, "", spent)
  status, _, rest = after.decode(errors="replace").partition("\n")
  line, _, message = rest.partition("\n")
  if status in REPORTED and line.isdecimal():
    return RunResult(status, int(line), message, spent)
  return RunResult("left", 0, f"left before its tests had run ({code})", spent)
