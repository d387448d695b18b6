"""Programs of a stack machine from examples, and what an interpreter says.

The stack begins with the inputs, the last on top; values are modulo 10.
`+`, `-`, `*` replace the two on top by their sum, difference (less the top) and
product, `d` doubles the top, `s` swaps the two on top, and `1` pushes a one. At
the end one value must be left, the output.

Prompt: examples and `:`, such as `37>0,12>3,55>0:`. Attempt: a program and
`<end>`, such as `+<end>`. What the interpreter says of it: `<ok>`;
`<empty><bad@k>`: instruction k needs more values than there are;
`<left>n<bad>`: n values are left; `<got>y<bad@k>`: example k is the first that
is not met, and gives y; `<bad>`: no program.

Source: programs that are judged by running them and mended by what that says:
LeTI (Wang et al. 2023, arXiv:2305.10314), CYCLE (Ding et al. 2024,
arXiv:2403.18746), LeDex (Jiang et al. 2024, arXiv:2405.18649). The language
here has six instructions, the text names the first fault, and all examples are
shown, so that a program may meet them by chance.
"""

import itertools
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sitrain.tasks import roles
from sitrain.tasks.attempt import ends_once
from sitrain.tasks.draw import (
  check_corpus,
  check_probability,
  integers_below,
  second_attempt,
  task_of,
)
from sitrain.types import PAD, Problems, Task

OPERATIONS = "+-*ds1"
NEEDS, PUSHES = (2, 2, 2, 1, 2, 0), (-1, -1, -1, 1, 0, 1)  # of each
SWAP = OPERATIONS.index("s")
DIGITS, LONGEST, INPUTS = 10, 5, 4  # 6 ** LONGEST programs are tried
CHARACTERS = OPERATIONS[:-1] + "0123456789>,:"
NAMES = roles.names_of(
  CHARACTERS, words=("<empty>", "<left>", "<got>"), parts=9
)
SIGNS = tuple(NAMES.index(c) for c in OPERATIONS)  # tokens of instructions
ZERO, ARROW, COMMA, COLON = (NAMES.index(c) for c in "0>,:")
EMPTY, LEFT, GOT, OK, BAD, RETRY, END, PART = (
  NAMES.index(f"<{name}>") for name in
  ("empty", "left", "got", "ok", "bad", "retry", "end", "bad@1")
)


class Options(NamedTuple):
  """The options of `critic`, and of `make` but for its feedback."""

  instructions: tuple[int, int]
  inputs: int
  examples: int
  mistake: float
  copied: float
  corrupted: float


class Outcome(NamedTuple):
  """What has come of a program on one input."""

  stack: Int[Array, " D"]
  depth: Int[Array, ""]
  failed: Int[Array, ""]  # the instruction, from 1, that lacked values; 0: none


def make(
  *,
  instructions: tuple[int, int] = (1, 3),
  inputs: int = 2,
  examples: int = 3,
  mistake: float = 0.2,
  copied: float = 0.10,
  corrupted: float = 0.15,
  feedback: str = "none",
) -> Task:
  """Programs of `instructions[0]` to `instructions[1]` instructions.

  The examples are outputs of a program, uniform among those of its length that
  run. mistake, copied, corrupted: the base corpus. Its first attempt is that
  program, in which each instruction is replaced by another with probability
  mistake. Its second is a copy, a copy with one instruction replaced, or drawn
  like the first, whether the first was right or wrong. `solution` has both.

  Reward 1 iff a program of at most instructions[1] instructions meets all
  examples. feedback: see roles.with_feedback. Answer fields: the length of the
  program that made the examples, their inputs, their outputs. `final` codes
  the program. Raises ValueError for impossible options.
  """
  options = Options(
    instructions, inputs, examples, mistake, copied, corrupted
  )
  _check(options)
  low, high = instructions
  task = task_of(
    partial(_problem, options=options),
    partial(_right, options=options),
    partial(_code, options=options),
    size=5 + examples * inputs + 2 * high,
    alphabet=CHARACTERS,
    eos=(END,),
    again=RETRY,
    length=high + 1,
    level=lambda problems: problems.answer[:, 0] - low,
    levels=tuple(f"{n}_instructions" for n in range(low, high + 1)),
  )._replace(tokenizer=roles.tokenizer(NAMES))
  return roles.with_feedback(
    task, partial(diagnose, options=options), feedback
  )


