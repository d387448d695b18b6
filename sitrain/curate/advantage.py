"""From rewards per turn to advantages of tokens: returns, baselines, GAE."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def progress_bonus(
  reward: Float[Array, "B K"], scale: float, *, back: int = 1
) -> Float[Array, "B K"]:
  """scale * (r_k - r_{k-back}), and 0 for the first `back` turns.

  The bonus of SCoRe's stage II (Kumar et al. 2024, section 5.2); for more than
  two turns each attempt is compared with the one just before it (ICLR, A.1).
  """
  before = jnp.concatenate([reward[:, :back], reward[:, :-back]], axis=1)
  return scale * (reward - before)


def returns(
  value: Float[Array, "B K"],
  counted: Bool[Array, "B K"],
  written: Bool[Array, "B K"],
  discount: float,
) -> tuple[Float[Array, "B K"], Bool[Array, "B K"]]:
  """sum over j >= k of discount ** (j - k) * v_j for each turn k, if known.

  SCoRe credits a turn with its own value alone (discount 0; Kumar et al. 2024,
  App. A.2). With a discount the progress bonus is also charged to the attempt
  before it: r_1's weight in turn 1's return is 1 - discount * bonus.

  A turn that was never written adds nothing. One that was written and does not
  count, for its verdict is not known, leaves the returns of the turns before it
  unknown: they no longer count either, as the second result says.
  """
  if not discount:
    return value, counted
  value = jnp.where(counted, value, 0.0)
  later = jnp.zeros_like(value[:, 0])
  lost = jnp.zeros_like(counted[:, 0])
  sums, known = [], []
  for k in reversed(range(value.shape[1])):
    known.append(counted[:, k] & ~lost)
    later = value[:, k] + discount * later
    lost |= written[:, k] & ~counted[:, k]
    sums.append(later)
  return jnp.stack(sums[::-1], axis=1), jnp.stack(known[::-1], axis=1)


def leave_one_out(
  value: Float[Array, " B"],
  group: Int[Array, " B"],
  known: Float[Array, " B"],
) -> Float[Array, " B"]:
  """Each row's value less the mean value of the other rows of its group.

  A_b = v_b - mean of v_j over j != b in the group (RLOO; Ahmadian et al. 2024).
  `group` holds any ids in [0, B): rows of a group need not be neighbours. Rows
  with known = 0 count in no baseline and get 0; so do rows without a partner. A
  known row with another id gets NaN.
  """
  value = _above_least(value, group, known)
  value, total, count = _group_sums(value, group, known)
  others = count - known
  paired = (others > 0) & (known > 0)
  baseline = (total - value) / jnp.where(others > 0, others, 1.0)
  return jnp.where(paired, value - baseline, 0.0)


def group_mean(
  value: Float[Array, " B"],
  group: Int[Array, " B"],
  known: Float[Array, " B"],
) -> Float[Array, " B"]:
  """Each row's value less the mean of its group, itself included.

  Liu et al. 2025 (Dr. GRPO), Eq. 2. `group` and `known` as in `leave_one_out`.
  """
  value = _above_least(value, group, known)
  value, total, count = _group_sums(value, group, known)
  mean = total / jnp.where(count > 0, count, 1.0)
  return jnp.where(known > 0, value - mean, 0.0)


def group_normalise(
  value: Float[Array, " B"],
  group: Int[Array, " B"],
  known: Float[Array, " B"],
  *,
  ddof: int = 0,
) -> Float[Array, " B"]:
  """(v_b - mean) / (std + 1e-6) of the group, std over its known rows.

  Shao et al. 2024 (DeepSeekMath, GRPO), section 4.1.2, which does not say by
  what the sum of squares is divided: here by count - ddof. Rows of a group with
  equal values get 0. `group` and `known` as in `leave_one_out`.
  """
  gap = group_mean(value, group, known)
  _, square, count = _group_sums(jnp.square(gap), group, known)
  count -= ddof
  std = jnp.sqrt(square / jnp.where(count > 0, count, 1.0))
  return gap / (std + 1e-6)


def group_normalise_sample(
  value: Float[Array, " B"],
  group: Int[Array, " B"],
  known: Float[Array, " B"],
) -> Float[Array, " B"]:
  """`group_normalise` with the sample deviation, as in TRL, verl and OpenRLHF.

  It divides by count - 1, so that advantages are smaller by sqrt(1 - 1 / G).
  """
  return group_normalise(value, group, known, ddof=1)


def maximum_likelihood(
  value: Float[Array, " B"],
  group: Int[Array, " B"],
  known: Float[Array, " B"],
) -> Float[Array, " B"]:
  """(v_b - mean) / (mean + 1e-6) of the group, for rewards of 0 or more.

  Tajwar et al. 2026 (arXiv:2602.02710, MaxRL), as the authors' scripts have it:
  a problem weighs as much more as it is rarely solved, which for rewards of 0
  and 1 goes towards the gradient of log p(right) as samples grow. A group
  without a reward gets 0. `group` and `known` as in `leave_one_out`.
  """
  gap = group_mean(value, group, known)
  _, total, count = _group_sums(value, group, known)
  mean = total / jnp.where(count > 0, count, 1.0)
  return gap / (jnp.maximum(mean, 0.0) + 1e-6)


def whiten(
  value: Float[Array, " B"],
  group: Int[Array, " B"],
  known: Float[Array, " B"],
) -> Float[Array, " B"]:
  """(v_b - mean) / (std + 1e-6) over all known rows of the round.

  Hu 2025 (REINFORCE++), Eq. 6: the groups are not used.
  """
  return group_normalise(value, jnp.zeros_like(group), known)


def group_whiten(
  value: Float[Array, " B"],
  group: Int[Array, " B"],
  known: Float[Array, " B"],
) -> Float[Array, " B"]:
  """`whiten` of what is left of each value without the mean of its group.

  Hu 2025 (arXiv:2501.03262), the variant that is called REINFORCE++-baseline.
  """
  return whiten(group_mean(value, group, known), group, known)


def decoupled(
  parts: dict[str, Float[Array, " B"]],
  weights: dict[str, float],
  group: Int[Array, " B"],
  known: Float[Array, " B"],
) -> Float[Array, " B"]:
  """One normalised advantage for each named reward, added up and whitened.

  A = whiten(sum over n of w_n (r_n - mean) / std), mean and std those of the
  group (Liu et al. 2026, arXiv:2601.05242, GDPO). Normalising the sum of the
  rewards instead would give rows that earned it otherwise the same advantage.
  Deviations are those of a sample, as in the authors' code. Raises ValueError
  where the names of `parts` and `weights` differ.
  """
  if set(parts) != set(weights):
    raise ValueError(
      f"weights of {sorted(weights)}: this task's rewards are {sorted(parts)}"
    )
  gains = [
    weights[name] * group_normalise_sample(parts[name], group, known)
    for name in sorted(parts)
  ]
  one = jnp.zeros_like(group)
  return group_normalise_sample(sum(gains[1:], gains[0]), one, known)


def overlong(
  length: Float[Array, "B K"], *, limit: tuple[int, ...], margin: int
) -> Float[Array, "B K"]:
  """A penalty for long turns: 0 up to limit - margin tokens, -1 from limit on.

  In between ((limit - margin) - length) / margin (Yu et al. 2025, DAPO, section
  3.4). There is a limit for every turn; one that was cut there is charged 1.
  """
  begin = jnp.asarray(limit) - margin
  return -jnp.clip((length - begin) / margin, 0.0, 1.0)


def sampler_weight(
  old_logprob: Float[Array, "B T"],
  sampler_logprob: Float[Array, "B T"],
  most: float,
) -> Float[Array, "B T"]:
  """min(exp(log pi_old - log mu), most) of every token, for its advantage.

  Truncated importance sampling between the policy before the update, as the
  update's program scores it, and the program that sampled (`token_truncate` of
  TRL). Losses are linear in the size of advantages, so it may multiply them.
  """
  gap = jax.lax.stop_gradient(old_logprob - sampler_logprob)
  return jnp.exp(jnp.minimum(gap, jnp.log(most)))


def whiten_tokens(
  advantage: Float[Array, "B T"], mask: Float[Array, "B T"]
) -> Float[Array, "B T"]:
  """(A - mean) / (std + 1e-6) over all tokens under the mask; 0 elsewhere.

  The normalisation of PPO's and REINFORCE++'s implementations, here over the
  whole round whatever its minibatches are. Every token counts alike, so long
  answers weigh more in the mean than short ones.
  """
  inside, advantage = mask > 0, _wide(advantage)
  least = jnp.min(advantage, where=inside, initial=jnp.inf)
  above = jnp.where(inside, advantage - least, 0.0)  # as in _above_least
  over = lambda x: jnp.sum(x, where=inside) / jnp.maximum(jnp.sum(inside), 1)
  gap = above - over(above)
  std = jnp.sqrt(over(jnp.square(gap)))
  return jnp.where(inside, gap / (std + 1e-6), 0.0)


def _above_least(value, group, known):
  """Values less the least known one of their group, so equal ones are all 0.

  Their sum may round, and what is left of it, divided by a deviation that is as
  small, would be an advantage: 0.88 for three rewards of 100.3.
  """
  value = jnp.where(known > 0, _wide(value), jnp.inf)
  return value - jax.ops.segment_min(value, group, value.shape[0])[group]


def _wide(x):
  """In float32 at least: sums of bfloat16 have eight bits."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _group_sums(value, group, known):
  """(values with 0 where unknown, sums of their groups, counts of them).

  A known row whose id is no group of [0, B) gets a NaN: indexing would give it
  the sums of another group.
  """
  rows = value.shape[0]
  outside = (known > 0) & ((group < 0) | (group >= rows))
  # Not a product: what a failed verifier left there may be NaN.
  known = _wide(known)
  value = jnp.where(known > 0, _wide(value), 0.0)
  total = jax.ops.segment_sum(value, group, rows)[group]
  count = jax.ops.segment_sum(known, group, rows)[group]
  total = jnp.where(outside, jnp.nan, total)
  return value, total, jnp.where(outside, 2.0, count)


