"""Strings that end a turn, found while its tokens are drawn.

A string may be cut into tokens in many ways. So an automaton follows the text:
its state is how many characters of the string the text ends with, and a table
has the state after each token. Tokens with the same effect share a column.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from sitrain.types import GIVEN, PAD, Episodes


class Stops(NamedTuple):
  """The automata of N strings over a vocabulary; see `make`."""

  column: Int[np.ndarray, " V"]  # of a token
  after: Int[np.ndarray, "N S C"]  # the state after it
  length: Int[np.ndarray, " N"]  # the state in which a string is complete


NONE = Stops(
  np.zeros(1, np.int32), np.zeros((0, 1, 1), np.int32), np.zeros(0, np.int32)
)


def make(strings: Sequence[str], tokens: Sequence[str]) -> Stops:
  """The automata of `strings`; `tokens` has the text of each token.

  Raises ValueError for an empty string.
  """
  if "" in strings:
    raise ValueError("a string that ends turns is empty: leave it out")
  states = max(map(len, strings))
  known: dict[tuple[int, ...], int] = {}
  column = [
    known.setdefault(
      tuple(_after(s, n, text) for s in strings for n in range(states)),
      len(known),
    ) for text in tokens
  ]
  after = np.array(list(known), np.int32).T
  return Stops(
    np.array(column, np.int32),
    after.reshape(len(strings), states, len(known)),
    np.array([len(s) for s in strings], np.int32),
  )


def _after(string: str, state: int, text: str) -> int:
  """The state after `text`; len(string) where it completes the string."""
  whole = string[: min(state, len(string) - 1)] + text
  if string in whole:
    return len(string)
  lengths = range(len(string) - 1, 0, -1)
  return next((n for n in lengths if whole.endswith(string[:n])), 0)


def begin(stops: Stops, rows: int) -> Int[Array, "B N"]:
  """The states of rows before a turn."""
  return jnp.zeros((rows, len(stops.length)), jnp.int32)


def follow(
  stops: Stops, state: Int[Array, "B N"], token: Int[Array, " B"]
) -> tuple[Int[Array, "B N"], Bool[Array, " B"]]:
  """(the states after a token, whether a string is complete)."""
  strings = np.arange(len(stops.length))
  column = jnp.asarray(stops.column)[token][:, None]
  state = jnp.asarray(stops.after)[strings, state, column]
  return state, jnp.any(state == stops.length, axis=1)


def ended(
  stops: Stops, tokens: Int[Array, "B T"], turn: Int[Array, "B T"], turns: int
) -> Bool[Array, "B K"]:
  """Whether a string was completed in each turn."""

  def step(carry, column):
    state, before = carry
    token, now = column
    state = jnp.where((now == before)[:, None], state, 0)
    state, found = follow(stops, state, jnp.maximum(token, 0))
    return (state, now), found

  first = begin(stops, len(tokens)), jnp.zeros_like(turn[:, 0])
  _, found = jax.lax.scan(step, first, (tokens.T, turn.T))
  inside = turn[:, None] == jnp.arange(1, turns + 1)[:, None]
  return jnp.any(inside & found.T[:, None], axis=2)


def as_ended(
  stops: Stops, episodes: Episodes, turns: int, eos: tuple[int, ...]
) -> Episodes:
  """NumPy rows in which turns that a string ended have an end token, too.

  For verifiers, to which a turn without one was cut. It is the one that a chat
  gives before the reply, or a new one, for which rows get wider.
  """
  tokens, turn = (np.asarray(x) for x in (episodes.tokens, episodes.turn))
  on_device = jnp.asarray(tokens), jnp.asarray(turn)
  found = np.asarray(ended(stops, *on_device, turns))
  more = ((0, 0), (0, turns))
  fills = {"tokens": PAD, "turn": PAD, "logprob": 0, "path": 0}
  wide = {
    name: np.pad(np.asarray(getattr(episodes, name)), more, constant_values=x)
    for name, x in fills.items()
  }
  tokens, turn = wide["tokens"], wide["turn"]
  for b, k in np.argwhere(found):
    last = np.flatnonzero(turn[b] == k + 1)[-1]
    if tokens[b, last] in eos:
      continue
    if turn[b, last + 1] != GIVEN or tokens[b, last + 1] not in eos:
      for x in wide.values():
        x[b, last + 1 :] = x[b, last:-1].copy()
      tokens[b, last + 1] = eos[0]
      wide["logprob"][b, last + 1] = 0
    turn[b, last + 1] = k + 1
  return episodes._replace(**wide)