def critic(
  *,
  instructions: tuple[int, int] = (1, 3),
  inputs: int = 2,
  examples: int = 3,
  mistake: float = 0.2,
  copied: float = 0.10,
  corrupted: float = 0.15,
) -> Task:
  """Attempts and critiques of them in turn: see roles.with_critic.

  A critique says what the interpreter would.
  """
  options = Options(
    instructions, inputs, examples, mistake, copied, corrupted
  )
  task = make(**options._asdict())
  return roles.with_critic(
    task, partial(diagnose, options=options), longest=3
  )


def _check(options: Options) -> None:
  low, high = options.instructions
  if not 1 <= low <= high <= LONGEST:
    raise ValueError(
      f"instructions={options.instructions} is no range: give (fewest, most) "
      f"with 1 <= fewest <= most <= {LONGEST}"
    )
  if not 1 <= options.inputs <= INPUTS:
    raise ValueError(f"inputs={options.inputs}: use 1 to {INPUTS}")
  if not 1 <= options.examples <= 9:
    raise ValueError(f"examples={options.examples}: use 1 to 9")
  for count in range(low, high + 1):
    if not any(len(one) == count for one in programs(options.inputs, high)):
      raise ValueError(
        f"instructions={options.instructions}: no program of {count} turns "
        f"{options.inputs} inputs into one output: give another range"
      )
  check_probability("mistake", options.mistake)
  check_corpus(options.copied, options.corrupted)


@cache
def programs(inputs: int, longest: int) -> tuple[tuple[int, ...], ...]:
  """All that run and leave one value, as places in OPERATIONS, short first."""
  found = []
  for count in range(1, longest + 1):
    for one in itertools.product(range(len(OPERATIONS)), repeat=count):
      depth = inputs
      for operation in one:
        depth = depth + PUSHES[operation] if depth >= NEEDS[operation] else -99
      if depth == 1:
        found.append(one)
  return tuple(found)


def _table(options: Options):
  """`programs` [M longest], PAD behind them, and their lengths [M]."""
  longest = options.instructions[1]
  found = programs(options.inputs, longest)
  rows = [[*one] + [PAD] * (longest - len(one)) for one in found]
  return np.array(rows, np.int32), np.array([len(one) for one in found])


def run(
  program: Int[Array, " N"], inputs: Int[Array, " I"]
) -> Outcome:
  """Runs one program, places in OPERATIONS with PAD behind, on one input.

  What fails leaves the stack as it was, and nothing runs after it.
  """
  size = inputs.shape[0] + program.shape[0] + 2
  stack = jnp.zeros(size, jnp.int32).at[: inputs.shape[0]].set(inputs)

  def step(state: Outcome, given):
    number, operation = given
    place = jnp.maximum(operation, 0)
    # A missing value is read from the end of the stack, and not used.
    top, below = state.stack[state.depth - 1], state.stack[state.depth - 2]
    depth = state.depth + jnp.array(PUSHES)[place]
    result = jnp.stack([below + top, below - top, below * top, top, below, 1])
    changed = state.stack.at[depth - 1].set(result[place] % DIGITS)
    # A swap writes two values.
    second = jnp.where(place == SWAP, top, changed[depth - 2])
    changed = changed.at[depth - 2].set(second)
    live = (operation != PAD) & (state.failed == 0)
    short = state.depth < jnp.array(NEEDS)[place]
    after = Outcome(changed, depth, state.failed)
    runs = live & ~short
    after = jax.tree.map(lambda x, y: jnp.where(runs, x, y), after, state)
    failed = jnp.where(live & short, number, state.failed)
    return after._replace(failed=failed), None

  start = Outcome(stack, jnp.int32(inputs.shape[0]), jnp.int32(0))
  number = jnp.arange(1, program.shape[0] + 1, dtype=jnp.int32)
  return jax.lax.scan(step, start, (number, program))[0]


def _examples(answer: Int[Array, " A"], options: Options):
  """Inputs [E I] and outputs [E] of one problem."""
  given = options.examples * options.inputs
  inputs = answer[1 : 1 + given].reshape(options.examples, options.inputs)
  return inputs, answer[1 + given :]


def solve(
  answer: Int[Array, "P A"], options: Options
) -> Bool[Array, "P M"]:
  """Which of all `programs` meet the examples: all solutions, short first."""
  table = jnp.asarray(_table(options)[0])

  def meets(one, program):
    inputs, outputs = _examples(one, options)
    ended = jax.vmap(run, (None, 0))(program, inputs)
    return jnp.all(ended.stack[:, 0] == outputs)

  return jax.vmap(jax.vmap(meets, (None, 0)), (0, None))(answer, table)


