"""Losses worked out by hand, by NumPy and by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.losses.imitation import negative_log_likelihood
from sitrain.losses.policy_gradient import LARGEST_GAP
from sitrain.losses.policy_gradient import policy_gradient as clipped
from sitrain.losses.preference import bradley_terry, dpo_margin, sequence_sum
from sitrain.losses.reduce import mean, per_episode, per_turn, value
from sitrain.losses.regularizers import LOSSES, k1, k2, k3
from sitrain.losses.value import value_error

INF = float("inf")


def policy_gradient(logprob, old, advantage, *, clip, most=INF):
  """The loss with a ratio that is clipped on both sides alike."""
  return clipped(
    logprob, old, advantage, clip=clip, clip_high=clip, most=most
  )


def test_policy_gradient_by_hand():
  # Ratios 2, 1/2 and 1.
  logprob = jnp.log(jnp.array([[0.4, 0.1, 0.3]]))
  sampler = jnp.log(jnp.array([[0.2, 0.2, 0.3]]))
  gain = jnp.array([[3.0, -4.0, 5.0]])
  found = policy_gradient(logprob, sampler, gain, clip=INF)
  np.testing.assert_allclose(found, [[-6.0, 2.0, -5.0]], rtol=1e-5)
  found = policy_gradient(logprob, sampler, gain, clip=0.2)
  # min(2 * 3, 1.2 * 3) = 3.6; min(-4 / 2, -4 * 0.8) = -3.2.
  np.testing.assert_allclose(found, [[-3.6, 3.2, -5.0]], rtol=1e-5)


def test_clipping_against_numpy():
  rng = np.random.default_rng(0)
  logprob, sampler = rng.normal(size=(2, 5, 40)) * 0.4 - 1
  gain = rng.normal(size=(5, 40))
  ratio = np.exp(logprob - sampler)
  args = [jnp.asarray(x, jnp.float32) for x in (logprob, sampler, gain)]
  for clip in (0.1, 0.3):
    bounded = np.clip(ratio, 1 - clip, 1 + clip)
    want = -np.minimum(ratio * gain, bounded * gain)
    found = policy_gradient(*args, clip=clip)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    whole = lambda x, clip=clip: jnp.sum(
      policy_gradient(x, *args[1:], clip=clip)
    )
    slope = jax.grad(whole)(args[0])
    # No gradient where the ratio has already gone the way of the advantage.
    gone = np.where(gain > 0, ratio > 1 + clip, ratio < 1 - clip)
    assert gone.any() and not gone.all()
    want = np.where(gone, 0.0, -ratio * gain)
    np.testing.assert_allclose(slope, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clip", [INF, 0.2])
def test_gradient_on_the_samplers_own_parameters_is_reinforce(clip):
  rng = np.random.default_rng(1)
  logits = jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)
  token = jnp.asarray(rng.integers(0, 6, 4))
  gain = jnp.array([2.0, -1.0, 0.0, 0.5])

  def logprob(logits):
    return jax.nn.log_softmax(logits)[jnp.arange(4), token]

  def loss(logits):
    # The sampler is the same policy: its side must not be differentiated.
    both = logprob(logits)
    return jnp.sum(policy_gradient(both, both, gain, clip=clip))

  def reinforce(logits):
    return -jnp.sum(gain * logprob(logits))

  found, want = jax.grad(loss)(logits), jax.grad(reinforce)(logits)
  np.testing.assert_allclose(found, want, atol=1e-6)
  # Descent raises what was better than its baseline.
  after = logprob(logits - 0.1 * found) - logprob(logits)
  assert after[0] > 0 and after[1] < 0 and after[2] == 0 and after[3] > 0


def test_the_ratio_is_clipped_higher_than_lower():
  """DAPO's clip-higher: 1 - 0.2 below, 1 + 0.5 above."""
  gap = jnp.log(jnp.array([[1.4, 1.6, 0.7, 0.7]]))
  gain = jnp.array([[1.0, 1.0, -1.0, 1.0]])
  found = clipped(gap, gap * 0, gain, clip=0.2, clip_high=0.5, most=INF)
  np.testing.assert_allclose(found, [[-1.4, -1.5, 0.8, -0.7]], rtol=1e-5)


