"""Prompts are cut to a length that holds them, and rows stay as they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.rollout import contexts
from sitrain.rollout.lengths import cut_prompts
from sitrain.types import PAD, Problems

SLOTS, WRITTEN = 10, 3


def generate(keys, state, problems):
  """Two kinds of rows; `logprob` tells how many slots prompts had."""
  rows = contexts.begin(problems, 2)
  answer = jnp.full((rows.tokens.shape[0], WRITTEN), 7, jnp.int32)
  rows = contexts.append(rows, answer, 1)
  slots = jnp.full_like(rows.logprob, problems.prompt.shape[1])
  rows = rows._replace(logprob=slots * state)
  return {"solve": rows, "judge": contexts.widen(rows, SLOTS + 20)}


def posed(*lengths):
  prompt = np.full((len(lengths), SLOTS), PAD, np.int32)
  for row, length in zip(prompt, lengths):
    row[SLOTS - length :] = np.arange(1, length + 1)
  nothing = jnp.full((len(lengths), 1), PAD, jnp.int32)
  return Problems(jnp.asarray(prompt), nothing, nothing)


def test_prompts_are_cut_to_the_least_length_that_holds_them():
  cut = jax.jit(cut_prompts(generate, 4))
  keys = jax.random.split(jax.random.key(0))
  # Of lengths 3, 5, 8 and 10.
  for longest, slots in ((1, 3), (3, 3), (4, 5), (5, 5), (6, 8), (9, 10)):
    problems = posed(1, longest)
    got = cut(keys, jnp.float32(1), problems)
    want = generate(keys, jnp.float32(1), problems)
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, want)
    assert got["solve"].logprob[0, 0] == slots
    blank = lambda rows: {
      n: kind._replace(logprob=kind.logprob * 0) for n, kind in rows.items()
    }
    jax.tree.map(np.testing.assert_array_equal, blank(got), blank(want))
  assert cut._cache_size() == 1, "a length is compiled anew"


def test_one_bucket_cuts_nothing_and_less_is_refused():
  assert cut_prompts(generate, 1) is generate
  with pytest.raises(ValueError, match="buckets=0"):
    cut_prompts(generate, 0)
