"""BASH: own tokens as inputs, against a loop over places."""

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.curate.select import row_noise
from sitrain.methods import scheduled_sampling
from sitrain.models import logprobs
from sitrain.tasks import chain
from sitrain.types import GIVEN, PAD, TrainState

TASK = chain.make(operations=(2, 3), mistake=0.0)
SIZE = TASK.tokenizer.size
MODEL = fakes.bigram(SIZE)
TABLE = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)
PARAMS = fakes.tabled(TABLE)


def rows_of(count=6):
  """Ragged rows of three given tokens and up to five written ones."""
  rng = np.random.default_rng(1)
  rows = []
  for b in range(count):
    text = rng.integers(0, SIZE, 3 + b % 6).tolist()
    rows.append((text, [GIVEN] * 3 + [1] * (len(text) - 3)))
  return fakes.pack(rows)


def own_by_loop(tokens, uniform, temperature):
  """Place by place: the policy reads what stands before and writes one."""
  found = np.array(tokens)
  for b, t in np.argwhere(tokens != PAD):
    if t:
      logits = TABLE[tokens[b, t - 1]].astype(float)
      p = np.exp(logits / (temperature or 1.0))
      above = np.cumsum(p) > uniform[b, t] * p.sum()
      found[b, t] = np.argmax(above) if temperature else np.argmax(logits)
  return found


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_own_tokens_against_a_loop(temperature):
  rows = rows_of()
  uniform = np.random.default_rng(2).random(rows.tokens.shape)
  uniform = uniform.astype(np.float32)
  found = np.asarray(jax.jit(lambda rows, uniform: logprobs.self_tokens(
    MODEL, PARAMS, rows, uniform, temperature=temperature
  ))(rows, jnp.asarray(uniform)))
  want = own_by_loop(np.asarray(rows.tokens), uniform, temperature)
  inside = np.asarray(rows.turn) != PAD
  np.testing.assert_array_equal(found[inside], want[inside])
  assert np.any(found[inside] != np.asarray(rows.tokens)[inside])


@pytest.mark.parametrize("rate, warmup", [(0.0, 0), (0.4, 0), (1.0, 4)])
def test_a_share_of_inputs_is_the_policys_own(rate, warmup):
  """Targets, prompts and other inputs stay; the share grows from 0 on."""
  method = scheduled_sampling.make(
    {"policy": MODEL}, TASK, None, problems=16, turns=(4,), rate=rate,
    warmup=warmup,
  )
  state = TrainState(
    jnp.asarray(1), {"first": 0}, {"policy": PARAMS}, (), {}, ()
  )
  key = jax.random.key(3)
  problems = method.pose(jax.random.key(4), state)
  rows = method.generate(jax.random.split(key, 16), state, problems)
  verdict, _ = method.judge(key, state, problems, rows)
  batch, metrics = method.curate(key, state, problems, rows, verdict)
  noise, uniform = (
    np.asarray(row_noise(k, rows.tokens)) for k in jax.random.split(key)
  )
  tokens, mask = np.asarray(rows.tokens), np.asarray(batch.mask) > 0
  now = rate * min(2 / max(warmup, 1), 1.0)
  own = own_by_loop(tokens, uniform, 1.0)
  want = np.where(mask & (noise < now), own, tokens)
  np.testing.assert_array_equal(batch.inputs, want)
  np.testing.assert_array_equal(batch.tokens, tokens)
  assert np.any(want != tokens) == (rate > 0)
  changed = metrics["curate/changed"]
  assert changed.total / changed.count == (want != tokens)[mask].mean()


def test_what_is_no_share_is_refused():
  for options in ({"rate": 1.5}, {"temperature": -1.0}):
    with pytest.raises(ValueError, match="set it (from 0 to 1|to 0 or more)"):
      scheduled_sampling.make(
        fakes.SILENT, TASK, None, problems=1, turns=(4,), **options
      )