def as_it_is(
  value: Float[Array, " B"],
  group: Int[Array, " B"],
  known: Float[Array, " B"],
) -> Float[Array, " B"]:
  """The known values themselves: REINFORCE without a baseline."""
  return jnp.where(known > 0, value, 0.0)


ESTIMATES = {
  "as_it_is": as_it_is,
  "leave_one_out": leave_one_out,
  "group_mean": group_mean,
  "group_normalise": group_normalise,
  "group_normalise_sample": group_normalise_sample,
  "maximum_likelihood": maximum_likelihood,
  "whiten": whiten,
  "group_whiten": group_whiten,
}


# Of these a group of equal values gets 0, so that it teaches nothing.
EQUAL_IS_ZERO = (
  "leave_one_out", "group_mean", "group_normalise", "group_normalise_sample",
  "maximum_likelihood", "group_whiten",
)


def same_problem(
  problem: Int[Array, " B"], reward: Float[Array, "B K"]
) -> Int[Array, "B K"]:
  """Every turn is compared among the samples of its problem."""
  return jnp.broadcast_to(problem[:, None], reward.shape)


def same_outcome(
  problem: Int[Array, " B"], reward: Float[Array, "B K"]
) -> Int[Array, "B K"]:
  """Turn k is compared among samples that stood equally before it.

  Groups are (problem, whether turn k - 1 was right). Since r_{k-1} is fixed
  once turn k is written, the baseline stays unbiased and follows the state.
  Ids lie in [0, 2 P), so they need at least two samples a problem.
  """
  return _after(2 * problem, problem, reward)


