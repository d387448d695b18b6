"""Strings that end turns, whatever their tokens are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.rollout import stops

TOKENS = (
  "<", "/", "</", "c", "co", "code", "ode", "de", "e", ">", "e>", "ode>\n",
  "x", "<</code>", "", "</c", "\ufffd", "aab", "a", "b", "ba",
)


def found_at(strings, texts):
  """The first token behind which the text so far has one of the strings."""
  written = ""
  for i, text in enumerate(texts):
    written += text
    if any(one in written for one in strings):
      return i
  return len(texts)


@pytest.mark.parametrize("strings", [
  ("</code>",), ("aaba", "</co"), ("x",), ("aa", "e>"),
])
def test_a_string_is_found_at_its_last_token(strings):
  ends = stops.make(strings, TOKENS)
  assert ends.after.shape[2] < len(TOKENS)  # Columns are shared.
  rng = np.random.default_rng(0)
  drawn = rng.integers(0, len(TOKENS), (200, 24))
  # Half of the rows are made of the string's own letters.
  own = [i for i, t in enumerate(TOKENS) if t and t in "".join(strings)]
  drawn[::2] = rng.choice(own, (100, 24))

  def step(state, token):
    return stops.follow(ends, state, token)

  _, found = jax.lax.scan(step, stops.begin(ends, len(drawn)), drawn.T)
  found = np.concatenate([np.asarray(found), np.ones((1, len(drawn)), bool)])
  want = [found_at(strings, [TOKENS[i] for i in row]) for row in drawn]
  np.testing.assert_array_equal(np.argmax(found, axis=0), want)
  assert 20 < sum(n < 24 for n in want)


def test_turns_that_a_string_ended():
  """The second turn begins anew: what stands before it is not its text."""
  ends = stops.make(["ab", "x"], TOKENS)
  at = TOKENS.index
  a, b, x, e = at("a"), at("b"), at("x"), at("e")
  tokens = jnp.array([[a, a, b, e, e], [e, a, b, a, x], [a, b, b, -1, -1]])
  turn = jnp.array([[1, 1, 1, 0, 2], [1, 1, 2, 2, 2], [0, 1, 1, -1, -1]])
  found = stops.ended(ends, tokens, turn, 2)
  assert found.tolist() == [[True, False], [False, True], [False, False]]


def test_without_strings_nothing_ends_and_an_empty_one_is_refused():
  state, found = stops.follow(
    stops.NONE, stops.begin(stops.NONE, 3), jnp.array([0, 7, 2])
  )
  assert state.shape == (3, 0) and not found.any()
  with pytest.raises(ValueError, match="is empty: leave it out"):
    stops.make(["a", ""], TOKENS)