def test_ratios_are_truncated_and_keep_a_gradient():
  """min(r, most) grad log pi: a clipped ratio would have none."""
  gap, gain = jnp.log(jnp.array([[40.0, 2.0]])), jnp.array([[3.0, 3.0]])

  def loss(gap):
    return jnp.sum(policy_gradient(gap, gap * 0, gain, clip=INF, most=10.0))

  found, slope = jax.value_and_grad(loss)(gap)
  np.testing.assert_allclose(found, -(30.0 + 6.0), rtol=1e-5)
  np.testing.assert_allclose(slope, [[-30.0, -6.0]], rtol=1e-5)


@pytest.mark.parametrize("gap", [89.0, 95.0, 300.0, -300.0])
def test_a_wide_gap_under_the_mask_is_finite(gap):
  """exp(89) overflows float32; where the mask is 0 nothing of it may show."""
  mask, gain = jnp.array([[0.0, 1.0]]), jnp.array([[0.0, 2.0]])
  old = jnp.array([[-1.0 - gap, -1.0]])

  def loss(logprob):
    each = policy_gradient(logprob, old, gain, clip=INF, most=10.0)
    each += k3(logprob, old + 2 * jnp.array([[gap, 0.0]]))
    terms = per_turn("a", each, mask, jnp.array([[0, 1]]), 1)
    return value(terms["a_1"]) + value(mean(each, mask))

  found, slope = jax.value_and_grad(loss)(jnp.full((1, 2), -1.0))
  assert np.isfinite(found) and float(found) != 0
  assert slope[0, 0] == 0 and np.isfinite(slope[0, 1]) and slope[0, 1] != 0
  # Trained, such a token has a bounded loss: the gap itself is limited.
  one = jnp.ones((1, 1))
  bound = policy_gradient(gap * one, 0 * one, one, clip=INF)
  assert np.isfinite(bound) and abs(float(bound[0, 0])) <= np.exp(
    np.float64(LARGEST_GAP)
  ) * 1.01


@pytest.mark.parametrize("reduce", [mean, per_episode])
def test_nothing_under_a_mask_of_zero_counts(reduce):
  """Not even NaN or infinity, which times 0 would be NaN."""
  x = jnp.array([[1.0, jnp.nan, 3.0, jnp.inf]])
  found = reduce(x, jnp.array([[1.0, 0.0, 1.0, 0.0]]))
  assert float(found.total) == 4.0


def test_every_turn_is_averaged_over_its_own_rows():
  """Two rows of four have a given first attempt: turn 1 counts two rows."""
  turn = jnp.tile(jnp.array([[1, 2]]), (4, 1))
  mask = jnp.array([[1.0, 1.0]] * 2 + [[0.0, 1.0]] * 2)
  x = jnp.array([[2.0, 1.0], [4.0, 1.0], [100.0, 1.0], [100.0, 5.0]])
  found = per_turn("policy", x, mask, turn, 2)
  assert set(found) == {"policy_1", "policy_2"}
  one, two = found["policy_1"], found["policy_2"]
  assert (float(one.total), float(one.count)) == (6.0, 2.0)
  assert (float(two.total), float(two.count)) == (8.0, 4.0)
  # Without the given rows the weight of turn 1 is the same.
  alone = per_turn("policy", x[:2], mask[:2], turn[:2], 2)
  assert float(value(alone["policy_1"])) == float(value(one)) == 3.0


