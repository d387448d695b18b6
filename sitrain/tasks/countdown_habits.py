"""Written searches for Countdown, with habits that are switched on and off.

A search is a depth-first one, written token by token. Forward, a line is a step
with two of the numbers and then one more number a step: ` 5* 3= 15`, `+ 4= 19`.
Backward, a step is undone first (`<from> 15+ 4`: reach 15, and 4 more are the
target) until two numbers are left, which are tried. `<back>` leaves the last
step that was written and not left yet. All functions are pure: what is drawn
comes from `rng`.

Source: the traces of Gandhi et al. 2025 (arXiv:2503.01307), which a language
model writes under prompts that allow a habit or forbid it, and the serialised
searches of "To Backtrack or Not to Backtrack" (arXiv:2504.07052): orders,
pruning, and traces that skip steps. The form of the traces is our own.
"""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

HABITS = ("backtracking", "verification", "subgoals", "backward")
ORDERS = ("fixed", "random")
ANSWER, END, BACK, YES, NO, GOAL, FROM, DOT = (
  "<answer>", "<end>", "<back>", "<yes>", "<no>", "<goal>", "<from>", "."
)
SIGNS = ("+", "-", "*")
MOST = 99  # of every value


class Board(NamedTuple):
  """A problem: the numbers as they stand in the prompt, and the target."""

  numbers: tuple[int, ...]
  target: int


class Step(NamedTuple):
  """An operation; `left` is the value so far but in the first step."""

  left: int
  sign: str
  right: int
  value: int


class Style(NamedTuple):
  """How a search is written."""

  habits: tuple[str, ...]  # of HABITS
  order: str  # of ORDERS: branches as the numbers stand, or shuffled
  prune: bool  # leave out last steps that go away from the target
  skip: bool  # leave out last steps that miss it


Line = tuple[Step, ...]
Branch = tuple[Step, tuple[int, ...]]  # a step, and the numbers left after it
Found = Iterator[tuple[list[str], Line]]


def apply(left: int, sign: str, right: int) -> int:
  """The value of an operation."""
  return {"+": left + right, "-": left - right, "*": left * right}[sign]


def without(numbers: tuple[int, ...], *used: int) -> tuple[int, ...]:
  """The numbers but for the used ones, each taken once."""
  rest = list(numbers)
  for number in used:
    rest.remove(number)
  return tuple(rest)


def first_steps(numbers: tuple[int, ...]) -> list[Branch]:
  """Steps with two of the numbers, the larger one first."""
  found = []
  for i, one in enumerate(numbers):
    for other in numbers[i + 1 :]:
      rest = without(numbers, one, other)
      found += next_steps(max(one, other), (min(one, other),), rest)
  return list(dict.fromkeys(found))


def next_steps(
  value: int, numbers: tuple[int, ...], more: tuple[int, ...] = ()
) -> list[Branch]:
  """Steps from a value with one of the numbers; `more` are left, too."""
  found = []
  for number in numbers:
    rest = without(numbers, number) + more
    results = (value + number, value - number, value * number)
    found += [
      (Step(value, sign, number, result), rest)
      for sign, result in zip(SIGNS, results) if 0 <= result <= MOST
    ]
  return list(dict.fromkeys(found))


def promising(step: Step, goal: int) -> bool:
  """Whether a last step goes towards the goal from the value before it.

  Sums and products of numbers of 1 or more never fall and differences never
  rise, so what is left out never reaches the goal.
  """
  if step.left == goal:
    return step.sign == "*"
  return (step.sign == "-") == (step.left > goal)


