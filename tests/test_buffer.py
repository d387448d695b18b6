"""Rows that a method keeps, and a batch with such rows, against lists."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sitrain.curate import buffer
from sitrain.curate.policy import append_rows, token_batch
from sitrain.methods import objectives, spear
from sitrain.models.decoder import Decoder
from sitrain.tasks import maze
from sitrain.train import init_state
from sitrain.types import GIVEN, PAD, ROOT, Episodes, TokenScores, Verdict

CAPACITY, COLUMNS = 5, 6


def rows_of(first, count, columns=4):
  """Rows of a prompt token and two written ones, numbered from `first`."""
  turn = np.full((count, columns), PAD, np.int32)
  turn[:, 0], turn[:, 1:3] = GIVEN, 1
  number = np.arange(first, first + count, dtype=np.int32)
  return Episodes(
    tokens=jnp.where(turn == PAD, PAD, number[:, None]),
    turn=jnp.asarray(turn), logprob=jnp.where(turn > 0, -0.5, 0.0),
    path=jnp.zeros_like(turn), problem=jnp.arange(count, dtype=jnp.int32),
    parent=jnp.full(count, ROOT, jnp.int32),
  )


def test_the_newest_rows_stay():
  """Against a list, over rounds that keep none, few and too many rows."""
  rng = np.random.default_rng(0)
  push = jax.jit(buffer.push)
  state, kept = buffer.empty(CAPACITY, COLUMNS, 3), []
  for step, share in enumerate([0.0, 0.5, 0.0, 0.3, 1.0, 0.4]):
    reward, keep = rng.random(8), rng.random(8) < share
    rows = rows_of(10 * step, 8)
    reward[~keep] = np.nan
    state = push(
      state, rows, jnp.asarray(reward, jnp.float32), jnp.asarray(keep),
      jnp.int32(step),
    )
    new = [
      (step, 10 * step + b, reward[b]) for b in np.flatnonzero(keep)
    ]
    kept = (new + kept)[:CAPACITY]
    there = np.asarray(state.step) >= 0
    np.testing.assert_array_equal(np.arange(CAPACITY) < len(kept), there)
    assert list(state.step[there]) == [x[0] for x in kept]
    assert list(state.rows.tokens[there, 1]) == [x[1] for x in kept]
    np.testing.assert_allclose(state.reward[there], [x[2] for x in kept])
    assert np.all(np.isfinite(state.reward))
  assert state.rows.tokens.shape == (CAPACITY, COLUMNS)
  np.testing.assert_array_equal(state.rows.turn[0], [0, 1, 1, -1, -1, -1])


def test_means_of_groups_by_hand():
  state = buffer.empty(CAPACITY, COLUMNS, 5)
  remember = lambda state, reward, known: buffer.remember_means(
    state, jnp.array(reward), jnp.array(known), jnp.array([0, 0, 1, 1, 2]), 3
  )
  # One verdict is not known, and one group has no known verdict.
  state = remember(state, [1, 0, 1, jnp.nan, jnp.nan], [1.0, 1, 1, 0, 0])
  np.testing.assert_array_equal(state.history, [0.5, 1, *[np.nan] * 3])
  state = remember(state, [0.0, 0, 1, 0, 1], [1.0] * 5)
  np.testing.assert_array_equal(state.history, [0, 0.5, 1, 0.5, 1])


def test_advantages_are_recomputed():
  """Reward less the median, of rows of earlier steps that are not too old."""
  state = buffer.empty(CAPACITY, COLUMNS, 4)._replace(
    reward=jnp.array([1, 1, 0.2, 1, 1]), step=jnp.array([9, 8, 7, 5, -1]),
    history=jnp.array([0.25, jnp.nan, 0.5, 0.0]),
  )
  gain, chosen = buffer.advantages(state, jnp.int32(9), 3)
  # The first is of this step, the third below the median, the fourth too old.
  assert chosen.tolist() == [False, True, False, False, False]
  np.testing.assert_allclose(gain, [0, 0.75, 0, 0, 0])
  assert buffer.advantages(state, jnp.int32(9), 4)[1].tolist() == (
    [False, True, False, True, False]
  )
  none = buffer.empty(CAPACITY, COLUMNS, 4)
  gain, chosen = buffer.advantages(none, jnp.int32(9), 3)
  assert not np.any(chosen) and not np.any(gain)


def joined(trained=(True, False)):
  """A batch of two rows, and two wider ones behind it."""
  own = rows_of(0, 2)
  batch = token_batch(
    own, jnp.full(own.tokens.shape, 2.0), jnp.ones((2, 1), bool),
    kl_weights=(0.1,), reference_logprob=own.logprob - 1,
  )
  more = rows_of(7, 2, COLUMNS)
  return own, more, append_rows(
    batch, more, jnp.array([0.5, 3.0]), jnp.array(trained), 1
  )


def test_rows_are_appended_to_a_batch():
  own, more, batch = joined()
  assert batch.tokens.shape == (4, COLUMNS)
  np.testing.assert_array_equal(batch.tokens[:2, :4], own.tokens)
  np.testing.assert_array_equal(batch.tokens[:2, 4:], PAD)
  np.testing.assert_array_equal(batch.turn[:2, 4:], PAD)
  np.testing.assert_array_equal(batch.path, 0)
  np.testing.assert_array_equal(batch.tokens[2:], more.tokens)
  want = np.zeros((4, COLUMNS))
  want[:3, 1:3] = 1
  np.testing.assert_array_equal(batch.mask, want)
  targets = batch.targets
  np.testing.assert_array_equal(targets.advantage[2], [0, 0.5, 0.5, 0, 0, 0])
  np.testing.assert_array_equal(targets.kl_weight[2:], 0)
  np.testing.assert_array_equal(targets.old_logprob[2:], more.logprob)
  np.testing.assert_array_equal(targets.old_logprob[:2, :4], own.logprob)
  np.testing.assert_array_equal(targets.reference_logprob[:2, 1:3], -1.5)


def test_replayed_rows_are_not_in_the_sampler_gap():
  """Their gap is the policy's progress; a run must not stop for it."""
  _, _, batch = joined((True, True))
  logprob = jnp.where(jnp.arange(4)[:, None] < 2, -0.4, -30.0)
  scores = TokenScores(*[jnp.broadcast_to(logprob, batch.tokens.shape)] * 2)
  gap = objectives.policy_metrics(batch, scores, scores.logprob, 1, "none")
  gap = gap["generate/sampler_gap"]
  np.testing.assert_allclose(gap.total, 4 * 0.1, rtol=1e-5)
  assert gap.count == 4
  # What a broken sampler gives is still seen.
  broken = batch.targets.sampler_logprob.at[0, 1].set(jnp.nan)
  targets = batch.targets._replace(sampler_logprob=broken)
  gap = objectives.policy_metrics(
    batch._replace(targets=targets), scores, scores.logprob, 1, "none"
  )["generate/sampler_gap"]
  assert np.isnan(gap.total)


