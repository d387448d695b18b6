"""Advantages, choices and masks against loops in Python."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.curate import advantage
from sitrain.curate.advantage import (
  leave_one_out,
  progress_bonus,
  returns,
  to_tokens,
)
from sitrain.curate.pairs import partners
from sitrain.curate.policy_batch import baselined, own_turns, policy_batch
from sitrain.curate.select import at_most, imitation_batch, written
from sitrain.types import GIVEN, OFFLINE, PAD, ROOT

PROBLEMS, SAMPLES = 6, 4
ROWS = PROBLEMS * SAMPLES


def slow_leave_one_out(value, group, known):
  out = np.zeros(len(value))
  for i in range(len(value)):
    others = [
      value[j] for j in range(len(value))
      if j != i and group[j] == group[i] and known[j]
    ]
    if known[i] and others:
      out[i] = value[i] - sum(others) / len(others)
  return out


def leave(value, group, known):
  return jax.jit(leave_one_out)(
    jnp.asarray(value, jnp.float32), jnp.asarray(group, jnp.int32),
    jnp.asarray(known, jnp.float32),
  )


def test_leave_one_out_against_a_loop():
  rng = np.random.default_rng(0)
  for trial in range(5):
    value = rng.normal(size=ROWS)
    # Any ids below the number of rows, in any order; some groups of one.
    group = rng.integers(0, 9, ROWS) if trial else rng.permutation(ROWS)
    known = rng.random(ROWS) < 0.7
    found = leave(value, group, known)
    want = slow_leave_one_out(value, group, known)
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert np.all(np.asarray(found)[~known] == 0)
    if not trial:
      assert np.all(np.asarray(found) == 0), "nobody to compare with"
    else:
      assert np.count_nonzero(want) > 5


def test_a_row_of_unknown_reward_touches_no_other():
  group = np.arange(ROWS) // SAMPLES
  known = np.ones(ROWS)
  known[5] = 0
  value = np.arange(ROWS) % 3 * 1.0
  want = leave(value, group, known)
  for strange in (1e6, np.inf, np.nan):
    value[5] = strange
    np.testing.assert_array_equal(leave(value, group, known), want)


def test_the_layout_of_rows_does_not_matter():
  rng = np.random.default_rng(1)
  value = rng.normal(size=(PROBLEMS, SAMPLES))
  group = np.broadcast_to(np.arange(PROBLEMS)[:, None], value.shape)
  known = (rng.random(value.shape) < 0.8) * 1.0
  by_problem = leave(value.ravel(), group.ravel(), known.ravel())
  by_sample = leave(value.T.ravel(), group.T.ravel(), known.T.ravel())
  np.testing.assert_allclose(
    by_problem.reshape(PROBLEMS, SAMPLES),
    by_sample.reshape(SAMPLES, PROBLEMS).T, atol=1e-6,
  )


def test_advantages_of_a_group_add_up_to_nothing():
  reward = jnp.array([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0])
  group = np.arange(8) // 4
  found = np.asarray(leave(reward, group, np.ones(8)))
  np.testing.assert_allclose(
    found, [1, -1 / 3, -1 / 3, -1 / 3, 1 / 3, 1 / 3, 1 / 3, -1], atol=1e-6
  )


def test_progress_bonus_table():
  reward = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
  shaped = reward + progress_bonus(reward, 10.0)
  assert shaped[:, 1].tolist() == [0.0, 11.0, -10.0, 1.0]
  assert shaped[:, 0].tolist() == [0.0, 0.0, 1.0, 1.0]
  # Later turns are compared with the one before, not with the first.
  long = progress_bonus(jnp.array([[0.0, 1.0, 1.0, 0.0]]), 2.0)
  assert long.tolist() == [[0.0, 2.0, 0.0, -2.0]]


def test_returns_are_discounted_sums():
  rng = np.random.default_rng(5)
  value = rng.normal(size=(4, 3)).astype(np.float32)
  for discount in (0.0, 0.5, 1.0):
    want = np.zeros_like(value)
    for k in range(3):
      for j in range(k, 3):
        want[:, k] += discount ** (j - k) * value[:, j]
    found = returns(jnp.asarray(value), discount)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


def test_with_a_discount_the_bonus_pays_for_a_wrong_first_attempt():
  # (r1, r2): of two that end right, the one that began wrong returns more.
  reward = jnp.array([[0.0, 1.0], [1.0, 1.0]])
  value = returns(reward + progress_bonus(reward, 10.0), 1.0)
  assert value[:, 0].tolist() == [11.0, 2.0]
  unknown = returns(jnp.array([[1.0, jnp.nan]]), 0.0)
  assert unknown[0, 0] == 1.0  # what failed on turn 2 is no part of turn 1


def test_the_example_of_a_kept_right_answer_that_is_punished():
  # Shaped values 1, 11, 0, 0: the row that stayed right gets 1 - 11 / 3.
  reward = jnp.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
  value = reward + progress_bonus(reward, 10.0)
  group = jnp.zeros((4, 2), jnp.int32)
  found = baselined(value, group, jnp.ones((4, 2), bool))
  np.testing.assert_allclose(found[0, 1], 1 - 11 / 3, rtol=1e-6)
  weighted = baselined(reward * jnp.array([1.0, 11.0]), group, found == found)
  np.testing.assert_allclose(weighted[0, 1], 11 - 11 / 3, rtol=1e-6)


def test_to_tokens_reads_the_marks():
  turn = jnp.array([[0, 1, 1, 0, 2, -1], [0, 2, 0, 1, 3, 1]])
  value = jnp.array([[5.0, 7.0], [-1.0, 4.0]])
  want = [[0, 5, 5, 0, 7, 0], [0, 4, 0, -1, 0, -1]]
  assert to_tokens(value, turn).tolist() == want


@pytest.mark.parametrize("name", advantage.BASELINES)
def test_groups_of_every_baseline(name):
  rng = np.random.default_rng(2)
  problem = rng.permutation(np.repeat(np.arange(PROBLEMS), SAMPLES))
  reward = rng.integers(0, 2, (ROWS, 3)).astype(np.float32)
  group = np.asarray(
    advantage.BASELINES[name](jnp.asarray(problem), jnp.asarray(reward))
  )
  assert group.shape == (ROWS, 3)
  assert group.min() >= 0 and group.max() < ROWS
  for k in range(3):
    for i in range(ROWS):
      for j in range(ROWS):
        same = problem[i] == problem[j]
        stood = k == 0 or reward[i, k - 1] == reward[j, k - 1]
        if name == "same_outcome":
          same = same and stood
        if name == "batch_outcome" and k:
          same = stood
        assert (group[i, k] == group[j, k]) == same


def test_at_most_keeps_the_limit_and_chooses_fairly():
  group = jnp.asarray(np.array([2, 0, 2, 2, 5, 0, 2, 2, 0, 5]))
  keep = jnp.asarray(np.array([1, 1, 1, 0, 0, 1, 1, 1, 1, 1], bool))
  limit, draws = 2, 2000
  choose = jax.jit(
    jax.vmap(lambda key: at_most(key, keep, group, limit))
  )
  found = np.asarray(choose(jax.random.split(jax.random.key(0), draws)))
  assert not np.any(found[:, ~np.asarray(keep)])
  for g in range(6):
    inside = np.asarray(keep) & (np.asarray(group) == g)
    size = inside.sum()
    assert np.all(found[:, inside].sum(axis=1) == min(size, limit))
    if size > limit:
      share = found[:, inside].mean(axis=0)
      want = limit / size
      error = 5 * np.sqrt(want * (1 - want) / draws)
      assert np.all(np.abs(share - want) < error)
  key = jax.random.key(1)
  assert not np.any(at_most(key, keep, group, 0))
  np.testing.assert_array_equal(at_most(key, keep, group, 9), keep)


def test_partners_are_fair_and_eligible():
  group = np.array([0, 1, 0, 0, 1, 2, 0, 2])
  wanted = np.array([1, 1, 1, 0, 0, 1, 1, 0], bool)
  draws = 3000
  choose = jax.jit(
    jax.vmap(lambda key: partners(key, jnp.asarray(wanted), jnp.asarray(group)))
  )
  choice, found = map(
    np.asarray, choose(jax.random.split(jax.random.key(0), draws))
  )
  for row in range(8):
    eligible = [
      j for j in range(8) if j != row and group[j] == group[row] and wanted[j]
    ]
    assert np.all(found[:, row] == bool(eligible))
    if eligible:
      count = np.bincount(choice[:, row], minlength=8)
      assert count.sum() == count[eligible].sum() == draws
      want = draws / len(eligible)
      error = 5 * np.sqrt(draws * (1 / len(eligible)))
      assert np.all(np.abs(count[eligible] - want) < error)
  assert not found[0, 5] and found[0, 7], "row 5 has no partner but itself"


ASKED = [
  ([4, 5, 6], [[1, 2, 3], [7, 3]], [[9, 9]]),
  ([8], [[3], [2, 2, 2]], [[9]]),
  ([4, 1], [[2, 3]], []),
]


@pytest.fixture(scope="module")
def rows():
  """Three rows, the second of which took its first attempt from elsewhere."""
  episodes = fakes.pack([fakes.transcribe(*row) for row in ASKED], length=12)
  logprob = jnp.where(episodes.turn >= 1, -0.5, 0.0)
  parent = jnp.array([ROOT, OFFLINE, ROOT])
  return episodes._replace(logprob=logprob, parent=parent)


def test_policy_batch_masks_what_the_policy_wrote(rows):
  known = jnp.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
  trained = own_turns(rows, known)
  assert trained.tolist() == [[True, True], [False, True], [True, False]]
  advantage = jnp.array([[2.0, -3.0], [5.0, 7.0], [11.0, 0.0]])
  batch = policy_batch(
    rows, advantage, (0.1, 0.2), trained, jnp.zeros(rows.tokens.shape)
  )
  want = [
    [0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0],
    [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0],
    [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
  ]
  assert batch.mask.tolist() == want
  # The end token of each trained turn is the last one of its mask.
  assert batch.tokens[0, 5] == 3 and batch.mask[0, 5] == 1
  assert batch.tokens[0, 9] == 3 and batch.mask[0, 9] == 1
  outside = (rows.turn == GIVEN) | (rows.turn == PAD)
  assert not np.any(batch.mask * outside)
  assert batch.targets.advantage[0].tolist() == (
    [0, 0, 0, 2, 2, 2, 0, 0, -3, -3, 0, 0]
  )
  np.testing.assert_allclose(
    batch.targets.kl_weight[0],
    [0, 0, 0, 0.1, 0.1, 0.1, 0, 0, 0.2, 0.2, 0, 0], rtol=1e-6,
  )
  np.testing.assert_array_equal(batch.targets.sampler_logprob, rows.logprob)
  np.testing.assert_array_equal(batch.inputs, rows.tokens)


def test_an_offline_first_attempt_is_in_no_baseline(rows):
  known = jnp.ones((3, 2))
  value = jnp.array([[1.0, 0.0], [100.0, 1.0], [0.0, 0.0]])
  group = jnp.zeros((3, 2), jnp.int32)
  found = np.asarray(baselined(value, group, own_turns(rows, known)))
  np.testing.assert_allclose(found[:, 0], [1.0, 0.0, -1.0])
  np.testing.assert_allclose(found[:, 1], [-0.5, 1.0, -0.5])


def test_imitation_masks_the_chosen_turns(rows):
  trained = jnp.array([[False, True], [False, True], [False, False]])
  weight = jnp.array([1.0, 0.5, 0.0])
  batch = imitation_batch(rows, trained, weight)
  np.testing.assert_array_equal(batch.mask, written(rows.turn, trained))
  assert batch.mask.sum(axis=1).tolist() == [2, 3, 0]
  assert batch.targets.weight.tolist() == weight.tolist()


def test_turns_keep_to_themselves():
  rng = np.random.default_rng(3)
  value = rng.normal(size=(ROWS, 2)).astype(np.float32)
  group = np.repeat(np.arange(PROBLEMS), SAMPLES)
  both = jnp.asarray(np.stack([group, (group + 1) % PROBLEMS], axis=1))
  known = jnp.asarray(rng.random((ROWS, 2)) < 0.8)
  run = jax.jit(functools.partial(baselined))
  found = run(jnp.asarray(value), both, known)
  for k in range(2):
    want = slow_leave_one_out(
      value[:, k], np.asarray(both)[:, k], np.asarray(known)[:, k]
    )
    np.testing.assert_allclose(found[:, k], want, atol=1e-5)
