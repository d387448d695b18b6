"""What somebody has typed as a problem of a task."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from sitrain.runtime.options import ConfigError, accepted, find
from sitrain.runtime.task import chat_of, options_of, reads_text
from sitrain.tasks.dialogue import NO_ROW
from sitrain.tasks.rows import problem_shape
from sitrain.tasks.text import padded
from sitrain.tasks.wording import wording
from sitrain.types import PAD, Problems, Task

STEP = 16  # lengths of prompts are multiples of it: a program each


def encoder(
  config: dict, workdir: str, task: Task
) -> Callable[[str], list[int]]:
  """text -> the tokens of a prompt, in the form of the task's own problems.

  With the question's wording where the task has one, and with its system
  message. A task of symbols takes them as they are, and raises ValueError for
  one that it lacks.
  """
  options = options_of(config, "evaluate")
  own = config | {"task": options}
  if not reads_text(own):
    return task.tokenizer.encode
  chat = chat_of(own, workdir)
  known = accepted(find("tasks", options["name"], "task.name"))
  if "ask" in known:
    form = wording(options.get("ask", known["ask"].default), "{problem}")
    fill = lambda text: form.replace("{problem}", text).replace("{tests}", "")
    return lambda text: list(chat.ask(fill(text).strip()))
  system = options.get("system", "")
  if not system.strip():
    return lambda text: list(chat.ask(text))
  first = wording(system)
  if options.get("system_as") == "user":
    return lambda text: list(chat.ask(f"{first}\n\n{text}"))
  return lambda text: list(chat.dialogue([
    {"role": "system", "content": first}, {"role": "user", "content": text},
  ]))


def problem(task: Task, tokens: Sequence[int]) -> Problems:
  """One problem [1 ...] without an answer: nothing can judge it.

  A reply that depends on the answer, as an opponent's move, is that to zeros.
  Of a table it is no row: an environment gets () for it.
  """
  shape = problem_shape(task)
  width = -(-len(tokens) // STEP) * STEP
  empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shape)
  if task.texts != ():  # The answer is the number of a row.
    empty = empty._replace(answer=np.full_like(empty.answer, NO_ROW))
  return empty._replace(
    prompt=padded([tokens], left=True, width=width),
    solution=np.full(shape.solution.shape, PAD, np.int32),
  )


def check_length(tokens: Sequence[int], most: int) -> None:
  """Raises ConfigError for no tokens, and for more than `most`."""
  if not tokens or len(tokens) > most:
    raise ConfigError(
      f"a problem of {len(tokens)} tokens: give 1 to {most}"
    )