@pytest.fixture(scope="module")
def replay():
  """Two rounds of SPEAR: (batch, metrics) of the second at a given step."""
  task = maze.make(doors=2, rooms=2)
  model = Decoder(
    vocabulary=task.tokenizer.size, layers=1, width=8, heads=1, kv_heads=1,
    head_size=8, mlp_size=8,
  )
  method = spear.make(
    {"policy": model}, task, (), turns=(3,), problems=4, samples=2,
    capacity=6, warmup=10,
  )
  problems = jax.jit(task.problems, static_argnums=1)(jax.random.key(0), 4)
  blank = method.memory(jax.random.key(0))
  rows = rows_of(0, 8, blank.rows.tokens.shape[1])
  rows = rows._replace(problem=jnp.repeat(jnp.arange(4, dtype=jnp.int32), 2))
  verdict = Verdict(jnp.array([[1.0, 0] * 3 + [1, 1]]).T, jnp.ones((8, 1)))

  def second(first, step):
    state = init_state({}, optax.identity(), memory=blank)._replace(
      step=jnp.int32(first)
    )
    state = method.refresh(state, problems, rows, verdict)
    # In the second round all fail, and it keeps nothing.
    lost = verdict._replace(reward=verdict.reward * 0)
    state = state._replace(step=jnp.int32(step))
    state = method.refresh(state, problems, rows, lost)
    return method.curate(jax.random.key(0), state, problems, rows, lost)

  return jax.jit(second)


@pytest.mark.parametrize("step, weight", [(5, 0.5), (1, 0.0245), (6, None)])
def test_good_rows_are_replayed(replay, step, weight):
  """With 1 - cos; the median of the group means is 0.25 by then."""
  batch, metrics = replay(0, step)
  assert batch.tokens.shape[0] == 8 + 6
  count = 0 if weight is None else 3
  found = metrics["curate/replayed"]
  assert (found.total, found.count) == (count, 6)
  assert np.any(batch.mask[8:] > 0, axis=1).sum() == count
  if count:
    # Of the right row of each of the three groups that differed.
    assert sorted(batch.tokens[8:11, 1].tolist()) == [0, 2, 4]
    np.testing.assert_allclose(
      batch.targets.advantage[8:11, 1], 0.75 * weight, rtol=2e-3
    )
