"""What a model reads of a task, as text with the borders of its tokens."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table
from rich.text import Text

from sitrain.rollout import contexts
from sitrain.tasks.characters import UNKNOWN
from sitrain.tasks.text import lengths
from sitrain.types import PAD, Problems, Task, Tokenizer

BORDER = "\u2502"  # between two tokens
OPEN, CLOSE = "\u27e6", "\u27e7"  # around what is trained on, without colours
GIVEN_STYLES = ("", "dim")  # of one token and the next
TRAINED_STYLES = ("bold green", "green")


class Stretch(NamedTuple):
  """Tokens of one kind."""

  title: str  # what they are
  tokens: list[int]
  trained: bool


def pieces(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
  """The text of every token; of those that share a character, of the last.

  The others are "".
  """
  found, before = [], ""
  for i in range(len(tokens)):
    text = tokenizer.decode(np.asarray(tokens[: i + 1], np.int32))
    if text.endswith(UNKNOWN) and i + 1 < len(tokens):
      found.append("")
      continue
    found.append(text[len(before):])
    before = text
  return found


def marked(
  tokenizer: Tokenizer, stretch: Stretch, *, colours: bool
) -> Text:
  """The text of a stretch with its token borders."""
  styles = TRAINED_STYLES if stretch.trained else GIVEN_STYLES
  found = Text()
  if stretch.trained and not colours:
    found.append(OPEN)
  for i, piece in enumerate(pieces(tokenizer, stretch.tokens)):
    shown = piece.replace("\n", "\u21b5\n")
    border = BORDER if i else ""
    found.append(border, style="cyan")
    found.append(shown, style=styles[i % 2])
  if stretch.trained and not colours:
    found.append(CLOSE)
  return found


def first_problems(task: Task, first: int, count: int) -> Problems:
  """The rows of the table from `first` on, or problems that are drawn."""
  if task.table == ():
    drawn = task.problems(jax.random.key(0, impl="threefry2x32"), first + count)
  else:
    drawn = task.table
  return jax.tree.map(lambda x: np.asarray(x)[first : first + count], drawn)


def stretches(
  task: Task, problems: Problems, i: int, turns: Sequence[int]
) -> Iterator[Stretch]:
  """What stands in the rows of problem i, from the prompt on.

  `turns` are the limits of the turns that the policy writes.
  """
  prompt = problems.prompt[i]
  yield Stretch("prompt", _tokens(prompt), False)
  given = _given_turns(task, problems.solution[i])
  for k, tokens in enumerate(given, start=1):
    which = f"given turn {k}" if len(given) > 1 else "given turn"
    yield Stretch(f"{which}, which methods imitate or compare", tokens, True)
  for k, limit in enumerate(turns, start=1):
    yield Stretch(f"turn {k}: the policy writes up to {limit} tokens", [], True)
    if k < len(turns) and (read := _reply(task, problems, i, k)):
      yield Stretch(f"read after turn {k}", read, False)


def _tokens(row: Any) -> list[int]:
  return [int(t) for t in np.asarray(row) if t != PAD]


def _given_turns(task: Task, solution: Any) -> list[list[int]]:
  found: list[list[int]] = [[]]
  for token in _tokens(solution):
    found[-1].append(token)
    if token in task.eos:
      found.append([])
  return [turn for turn in found if turn]


def _reply(task: Task, problems: Problems, i: int, turn: int) -> list[int]:
  """What follows an empty turn; [] where that is decided by its text."""
  one = jax.tree.map(lambda x: jnp.asarray(x[i : i + 1]), problems)
  rows = contexts.begin(one, 1)
  for k in range(1, turn + 1):
    rows = contexts.append(rows, jnp.asarray([[task.eos[0]]], jnp.int32), k)
  reply = task.reply(one.answer, rows, jnp.asarray([turn], jnp.int32))
  return [] if bool(reply.done[0]) else _tokens(reply.tokens[0])


def lengths_table(task: Task, problems: Problems) -> Table:
  """Tokens of prompts and given turns."""
  table = Table(title="tokens")
  for name in ("", "rows", "median", "95 %", "longest"):
    table.add_column(name, justify="left" if not name else "right")
  rows = {"prompt": [len(_tokens(row)) for row in problems.prompt]}
  for row in problems.solution:
    for k, turn in enumerate(_given_turns(task, row), start=1):
      rows.setdefault(f"given turn {k}", []).append(len(turn))
  for name, sizes in rows.items():
    table.add_row(name, *map(str, lengths(sizes)))
  return table


def notes(task: Task) -> list[str]:
  """What was read and what was left out, a line each."""
  if task.texts == ():
    return []
  found = list(task.texts.notes)
  left_out = len(task.texts.rows) - len(set(task.texts.kept))
  if left_out and not found:
    found.append(f"{left_out} dropped: their prompts are longer than"
                 " prompt_length")
  return found


def too_long(
  task: Task, problems: Problems, limits: dict[str, Sequence[int]]
) -> list[str]:
  """Lines on given turns that exceed the limits of a stage."""
  given = [_given_turns(task, row) for row in problems.solution]
  lines = []
  for name, turns in limits.items():
    for k, limit in enumerate(turns):
      sizes = [len(turns[k]) for turns in given if len(turns) > k]
      if count := sum(size > limit for size in sizes):
        lines.append(
          f"{count} of {len(sizes)} given turns {k + 1} are longer than "
          f"{limit} tokens, the limit of {name} (the longest has {max(sizes)})"
        )
  return lines


def show(
  task: Task, *, first: int, count: int, limits: dict[str, Sequence[int]],
  write: Callable[[Any], None], colours: bool,
) -> None:
  """Writes notes, lengths and the first problems.

  `limits` are the turns of every stage, by name; those of most turns are
  shown. `write` prints text and tables of rich.
  """
  for line in notes(task):
    write(Text(line))
  total = 256 if task.table == () else len(task.table.prompt)
  every = first_problems(task, 0, total)
  write(Text("256 problems drawn" if task.table == () else f"{total} problems"))
  write(lengths_table(task, every))
  for line in too_long(task, every, limits):
    write(Text(line, style="yellow"))
  turns = max(limits.values(), key=len, default=())
  how = "in green" if colours else f"between {OPEN} and {CLOSE}"
  write(Text(f"{BORDER} stands between tokens; what is trained on is {how}."))
  for i in range(first, min(first + count, total)):
    write(Text(_headline(task, i), style="bold"))
    for stretch in stretches(task, every, i, turns):
      write(Text(f"-- {stretch.title}", style="cyan"))
      if stretch.tokens:
        write(marked(task.tokenizer, stretch, colours=colours))


def _headline(task: Task, i: int) -> str:
  if task.texts == ():
    return f"problem {i + 1}"
  row = task.texts.rows[task.texts.kept[i]]
  answer = f", answer {row.answer[:60]!r}" if row.answer else ""
  name = row.name or f"row {task.texts.kept[i] + 1}"
  return f"problem {i + 1}: {name}{answer}"
