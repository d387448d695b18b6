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

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.tasks.draw import (
  check_corpus,
  check_probability,
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
OPERATIONS = 3  # sum, difference, product
MAX_VALUE = 99  # of every intermediate value


class Options(NamedTuple):
  """The options of `make`."""

  numbers: int
  largest: int
  solved: float
  copied: float
  corrupted: float


def make(
  *,
  numbers: int = 3,
  largest: int = 9,
  solved: float = 0.3,
  copied: float = 0.10,
  corrupted: float = 0.15,
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
  is -1. Raises ValueError for impossible options.
  """
  options = Options(numbers, largest, solved, copied, corrupted)
  _check(options)
  width = _width(options)
  return task_of(
    partial(_problem, options=options),
    partial(_right, options=options),
    partial(_code, options=options),
    size=numbers + 3 * (2 * numbers - 1) + 5,
    alphabet=ALPHABET,
    eos=(STOP,),
    again=AGAIN,
    length=width + (numbers - 1) * (width + 4) + 1,
    level=lambda problems: problems.answer[:, -1],
    levels=tuple(f"{n}_products" for n in range(numbers)),
  )


def _check(options: Options) -> None:
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
  check_corpus(options.copied, options.corrupted)


def _width(options: Options) -> int:
  """Digits of a number."""
  return len(str(options.largest))


def _digits(value: Int[Array, ""], width: int) -> list[Int[Array, ""]]:
  return [value // 10**i % 10 for i in reversed(range(width))]


def _apply(
  value: Int[Array, "..."],
  operation: Int[Array, "..."],
  number: Int[Array, "..."],
) -> Int[Array, "..."]:
  """Results; `operation` counts from sum over difference to product."""
  by_sum = jnp.where(operation == 0, value + number, value - number)
  return jnp.where(operation == 2, value * number, by_sum)


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
  tokens = _digits(value, width)
  for number, draws in zip(order[1:], chance[count:]):
    results = _apply(value, jnp.arange(OPERATIONS), number)
    fits = (results >= 0) & (results <= MAX_VALUE)
    place = integers_below(draws, jnp.sum(fits))
    chosen = jnp.argmax(jnp.cumsum(fits) > place)
    value = results[chosen]
    products += chosen == 2
    tokens += [PLUS + chosen, *_digits(number, width), EQUALS]
    tokens += _digits(value, 2)
  tokens = jnp.stack([jnp.int32(t) for t in [*tokens, STOP]])
  return tokens, value, products.astype(jnp.int32)


def _problem(chance: Float[Array, " size"], options: Options) -> Problems:
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
  shown = [d for n in number for d in _digits(n, width)]
  prompt = [*shown, REACH, *_digits(target, 2), COLON]
  return Problems(
    prompt=jnp.stack([jnp.int32(t) for t in prompt]),
    answer=jnp.concatenate([jnp.sort(number), jnp.stack([target, products])]),
    solution=jnp.concatenate([first, second]),
  )


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


def _code(walk: Int[Array, "B L"], options: Options) -> Int[Array, " B"]:
  """Numbers and operations as the digits of one number, or -1."""
  read = _read(walk, options)
  code = jnp.zeros_like(read.numbers[:, 0])
  for number in read.numbers.T:
    code = code * (options.largest + 1) + number
  for operation in read.operations.T:
    code = code * OPERATIONS + operation
  return jnp.where(read.fits, code, -1)


def _right(
  answer: Int[Array, "B A"], walk: Int[Array, "B L"], options: Options
) -> Bool[Array, " B"]:
  """Right attempts."""
  read, count = _read(walk, options), options.numbers
  before = jnp.concatenate([read.numbers[:, :1], read.values[:, :-1]], axis=1)
  value = _apply(before, read.operations, read.numbers[:, 1:])
  used = jnp.sort(read.numbers, axis=1) == answer[:, :count]
  meets = read.values[:, -1] == answer[:, count]
  right = jnp.all(used, axis=1) & jnp.all(value == read.values, axis=1)
  return read.fits & right & meets
