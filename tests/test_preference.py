"""Preference losses against transcriptions in NumPy, and how pairs are made."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sitrain.curate import pairs, select
from sitrain.losses import imitation, preference
from sitrain.losses.preference import (
  bradley_terry,
  dpo_margin,
  kto,
  orpo_margin,
  sequence_mean,
  sequence_sum,
  simpo_margin,
  squared_margin,
)

LENGTHS = np.array([[5, 2], [1, 1], [7, 3], [4, 6]])
MASK = np.arange(8) < LENGTHS[..., None]
LABEL = np.array([1.0, 0.9, 0.5, 0.25])


def array(x):
  return jnp.asarray(x, jnp.float32)


def tokens(seed=0, spread=1.0):
  """(log-probabilities, those of a reference) [N 2 T], infinite outside."""
  rng = np.random.default_rng(seed)
  logprob = rng.uniform(-3, -0.05, MASK.shape)
  reference = logprob + spread * rng.normal(size=MASK.shape)
  outside = np.where(rng.random(MASK.shape) < 0.5, np.inf, np.nan)
  return np.where(MASK, logprob, outside), np.where(MASK, reference, outside)


def slow(x, per_token):
  return np.array([
    [row[m].mean() if per_token else row[m].sum() for row, m in zip(*pair)]
    for pair in zip(x, MASK)
  ])


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def slow_pair(margin):
  return -LABEL * np.log(sigmoid(margin)) - (1 - LABEL) * np.log(
    sigmoid(-margin)
  )


def slow_gap(own, reference):
  return (own[:, 0] - reference[:, 0]) - (own[:, 1] - reference[:, 1])


def slow_ipo(own, reference):
  gap = slow_gap(own, reference)
  return LABEL * (gap - 5) ** 2 + (1 - LABEL) * (-gap - 5) ** 2


def slow_odds(own):
  odds = np.exp(own) / (1 - np.exp(own))
  return np.log(odds[:, 0] / odds[:, 1])


# name: margin and objective; per token; the equation
LOSSES = {
  "dpo": (
    functools.partial(dpo_margin, beta=0.3), bradley_terry, False,
    lambda own, reference: slow_pair(0.3 * slow_gap(own, reference)),
  ),
  "normalised dpo": (
    functools.partial(dpo_margin, beta=0.3), bradley_terry, True,
    lambda own, reference: slow_pair(0.3 * slow_gap(own, reference)),
  ),
  "ipo": (
    functools.partial(dpo_margin, beta=1.0),
    functools.partial(squared_margin, beta=0.1), False, slow_ipo,
  ),
  "simpo": (
    lambda own, reference: simpo_margin(own, beta=2.0, target=1.2),
    bradley_terry, True,
    lambda own, reference: slow_pair(2 * (own[:, 0] - own[:, 1]) - 1.2),
  ),
  "orpo": (
    lambda own, reference: orpo_margin(own), bradley_terry, True,
    lambda own, reference: slow_pair(slow_odds(own)),
  ),
}


def loss_of(name):
  margin, objective, per_token, _ = LOSSES[name]
  sequence = sequence_mean if per_token else sequence_sum

  def loss(logprob, reference, mask):
    found = margin(sequence(logprob, mask), sequence(reference, mask))
    return objective(found, array(LABEL))

  return loss


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_their_equations(name):
  logprob, reference = tokens()
  per_token, equation = LOSSES[name][2:]
  found = loss_of(name)(array(logprob), array(reference), array(MASK))
  want = equation(slow(logprob, per_token), slow(reference, per_token))
  np.testing.assert_allclose(found, want, rtol=2e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_what_the_mask_hides_has_no_gradient(name):
  """And the chosen row is raised, the rejected lowered, where labels are 1."""
  logprob, reference = map(array, tokens())
  loss = lambda x, mask: jnp.sum(loss_of(name)(x, reference, mask))
  slope = np.asarray(jax.grad(loss)(logprob, array(MASK)))
  assert np.all(np.isfinite(slope)) and np.all(slope[~MASK] == 0)
  assert np.all(slope[0, 0][MASK[0, 0]] < 0)
  assert np.all(slope[0, 1][MASK[0, 1]] > 0)
  nothing = jax.grad(loss)(logprob, jnp.zeros(MASK.shape))
  assert not np.any(nothing)


@pytest.mark.parametrize("name", ["dpo", "normalised dpo"])
def test_at_the_reference_the_loss_is_log_two(name):
  logprob, _ = map(array, tokens())
  found = loss_of(name)(logprob, logprob, array(MASK))
  np.testing.assert_allclose(found, np.log(2), rtol=1e-6)


def test_bradley_terry_is_the_binary_cross_entropy_of_optax():
  margin = jnp.linspace(-60.0, 60.0, 41)
  for label in (0.0, 0.3, 1.0):
    labels = jnp.full(margin.shape, label)
    want = optax.losses.sigmoid_binary_cross_entropy(margin, labels)
    np.testing.assert_allclose(
      bradley_terry(margin, labels), want, rtol=1e-6, atol=1e-7
    )


def test_the_best_margin_of_ipo_is_finite():
  """1 / (2 beta); of a coin's label 0."""
  slope = jax.grad(lambda gap, label: jnp.sum(
    squared_margin(gap, label, beta=0.25)
  ))
  assert float(slope(array([2.0]), array([1.0]))[0]) == 0
  assert float(slope(array([0.0]), array([0.5]))[0]) == 0
  assert float(slope(array([0.0]), array([1.0]))[0]) < 0