def batch_outcome(
  problem: Int[Array, " B"], reward: Float[Array, "B K"]
) -> Int[Array, "B K"]:
  """As `same_outcome`, over the problems of the whole round."""
  return _after(jnp.zeros_like(problem), problem, reward)


def _after(offset, problem, reward):
  """The problem for turn 1, then offset + (r_{k-1} >= 1/2)."""
  before = (reward[:, :-1] >= 0.5).astype(problem.dtype)
  groups = offset[:, None] + before
  return jnp.concatenate([problem[:, None], groups], axis=1)


BASELINES = {
  "leave_one_out": same_problem,
  "same_outcome": same_outcome,
  "batch_outcome": batch_outcome,
}
WITHIN_PROBLEMS = ("leave_one_out", "same_outcome")  # groups are parts of one


def to_tokens(
  value: Float[Array, "B K"], turn: Int[Array, "B T"]
) -> Float[Array, "B T"]:
  """Spreads one number per turn over that turn's tokens; 0 elsewhere."""
  turns = jnp.arange(1, value.shape[1] + 1)
  at = turn[:, :, None] == turns
  return jnp.sum(jnp.where(at, value[:, None, :], 0.0), axis=-1)


def token_mask(
  turn: Int[Array, "B T"], trained: Bool[Array, "B K"]
) -> Float[Array, "B T"]:
  """Mask of the tokens whose turn k has `trained[b, k - 1]`."""
  return to_tokens(trained.astype(jnp.float32), turn)


def per_turn(
  x: Float[Array, "B T"], turn: Int[Array, "B T"], turns: int
) -> Float[Array, "B K"]:
  """Sums over the tokens of each turn."""
  at = turn[:, :, None] == jnp.arange(1, turns + 1)
  return jnp.sum(jnp.where(at, _wide(x)[:, :, None], 0.0), axis=1)


def at_last_token(
  value: Float[Array, "B K"], turn: Int[Array, "B T"]
) -> Float[Array, "B T"]:
  """Puts one number per turn on that turn's last token; 0 elsewhere."""
  after = jnp.pad(turn[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
  return jnp.where(turn != after, to_tokens(value, turn), 0.0)


def gae(
  reward: Float[Array, "B T"],
  value: Float[Array, "B T"],
  mask: Float[Array, "B T"],
  *,
  discount: float,
  decay: float,
) -> Float[Array, "B T"]:
  """Generalised advantages over the tokens under the mask, across turns.

  A_t = d_t + discount * decay * A_next, d_t = r_t + discount * V_next - V_t
  (Schulman et al. 2016, Eq. 16), where `next` is the next token under the
  mask: prompt, replies and padding are no steps. `value` at t is that of the
  state before token t; behind the last token it is 0. Returns are A + V.
  """

  def back(carry, column):
    later_value, later = carry
    r, v, m = column
    delta = r + discount * later_value - v
    advantage = delta + discount * decay * later
    inside = m > 0
    carry = (
      jnp.where(inside, v, later_value), jnp.where(inside, advantage, later)
    )
    return carry, jnp.where(inside, advantage, 0.0)

  zeros = jnp.zeros(reward.shape[0], jnp.float32)
  columns = reward.T, value.T, mask.T
  _, found = jax.lax.scan(back, (zeros, zeros), columns, reverse=True)
  return found.T
