"""Python between turns: `<code>print(12*7)</code>` is answered by its output.

A turn without `<code>` is taken for the answer and ends the dialogue. Programs
run in the sandbox of the verifiers, each by itself: nothing is kept from one
turn to the next.
"""

import re

from sitrain.tasks.dialogue import Dialogue, Replies
from sitrain.tasks.verifiers import printed

CALL = re.compile(r"<code>(.*?)(?:</code>|$)", re.S)
FENCE = re.compile(r"\A\s*```(?:python)?\n(.*?)\n?```\s*\Z", re.S)


def make(
  *, seconds: float = 2.0, memory: int = 512, characters: int = 1000,
  run_programs_without_sandbox: bool = False,
) -> Replies:
  """An interpreter.

  Args:
    seconds: wall clock of a program; its `reply_seconds` must be longer.
    memory: MiB of its address space.
    characters: of its output that the policy reads.
    run_programs_without_sandbox: where there is none; they can then do what
      this process can.

  The value of an expression in the last line is printed, as in a shell. An
  exception is its last line. Raises ValueError for options that are not above 0
  and where there is no sandbox.
  """
  if min(seconds, memory, characters) <= 0:
    raise ValueError(
      f"seconds={seconds}, memory={memory}, characters={characters}: set all "
      "above 0"
    )
  run = printed.make(
    seconds=seconds, memory=memory * 2**20,
    run_programs_without_sandbox=run_programs_without_sandbox,
  )

  def interpreter(dialogue: Dialogue) -> str | None:
    found = CALL.findall(dialogue.turns[-1])
    if not found:
      return None
    code = found[-1]
    if fenced := FENCE.match(code):
      code = fenced.group(1)
    return shortened(run(code), characters)

  return Replies(interpreter, None)


def shortened(text: str, characters: int) -> str:
  """The text without line breaks at its end; a long one without its middle."""
  text = text.rstrip("\n")
  if len(text) <= characters:
    return text or "(no output)"
  half = characters // 2
  left_out = len(text) - 2 * half
  return (
    f"{text[:half]}\n... {left_out} characters left out ...\n"
    f"{text[len(text) - half :]}"
  )
