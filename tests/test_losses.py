"""Losses worked out by hand, by NumPy and by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.losses.imitation import negative_log_likelihood
from sitrain.losses.policy_gradient import policy_gradient
from sitrain.losses.reduce import mean, per_episode, value
from sitrain.losses.regularizers import LOSSES, k1, k2, k3

INF = float("inf")


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
  assert set(LOSSES) == {"k2", "k3"}, "k1 is no loss"


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
def test_nothing_counted_is_zero_without_nan(reduce):
  def loss(x):
    return value(reduce(x * x, jnp.zeros((2, 3))))

  found, slope = jax.value_and_grad(loss)(jnp.ones((2, 3)))
  assert float(found) == 0
  assert np.all(np.asarray(slope) == 0)


def test_likelihood_is_weighted_by_row():
  logprob = jnp.array([[-1.0, -2.0], [-3.0, -4.0]])
  found = negative_log_likelihood(logprob, jnp.array([2.0, 0.0]))
  assert found.tolist() == [[2.0, 4.0], [0.0, 0.0]]
