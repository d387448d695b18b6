"""Countdown: reach a target with all given numbers, step by step.

The end of an attempt shows whether it met the target, so a second attempt can
read whether the first failed. The first can improve, too: some expressions are
more likely to reach the target than others.

Prompt: the numbers, `>`, the target in two digits, `:`, such as `354>19:`.
Attempt: a number, then an operation, another number, `=` and the value so far
in two digits for each of the others, and `;`, such as `3*5=15+4=19;`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.tasks import roles
from sitrain.tasks.countdown_table import (
  MAX_VALUE,
  MOST,
  OPERATIONS,
  Attempts,
  apply,
  attempts_at,
  begins_like,
  check_size,
  digits,
  ends_of,
  first_dead_step,
)
from sitrain.tasks.draw import (
  check_corpus,
  check_probability,
  corrected_attempt,
  integers_below,
  second_attempt,
  task_of,
)
from sitrain.types import Problems, Task

ALPHABET = "0123456789+-*=>:;?"
SYMBOLS = (
  ("354>19:", "the problem: reach 19 with 3, 5 and 4"),
  ("3*5=15+4=19;", "an attempt, step by step"), ("?", "try again"),
)
DIGITS = 10  # the ids of digits are their values
PLUS, MINUS, TIMES, EQUALS, REACH, COLON, STOP, AGAIN = (
  ALPHABET.index(c) for c in "+-*=>:;?"
)
NAMES = roles.renamed(ALPHABET, parts=MOST - 1)  # with role tokens
OK, BAD, PART = (NAMES.index(name) for name in ("<ok>", "<bad>", "<bad@1>"))


class Options(NamedTuple):
  """The options of `make` and `critic`."""

  numbers: int
  largest: int
  solved: float
  copied: float
  corrupted: float
  corrected: float


def make(
  *,
  numbers: int = 3,
  largest: int = 9,
  solved: float = 0.3,
  copied: float = 0.10,
  corrupted: float = 0.15,
  feedback: str = "none",
) -> Task:
  """`numbers` numbers of 1 to `largest`, verified on the device.

  solved, copied, corrupted: the base corpus. Its first attempt is the
  expression that the target was made with, with probability solved, else a
  random one. Its second is a copy, a copy with a wrong value in it, or else
  another attempt drawn like the first, whether the first was right or wrong.
  `solution` has both.

  Operations are evaluated from left to right, and no value is below 0 or above
  99. Answer fields: the numbers in order, the target, and the number of
  products in the expression that made it. Reward 1 iff each number is used
  once, every value is right, the last is the target, and `;` ends the attempt.
  `final` codes numbers and operations of a well-formed attempt; everything else
  is -1. feedback: see roles.with_feedback; `<bad@k>`: step k is the first after
  which no right attempt goes on so, since its value is wrong or since the
  target is out of reach; `<bad>`: the form is wrong, or a number is above
  `largest`. With feedback `;` is the token `<end>`. Raises ValueError for
  impossible options.
  """
  options = Options(numbers, largest, solved, copied, corrupted, 0.0)
  roles.check_feedback(feedback)
  if feedback == "none":
    return _task(options)
  return roles.with_feedback(
    _with_roles(_task(options), options),
    partial(diagnose, options=options), feedback,
  )


def critic(
  *,
  numbers: int = 3,
  largest: int = 9,
  solved: float = 0.3,
  copied: float = 0.10,
  corrupted: float = 0.15,
  corrected: float = 0.50,
) -> Task:
  """Attempts and critiques of them in turn: see roles.with_critic.

  A critique is `<ok>`, `<bad>` or `<bad@k>`, with k as in `make`. In `solution`
  a wrong first attempt, its critique and `<fix>` are followed by a right one
  with probability corrected, which keeps the steps before k; else by one as in
  `make`. Raises ValueError for more than four numbers.
  """
  options = Options(numbers, largest, solved, copied, corrupted, corrected)
  return roles.with_critic(
    _with_roles(_task(options), options),
    partial(diagnose, options=options), longest=1,
  )


def _with_roles(task: Task, options: Options) -> Task:
  check_size(options.numbers)
  return task._replace(tokenizer=roles.tokenizer(NAMES))


def _task(options: Options) -> Task:
  check(options)
  numbers, width = options.numbers, _width(options)
  return task_of(
    partial(problem, options=options),
    partial(right, options=options),
    partial(code, options=options),
    size=draws_of(options),
    alphabet=ALPHABET,
    eos=(STOP,),
    again=AGAIN,
    length=width + (numbers - 1) * (width + 4) + 1,
    level=lambda problems: problems.answer[:, -1],
    levels=tuple(f"{n}_products" for n in range(numbers)),
  )


def check(options: Options) -> None:
  """Raises ValueError for impossible options."""
  numbers, largest = options.numbers, options.largest
  if numbers < 2:
    raise ValueError(f"numbers={numbers} leaves nothing to do: use 2 or more")
  if not 2 <= largest <= MAX_VALUE:
    raise ValueError(f"largest={largest} is out of range: use 2 to {MAX_VALUE}")
  codes = (largest + 1) ** numbers * OPERATIONS ** (numbers - 1)
  if codes > 2**31 - 1:
    raise ValueError(
      f"numbers={numbers} of largest={largest} have {codes} expressions, more "
      "than an int32 can number: lower one of them"
    )
  check_probability("solved", options.solved)
  check_probability("corrected", options.corrected)
  check_corpus(options.copied, options.corrupted)


def _width(options: Options) -> int:
  """Digits of a number."""
  return len(str(options.largest))


def _expression(
  numbers: Int[Array, " N"], chance: Float[Array, " draws"], width: int
) -> tuple[Int[Array, " L"], Int[Array, ""], Int[Array, ""]]:
  """A random expression: its tokens, its value and its number of products.

  Each operation is one of those that leave the value from 0 to 99; there
  always is one.
  """
  count = numbers.shape[0]
  order = numbers[jnp.argsort(chance[:count])]
  value, products = order[0], jnp.int32(0)
  tokens = digits(value, width)
  for number, draws in zip(order[1:], chance[count:]):
    results = apply(value, jnp.arange(OPERATIONS), number)
    fits = (results >= 0) & (results <= MAX_VALUE)
    place = integers_below(draws, jnp.sum(fits))
    chosen = jnp.argmax(jnp.cumsum(fits) > place)
    value = results[chosen]
    products += chosen == 2
    tokens += [PLUS + chosen, *digits(number, width), EQUALS]
    tokens += digits(value, 2)
  tokens = jnp.stack([jnp.int32(t) for t in [*tokens, STOP]])
  return tokens, value, products.astype(jnp.int32)


def draws_of(options: Options) -> int:
  """The draws that a problem takes."""
  return options.numbers + 3 * (2 * options.numbers - 1) + 5


def problem(chance: Float[Array, " size"], options: Options) -> Problems:
  """One problem, without the leading axis."""
  count, width = options.numbers, _width(options)
  draws = 2 * count - 1
  number, *expressions, corpus = jnp.split(
    chance, [count + i * draws for i in range(4)]
  )
  number = 1 + integers_below(number, options.largest)
  made, target, products = _expression(number, expressions[0], width)
  others = [_expression(number, e, width)[0] for e in expressions[1:]]
  first, fresh = (
    jnp.where(corpus[i] < options.solved, made, others[i]) for i in range(2)
  )
  # The last digit of one value is replaced by another.
  step = integers_below(corpus[2], count - 1)
  place = width + (width + 4) * (step + 1) - 1
  wrong = (first[place] + 1 + integers_below(corpus[3], DIGITS - 1)) % DIGITS
  spoiled = first.at[place].set(wrong)
  shares = {"copied": options.copied, "corrupted": options.corrupted}
  second = second_attempt(corpus[4], first, fresh, spoiled, **shares)
  if options.corrected:
    second = corrected_attempt(
      corpus[4], _mended(corpus[3], number, target, first, options),
      lambda chance: second_attempt(chance, first, fresh, spoiled, **shares),
      corrected=options.corrected,
    )
  shown = [d for n in number for d in digits(n, width)]
  prompt = [*shown, REACH, *digits(target, 2), COLON]
  return Problems(
    prompt=jnp.stack([jnp.int32(t) for t in prompt]),
    answer=jnp.concatenate([jnp.sort(number), jnp.stack([target, products])]),
    solution=jnp.concatenate([first, second]),
  )


def _mended(
  chance: Float[Array, ""],
  number: Int[Array, " N"],
  target: Int[Array, ""],
  first: Int[Array, " L"],
  options: Options,
) -> Int[Array, " L"]:
  """A right attempt that begins like `first`, as far as one can."""
  width = _width(options)
  every, ends = all_attempts(number, target, width), _ends(options)
  dead = first_dead_step(every, first[:-1], ends)
  kept = jnp.array([0, 0, *ends])[dead]
  fits = every.right & begins_like(every, first[:-1], kept)
  return jnp.append(every.tokens[one_of(chance, fits)], STOP)


def one_of(chance: Float[Array, ""], fits: Bool[Array, " M"]) -> Int[Array, ""]:
  """The number of one of those that fit, each equally likely."""
  place = integers_below(chance, jnp.sum(fits))
  return jnp.argmax(jnp.cumsum(fits) > place)


def all_attempts(
  number: Int[Array, " N"], target: Int[Array, ""], width: int
) -> Attempts:
  """All attempts at a problem, in the tokens of this task."""
  return attempts_at(number, target, width=width, plus=PLUS, equals=EQUALS)


def _ends(options: Options) -> list[int]:
  return ends_of(options.numbers, _width(options))


def diagnose(
  answer: Int[Array, "B A"], walk: Int[Array, "B N"], options: Options
) -> Int[Array, "B 1"]:
  """`<ok>`, `<bad@k>` of the first dead step, or `<bad>`."""
  count, ends = options.numbers, _ends(options)

  def dead(answer, walk):
    every = all_attempts(answer[:count], answer[count], _width(options))
    return first_dead_step(every, walk[: ends[-1]], ends)

  part = PART - 1 + jax.vmap(dead)(answer, walk)
  walk = walk[:, : ends[-1] + 2]
  formed = jnp.where(_read(walk, options).fits, part, BAD)
  message = jnp.where(right(answer, walk, options), OK, formed)
  return message[:, None].astype(jnp.int32)


class Attempt(NamedTuple):
  """The parts of an attempt."""

  numbers: Int[Array, "B N"]
  operations: Int[Array, "B M"]  # 0, 1, 2
  values: Int[Array, "B M"]  # as they are written
  fits: Bool[Array, " B"]  # whether all of it has the form of an attempt


def _read(walk: Int[Array, "B L"], options: Options) -> Attempt:
  """`walk` has one place more than an attempt."""
  count, width = options.numbers, _width(options)
  step = width + 4
  starts = [0] + [width + 1 + i * step for i in range(count - 1)]
  ends = [width + (i + 1) * step - 2 for i in range(count - 1)]
  number = jnp.stack([_number(walk, s, width) for s in starts], 1)
  value = jnp.stack([_number(walk, e, 2) for e in ends], 1)
  operation = walk[:, jnp.array(starts[1:]) - 1] - PLUS
  fits = jnp.all((number >= 0) & (number <= options.largest), axis=1)
  fits &= jnp.all(value >= 0, axis=1)
  fits &= jnp.all((operation >= 0) & (operation < OPERATIONS), axis=1)
  fits &= jnp.all(walk[:, jnp.array(ends) - 1] == EQUALS, axis=1)
  fits &= (walk[:, -2] == STOP) & (walk[:, -1] < 0)
  return Attempt(number, operation, value, fits)


def _number(
  walk: Int[Array, "B L"], start: int, width: int
) -> Int[Array, " B"]:
  """The number that stands at `start`, or -1."""
  digits = walk[:, start : start + width]
  power = 10 ** jnp.arange(width)[::-1]
  known = jnp.all((digits >= 0) & (digits < DIGITS), axis=1)
  return jnp.where(known, jnp.sum(digits * power, axis=1), -1)


def code(walk: Int[Array, "B L"], options: Options) -> Int[Array, " B"]:
  """Numbers and operations as the digits of one number, or -1."""
  read = _read(walk, options)
  found = jnp.zeros_like(read.numbers[:, 0])
  for number in read.numbers.T:
    found = found * (options.largest + 1) + number
  for operation in read.operations.T:
    found = found * OPERATIONS + operation
  return jnp.where(read.fits, found, -1)


def right(
  answer: Int[Array, "B A"], walk: Int[Array, "B L"], options: Options
) -> Bool[Array, " B"]:
  """Right attempts."""
  read, count = _read(walk, options), options.numbers
  before = jnp.concatenate([read.numbers[:, :1], read.values[:, :-1]], axis=1)
  value = apply(before, read.operations, read.numbers[:, 1:])
  used = jnp.sort(read.numbers, axis=1) == answer[:, :count]
  meets = read.values[:, -1] == answer[:, count]
  true = jnp.all(value == read.values, axis=1)
  return read.fits & jnp.all(used, axis=1) & true & meets
