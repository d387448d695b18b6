"""Advantages, choices and masks against loops in Python."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.curate import advantage
from sitrain.curate.advantage import (
  at_last_token,
  gae,
  leave_one_out,
  per_turn,
  progress_bonus,
  returns,
  same_problem,
  to_tokens,
)
from sitrain.curate.pairs import (
  best_and_worst,
  pair_batch,
  partners,
  take_rows,
)
from sitrain.curate.policy import own_turns, policy_batch, token_batch
from sitrain.curate.roles import role_advantage
from sitrain.curate.select import (
  at_most,
  imitation_batch,
  token_mask,
  with_signal,
)
from sitrain.judge.verifier import verdict_metrics, verify
from sitrain.types import GIVEN, OFFLINE, PAD, ROOT, Verdict

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


def test_an_unknown_reward_changes_no_other_row():
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


def discounted(value, discount, counted=None, written=None):
  """The values of `returns`, where all is written and known by default."""
  every = jnp.ones(value.shape, bool)
  counted = every if counted is None else jnp.asarray(counted)
  written = every if written is None else jnp.asarray(written)
  return returns(jnp.asarray(value), counted, written, discount)


def test_returns_are_discounted_sums():
  rng = np.random.default_rng(5)
  value = rng.normal(size=(4, 3)).astype(np.float32)
  for discount in (0.0, 0.5, 1.0):
    want = np.zeros_like(value)
    for k in range(3):
      for j in range(k, 3):
        want[:, k] += discount ** (j - k) * value[:, j]
    found, counted = discounted(value, discount)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    assert np.all(counted)


def test_with_a_discount_the_bonus_rewards_a_wrong_first_attempt():
  # (r1, r2): of two that end right, the one that began wrong returns more.
  reward = jnp.array([[0.0, 1.0], [1.0, 1.0]])
  value, _ = discounted(reward + progress_bonus(reward, 10.0), 1.0)
  assert value[:, 0].tolist() == [11.0, 2.0]
  unknown, _ = discounted(jnp.array([[1.0, jnp.nan]]), 0.0)
  assert unknown[0, 0] == 1.0  # what failed on turn 2 is no part of turn 1


def test_an_unknown_later_turn_makes_the_return_unknown():
  """It is not 0: r = (1, ?) is no worse than r = (1, 0)."""
  value = jnp.array([[1.0, jnp.nan], [1.0, 3.0], [1.0, 99.0]])
  known = [[True, False], [True, True], [True, False]]
  there = [[True, True], [True, True], [True, False]]
  found, counted = discounted(value, 0.5, known, there)
  # Written and not known; known; never written, which adds nothing.
  assert counted.tolist() == [[False, False], [True, True], [True, False]]
  assert found[1:, 0].tolist() == [2.5, 1.0]


def walk(rows, verdict, **options):
  """policy_batch with the plainest of everything."""
  default = dict(
    shape=lambda reward: reward, group=same_problem, estimate=leave_one_out,
    discount=0.0, kl="none", kl_weights=(0.0,) * verdict.reward.shape[1],
    reference_logprob=jnp.zeros_like(rows.logprob),
  )
  return policy_batch(rows, verdict, **(default | options))


def advantages(rows, verdict, **options):
  """The advantage [B K] of every turn of rows that have all turns."""
  batch, turns = walk(rows, verdict, **options), verdict.reward.shape[1]
  count = per_turn(batch.mask * 1.0, rows.turn, turns)
  total = per_turn(batch.targets.advantage, rows.turn, turns)
  return np.asarray(total) / np.maximum(count, 1)


def dialogues(turns=2, rows=3):
  """Rows of one problem, one token a turn, log-probability -1/2 each."""
  texts = [
    fakes.transcribe([4], [[5 + k] for k in range(turns)], [[9]] * turns)
    for _ in range(rows)
  ]
  episodes = fakes.pack(texts, problem=[0] * rows)
  logprob = jnp.where(episodes.turn >= 1, -0.5, 0.0)
  return episodes._replace(logprob=logprob)


def test_with_a_discount_an_unknown_turn_changes_no_other_row():
  """Not as a silent 0 in the baseline of turn 1, and not as NaN."""
  rows, bonus = dialogues(), 2.0
  shape = lambda reward: reward + progress_bonus(reward, bonus)
  for strange in (0.0, jnp.nan):
    reward = jnp.array([[1.0, strange], [1.0, 1.0], [0.0, 0.0]])
    known = jnp.array([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    verdict = Verdict(reward, known)
    batch = walk(rows, verdict, shape=shape, discount=0.5)
    # Row 0 leaves turn 1 of both rows: returns 1 + 1/2 and 0.
    found = np.asarray(batch.targets.advantage * batch.mask)
    columns = np.asarray(rows.turn[0])
    assert found[:, columns == 1].ravel().tolist() == [0.0, 1.5, -1.5]
    assert found[:, columns == 2].ravel().tolist() == [0.0, 1.0, -1.0]


def test_no_turn_counts_behind_one_that_is_not_known():
  """Its bonus and its baseline would build on that verdict."""
  rows = dialogues(turns=3)
  known = jnp.array([[1.0, 0, 1], [0, 1, 1], [1, 1, 0]])
  want = [[True, False, False], [False] * 3, [True, True, False]]
  assert own_turns(rows, known).tolist() == want
  reward = jnp.where(known > 0, 1.0, jnp.nan)
  shape = lambda reward: reward + progress_bonus(reward, 2.0)
  batch = walk(rows, Verdict(reward, known), shape=shape)
  assert jnp.all(jnp.isfinite(batch.targets.advantage))
  columns = np.asarray(rows.turn[0])
  for k in (1, 2, 3):
    trained = np.asarray(batch.mask)[:, columns == k].ravel()
    assert trained.tolist() == [row[k - 1] for row in want], k


def test_k1_is_part_of_the_discounted_return():
  """r_1 - beta_1 d_1 + discount (r_2 - beta_2 d_2), d = 1 nat a token."""
  rows = dialogues(rows=1)
  reference = jnp.where(rows.turn >= 1, -1.5, 0.0)
  verdict = Verdict(jnp.array([[1.0, 3.0]]), jnp.ones((1, 2)))
  found = advantages(
    rows, verdict, discount=0.5, kl="k1", kl_weights=(0.1, 0.4),
    reference_logprob=reference, estimate=lambda value, group, known: value,
  )
  np.testing.assert_allclose(found, [[0.9 + 0.5 * 2.6, 2.6]], rtol=1e-6)


def test_the_example_of_a_kept_right_answer_that_is_punished():
  # Shaped values 1, 11, 0, 0: the row that stayed right gets 1 - 11 / 3.
  reward = jnp.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
  verdict, rows = Verdict(reward, jnp.ones((4, 2))), dialogues(rows=4)
  shape = lambda reward: reward + progress_bonus(reward, 10.0)
  found = advantages(rows, verdict, shape=shape)
  np.testing.assert_allclose(found[0, 1], 1 - 11 / 3, rtol=1e-6)
  weight = jnp.array([1.0, 11.0])
  weighted = advantages(rows, verdict, shape=lambda reward: reward * weight)
  np.testing.assert_allclose(weighted[0, 1], 11 - 11 / 3, rtol=1e-6)


@pytest.mark.parametrize("name", advantage.ESTIMATES)
def test_estimates_against_numpy(name):
  """Of known rows alone; a group of equal values has no advantage."""
  rng = np.random.default_rng(6)
  group = rng.permutation(np.repeat(np.arange(PROBLEMS), SAMPLES))
  value = rng.normal(size=ROWS).astype(np.float32)
  if name == "maximum_likelihood":
    value = np.abs(value)  # It is for rewards.
  value[group == 2] = 0.25
  known = rng.random(ROWS) < 0.8
  value[~known] = np.nan
  found = advantage.ESTIMATES[name](
    jnp.asarray(value), jnp.asarray(group), jnp.asarray(known, jnp.float32)
  )
  want = np.zeros(ROWS)
  for i in np.flatnonzero(known):
    every = name == "whiten"
    own = value[known & (every | (group == group[i]))]
    want[i] = value[i] - (name != "as_it_is") * own.mean()
    if name == "leave_one_out":
      want[i] *= len(own) / max(len(own) - 1, 1)
    if name in ("group_normalise", "whiten"):
      want[i] /= own.std() + 1e-6
    if name == "group_normalise_sample" and len(own) > 1:
      want[i] /= own.std(ddof=1) + 1e-6
    if name == "maximum_likelihood":
      want[i] /= max(own.mean(), 0) + 1e-6
  if name == "group_whiten":
    gap = want[known]
    want[known] = (gap - gap.mean()) / (gap.std() + 1e-6)
  np.testing.assert_allclose(found, want, rtol=1e-3, atol=2e-5)
  assert all(f.__name__ == name for name, f in advantage.ESTIMATES.items())


def test_gae_against_a_loop():
  """Over the tokens of the policy alone, whatever stands between turns."""
  rng = np.random.default_rng(8)
  mask = rng.random((4, 12)) < 0.6
  reward, value = rng.normal(size=(2, 4, 12)).astype(np.float32)
  want, discount, decay = np.zeros((4, 12)), 0.9, 0.8
  for b in range(4):
    later, after = 0.0, 0.0
    for t in reversed(np.flatnonzero(mask[b])):
      delta = reward[b, t] + discount * after - value[b, t]
      later = want[b, t] = delta + discount * decay * later
      after = value[b, t]
  found = gae(
    *map(jnp.asarray, (reward, value, mask * np.float32(1))),
    discount=discount, decay=decay,
  )
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_a_turn_that_was_never_written_is_in_no_baseline():
  """Two right rows beside one that stopped early have nothing to gain."""
  texts = [
    fakes.transcribe([4], [[5], [6]], [[9]]),
    fakes.transcribe([4], [[5], [6]], [[9]]),
    fakes.transcribe([4], [[5]], []),
  ]
  rows = fakes.pack(texts, problem=[0, 0, 0])
  task = fakes.task(
    lambda answer, episodes, turns: Verdict(
      jnp.any(
        episodes.turn[:, None] == jnp.arange(1, turns + 1)[:, None], axis=2
      ) * 1.0,
      jnp.ones((answer.shape[0], turns)),
    ),
    again=[9], eos=(3,), prompt=[4],
  )
  problems = task.problems(None, 1)
  verdict = verify(task, problems, rows, 2)
  assert verdict.known.tolist() == [[1, 1], [1, 1], [1, 0]]
  assert advantages(rows, verdict).tolist() == [[0, 0]] * 3
  metrics = verdict_metrics(task, rows, verdict)
  ended = metrics["judge/ended_2"]
  assert (float(ended.total), float(ended.count)) == (1.0, 3.0)
  for name in ("reward_2", "unknown_2", "malformed_2", "changed_2"):
    assert float(metrics[f"judge/{name}"].count) == 2, name


def test_given_first_attempts_are_in_no_metric_of_the_policy():
  rows = dialogues()._replace(parent=jnp.array([ROOT, OFFLINE, ROOT]))
  reward = jnp.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
  parts = {"form": jnp.array([[0.5, 0.0], [9.0, 1.0], [0.5, 0.0]])}
  verdict = Verdict(reward, jnp.ones((3, 2)), parts)
  task = fakes.task(None, again=[9], eos=(3,), prompt=[4])
  metrics = verdict_metrics(task, rows, verdict)
  read = lambda name: [float(x) for x in metrics[name]]
  assert read("judge/reward_1") == [2.0, 2.0]
  assert read("judge/reward_2") == [2.0, 3.0]
  # Named rewards are reported each, under the same rows.
  assert read("judge/form_1") == [1.0, 2.0]
  assert read("judge/form_2") == [1.0, 3.0]


def test_final_answers_of_all_turns_are_one_call():
  rows, calls = dialogues(), []
  verdict = Verdict(jnp.ones((3, 2)), jnp.ones((3, 2)))
  task = fakes.task(None, again=[9], eos=(3,), prompt=[4])

  def final(episodes, turns):
    calls.append(turns)
    return task.final(episodes, turns)

  verdict_metrics(task._replace(final=final), rows, verdict)
  assert calls == [2]
  of_one_turn = task._replace(final=lambda episodes, turns: episodes.problem)
  with pytest.raises(ValueError, match=r"task.final.*turns=2.*\(3,\)"):
    verdict_metrics(of_one_turn, rows, verdict)


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
  batch = token_batch(
    rows, to_tokens(advantage, rows.turn), trained, kl_weights=(0.1, 0.2),
    reference_logprob=jnp.zeros(rows.tokens.shape),
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
  np.testing.assert_array_equal(batch.targets.old_logprob, rows.logprob)
  np.testing.assert_array_equal(batch.targets.old_logprob, rows.logprob)
  np.testing.assert_array_equal(batch.inputs, rows.tokens)


def test_an_offline_first_attempt_is_in_no_baseline():
  rows = dialogues()._replace(parent=jnp.array([ROOT, OFFLINE, ROOT]))
  reward = jnp.array([[1.0, 0.0], [100.0, 1.0], [0.0, 0.0]])
  found = advantages(rows, Verdict(reward, jnp.ones((3, 2))))
  np.testing.assert_allclose(found[[0, 2], 0], [1.0, -1.0])
  np.testing.assert_allclose(found[:, 1], [-0.5, 1.0, -0.5])


def test_imitation_masks_the_chosen_turns(rows):
  trained = jnp.array([[False, True], [False, True], [False, False]])
  weight = jnp.array([1.0, 0.5, 0.0])
  batch = imitation_batch(rows, trained, weight)
  np.testing.assert_array_equal(batch.mask, token_mask(rows.turn, trained))
  assert batch.mask.sum(axis=1).tolist() == [2, 3, 0]
  want = np.broadcast_to(weight[:, None], rows.tokens.shape)
  np.testing.assert_array_equal(batch.targets.weight, want)


def test_the_last_token_of_a_turn_takes_its_number():
  turn = jnp.array([[0, 1, 1, 0, 2, -1], [0, 1, 2, 2, 2, 2]])
  value = jnp.array([[5.0, 7.0], [3.0, 4.0]])
  want = [[0, 0, 5, 0, 7, 0], [0, 3, 0, 0, 0, 4]]
  assert at_last_token(value, turn).tolist() == want


def test_groups_with_a_signal_differ_in_a_known_reward():
  problem = jnp.array([0, 0, 1, 1, 2, 2])
  reward = jnp.array(
    [[1.0, 0], [1, 1], [1, 1], [1, jnp.nan], [0, 0], [0, 0]]
  )
  known = jnp.array([[1, 1], [1, 1], [1, 1], [1, 0], [1, 1], [1, 1]], bool)
  found = with_signal(problem, reward, known, 4)
  assert found.tolist() == [True, False, False, False]


def test_best_and_worst_of_every_problem():
  value = jnp.array([1.0, 3.0, 3.0, 9.0, 2.0, 2.0, 5.0, 0.0])
  known = jnp.array([1, 1, 1, 0, 1, 1, 1, 0], bool)
  problem = jnp.array([0, 0, 0, 0, 1, 1, 2, 2])
  best, worst, differ = best_and_worst(value, known, problem, 4)
  assert differ.tolist() == [True, False, False, False]
  assert (int(best[0]), int(worst[0])) == (1, 0)


def test_pairs_are_an_axis(rows):
  first, second = jnp.array([0, 2]), jnp.array([1, 0])
  chosen, rejected = take_rows(rows, first), take_rows(rows, second)
  trained = jnp.array([[True, False], [False, True]])
  reference = jnp.zeros((2, 2, rows.tokens.shape[1]))
  batch = pair_batch(
    chosen, rejected, reference, trained=trained, label=jnp.ones(2)
  )
  np.testing.assert_array_equal(batch.tokens[:, 0], rows.tokens[first])
  np.testing.assert_array_equal(batch.tokens[:, 1], rows.tokens[second])
  assert batch.mask.sum(axis=-1).tolist() == [[3, 1], [0, 2]]


def test_turns_are_independent():
  """Each turn is estimated by itself, in groups of its own."""
  rng = np.random.default_rng(3)
  value = rng.normal(size=(ROWS, 2)).astype(np.float32)
  group = np.repeat(np.arange(PROBLEMS), SAMPLES)
  both = np.stack([group, (group + 1) % PROBLEMS], axis=1)
  known = rng.random((ROWS, 2)) < 0.8
  known[:, 1] &= known[:, 0]  # after an unknown turn none counts
  verdict = Verdict(jnp.asarray(value), jnp.asarray(known, jnp.float32))
  found = advantages(
    dialogues(rows=ROWS), verdict, group=lambda *_: jnp.asarray(both)
  )
  for k in range(2):
    want = slow_leave_one_out(value[:, k], both[:, k], known[:, k])
    np.testing.assert_allclose(found[:, k], want, atol=1e-5)


def test_roles_have_baselines_of_their_own():
  """Read before they move, and by the mean over rows, however many turns."""
  reward = np.array([[1, -1, 1, 0], [-1.5, 0.5, 0, 0], [-1, 1, -1, 1]])
  known = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1.0]])
  reward[0, 3] = np.nan  # what stands where nothing is known
  before = np.array([0.5, -0.25])
  gain, after = jax.jit(functools.partial(role_advantage, rate=0.05))(
    jnp.asarray(reward), jnp.asarray(known), jnp.asarray(before)
  )
  want = np.where(known > 0, reward - before[[0, 1, 0, 1]], 0)
  np.testing.assert_allclose(gain, want, rtol=1e-6)
  mean = np.array([(1 - 1.5 - 1) / 3, (-1 + 1) / 2])
  np.testing.assert_allclose(after, 0.95 * before + 0.05 * mean, rtol=1e-6)


def test_a_role_without_a_turn_keeps_its_baseline():
  _, after = role_advantage(
    jnp.ones((2, 2)), jnp.array([[1.0, 0.0]] * 2), jnp.array([0.0, 0.3]),
    rate=0.5,
  )
  np.testing.assert_allclose(after, [0.5, 0.3])


def test_a_group_that_does_not_exist_is_never_a_number():
  value, known = jnp.array([1.0, 0.0]), jnp.ones(2)
  for name, estimate in advantage.ESTIMATES.items():
    if name in ("as_it_is", "whiten"):  # They have no groups.
      continue
    for group in ([7, 7], [0, -1]):
      found = estimate(value, jnp.array(group), known)
      assert jnp.isnan(found[1]), (name, group)
    masked = estimate(value, jnp.array([0, 9]), jnp.array([1.0, 0.0]))
    assert jnp.isfinite(masked).all(), name
