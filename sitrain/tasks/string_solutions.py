"""All solutions of the constraints of `strings`: their number, and samples."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sitrain.types import PAD

LETTERS, KINDS = "aeiobcdfgh", "#%+^$-"
VOWELS = 4  # the first letters, whose ids are their places
LONGEST = 7  # counts of solutions are exact in float32 up to here


class Rule(NamedTuple):
  """The constraints of one problem; PAD: there is none of the kind."""

  length: Int[Array, ""]
  vowels: Int[Array, ""]
  pair: Int[Array, " 2"]
  first: Int[Array, ""]
  last: Int[Array, ""]
  without: Int[Array, ""]


def rule_of(answer: Int[Array, " A"]) -> Rule:
  """The constraints of one problem."""
  order, arguments = answer[1:-7], answer[-7:]
  given = jnp.any(order[:, None] == jnp.arange(len(KINDS)), axis=0)
  of = lambda kind, value: jnp.where(given[kind], value, PAD)
  return Rule(
    of(0, arguments[0]), of(1, arguments[1]), of(2, arguments[2:4]),
    of(3, arguments[4]), of(4, arguments[5]), of(5, arguments[6]),
  )


def ways(rule: Rule, longest: int) -> Float[Array, "R V 3"]:
  """How many strings of r letters complete one, exact up to 2 ** 24.

  v: its vowels so far. The last axis: whether its last letter begins the pair
  (1), it has the pair (2), or neither (0). The first letter is not looked at.
  """
  vowels = jnp.arange(longest + 1)
  fits = (rule.vowels == PAD) | (vowels == rule.vowels)
  found = (rule.pair[0] == PAD) | (jnp.arange(3) == 2)
  none_left = (fits[:, None] & found).astype(jnp.float32)
  every = partial(jax.vmap, in_axes=(None, None, None, None, 0))

  def one_more(table, left):
    at = jax.vmap(every(_after), in_axes=(None, None, None, 0, None))
    table = jnp.sum(at(rule, table, left, vowels, jnp.arange(3)), axis=2)
    return table, table

  _, others = jax.lax.scan(one_more, none_left, jnp.arange(1, longest + 1))
  return jnp.concatenate([none_left[None], others])


def _after(rule: Rule, table, left, vowels, pair) -> Float[Array, " letters"]:
  """The completions that begin with each letter; `left` counts it."""
  letter = jnp.arange(len(LETTERS))
  usable = letter != rule.without
  usable &= (rule.last == PAD) | (left > 1) | (letter == rule.last)
  return jnp.where(
    usable, table[_add(table, vowels, letter), _pair(rule, pair, letter)], 0.0
  )


def _add(table, vowels, letter):
  return jnp.minimum(vowels + (letter < VOWELS), table.shape[0] - 1)


def _pair(rule: Rule, pair, letter):
  """What is found of the pair after one more letter."""
  begun = jnp.where(letter == rule.pair[0], 1, 0)
  done = (pair == 2) | ((pair == 1) & (letter == rule.pair[1]))
  return jnp.where(done, 2, begun)


def _first_letters(rule: Rule, tables) -> Float[Array, "longest letters"]:
  """The solutions of every length that begin with each letter."""
  letter, zero = jnp.arange(len(LETTERS)), jnp.int32(0)
  sizes = jnp.arange(1, len(tables))
  starts = jax.vmap(lambda n: _after(rule, tables[n - 1], n, zero, zero))(sizes)
  fits = (rule.first == PAD) | (letter == rule.first)
  fits = fits & ((rule.length == PAD) | (sizes == rule.length))[:, None]
  return jnp.where(fits, starts, 0.0)


def solutions(
  answer: Int[Array, "P A"], longest: int
) -> Float[Array, " P"]:
  """How many strings of at most `longest` letters solve each problem."""
  def count(one):
    rule = rule_of(one)
    return jnp.sum(_first_letters(rule, ways(rule, longest)))

  return jax.vmap(count)(answer)


def sample(
  rule: Rule, tables: Float[Array, "R V 3"], chance: Float[Array, " R"]
) -> Int[Array, " longest"]:
  """One of all solutions, each with the same probability; PAD behind it.

  `tables` are those of `ways`; `chance` is uniform in [0, 1).
  """
  starts = _first_letters(rule, tables)
  size = 1 + _choose(jnp.sum(starts, axis=1), chance[0])

  def one_more(found, given):
    k, draw = given
    left = size - k
    after = _after(rule, tables[jnp.maximum(left - 1, 0)], left, *found)
    letter = _choose(jnp.where(k == 0, starts[size - 1], after), draw)
    vowels, pair = found
    found = _add(tables[0], vowels, letter), _pair(rule, pair, letter)
    return found, jnp.where(left > 0, letter, PAD)

  given = (jnp.arange(len(tables) - 1), chance[1:])
  zero = jnp.int32(0)
  return jax.lax.scan(one_more, (zero, zero), given)[1]


def _choose(weights, chance):
  """A place, with a probability in proportion to its weight."""
  upto = jnp.cumsum(weights)
  return jnp.argmax(upto > chance * upto[-1]).astype(jnp.int32)
