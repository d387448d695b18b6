"""TRL's own losses, called on torch tensors.

Most are methods of trainers, which read a model's scores and settings: here
stand-ins that have just these.
"""

import collections
import types

import torch
from trl import DPOTrainer, GRPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

Settings = types.SimpleNamespace


def _trainer(**settings):
  """What the losses of all trainers read, and `settings`."""
  same = lambda x, **_: x
  accelerator = Settings(
    device="cpu", gather=same, gather_for_metrics=same, reduce=same,
    num_processes=1, sync_gradients=False,
  )
  return Settings(
    accelerator=accelerator, aux_loss_enabled=False,
    model=Settings(training=True), _total_train_tokens=0, _tp_size=1,
    _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
    **settings,
  )


def policy_loss(
  loss_type: str, rows, *, level: str = "token", beta: float = 0.0,
  low: float = 0.2, high: float = 0.2, length: int = 1, **args,
):
  """(log-probabilities) -> loss of GRPOTrainer."""
  trainer = _trainer(
    top_entropy_quantile=1.0, off_policy_mask_threshold=None,
    importance_sampling_level=level, beta=beta, loss_type=loss_type,
    epsilon_low=low, epsilon_high=high, use_vllm=False,
    current_gradient_accumulation_steps=1, max_completion_length=length,
    _entropy_bonus_enabled=False, args=Settings(
      use_bias_correction_kl=False, delta=None, steps_per_generation=1, **args
    ),
  )
  mask = rows.mask.long()
  inputs = {
    "prompt_ids": mask, "prompt_mask": mask, "completion_ids": mask,
    "completion_mask": mask, "advantages": rows.advantage,
    "old_per_token_logps": rows.old, "ref_per_token_logps": rows.reference,
    "num_items_in_batch": rows.mask.sum(),
  }

  def loss(logprob):
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (
      logprob, torch.zeros_like(logprob), None
    )
    return GRPOTrainer._compute_loss(trainer, None, inputs)

  return loss


def _scores(logprob, mask):
  """A model's scores; of tokens that are no part of an answer they are 0."""
  zero = torch.zeros_like(logprob)
  return Settings(
    log_probs=logprob * mask, entropy=zero, mean_logits=zero,
    is_top1=zero.bool(),
  )


def _texts(mask):
  """Token ids and masks with a column for a token before the answers."""
  ids = torch.ones(mask.shape[0], mask.shape[1] + 1, dtype=torch.long)
  answer = torch.cat([torch.zeros(len(mask), 1), mask], dim=1).long()
  return {"input_ids": ids, "attention_mask": ids, "completion_mask": answer}


def pair_loss(loss_type: str, rows, *, beta: float):
  """(log-probabilities [2 P, T]) -> loss of DPOTrainer; chosen rows first."""
  trainer = _trainer(
    ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl",
    loss_types=[loss_type], loss_weights=[1.0], beta=beta,
    label_smoothing=0.0, use_weighting=False,
  )
  chosen, rejected = (rows.reference * rows.mask).sum(1).chunk(2)
  inputs = _texts(rows.mask) | {
    "ref_chosen_logps": chosen, "ref_rejected_logps": rejected
  }
  return lambda logprob: DPOTrainer._compute_loss(
    trainer, lambda **_: _scores(logprob, rows.mask), inputs, False
  )


def kto(rows, good, *, beta: float, desirable: float, undesirable: float):
  """(log-probabilities) -> loss of KTOTrainer; the KL of the same rows."""
  trainer = _trainer(
    calculate_KL=True, precompute_ref_logps=True, loss_type="kto", beta=beta,
    desirable_weight=desirable, undesirable_weight=undesirable,
  )
  texts, reference = _texts(rows.mask), (rows.reference * rows.mask).sum(1)
  inputs = texts | {f"KL_{name}": x for name, x in texts.items()} | {
    "label": torch.as_tensor(good), "ref_logps": reference,
    "ref_KL_logps": reference,
  }
  return lambda logprob: KTOTrainer._compute_loss(
    trainer_with_kl(trainer, logprob, rows.mask),
    lambda **_: _scores(logprob, rows.mask), inputs, False,
  )


def trainer_with_kl(trainer, logprob, mask):
  """The trainer, whose rows for the KL are those of the loss."""
  total = (logprob.detach() * mask).sum(1)
  trainer._compute_kl_logps = lambda model, batch: total
  return trainer


def _means(logprob, mask):
  return ((logprob * mask).sum(1) / mask.sum(1)).chunk(2)


def simpo(rows, *, beta: float, target: float, smoothing: float):
  """(log-probabilities) -> loss of CPOTrainer as SimPO."""
  trainer = _trainer(
    alpha=0.0, loss_type="simpo", simpo_gamma=target, beta=beta,
    label_smoothing=smoothing,
  )
  return lambda logprob: CPOTrainer.cpo_loss(
    trainer, *_means(logprob, rows.mask)
  )[0].mean()


def orpo(rows, *, weight: float):
  """(log-probabilities) -> ORPOTrainer's term of the odds."""
  trainer = _trainer(beta=weight)
  return lambda logprob: -ORPOTrainer.odds_ratio_loss(
    trainer, *_means(logprob, rows.mask)
  )[0].mean()
