"""A reward model on pairs of the policy's samples, a right one and a wrong one.

Ouyang et al. 2022 (arXiv:2203.02155), Eq. 1: the Bradley-Terry loss on scores
of complete rows. Here the task's verifier judges the pairs, in the paper people
do; the scores are the reward of a later stage (methods/grpo.py).
"""

import jax
import jax.numpy as jnp

from sitrain.curate import pairs
from sitrain.losses.preference import bradley_terry
from sitrain.losses.reduce import mean
from sitrain.methods import checks, verbs
from sitrain.models import heads
from sitrain.models.roles import check_trained, join_base
from sitrain.types import Method, Task


def make(
  models: dict, task: Task, optimizer, *, problems: int, samples: int,
  turns: tuple[int, ...], temperature: float = 1.0, slots: int = 0,
) -> Method:
  """Trains the role "reward_model"; the sampling policy may be a held role.

  One pair a problem, by the reward of the last turn; equal ones make none.
  `slots` rows are decoded at a time; 0: all.
  """
  checks.check_turns(task, turns)
  checks.check_samples(samples)
  checks.check_role(models, "reward_model", head="scalar")
  rows = dict(samples=samples, turns=turns, temperature=temperature)

  def curate(key, state, problems, episodes, verdict):
    check_trained(state, "reward_model")
    batch, found = pairs.best_pairs(episodes, verdict, problems.prompt.shape[0])
    return batch, {"curate/pairs": verbs.share(found)}

  def loss(params, state, batch):
    score = heads.score(
      models["reward_model"], join_base(params["reward_model"], state),
      batch.tokens, batch.turn, batch.path,
    )
    margin = score[:, 0] - score[:, 1]
    pair = jnp.any(batch.mask > 0, axis=(1, 2)).astype(jnp.float32)
    term = mean(bradley_terry(margin, batch.targets.label), pair)
    return {"preference": term}, {
      "learn/preference": term, "learn/margin": mean(margin, pair),
      "learn/preferred": mean(jax.nn.sigmoid(margin), pair),
    }

  return Method(
    pose=verbs.pose_from(task, problems),
    generate=verbs.play_with(models["policy"], task, slots=slots, **rows),
    judge=verbs.judge_with(task, len(turns)),
    refresh=verbs.keep_state, curate=curate, loss=loss,
    wanted=lambda problems, *judged: pairs.best_pairs(
      *judged, problems.prompt.shape[0]
    )[1] > 0,
  )
