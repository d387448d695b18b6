"""Tests in the program's own process, where a program can forge a pass.

For tests that cannot run apart from the program, where that was asked for.
Every run draws two tokens. The second comes out only after all tests have run,
and until then lies in a pipe. Code that was written against `sandbox_child`
can read that pipe, or the tests in the frames above it, or change what the
tests compare with.
"""

import functools
import inspect
import secrets
import subprocess
from collections.abc import Callable

from sitrain.tasks.verifiers import sandbox_child, sandbox_process
from sitrain.tasks.verifiers.bench import Said
from sitrain.tasks.verifiers.guard import guarded

REPORTED = ("fail", "error", "oom")  # what the child says itself


@functools.cache
def child() -> str:
  """The source that the interpreter inside runs."""
  return inspect.getsource(sandbox_child)


def judge(
  launch: Callable[..., subprocess.Popen], code: str, tests: str,
  own: tuple[str, ...], seconds: float, *, group: bool,
) -> Said:
  """Runs a program with its tests behind it. launch: starts `child`."""
  start, finish = (secrets.token_hex(16).encode() for _ in range(2))
  texts = (code, guarded(tests), " ".join(own))
  texts = [text.encode(errors="replace") for text in texts]
  parts = b"".join(
    len(part).to_bytes(8, "big") + part for part in (start, *texts, finish)
  )
  with sandbox_process.filled_pipe(parts) as source:
    process = launch(stdin=source, stdout=subprocess.PIPE)
  with process.stdout, process.stderr:
    said, late, spent = sandbox_process.listen(
      process.stdout.fileno(), start, seconds
    )
    status = sandbox_process.end(process, patient=not late, group=group)
    words = sandbox_process.last_words(process)
  return _said(said, start, finish, late, status, spent, words)


def _said(said, start, finish, late, code, spent, words) -> Said:
  """What the tokens, the words and the exit status amount to."""
  _, started, after = said.partition(start)
  if not started:
    why = "" if late else words or f"status {code}"
    return Said("unstarted", 0, why, spent)
  if after == finish:
    return Said("pass", 0, "", spent)
  if late:
    return Said("late", 0, "", spent)
  status, _, rest = after.decode(errors="replace").partition("\n")
  line, _, message = rest.partition("\n")
  if status in REPORTED and line.isdecimal():
    return Said(status, int(line), message, spent)
  return Said("left", 0, f"left before its tests had run ({code})", spent)