def test_a_certain_row_has_finite_odds():
  """p -> 1 in float32: neither the loss nor its gradient is infinite."""
  logprob = array([[0.0, -1.0], [-1e-9, -1e-9], [-90.0, 0.0]])
  margin, slope = jax.value_and_grad(lambda x: jnp.sum(orpo_margin(x)))(logprob)
  assert np.isfinite(margin) and np.all(np.isfinite(slope))
  # Far from 1 the odds are the probability.
  np.testing.assert_allclose(
    orpo_margin(array([[-20.0, -23.0]])), [3.0], rtol=1e-6
  )


def slow_kto(gap, good, baseline, beta):
  z = max(baseline, 0.0)
  return np.where(
    good > 0, 1.5 * (1 - sigmoid(beta * (gap - z))),
    0.5 * (1 - sigmoid(beta * (z - gap))),
  )


@pytest.mark.parametrize("baseline", [-1.0, 0.0, 0.7])
def test_kto_is_its_equation(baseline):
  gap = np.array([-300.0, -1.0, 0.0, 0.4, 2.0, 50.0])
  for good in (np.ones(6), np.zeros(6)):
    loss = lambda x, z, good=good: kto(
      x, array(good), z, beta=0.5, weight_good=1.5, weight_bad=0.5
    )
    level = jnp.full(6, baseline)
    found = loss(array(gap), level)
    want = slow_kto(gap, good, baseline, 0.5)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-7)
    slope = jax.grad(
      lambda *x, loss=loss: jnp.sum(loss(*x)), argnums=(0, 1)
    )(array(gap), level)
    assert np.all(slope[0] <= 0 if good[0] else slope[0] >= 0)
    assert np.any(slope[0]) and not np.any(slope[1])


def test_hard_tokens_are_unlikely_ones_of_a_sure_policy():
  logprob, entropy = array([[-3.0, -3.0, -0.1]]), array([[0.5, 2.0, 0.0]])
  found = imitation.hard_tokens(logprob, entropy, weight=0.8)
  np.testing.assert_allclose(found, [[2.6, 1.4, 0.1]], rtol=1e-6)
  chosen = select.top_share(found, jnp.ones((1, 3)), 0.7)
  assert chosen.tolist() == [[1.0, 1.0, 0.0]]
  # At least one token, and none of those under the mask, whatever they score.
  strange = found.at[0, 0].set(jnp.nan)
  mask = array([[0.0, 1.0, 1.0]])
  assert select.top_share(strange, mask, 0.1).tolist() == [[0.0, 1.0, 0.0]]
  assert not np.any(select.top_share(strange, 0 * mask, 0.5))


PROBLEM = jnp.array([0, 0, 0, 1, 1, 2, 2, 2])
VALUE = jnp.array([1.0, 1, 0, 1, 1, 0, 0.1, jnp.nan])
KNOWN = jnp.array([1, 1, 1, 1, 1, 1, 1, 0], bool)


def test_random_pairs_are_right_and_wrong_and_fair():
  draws = 2000
  value = VALUE.at[2].set(0.9).at[6].set(1.0)  # A part of a reward is wrong.
  noise = jax.random.uniform(jax.random.key(0), (draws, 8))
  choose = jax.jit(jax.vmap(
    lambda noise: pairs.right_and_wrong(noise, value, KNOWN, PROBLEM, 4)
  ))
  right, wrong, found = map(np.asarray, choose(noise))
  assert np.all(found == [True, False, True, False])
  assert set(right[:, 0]) == {0, 1} and set(wrong[:, 0]) == {2}
  assert set(right[:, 2]) == {6} and set(wrong[:, 2]) == {5}
  assert abs(np.mean(right[:, 0]) - 0.5) < 5 * 0.5 / np.sqrt(draws)


def test_the_best_of_every_problem_is_one_row():
  keep = KNOWN & (VALUE > 0)
  found = select.best_of(VALUE, keep, PROBLEM, 4)
  assert np.flatnonzero(found).tolist() == [0, 3, 6]
  assert not np.any(select.best_of(VALUE, KNOWN & False, PROBLEM, 4))


def test_rows_part_at_their_first_different_token():
  one = jnp.array([[1, 2, 3, 4], [1, 1, 1, 1]])
  two = jnp.array([[1, 2, 9, 4], [1, 1, 1, 1]])
  found = pairs.diverged(one, two)
  assert found.tolist() == [[False, False, True, True], [False] * 4]


def test_the_shared_prefix_adds_nothing_to_a_sum():
  """Sums of both rows differ as those behind the prefix, means do not."""
  logprob = array(np.random.default_rng(0).uniform(-2, -1, (1, 2, 6)))
  logprob = logprob.at[:, 1, :3].set(logprob[:, 0, :3])
  mask = array(np.arange(6) < np.array([[[6], [5]]]))
  behind = mask * (np.arange(6) >= 3)
  for sequence, same in ((sequence_sum, True), (sequence_mean, False)):
    margins = [
      preference.dpo_margin(
        sequence(logprob, m), jnp.zeros((1, 2)), beta=1.0
      )
      for m in (mask, behind)
    ]
    assert np.allclose(*margins, rtol=1e-5) == same