def _problem(chance: Float[Array, " size"], options: Options) -> Problems:
  """One problem, without the leading axis."""
  low, high = options.instructions
  given = options.examples * options.inputs
  (count, place), digits, corpus = jnp.split(chance, (2, 2 + given))
  count = low + integers_below(count, high + 1 - low)
  table, lengths = _table(options)
  start = jnp.searchsorted(lengths, count)
  same = jnp.sum(jnp.asarray(lengths) == count)
  program = jnp.asarray(table)[start + integers_below(place, same)]
  inputs = integers_below(digits, DIGITS).reshape(options.examples, -1)
  outputs = jax.vmap(run, (None, 0))(program, inputs).stack[:, 0]
  shown = jnp.concatenate([
    ZERO + inputs, jnp.full((options.examples, 1), ARROW),
    ZERO + outputs[:, None], jnp.full((options.examples, 1), COMMA),
  ], axis=1).reshape(-1)
  return Problems(
    prompt=shown.at[-1].set(COLON).astype(jnp.int32),
    answer=jnp.concatenate([count[None], inputs.reshape(-1), outputs]),
    solution=_solution(corpus, program, count, options),
  )


def _solution(chance, program, count, options: Options) -> Int[Array, " L"]:
  """Two attempts of the base corpus, the second right after the first."""
  (place, by, look), *slips = jnp.split(
    chance, [3, 3 + options.instructions[1]]
  )
  first, fresh = (
    _other(program, slip < options.mistake, slip / max(options.mistake, 1e-9))
    for slip in slips
  )
  place = jnp.arange(len(program)) == integers_below(place, count)
  shares = {"copied": options.copied, "corrupted": options.corrupted}
  second = second_attempt(
    look, first, fresh, _other(first, place, by), **shares
  )
  both = jnp.stack([first, second])
  both = jnp.where(both == PAD, PAD, jnp.array(SIGNS)[jnp.maximum(both, 0)])
  ended = jnp.pad(both, ((0, 0), (0, 1)), constant_values=END)
  return roles.pack(ended.reshape(-1)).astype(jnp.int32)


def _other(program, where, chance):
  """The program with other instructions at some places."""
  count = len(OPERATIONS)
  other = (program + 1 + integers_below(chance, count - 1)) % count
  return jnp.where(where & (program != PAD), other, program)


def _read(walk: Int[Array, "B N"], options: Options):
  """Programs [B longest], and whether an attempt is one [B]."""
  longest = options.instructions[1]
  hit = walk[:, :longest, None] == jnp.array(SIGNS)
  known = jnp.any(hit, axis=2)
  program = jnp.where(known, jnp.argmax(hit, axis=2), PAD).astype(jnp.int32)
  count = jnp.sum(known, axis=1)
  written = jnp.sum(walk != PAD, axis=1)
  fits = ends_once(walk, (END,)) & (count == written - 1) & (count > 0)
  return program, fits


def diagnose(
  answer: Int[Array, "B A"], walk: Int[Array, "B N"], options: Options
) -> Int[Array, "B 3"]:
  """What the interpreter says of attempts; PAD behind it."""
  program, fits = _read(walk, options)

  def one(answer, program, fits):
    inputs, outputs = _examples(answer, options)
    ended = jax.vmap(run, (None, 0))(program, inputs)
    # Whether values lack or are left depends on the program alone.
    failed, depth = ended.failed[0], ended.depth[0]
    got = ended.stack[:, 0]
    k = jnp.argmax(got != outputs)
    message = jnp.where(
      jnp.all(got == outputs), jnp.array([OK, PAD, PAD]),
      jnp.stack([jnp.int32(GOT), ZERO + got[k], PART + k]),
    )
    left = jnp.stack([jnp.int32(LEFT), ZERO + depth, jnp.int32(BAD)])
    message = jnp.where(depth == 1, message, left)
    empty = jnp.stack([jnp.int32(EMPTY), PART - 1 + failed, jnp.int32(PAD)])
    message = jnp.where(failed > 0, empty, message)
    message = jnp.where(fits, message, jnp.array([BAD, PAD, PAD]))
    return message.astype(jnp.int32)

  return jax.vmap(one)(answer, program, fits)


def _right(
  answer: Int[Array, "B A"], walk: Int[Array, "B N"], options: Options
) -> Bool[Array, " B"]:
  return diagnose(answer, walk, options)[:, 0] == OK


def _code(walk: Int[Array, "B N"], options: Options) -> Int[Array, " B"]:
  """The instructions as the digits of one number, or -1."""
  program, fits = _read(walk, options)
  code = jnp.zeros(len(walk), jnp.int32)
  for operation in program.T:
    code = code * (len(OPERATIONS) + 1) + operation + 1
  return jnp.where(fits, code, -1)
