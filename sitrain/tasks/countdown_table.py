"""All attempts at a problem of Countdown, and where an attempt goes wrong.

The solver: every order of the numbers with every choice of operations, 54 of
three numbers and 648 of four, as tokens.
"""

import itertools
from functools import cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

MOST = 4  # numbers; five have 9720 attempts
OPERATIONS = 3  # sum, difference, product
MAX_VALUE = 99  # of every intermediate value


class Attempts(NamedTuple):
  """All M attempts at one problem, some of them equal."""

  tokens: Int[Array, "M L"]  # without the end
  valid: Bool[Array, " M"]  # all values are from 0 to 99
  right: Bool[Array, " M"]  # and the last is the target


def check_size(numbers: int) -> None:
  """Raises ValueError for more numbers than there are attempts to try."""
  if numbers > MOST:
    raise ValueError(
      f"numbers={numbers} have too many attempts to try all: use 2 to {MOST}"
    )


def ends_of(numbers: int, width: int) -> list[int]:
  """The column behind each step; the first one has two numbers."""
  return [width + (width + 4) * k for k in range(1, numbers)]


def apply(
  value: Int[Array, "..."],
  operation: Int[Array, "..."],
  number: Int[Array, "..."],
) -> Int[Array, "..."]:
  """Results; `operation` counts from sum over difference to product."""
  by_sum = jnp.where(operation == 0, value + number, value - number)
  return jnp.where(operation == 2, value * number, by_sum)


def digits(value: Int[Array, "..."], width: int) -> list[Int[Array, "..."]]:
  """The digits of numbers, the first one first."""
  return [value // 10**i % 10 for i in reversed(range(width))]


@cache
def _forms(numbers: int):
  """Orders [M N] and operations [M N-1] of all attempts."""
  pairs = list(itertools.product(
    itertools.permutations(range(numbers)),
    itertools.product(range(OPERATIONS), repeat=numbers - 1),
  ))
  return tuple(np.array(list(x), np.int32) for x in zip(*pairs))


def attempts_at(
  numbers: Int[Array, " N"],
  target: Int[Array, ""],
  *,
  width: int,
  plus: int,
  equals: int,
) -> Attempts:
  """All attempts at a problem; `plus` and `equals` are ids of tokens.

  The ids of the three operations follow each other, those of digits are their
  values, and numbers have `width` digits.
  """
  orders, operations = map(jnp.asarray, _forms(numbers.shape[0]))
  order = numbers[orders]
  value, valid = order[:, 0], jnp.ones(len(orders), bool)
  tokens = digits(value, width)
  for number, operation in zip(order.T[1:], operations.T):
    value = apply(value, operation, number)
    valid &= (value >= 0) & (value <= MAX_VALUE)
    tokens += [plus + operation, *digits(number, width)]
    tokens += [jnp.full(value.shape, equals), *digits(value, 2)]
  tokens = jnp.stack([jnp.asarray(t, jnp.int32) for t in tokens], axis=1)
  return Attempts(tokens, valid, valid & (value == target))


def begins_like(
  every: Attempts, walk: Int[Array, " L"], columns: Int[Array, ""] | int
) -> Bool[Array, " M"]:
  """Attempts whose first `columns` tokens are those of `walk`."""
  outside = jnp.arange(every.tokens.shape[1]) >= columns
  return jnp.all((every.tokens == walk) | outside, axis=1)


def first_dead_step(
  every: Attempts, walk: Int[Array, " L"], ends: list[int]
) -> Int[Array, ""]:
  """The first step, from 1, after which no right attempt goes on as `walk`.

  Its value is wrong, its number is not there, or the target has come out of
  reach. As many as there are steps, and one more, for a right attempt.
  """
  alive = [jnp.any(begins_like(every, walk, end) & every.right) for end in ends]
  return 1 + jnp.sum(jnp.stack(alive)).astype(jnp.int32)