def undone(goal: int, numbers: tuple[int, ...]) -> list[Branch]:
  """Last steps that reach a goal, by the value that they start from."""
  found = []
  for number in numbers:
    starts = {"+": goal - number, "-": goal + number, "*": goal // number}
    for sign, start in starts.items():
      if 0 <= start <= MOST and apply(start, sign, number) == goal:
        step = Step(start, sign, number, goal)
        found.append((step, without(numbers, number)))
  return list(dict.fromkeys(found))


def lines_of(board: Board) -> list[Line]:
  """All lines that reach the target with all numbers."""

  def go(line, rest):
    if not rest:
      return [line] if line[-1].value == board.target else []
    return [
      found for step, left in next_steps(line[-1].value, rest)
      for found in go((*line, step), left)
    ]

  firsts = first_steps(board.numbers)
  return [line for step, rest in firsts for line in go((step,), rest)]


def number(value: int) -> str:
  """The token of a number."""
  return f" {value}"


def tokens_of(step: Step, *, first: bool) -> list[str]:
  """The tokens of a step; only the first of a line shows where it starts."""
  start = [number(step.left)] if first else []
  return [*start, step.sign, number(step.right), "=", number(step.value)]


def written(line: Line) -> list[str]:
  """The tokens of a line."""
  steps = (tokens_of(step, first=not i) for i, step in enumerate(line))
  return [token for tokens in steps for token in tokens]


def answer(line: Line) -> list[str]:
  """The end of a turn: its answer."""
  return [ANSWER, *written(line), END]


def ordered(branches: list[Branch], style: Style, rng: random.Random):
  """The branches of a node in the order in which they are tried."""
  if style.order == "random":
    rng.shuffle(branches)
  return branches


def last_steps(
  branches: list[Branch], goal: int, style: Style, right: bool
) -> list[Branch]:
  """Those of the last steps of a branch that are written."""
  kept = branches
  if style.prune:
    kept = [x for x in kept if promising(x[0], goal)]
  if style.skip:
    kept = [x for x in kept if x[0].value == goal]
  return kept if right else [x for x in kept if x[0].value != goal]


def subgoal(target: int, last: int) -> int:
  """A value from which the last number reaches the target.

  A factor of the target where there is one, else its difference.
  """
  if last > 1 and target % last == 0:
    return target // last
  return target - last if target >= last else target + last


def forward(
  board: Board, style: Style, rng: random.Random, right: bool
) -> Found:
  """Yields (tokens since the last line, line) of each line that is tried.

  Without `right` lines that reach the target are left out.
  """
  verify, name = ("verification" in style.habits, "subgoals" in style.habits)
  tokens: list[str] = []
  named: list[int] = []

  def go(line, rest):
    branches = next_steps(line[-1].value, rest) if line else first_steps(rest)
    if len(rest) == 1:
      branches = last_steps(branches, board.target, style, right)
    for step, left in ordered(branches, style, rng):
      if name and len(left) == 1 and named != [*left]:
        named[:] = left
        tokens.extend([GOAL, number(subgoal(board.target, *left))])
      tokens.extend(tokens_of(step, first=not line))
      if left:
        yield from go((*line, step), left)
      else:
        met = step.value == board.target
        yield tokens + [YES if met else NO] * verify, (*line, step)
        tokens[:] = []
      tokens.append(BACK)

  yield from go((), board.numbers)


def backward(
  board: Board, style: Style, rng: random.Random, right: bool
) -> Found:
  """`forward` from the target: the last step is undone first."""
  verify = "verification" in style.habits
  tokens: list[str] = []

  def go(goal, rest, later):
    if len(rest) == 2:
      for step, _ in ordered(
        last_steps(first_steps(rest), goal, style, right), style, rng
      ):
        met = step.value == goal
        tokens.extend(tokens_of(step, first=True))
        yield tokens + [YES if met else NO] * verify, forwards(step, later)
        tokens[:] = [BACK]
      return
    for step, left in ordered(undone(goal, rest), style, rng):
      tokens.extend([FROM, number(step.left), step.sign, number(step.right)])
      yield from go(step.left, left, (step, *later))
      tokens.append(BACK)

  yield from go(board.target, board.numbers, ())


def forwards(first: Step, later: Line) -> Line:
  """The line that begins with a step and goes on with the signs of others."""
  line = [first]
  for step in later:
    left = line[-1].value
    value = apply(left, step.sign, step.right)
    line.append(Step(left, step.sign, step.right, value))
  return tuple(line)


def direction(style: Style, rng: random.Random):
  """`forward`, or `backward` where that is a habit.

  With subgoals, which are a habit of searches forward, both are equally likely.
  """
  back, mixed = (name in style.habits for name in ("backward", "subgoals"))
  return backward if back and not (mixed and rng.random() < 0.5) else forward


def search(
  board: Board, style: Style, rng: random.Random
) -> tuple[list[str], Line]:
  """The tokens of a search up to the first right line, and that line.

  Without backtracking the line alone is written, with its other habits; without
  any habit nothing is. Raises ValueError for a board without a solution.
  """
  tries, tokens = direction(style, rng), []
  for text, line in tries(board, style, rng, True):
    tokens += text
    if line[-1].value == board.target:
      return shown(tokens, board, line, style, tries), line
  raise ValueError(f"{board} has no solution")


def fruitless(
  board: Board, style: Style, rng: random.Random
) -> tuple[list[str], Line] | None:
  """`search` without right lines: it ends at a wrong one, which is returned.

  At the line behind which it is nearest to the length of the search that finds
  a right one. A line that goes below 0 or above MOST, as one may that was tried
  backward, is no answer. None where there is no other.
  """
  state = rng.getstate()
  length = len(search(board, style, rng)[0])
  rng.setstate(state)
  tries, tokens, found = direction(style, rng), [], []
  for text, line in tries(board, style, rng, False):
    tokens = tokens + text
    if all(0 <= step.value <= MOST for step in line):
      found.append((shown(tokens, board, line, style, tries), line))
      if len(tokens) >= length:
        break
  far = lambda one: abs(len(one[0]) - length)
  return min(found, key=far, default=None)


def shown(
  tokens: list[str], board: Board, line: Line, style: Style, tries: Callable
) -> list[str]:
  """What of a search that ended at a line is written, by the habits."""
  if "backtracking" in style.habits:
    return tokens
  return at_once(board, line, style, tries) if style.habits else []


def at_once(
  board: Board, line: Line, style: Style, tries: Callable
) -> list[str]:
  """A line without what was tried before it."""
  tokens, met = written(line), line[-1].value == board.target
  if tries is backward:
    tokens = []
    for step in reversed(line[1:]):
      tokens += [FROM, number(step.left), step.sign, number(step.right)]
    tokens += tokens_of(line[0], first=True)
  elif "subgoals" in style.habits:
    place = len(written(line[:-2]))
    goal = [GOAL, number(subgoal(board.target, line[-1].right))]
    tokens = tokens[:place] + goal + tokens[place:]
  return tokens + [YES if met else NO] * ("verification" in style.habits)
