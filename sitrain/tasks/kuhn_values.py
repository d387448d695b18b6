"""Exact values of Kuhn poker: of strategies, best responses, equilibria.

A strategy is a table [4 3] of the probabilities to bet, by what was played
before (`HISTORIES`) and the own card. The first seat moves after "" and "pb",
the second after "p" and "b"; the other two rows are not read.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

CARDS = "JQK"
HISTORIES = ("", "p", "b", "pb")
SEAT_OF = np.array([0, 1, 1, 0])  # that moves after each history
DEALS = np.array(list(itertools.permutations(range(len(CARDS)), 2)))
Strategy = Float[Array, "4 3"]


def value(first: Strategy, second: Strategy) -> Float[Array, ""]:
  """Chips that the first seat wins in a hand on average, over all deals."""
  one, two = DEALS.T
  sign = jnp.where(one > two, 1.0, -1.0)
  mix = lambda chance, bet, other: chance * bet + (1 - chance) * other
  called = mix(first[3, one], 2 * sign, -1.0)
  after_pass = mix(second[1, two], called, sign)
  after_bet = mix(second[2, two], 2 * sign, 1.0)
  return jnp.mean(mix(first[0, one], after_bet, after_pass))


def pure_strategies(seat: int) -> Float[np.ndarray, "64 4 3"]:
  """All that a seat can do without chance; 0 where it does not move."""
  found = np.zeros((64, len(HISTORIES), len(CARDS)), np.float32)
  moves = list(itertools.product((0, 1), repeat=6))
  found[:, SEAT_OF == seat] = np.reshape(moves, (64, 2, len(CARDS)))
  return found


def best_responses(strategy: Strategy) -> Float[Array, " 2"]:
  """Chips that the best opponent in each seat wins from the strategy."""
  first, second = (jnp.asarray(pure_strategies(seat)) for seat in range(2))
  as_first = jax.vmap(value, (0, None))(first, strategy)
  as_second = -jax.vmap(value, (None, 0))(strategy, second)
  return jnp.stack([jnp.max(as_first), jnp.max(as_second)])


def exploitability(strategy: Strategy) -> Float[Array, ""]:
  """Chips a hand that the best opponent wins, over both seats; 0: equilibrium.

  The strategy's own value is -1/18 in the first seat and 1/18 in the second at
  equilibrium, which cancels.
  """
  return jnp.mean(best_responses(strategy))


def equilibrium(alpha: float = 1 / 3) -> Float[np.ndarray, "4 3"]:
  """The equilibrium in which the first seat bets a jack with `alpha`.

  Source: Kuhn 1950, a simplified two-person poker. Raises ValueError unless
  alpha is from 0 to 1/3.
  """
  if not 0 <= alpha <= 1 / 3:
    raise ValueError(f"alpha={alpha} is no equilibrium: use 0 to 1/3")
  return np.array([
    [alpha, 0, 3 * alpha], [1 / 3, 0, 1], [0, 1 / 3, 1], [0, alpha + 1 / 3, 1],
  ], np.float32)
