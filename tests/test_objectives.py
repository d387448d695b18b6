"""Policy gradients and their advantages against transcriptions in NumPy.

Each `slow_*` is the equation, in float64 and with loops. Rows are ragged, one
has no token at all, and what stands outside of a mask is infinite.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.curate import advantage, select
from sitrain.losses import policy_gradient as losses
from sitrain.losses import preference, reduce, regularizers
from sitrain.losses.value import value_error

INF = float("inf")
LENGTHS = (5, 1, 3, 0, 8, 8)
ROWS, COLUMNS = len(LENGTHS), 9
MASK = np.arange(COLUMNS) - 1 < np.array(LENGTHS)[:, None]
MASK[:, 0] = False  # a prompt
UNIT = MASK.astype(np.float32)
LARGEST = losses.LARGEST_GAP


def array(x):
  return jnp.asarray(x, jnp.float32)


def draw(seed=0, spread=0.4, outside=0.0):
  """(logprob, old log-probability, advantage) [B T], in float64."""
  rng = np.random.default_rng(seed)
  logprob = rng.uniform(-3, -0.1, MASK.shape)
  old = np.where(MASK, logprob + spread * rng.normal(size=MASK.shape), outside)
  gain = np.where(MASK, rng.normal(size=MASK.shape), 0.0)
  gain[2] = 0.0  # a group of equal rewards
  return logprob, old, gain


def extremes():
  """Ratios of up to exp(+-200), both beyond what float32 can hold."""
  logprob, old, gain = draw(1)
  old[0, 1:5] = logprob[0, 1:5] + [200.0, -200.0, 60.0, -60.0]
  old[4, 1:3] = logprob[4, 1:3] + [-40.0, 25.0]
  return logprob, old, gain


def slow_ratio(logprob, old):
  return np.exp(np.clip(logprob - old, -LARGEST, LARGEST))


def slow_sequence_ratio(logprob, old):
  out = np.ones_like(logprob)
  for b in range(ROWS):
    if own := [logprob[b, t] - old[b, t] for t in np.flatnonzero(MASK[b])]:
      out[b] = np.exp(np.clip(sum(own) / len(own), -LARGEST, LARGEST))
  return out


def slow_clipped(ratio, gain, low, high):
  return -np.minimum(ratio * gain, np.clip(ratio, 1 - low, 1 + high) * gain)


def slow_dual(logprob, old, gain):
  loss = slow_clipped(slow_ratio(logprob, old), gain, 0.2, 0.2)
  return np.where(gain < 0, np.minimum(loss, -3 * gain), loss)


def slow_cispo(logprob, old, gain):
  weight = np.clip(slow_ratio(logprob, old), 1 - INF, 1 + 0.28)
  return -weight * gain * logprob


def slow_sapo(logprob, old, gain):
  out = np.zeros_like(gain)
  for at in np.ndindex(gain.shape):
    tau = 1.0 if gain[at] > 0 else 1.05
    far = tau * (slow_ratio(logprob, old)[at] - 1)
    gate = 0.0 if far < -700 else 1 / (1 + np.exp(-far))
    out[at] = -gate * 4 / tau * gain[at]
  return out


def ppo(logprob, old, gain, mask, *, clip=0.2, clip_high=0.28, most=INF):
  return losses.policy_gradient(
    logprob, old, gain, clip=clip, clip_high=clip_high, most=most
  )


def gspo(logprob, old, gain, mask, *, clip=3e-2, clip_high=4e-2):
  ratio = losses.sequence_ratio(logprob, old, mask)
  return losses.clipped(ratio, gain, clip=clip, clip_high=clip_high)


def dual(logprob, old, gain, mask):
  loss = ppo(logprob, old, gain, mask, clip_high=0.2)
  return losses.dual_clip(loss, gain, 3.0)


def cispo(logprob, old, gain, mask, *, clip=INF, clip_high=0.28):
  return losses.cispo(logprob, old, gain, clip=clip, clip_high=clip_high)


def sapo(logprob, old, gain, mask):
  ratio = losses.importance_ratio(logprob, old)
  return losses.soft_gate(ratio, gain, positive=1.0, negative=1.05)


def reinforce(logprob, old, gain, mask):
  return -gain * logprob


ORACLES = {
  "ppo": (ppo, lambda a, b, g: slow_clipped(slow_ratio(a, b), g, 0.2, 0.28)),
  "unclipped": (
    functools.partial(ppo, clip=INF, clip_high=INF),
    lambda a, b, g: -slow_ratio(a, b) * g,
  ),
  "dual clip": (dual, slow_dual),
  "gspo": (
    gspo,
    lambda a, b, g: slow_clipped(slow_sequence_ratio(a, b), g, 3e-2, 4e-2),
  ),
  "cispo": (cispo, slow_cispo),
  "sapo": (sapo, slow_sapo),
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("case", ["near", "extreme"])
def test_losses_are_their_equations(name, case):
  fast, slow = ORACLES[name]
  given = draw() if case == "near" else extremes()
  found = fast(*map(array, given), array(UNIT))
  want = slow(*given)
  near = np.abs(want) < 1e6  # beyond, the last digits of float32 show
  np.testing.assert_allclose(
    np.where(MASK & near, found, 0), np.where(MASK & near, want, 0),
    rtol=3e-5, atol=3e-6,
  )
  np.testing.assert_allclose(
    np.where(MASK, found, 0), np.where(MASK, want, 0), rtol=1e-4, atol=3e-6
  )


@pytest.mark.parametrize("name, aggregate", [
  *((name, "episode_mean") for name in ORACLES),
  *(("ppo", aggregate) for aggregate in reduce.AGGREGATES),
])
@pytest.mark.parametrize("outside", [INF, -INF])
def test_nothing_outside_of_the_mask_is_felt(name, aggregate, outside):
  """Neither in the loss nor in the gradient, whatever the ratios are there."""
  fast, _ = ORACLES[name]
  whole = reduce.aggregate_of(aggregate, COLUMNS)

  def loss(logprob, old, gain, mask):
    return reduce.value(whole(fast(logprob, old, gain, mask), mask))

  given = [array(x) for x in draw(outside=outside)]
  clean = [array(x) for x in draw(outside=0.0)]
  slope = jax.value_and_grad(loss)
  found, want = slope(*given, array(UNIT)), slope(*clean, array(UNIT))
  np.testing.assert_allclose(found[0], want[0], rtol=1e-6)
  np.testing.assert_allclose(found[1], want[1], rtol=1e-6)
  assert np.all(np.asarray(found[1])[~MASK] == 0) and np.any(found[1])
  # A mask of zeros: no loss and no gradient.
  nothing = slope(*given, jnp.zeros_like(given[0]))
  assert float(nothing[0]) == 0 and not np.any(nothing[1])


@pytest.mark.parametrize("name", [*ORACLES, "k1", *regularizers.LOSSES])
def test_tokens_that_no_policy_can_write_have_no_gradient(name):
  """Both log-probabilities are -inf there, as those of padding may be."""
  logprob, old, gain = draw(5)
  gain[:, 0] = 1.0  # Where one is given to whole rows, also to their prompts.
  hide = lambda x: array(np.where(MASK, x, -INF))

  def loss(x, other):
    if name in ORACLES:
      each = ORACLES[name][0](x, other, array(gain), array(UNIT))
    else:
      each = (regularizers.LOSSES | {"k1": regularizers.k1})[name](x, other)
    return reduce.value(reduce.mean(each, array(UNIT)))

  found = jax.value_and_grad(loss)(hide(logprob), hide(old))
  want = jax.value_and_grad(loss)(array(logprob), array(old))
  np.testing.assert_allclose(found[0], want[0], rtol=1e-6)
  np.testing.assert_array_equal(found[1], np.where(MASK, want[1], 0))
  # Inside of the mask it is no number, so that a run stops.
  inside = MASK & (np.arange(COLUMNS) == 1)
  both = [array(np.where(inside, -INF, x)) for x in (logprob, old)]
  assert not np.isfinite(loss(*both))


def test_sums_of_bfloat16_are_those_of_float32():
  """Of losses, masks and rewards: their own sums have eight bits."""
  rng = np.random.default_rng(6)
  x = jnp.asarray(rng.uniform(-3, 0, (2, 600)), jnp.bfloat16)
  one = jnp.ones(x.shape, jnp.bfloat16)
  wide = lambda *given: [y.astype(jnp.float32) for y in given]
  functions = {
    name: lambda x, m, name=name: reduce.value(
      reduce.aggregate_of(name, 7)(x, m)
    )
    for name in reduce.AGGREGATES
  } | {
    "sum": preference.sequence_sum, "mean": preference.sequence_mean,
    "gspo": lambda x, m: losses.sequence_ratio(x, x - m * 0.01, m),
    "ratio": lambda x, m: losses.importance_ratio(x, x * 0.9),
    "whiten": advantage.whiten_tokens,
    "turn": lambda x, m: advantage.per_turn(x, m.astype(int), 1),
  }
  for name, function in functions.items():
    found = function(x, one)
    assert found.dtype == jnp.float32, name
    if name not in ("gspo", "ratio"):  # There the second input rounds itself.
      want = function(*wide(x, one))
      np.testing.assert_allclose(found, want, rtol=1e-6, err_msg=name)
  # Groups of 512 rows, of which the verdicts may be bfloat16, too.
  value = jnp.asarray(rng.integers(0, 2, 1024), jnp.bfloat16)
  group, known = jnp.arange(1024) // 512, jnp.ones(1024, jnp.bfloat16)
  for name, function in advantage.ESTIMATES.items():
    found, want = function(value, group, known), function(
      *wide(value), group, *wide(known)
    )
    np.testing.assert_allclose(found, want, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", [*regularizers.LOSSES, "value"])
@pytest.mark.parametrize("outside", [INF, -INF])
def test_squares_have_no_gradient_outside_of_the_mask(name, outside):
  """Of a KL to a reference, and of values to returns and old values."""
  logprob, old, _ = draw(3)

  def loss(x, other):
    if name == "value":
      each = value_error(x, other, other, clip=0.5)
    else:
      each = regularizers.LOSSES[name](x, other)
    return reduce.value(reduce.mean(each, array(UNIT)))

  hidden = np.where(MASK, old, outside)
  found = jax.value_and_grad(loss)(array(logprob), array(hidden))
  want = jax.value_and_grad(loss)(array(logprob), array(old))
  for a, b in zip(found, want, strict=True):
    np.testing.assert_array_equal(a, b)
  assert np.all(np.asarray(found[1])[~MASK] == 0) and np.any(found[1] != 0)
  # Inside of the mask it is no number, so that a run stops.
  inside = array(np.where(MASK, outside, old))
  assert not np.isfinite(loss(array(logprob), inside))


def gradient(fast, logprob, gain, mask, aggregate):
  """Of a loss on the policy that sampled: every ratio is 1."""
  def loss(x):
    old = jax.lax.stop_gradient(x)
    return reduce.value(aggregate(fast(x, old, gain, mask), mask))

  return jax.grad(loss)(logprob)


@pytest.mark.parametrize("aggregate", reduce.AGGREGATES)
def test_on_policy_all_losses_have_the_gradient_of_reinforce(aggregate):
  """PPO, dual clip, CISPO and SAPO for each token; GSPO for each row."""
  logprob, _, gain = map(array, draw())
  whole = reduce.aggregate_of(aggregate, COLUMNS)
  row = jnp.broadcast_to(gain[:, 1:2], gain.shape)  # one advantage a sequence
  for name, (fast, _) in ORACLES.items():
    given = row if name == "gspo" else gain
    want = gradient(reinforce, logprob, given, array(UNIT), whole)
    found = gradient(fast, logprob, given, array(UNIT), whole)
    np.testing.assert_allclose(found, want, atol=1e-6, err_msg=name)
  assert np.any(want)


def test_gspo_is_grpo_on_answers_of_one_token():
  """Off policy, with ratios on both sides of the clips, gradients included."""
  logprob, old, gain = map(array, draw())
  one = np.zeros_like(UNIT)
  one[:, 1] = UNIT[:, 1]
  sums = []
  for fast in (ppo, gspo):
    clips = dict(clip=0.2, clip_high=0.28)
    value = lambda x, fast=fast, clips=clips: reduce.value(
      reduce.per_episode_mean(fast(x, old, gain, array(one), **clips),
                              array(one))
    )
    sums.append(jax.value_and_grad(value)(logprob))
  np.testing.assert_allclose(sums[0][0], sums[1][0], rtol=1e-6)
  np.testing.assert_allclose(sums[0][1], sums[1][1], rtol=1e-5, atol=1e-7)


def test_the_gradient_of_gspo_is_that_of_the_ratio_of_rows():
  """-s A averaged over rows, s = exp(mean log ratio), differentiated whole."""
  logprob, old, gain = map(array, draw())
  row = gain[:, 1]
  mask = array(UNIT)

  def plain(x):
    length = jnp.maximum(jnp.sum(mask, axis=1), 1)
    gap = jnp.sum(jnp.where(MASK, x - old, 0), axis=1) / length
    rows = jnp.any(MASK, axis=1)
    return jnp.sum(-jnp.exp(gap) * row * rows) / jnp.sum(rows)

  def by_tokens(x):
    given = x, old, jnp.broadcast_to(row[:, None], x.shape), mask
    each = gspo(*given, clip=INF, clip_high=INF)
    return reduce.value(reduce.per_episode_mean(each, mask))

  want, found = (jax.value_and_grad(f)(logprob) for f in (plain, by_tokens))
  np.testing.assert_allclose(found[0], want[0], rtol=1e-6)
  np.testing.assert_allclose(found[1], want[1], rtol=1e-5, atol=1e-7)


def test_a_truncated_ratio_has_the_gradient_of_cispo():
  """min(r, c) grad log pi, though the values of the two losses differ."""
  logprob, old, gain = map(array, extremes())
  mask = array(UNIT)
  one = lambda x: jnp.sum(
    reduce.masked(ppo(x, old, gain, mask, clip=INF, clip_high=INF, most=5.0),
                  mask)
  )
  two = lambda x: jnp.sum(
    reduce.masked(cispo(x, old, gain, mask, clip_high=4.0), mask)
  )
  found, want = jax.grad(one)(logprob), jax.grad(two)(logprob)
  # Where the gap itself is limited the truncated ratio has no gradient.
  inside = np.abs(np.asarray(logprob - old)) < LARGEST
  np.testing.assert_allclose(
    np.where(inside, found, 0), np.where(inside, want, 0), rtol=1e-4, atol=1e-6
  )


def test_samples_of_another_program_weigh_no_more_than_the_bound():
  old = array([[-1.0, -1.0, -1.0, -1.0]])
  sampler = array([[-1.0, -3.0, -0.5, INF]])
  found = advantage.sampler_weight(old, sampler, 2.0)
  np.testing.assert_allclose(
    found[0, :3], [1.0, 2.0, np.exp(-0.5)], rtol=1e-6
  )
  slope = jax.grad(lambda x: jnp.sum(advantage.sampler_weight(x, sampler, 2.0)))
  assert not np.any(slope(old))


def slow_aggregate(name, x, length):
  rows = [x[b, MASK[b]] for b in range(ROWS) if MASK[b].any()]
  if name == "token_mean":
    return np.concatenate(rows).mean()
  each = [r.sum() for r in rows]
  if name == "episode_mean":
    each = [r.mean() for r in rows]
  return np.mean(each) / (length if name == "constant_length" else 1)


@pytest.mark.parametrize("name", reduce.AGGREGATES)
def test_aggregates_are_their_equations(name):
  x = np.where(MASK, draw()[0], np.nan)
  found = reduce.aggregate_of(name, 7)(array(x), array(UNIT))
  want = slow_aggregate(name, x, 7)
  np.testing.assert_allclose(reduce.value(found), want, rtol=1e-6)
  # Sums and counts of two halves are those of the whole.
  parts = [
    reduce.aggregate_of(name, 7)(array(x[half]), array(UNIT[half]))
    for half in (slice(0, 3), slice(3, 6))
  ]
  both = jax.tree.map(lambda a, b: a + b, *parts)
  np.testing.assert_allclose(reduce.value(both), want, rtol=1e-6)


def test_estimates_of_the_kl_are_their_equations():
  """In float64 with loops, on near and on far references."""
  logprob, old, _ = draw(4)
  old[0, 1:5] = logprob[0, 1:5] + [12.0, -25.0, 0.0, 5.0]
  gap = logprob - old
  equations = {
    "k2": gap**2 / 2, "k3": np.exp(-gap) - 1 + gap, "absolute": np.abs(gap),
  }
  equations["k3+"] = equations["k3"]
  for name, want in equations.items():
    found = regularizers.LOSSES[name](array(logprob), array(old))
    np.testing.assert_allclose(
      np.where(MASK, found, 0), np.where(MASK, want, 0), rtol=3e-5, atol=3e-6
    )
  np.testing.assert_allclose(
    regularizers.k1(array(logprob), array(old)), gap, rtol=3e-5, atol=3e-6
  )


def test_k3_plus_reads_as_k3_and_pulls_as_k2():
  """By enumeration: its gradient is that of the KL, whose value k3 has."""
  rng = np.random.default_rng(3)
  logits, other = array(rng.normal(size=(2, 7)))
  reference = jax.nn.log_softmax(other)

  def exact(x):
    logp = jax.nn.log_softmax(x)
    return jnp.sum(jnp.exp(logp) * (logp - reference))

  def sampled(x):
    chance = jax.lax.stop_gradient(jax.nn.softmax(x))
    each = regularizers.k3_plus(jax.nn.log_softmax(x), reference)
    return jnp.sum(chance * each)

  want, found = (jax.value_and_grad(f)(logits) for f in (exact, sampled))
  np.testing.assert_allclose(found[0], want[0], rtol=1e-5)
  np.testing.assert_allclose(found[1], want[1], atol=1e-6)
  far = regularizers.k3_plus(array([[-1.0]]), array([[-400.0]]))
  assert np.all(np.isfinite(far))


# Groups of 4, 3, 1 and 2 rows, the last of equal rewards.
GROUP = np.array([0, 1, 0, 3, 1, 0, 2, 3, 1, 0])
REWARD = np.array([1, 0, 0, 0.5, 1, 1, 1, 0.5, 0, 0.25])


def estimate(name, value=REWARD, known=None):
  known = np.ones(len(value)) if known is None else known
  return np.asarray(advantage.ESTIMATES[name](
    array(value), jnp.asarray(GROUP), array(known)
  ))


def test_leave_one_out_is_the_centred_reward_times_g_over_g_minus_1():
  centred = estimate("group_mean")
  size = np.bincount(GROUP)[GROUP]
  want = centred * size / np.maximum(size - 1, 1)
  np.testing.assert_allclose(estimate("leave_one_out"), want, atol=1e-6)


@pytest.mark.parametrize("name", advantage.ESTIMATES)
def test_groups_of_one_and_of_equal_rewards_have_no_advantage(name):
  found = estimate(name)
  assert np.all(np.isfinite(found)) and np.any(found)
  if name == "as_it_is":
    return
  if name not in ("whiten", "group_whiten"):
    np.testing.assert_allclose(found[GROUP >= 2], 0, atol=1e-6)
  # Sums of the last three round, whatever the size of what is left of them.
  for every in (0.0, 1.0, 0.1, 100.3, -1000.7):
    same = estimate(name, np.full(len(GROUP), every))
    np.testing.assert_array_equal(same, 0, err_msg=every)
  known = np.ones(len(GROUP))
  known[0] = 0
  value = np.where(known, REWARD, np.nan)
  hidden = estimate(name, value, known)
  assert hidden[0] == 0 and np.all(np.isfinite(hidden))


def test_a_rarely_solved_problem_weighs_more():
  """MaxRL: of n right rows of G each has G / n - 1, and wrong ones -1."""
  value = np.array([1, 0, 0, 0, 1, 0, 0, 0, 1, 1.0])
  found = estimate("maximum_likelihood", value)
  for group in (0, 1):
    own = value[GROUP == group]
    want = own / own.mean() - 1 if own.any() else 0 * own
    np.testing.assert_allclose(found[GROUP == group], want, rtol=1e-4)


def slow_normalise(x, group):
  out = np.zeros_like(x)
  for g in set(group):
    own = x[group == g]
    if len(own) > 1:
      out[group == g] = (own - own.mean()) / (own.std(ddof=1) + 1e-6)
  return out


def test_named_rewards_are_normalised_one_by_one():
  """GDPO; rewards (1, 0) and (0, 1) of one sum have different advantages."""
  rng = np.random.default_rng(2)
  parts = {"right": REWARD, "short": rng.integers(0, 2, len(GROUP)) * 0.1}
  weights = {"right": 1.0, "short": 0.5}
  found = advantage.decoupled(
    {k: array(x) for k, x in parts.items()}, weights, jnp.asarray(GROUP),
    jnp.ones(len(GROUP)),
  )
  total = sum(weights[k] * slow_normalise(x, GROUP) for k, x in parts.items())
  want = slow_normalise(total, np.zeros_like(GROUP))
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
  with pytest.raises(ValueError, match="this task's rewards are"):
    advantage.decoupled(
      {"right": array(REWARD)}, weights, jnp.asarray(GROUP),
      jnp.ones(len(GROUP)),
    )


def test_long_answers_are_charged():
  length = array([[0, 12], [13, 15], [16, 20]])
  found = advantage.overlong(length, limit=(16, 18), margin=4)
  np.testing.assert_allclose(found, [[0, 0], [-0.25, -0.25], [-1, -1]])


def slow_covariance(logprob, gain):
  own = gain[MASK] - gain[MASK].mean(), logprob[MASK] - logprob[MASK].mean()
  out = np.zeros(MASK.shape)
  out[MASK] = own[0] * own[1]
  return out


def test_covariances_and_the_tokens_that_they_choose():
  logprob, _, gain = draw()
  logprob, gain = np.where(MASK, logprob, -INF), gain + 0.01
  given = array(gain), array(logprob), array(UNIT)
  want = slow_covariance(np.where(MASK, logprob, 0), gain)
  found = select.covariance(*given)
  np.testing.assert_allclose(found, want, atol=1e-5)
  # KL-Cov: the largest third of 25 tokens.
  chosen = np.asarray(select.top_share(found, array(UNIT), 0.32))
  assert chosen.sum() == 8 and not np.any(chosen[~MASK])
  assert np.min(want[chosen > 0]) >= np.max(want[MASK & (chosen == 0)]) - 1e-6
  # Clip-Cov: random ones of those between the bounds.
  low, high = np.quantile(want[MASK], [0.5, 0.9])
  noise = np.random.default_rng(4).random(MASK.shape)
  clip = functools.partial(
    select.clip_covariance, *given, array(noise), low=low, high=high
  )
  left = np.asarray(clip(share=0.2))
  gone = left == 0
  among = MASK & (want > low) & (want < high)
  assert gone.sum() == 5 and np.all(among[gone])
  assert np.min(noise[gone]) > np.max(noise[among & ~gone])
  np.testing.assert_array_equal(left[~gone], array(gain)[~gone])
  # No more than there are.
  assert np.sum(np.asarray(clip(share=1.0)) == 0) == among.sum()


def test_noise_belongs_to_the_row_and_not_to_its_place():
  key = jax.random.key(0)
  tokens = jnp.asarray(np.random.default_rng(0).integers(-1, 9, (200, 6)))
  noise = np.asarray(select.row_noise(key, tokens))
  order = np.random.default_rng(1).permutation(200)
  np.testing.assert_array_equal(
    select.row_noise(key, tokens[order]), noise[order]
  )
  assert len(np.unique(noise)) == noise.size, "rows that differ, differ"
  assert abs(noise.mean() - 0.5) < 0.05
  other = select.row_noise(jax.random.key(1), tokens)
  assert not np.any(np.asarray(other) == noise)


def test_inputs_are_corrupted_where_they_are_learned():
  tokens = jnp.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS)
  noise = np.random.default_rng(5).random(MASK.shape)
  found = np.asarray(select.corrupt(
    tokens, array(UNIT), array(noise), jnp.full_like(tokens, -7), 0.4
  ))
  want = np.where(MASK & (noise < 0.4), -7, tokens)
  np.testing.assert_array_equal(found, want)
  assert 0 < np.sum(found == -7) < MASK.sum()
