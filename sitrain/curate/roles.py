"""Turns of several roles: attempts and verdicts of the policy, or seats.

Where the policy judges itself turn 1 is an attempt, turn 2 a verdict on it,
turn 3 an attempt, and so on, as in tasks with `Task.accepts`. A verdict that
accepts an attempt ends its row, so rows are ragged: what was not written does
not count.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.curate.advantage import group_normalise, progress_bonus, whiten
from sitrain.curate.select import best_of
from sitrain.judge.groups import FULL, right_turns
from sitrain.types import Verdict

ROLES = 2
RULES = ("corr", "last", "all")
NORMALISED = ("per_index", "all")


def role_of(turns: int) -> Int[Array, " K"]:
  """0 for attempts, 1 for verdicts."""
  return jnp.arange(turns) % ROLES


def revision_bonus(
  reward: Float[Array, "B K"], scale: float
) -> Float[Array, "B K"]:
  """scale * (r of an attempt - r of the attempt before); 0 for all others.

  Jiang et al. 2025 (arXiv:2506.10406, PAG): the verdict between both is no
  attempt, and has no bonus.
  """
  bonus = progress_bonus(reward, scale, back=ROLES)
  return jnp.where(role_of(reward.shape[1]) == 0, bonus, 0.0)


def role_whiten(
  value: Float[Array, "B K"], known: Float[Array, "B K"]
) -> Float[Array, "B K"]:
  """(v - mean) / (std + 1e-6) over all known turns of the round of one role.

  Attempts among attempts and verdicts among verdicts, whatever their place
  (PAG's normalisation by role): rewards of the two differ in mean and spread,
  and whitening all turns together would pay one role for being the easier.
  Turns that are not known get 0.
  """
  of_role = jax.nn.one_hot(role_of(value.shape[1]), ROLES)  # [K R]
  flat = value.reshape(-1)
  one = jnp.zeros(flat.shape, jnp.int32)
  parts = [
    whiten(flat, one, (known * of_role[:, r]).reshape(-1)) for r in range(ROLES)
  ]
  return sum(parts[1:], parts[0]).reshape(value.shape)


def message_rewards(
  reward: Float[Array, "B K"],
  counted: Bool[Array, "B K"],
  written: Bool[Array, "B K"],
  *,
  rule: str,
) -> tuple[Float[Array, "B K"], Bool[Array, "B K"], Bool[Array, "B K"]]:
  """(rewards, the turns that are paid, the turns that are trained).

  Zhao et al. 2025 (arXiv:2506.06923, SPOC). "corr": each turn for itself.
  "last": a right attempt is paid if the last attempt of its row is right, too;
  verdicts are not paid. "all": every turn is paid for the last attempt; the
  paper names this rule and its result, the definition is inferred. With the
  latter two no turn of a row counts whose last attempt does not. `counted` as
  in policy.own_turns.
  """
  turns = reward.shape[1]
  attempt = role_of(turns) == 0
  if rule == "corr":
    return reward, counted, counted
  place = jnp.max(jnp.where(written & attempt, jnp.arange(turns), 0), axis=1)
  at_last = lambda x: jnp.take_along_axis(x, place[:, None], axis=1)
  counted = counted & at_last(counted)
  last = jnp.broadcast_to(at_last(reward), reward.shape)
  if rule == "all":
    return last, counted, counted
  return reward * last, counted & attempt, counted


def message_normalise(
  value: Float[Array, "B K"],
  group: Int[Array, " B"],
  known: Bool[Array, "B K"],
  *,
  over: str,
) -> Float[Array, "B K"]:
  """(v - mean) / (std + 1e-6) of the messages of a problem's samples.

  over="per_index": A_{k,l} = (r_{k,l} - mu_l) / sigma_l, message l among the
  samples that have one (SPOC, Alg. 4; that ragged rows are left out of its mean
  is inferred). "all": among all messages of these samples, as the text of the
  paper has it in the place of its algorithm. Unknown messages get 0.
  """
  mask = known.astype(jnp.float32)
  if over == "per_index":
    over_turns = jax.vmap(group_normalise, in_axes=(1, None, 1), out_axes=1)
    return over_turns(value, group, mask)
  groups = jnp.broadcast_to(group[:, None], value.shape).reshape(-1)
  gain = group_normalise(value.reshape(-1), groups, mask.reshape(-1))
  return gain.reshape(value.shape)


def best_messages(
  reward: Float[Array, "B K"],
  counted: Bool[Array, "B K"],
  written: Bool[Array, "B K"],
  problem: Int[Array, " B"],
  problems: int,
) -> Bool[Array, "B K"]:
  """The right messages of the best sample of each problem.

  It is the first of those whose last attempt has the highest reward. None where
  neither this attempt nor a verdict of that sample is right (Zhao et al. 2025,
  SPOC, Alg. 3, which is RAFT). `counted` as in policy.own_turns.
  """
  turns = reward.shape[1]
  attempt = role_of(turns) == 0
  place = jnp.max(jnp.where(written & attempt, jnp.arange(turns), 0), axis=1)
  at_last = lambda x: jnp.take_along_axis(x, place[:, None], axis=1)[:, 0]
  best = best_of(at_last(reward), at_last(counted), problem, problems)
  right = counted & (reward >= FULL)
  kept = at_last(right) | jnp.any(right & ~attempt, axis=1)
  return right & (best & kept)[:, None]


def cases(
  verdict: Verdict,
) -> tuple[Bool[Array, " B"], Bool[Array, " B"], Bool[Array, " B"]]:
  """(right attempts, those accepted, wrong ones that are not): turns 1 and 2.

  Where the verdict of the policy, turn 2, is itself true, and all is known.
  """
  attempted = verdict.known[:, 0] > 0
  right, true = right_turns(verdict)[:, :2].T
  return right, right & true, attempted & ~right & true


def case_weights(
  good: Bool[Array, " B"], bad: Bool[Array, " B"], wrong: float
) -> Float[Array, "B 3"]:
  """Weights of an attempt, the verdict on it and its repair.

  L = -sum_t w_t log p(y_t | x, y_<t) with w = 0 on wrong attempts: partial
  answer masking (Han et al. 2024, arXiv:2401.07301). Of a good case the attempt
  and the verdict have weight 1; of a bad one the verdict and the repair, and
  the attempt has `wrong`.
  """
  rows = jnp.stack([good + wrong * bad, good | bad, bad], axis=1)
  return rows.astype(jnp.float32)


def corrections(verdict: Verdict, taught: Bool[Array, " B"]) -> Verdict:
  """[B 1]: 1 where turns 2 and 3 correct a wrong attempt, turn 1, else 0.

  A correction is a true verdict and a right attempt; a false verdict makes 0,
  whatever follows. Right ones of the policy and wrong ones of the teacher,
  `taught`, are marked as not known, so that every pair of a right and a wrong
  row has one of each (SuperCorrect, arXiv:2410.09008).
  """
  of = lambda k: (verdict.known[:, k] > 0, verdict.reward[:, k] >= FULL)
  (judged, right), (said, true), (tried, mended) = map(of, range(3))
  known = judged & ~right & said & (tried | ~true)
  good = true & tried & mended
  known &= jnp.where(good, taught, ~taught)
  return Verdict(*(x[:, None].astype(jnp.float32) for x in (good, known)))


def role_advantage(
  reward: Float[Array, "B K"],
  known: Float[Array, "B K"],
  baseline: Float[Array, " R"],
  *,
  rate: float,
) -> tuple[Float[Array, "B K"], Float[Array, " R"]]:
  """Each turn's reward less the baseline of its role, and the next baselines.

  Turns alternate between R roles: turn k is of role (k - 1) % R. A baseline
  moves by `rate` towards the mean reward of its role over the rows in which it
  has a known turn, b <- (1 - rate) b + rate * mean (Liu et al. 2025, SPIRAL,
  there after every game); a row gives the mean of its turns. Unknown turns get
  0.
  """
  role = jnp.arange(reward.shape[1]) % baseline.shape[0]
  reward = jnp.where(known > 0, reward, 0.0)
  gain = jnp.where(known > 0, reward - baseline[role], 0.0)
  of_role = jax.nn.one_hot(role, baseline.shape[0])  # [K R]
  count = (known > 0).astype(jnp.float32) @ of_role  # [B R]
  row = (reward @ of_role) / jnp.maximum(count, 1.0)
  rows = jnp.sum(count > 0, axis=0)
  mean = jnp.sum(row, axis=0) / jnp.maximum(rows, 1)
  moved = (1 - rate) * baseline + rate * mean
  return gain, jnp.where(rows > 0, moved, baseline)
