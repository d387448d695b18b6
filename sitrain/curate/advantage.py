"""From rewards per turn to one advantage per token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def leave_one_out(
  value: Float[Array, " B"],
  group: Int[Array, " B"],
  known: Float[Array, " B"],
) -> Float[Array, " B"]:
  """Each row's value less the mean value of the other rows of its group.

  A_b = v_b - mean of v_j over j != b in the group (RLOO; Ahmadian et al. 2024).
  `group` holds any ids in [0, B): rows of a group need not be neighbours. Rows
  with known = 0 count in no baseline and get 0; so do rows without a partner.
  """
  rows = value.shape[0]
  # Not a product: what a failed verifier left there may be NaN.
  value = jnp.where(known > 0, value, 0.0)
  total = jax.ops.segment_sum(value, group, rows)[group]
  count = jax.ops.segment_sum(known, group, rows)[group]
  others = count - known
  paired = (others > 0) & (known > 0)
  baseline = (total - value) / jnp.where(others > 0, others, 1.0)
  return jnp.where(paired, value - baseline, 0.0)


def progress_bonus(
  reward: Float[Array, "B K"], scale: float
) -> Float[Array, "B K"]:
  """scale * (r_k - r_{k-1}), and 0 for the first turn.

  The bonus of SCoRe's stage II (Kumar et al. 2024, section 5.2); for more than
  two turns each attempt is compared with the one just before it (ICLR, A.1).
  """
  before = jnp.concatenate([reward[:, :1], reward[:, :-1]], axis=1)
  return scale * (reward - before)


def returns(
  value: Float[Array, "B K"], discount: float
) -> Float[Array, "B K"]:
  """sum over j >= k of discount ** (j - k) * v_j, for each turn k.

  SCoRe credits a turn with its own value alone (discount 0; Kumar et al. 2024,
  App. A.2). With a discount the progress bonus is also charged to the attempt
  before it: r_1's weight in turn 1's return is 1 - discount * bonus. What is
  not known (NaN) then spoils the returns of the turns before it.
  """
  if not discount:
    return value
  later, each = jnp.zeros_like(value[:, 0]), []
  for turn in reversed(value.T):
    later = turn + discount * later
    each.append(later)
  return jnp.stack(each[::-1], axis=1)


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
  """As `same_outcome`, over the problems of the whole batch (or wave)."""
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


def to_tokens(
  value: Float[Array, "B K"], turn: Int[Array, "B T"]
) -> Float[Array, "B T"]:
  """Spreads one number per turn over that turn's tokens; 0 elsewhere."""
  turns = jnp.arange(1, value.shape[1] + 1)
  at = turn[:, :, None] == turns
  return jnp.sum(jnp.where(at, value[:, None, :], 0.0), axis=-1)
