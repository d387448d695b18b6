"""Pair-SFT: repairs made by pairing wrong with right first attempts.

Kumar et al. 2024, section 4 (D_SFT, D+_SFT), after Welleck et al. 2023: base
samples only, one model, one round, loss on the second attempt.
"""

import jax.numpy as jnp

from sitrain.curate.pairs import partners
from sitrain.curate.select import imitation_batch
from sitrain.judge.groups import right_turns
from sitrain.methods import checks, verbs
from sitrain.rollout.contexts import join
from sitrain.tasks.attempt import attempt
from sitrain.types import Method, Task


def make(
  models: dict, task: Task, optimizer, *, problems: int, samples: int,
  turns: tuple[int, ...], temperature: float = 1.0,
  also_correct: bool = False, slots: int = 0,
) -> Method:
  """Each wrong attempt gets a random right one of its problem as repair.

  `also_correct` adds pairs of two different samples that are both right (D+).
  `slots` rows are decoded at a time; 0: all.
  """
  checks.check_turns(task, turns)
  checks.check_attempts(task)
  checks.check_samples(samples)
  model = models["policy"]

  def curate(key, state, problems, episodes, verdict):
    right = right_turns(verdict)[:, 0]
    partner, found = partners(key, right, episodes.problem)
    second = attempt(episodes, 1, turns[0])[partner]
    reply = task.reply(
      problems.answer[episodes.problem], episodes,
      jnp.ones_like(episodes.problem),
    )
    known = verdict.known[:, 0] > 0
    keep = found & ~reply.done & known & (~right | also_correct)
    pairs = join(episodes, reply.tokens, second)
    ones = jnp.ones(keep.shape[0])
    trained = keep[:, None] & jnp.array([False, True])
    batch = imitation_batch(pairs, trained, ones)
    return batch, {"curate/kept": verbs.share(keep)}

  return Method(
    pose=verbs.pose_from(task, problems),
    generate=verbs.play_with(
      model, task, samples=samples, turns=turns[:1], temperature=temperature,
      slots=slots, role="reference",
    ),
    judge=verbs.judge_with(task, 1),
    refresh=verbs.keep_state,
    curate=curate,
    loss=verbs.likelihood_loss(model),
  )
