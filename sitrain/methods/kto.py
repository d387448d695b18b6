"""KTO: every sample by itself is good or bad; no pairs are needed.

Ethayarajh et al. 2024 (arXiv:2402.01306). The paper estimates the KL that gaps
are compared with from mismatched prompts and answers of a batch, and never
trains on it; here rows are the policy's own, so it is the mean of their gaps,
over the round and before its first gradient step. Where most rows are bad, they
alone decide, and the policy unlearns all that it writes: `good_share` prevents
it. (TRL warns unless good rows have 1 to 1.33 times the weight of bad ones.)
"""

import jax.numpy as jnp

from sitrain.curate.advantage import token_mask
from sitrain.curate.select import balanced
from sitrain.losses.preference import sequence_sum
from sitrain.losses.reduce import mean, value
from sitrain.methods import checks, verbs
from sitrain.methods.objectives import unpaired_objective
from sitrain.models.logprobs import score_rows
from sitrain.models.roles import params_of
from sitrain.types import Batch, Method, Task, UnpairedTargets


def make(
  models: dict, task: Task, optimizer, *, problems: int,
  turns: tuple[int, ...], samples: int = 1, beta: float = 0.1,
  weight_good: float = 1.0, weight_bad: float = 1.0, good_share: float = 0.5,
  temperature: float = 1.0, slots: int = 0,
) -> Method:
  """Good are rows with a reward above 0 in the last turn; all turns trained.

  `weight_good` and `weight_bad` weigh them, after the good rows of a round have
  got `good_share` of the weight of all; a round that has only one kind is left
  out. 0: all weigh the same. `slots` rows are decoded at a time; 0: all. Raises
  ValueError for a share below 0 or of 1 and more.
  """
  if not 0 <= good_share < 1:
    raise ValueError(f"good_share={good_share}: set it to 0 or more, below 1")
  checks.check_turns(task, turns)
  checks.check_above_zero(beta=beta)
  model = models["policy"]
  rows = dict(samples=samples, turns=turns, temperature=temperature)

  def curate(key, state, problems, episodes, verdict):
    held = params_of(state, "reference")
    reference = score_rows(model, held, episodes, temperature=temperature)
    known = jnp.all(verdict.known > 0, axis=1)
    trained = jnp.broadcast_to(known[:, None], (known.size, len(turns)))
    mask = token_mask(episodes.turn, trained)
    good = (verdict.reward[:, -1] > 0) & known
    gap = sequence_sum(episodes.logprob - reference.logprob, mask)
    baseline = value(mean(gap, known * 1.0))
    weight = known * 1.0
    if good_share:
      both = jnp.any(good) & jnp.any(known & ~good)
      weight = both * balanced(good, known, good_share)
    targets = UnpairedTargets(
      reference.logprob, good * 1.0, jnp.full(gap.shape, baseline),
      weight,
    )
    read = episodes.tokens, episodes.tokens, episodes.turn, episodes.path
    batch = Batch(*read, mask, targets)
    return batch, {"curate/good": mean(good * 1.0, known * 1.0)}

  return Method(
    pose=verbs.pose_from(task, problems),
    generate=verbs.play_with(model, task, slots=slots, **rows),
    judge=verbs.judge_with(task, len(turns)), refresh=verbs.keep_state,
    curate=curate, loss=unpaired_objective(
      model, beta=beta, weight_good=weight_good, weight_bad=weight_bad,
      temperature=temperature,
    ),
  )
