"""verl's own losses and advantages, called on torch tensors."""

import numpy as np
import torch
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos
from verl.workers.config import ActorConfig

MODES = {
  "token_mean": "token-mean", "episode_sum": "seq-mean-token-sum",
  "episode_mean": "seq-mean-token-mean",
  "constant_length": "seq-mean-token-sum-norm",
}
NEVER = 1e9  # a clip that no ratio reaches


def policy_loss(name: str, aggregate: str, rows, **config):
  """(log-probabilities) -> loss, by the name of verl's registry."""
  options = config.pop("policy_loss", {})
  actor = ActorConfig(
    strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **config
  )
  for field, value in options.items():
    object.__setattr__(actor.policy_loss, field, value)
  loss = core_algos.get_policy_loss_fn(name)
  return lambda logprob: loss(
    rows.old, logprob, rows.advantage, rows.mask, MODES[aggregate], actor
  )[0]


def aggregate(name: str, rows, length: int):
  """(losses of tokens) -> loss."""
  return lambda x: core_algos.agg_loss(
    x, rows.mask, MODES[name], loss_scale_factor=length
  )


def kl(name: str, rows):
  """(log-probabilities) -> mean over tokens of an estimate of the KL."""
  return lambda logprob: core_algos.agg_loss(
    core_algos.kl_penalty(logprob, rows.reference, name), rows.mask,
    "token-mean",
  )


def value_loss(rows, clip: float):
  """(values) -> loss."""
  return lambda value: core_algos.compute_value_loss(
    value, rows.returns, rows.old_value, rows.mask, clip
  )[0]


def outcome_advantage(name: str, rows, **options):
  """Advantages [B] of whole rows; all of a row's tokens have the same."""
  reward = torch.zeros_like(rows.mask)
  reward[:, 0] = rows.reward
  function = core_algos.get_adv_estimator_fn(name)
  found, _ = function(
    token_level_rewards=reward, response_mask=torch.ones_like(rows.mask),
    index=np.asarray(rows.group), **options,
  )
  return found[:, 0]


def gdpo(rows, weights: dict[str, float], parts: dict[str, np.ndarray]):
  """Advantages [B] for answers of one token, of which rows are the tokens."""
  one = torch.ones(len(rows.group), 1, dtype=torch.float64)
  config = AlgoConfig(
    gdpo_reward_keys=list(weights), gdpo_reward_weights=list(weights.values())
  )
  found, _ = core_algos.compute_gdpo_outcome_advantage(
    token_level_rewards=one, response_mask=one, index=np.asarray(rows.group),
    config=config, non_tensor_batch=parts,
    batch={"prompts": one, "attention_mask": torch.cat([one, one], 1).long()},
  )
  return found[:, 0]


def gae(rows, discount: float, decay: float):
  """(whitened advantages, returns) [B T]."""
  return core_algos.compute_gae_advantage_return(
    rows.token_reward, rows.old_value, rows.mask, discount, decay
  )


def future_rewards(rows):
  """REINFORCE++'s whitened advantages [B T]."""
  return core_algos.compute_reinforce_plus_plus_outcome_advantage(
    rows.token_reward, rows.mask, AlgoConfig(gamma=1.0)
  )[0]