def test_advantages_carry_no_gradient():
  def loss(x):
    return jnp.sum(policy_gradient(x * 0 - 1.0, x * 0 - 1.0, x, clip=INF))

  assert np.all(np.asarray(jax.grad(loss)(jnp.ones((2, 3)))) == 0)


@pytest.fixture(scope="module", params=[3, 8])
def pair(request):
  """Logits of a policy and log-probabilities of a reference."""
  rng = np.random.default_rng(request.param)
  logits, other = rng.normal(size=(2, request.param))
  return (
    jnp.asarray(logits, jnp.float32),
    jax.nn.log_softmax(jnp.asarray(other, jnp.float32)),
  )


def exact_kl(logits, reference):
  logp = jax.nn.log_softmax(logits)
  return jnp.sum(jnp.exp(logp) * (logp - reference))


def expectation(estimator, logits, reference):
  """E_{y ~ policy} of the estimate, and its gradient as a loss."""
  chance = jax.lax.stop_gradient(jax.nn.softmax(logits))

  def loss(logits):
    return jnp.sum(chance * estimator(jax.nn.log_softmax(logits), reference))

  return jax.value_and_grad(loss)(logits)


def test_k1_and_k3_are_unbiased_and_k2_is_not(pair):
  want = exact_kl(*pair)
  assert want > 0.1
  for estimator in (k1, k3):
    found, _ = expectation(estimator, *pair)
    np.testing.assert_allclose(found, want, rtol=1e-5)
  assert abs(expectation(k2, *pair)[0] - want) > 1e-2


def test_what_the_estimators_are_as_losses(pair):
  want = jax.grad(exact_kl)(*pair)
  np.testing.assert_allclose(expectation(k2, *pair)[1], want, atol=1e-6)
  # The gradient of k1 as a loss is that of log pi: nothing, on average.
  np.testing.assert_allclose(expectation(k1, *pair)[1], 0, atol=1e-6)
  assert np.max(np.abs(expectation(k3, *pair)[1] - want)) > 1e-2
  assert k1 not in LOSSES.values(), "k1 is no loss"


def test_k1_in_the_reward_is_the_gradient_of_the_kl(pair):
  logits, reference = pair
  logp = jax.nn.log_softmax(logits)
  gain = -k1(logp, reference)[None]
  chance = jnp.exp(logp)

  def loss(logits):
    own = jax.nn.log_softmax(logits)[None]
    each = policy_gradient(own, logp[None], gain, clip=INF)
    return jnp.sum(each * chance)

  found = jax.grad(loss)(logits)
  np.testing.assert_allclose(found, jax.grad(exact_kl)(*pair), atol=1e-6)


def test_all_estimators_vanish_at_the_reference():
  x = jnp.linspace(-5.0, -0.1, 7)[None]
  for estimator in (k1, k2, k3):
    assert np.all(np.asarray(estimator(x, x)) == 0)
  other = x + jnp.linspace(-2, 2, 7)
  assert np.all(np.asarray(k3(x, other)) >= 0)
  np.testing.assert_allclose(k2(x, other), (x - other) ** 2 / 2, rtol=1e-6)


def test_per_episode_sums_over_tokens():
  x = jnp.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
  mask = jnp.array([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
  found = per_episode(x, mask)
  assert (float(found.total), float(found.count)) == (13.0, 2.0)
  twice = per_episode(jnp.tile(x, (1, 2)), jnp.tile(mask, (1, 2)))
  assert float(value(twice)) == 2 * float(value(found))
  # A row without a token is no episode, and does not thin out the others.
  padded = [jnp.pad(y, ((0, 3), (0, 0))) for y in (x, mask)]
  assert float(value(per_episode(*padded))) == float(value(found))
  groups = per_episode(x.reshape(2, 2, 2), mask.reshape(2, 2, 2))
  assert (float(groups.total), float(groups.count)) == (13.0, 3.0)


def test_mean_ignores_what_is_masked():
  x = jnp.array([[1.0, 100.0, 3.0]])
  mask = jnp.array([[1.0, 0.0, 1.0]])
  found = mean(x, mask)
  assert (float(found.total), float(found.count)) == (4.0, 2.0)
  assert float(value(found)) == 2.0


@pytest.mark.parametrize("reduce", [mean, per_episode])
def test_a_mask_of_zero_gives_no_gradient(reduce):
  mask = jnp.array([[1.0, 0.0, 1.0, 0.0]])

  def loss(x):
    each = policy_gradient(x, x * 0 - 1.0, jnp.full((1, 4), 2.0), clip=INF)
    return value(reduce(each + k3(x, x * 0 - 2.0), mask))

  slope = np.asarray(jax.grad(loss)(jnp.full((1, 4), -1.5)))
  assert np.all(slope[0, 1::2] == 0) and np.all(slope[0, ::2] != 0)


@pytest.mark.parametrize("reduce", [mean, per_episode])
def test_an_empty_mean_is_zero_without_nan(reduce):
  def loss(x):
    return value(reduce(x * x, jnp.zeros((2, 3))))

  found, slope = jax.value_and_grad(loss)(jnp.ones((2, 3)))
  assert float(found) == 0
  assert np.all(np.asarray(slope) == 0)


def test_likelihood_is_weighted_by_token():
  logprob = jnp.array([[-1.0, -2.0], [-3.0, -4.0]])
  weight = jnp.array([[2.0, 0.5], [0.0, 1.0]])
  found = negative_log_likelihood(logprob, weight)
  assert found.tolist() == [[2.0, 1.0], [0.0, 4.0]]


def test_a_pair_at_the_reference_has_the_loss_log_2():
  """And descent raises the chosen row and lowers the other (DPO, Eq. 7)."""
  reference = jnp.array([[-3.0, -5.0], [-2.0, -1.0]])
  label = jnp.array([1.0, 0.25])

  def loss(logprob):
    margin = dpo_margin(logprob, reference, beta=0.5)
    return jnp.sum(bradley_terry(margin, label))

  found, slope = jax.value_and_grad(loss)(reference)
  np.testing.assert_allclose(found, 2 * np.log(2), rtol=1e-6)
  # d/dm of the loss at 0 is 1/2 - label, times beta.
  np.testing.assert_allclose(slope, [[-0.25, 0.25], [0.125, -0.125]])


def test_pairs_by_hand():
  margin, label = jnp.array([0.0, 2.0]), jnp.array([0.5, 0.9])
  chance = 1 / (1 + np.exp(-2.0))
  want = [np.log(2), -0.9 * np.log(chance) - 0.1 * np.log(1 - chance)]
  np.testing.assert_allclose(bradley_terry(margin, label), want, rtol=1e-5)
  x = jnp.array([[[1.0, jnp.nan], [2.0, 3.0]]])
  mask = jnp.array([[[1.0, 0.0], [1.0, 1.0]]])
  assert sequence_sum(x, mask).tolist() == [[1.0, 5.0]]


def test_value_errors_by_hand():
  """The worse of the value and the one near the old; none of it moves them."""
  found_value = jnp.array([[1.0, 3.0, 0.0]])
  old, returns = jnp.array([[0.0, 0.0, 0.0]]), jnp.array([[2.0, 2.0, 2.0]])
  plain = value_error(found_value, returns, old, clip=INF)
  assert plain.tolist() == [[0.5, 0.5, 2.0]]
  near = value_error(found_value, returns, old, clip=0.5)
  assert near.tolist() == [[1.125, 1.125, 2.0]]
  slope = jax.grad(
    lambda *x: jnp.sum(value_error(*x, clip=0.5)), argnums=(0, 1, 2)
  )(found_value, returns, old)
  # Where the near one is the worse, it does not move with the value.
  assert slope[0].tolist() == [[0.0, 0.0, -2.0]]
  assert not np.any(slope[1]) and not np.any(slope[2])
