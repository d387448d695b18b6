"""ReST-EM: imitate the own samples that are right, round after round.

Singh et al. 2023 (arXiv:2312.06585): every round samples with the current
policy and trains the base anew on what was right, at most so many of a problem.
The paper's rounds are few and large; what an iteration is, the stage says.
"""

import jax.numpy as jnp

from sitrain.curate.select import at_most, imitation_batch
from sitrain.methods import checks, verbs
from sitrain.types import Method, Task

STARTS = ("base", "previous")


def make(
  models: dict, task: Task, optimizer, *, problems: int, samples: int,
  turns: tuple[int, ...], least: float = 1.0, per_problem: int = 10,
  start: str = "base", temperature: float = 1.0, slots: int = 0,
) -> Method:
  """Keeps rows whose last reward is `least` or more, and trains all turns.

  `start`: base: every round restarts from the reference; previous: it goes on,
  as in RAFT and STaR's relatives. `slots` rows are decoded at a time; 0: all.
  """
  checks.check_turns(task, turns)
  checks.check_samples(samples, 1)
  checks.check_choice("start", start, STARTS)
  model = models["policy"]
  restart = verbs.restart_from_reference(optimizer)

  def curate(key, state, problems, episodes, verdict):
    known = jnp.all(verdict.known > 0, axis=1)
    right = known & (verdict.reward[:, -1] >= least)
    kept = at_most(key, right, episodes.problem, per_problem)
    trained = jnp.broadcast_to(kept[:, None], (kept.size, len(turns)))
    batch = imitation_batch(episodes, trained, jnp.ones(kept.size))
    return batch, {"curate/kept": verbs.share(kept)}

  return Method(
    pose=verbs.pose_from(task, problems),
    generate=verbs.play_with(
      model, task, samples=samples, turns=turns, temperature=temperature,
      slots=slots,
    ),
    judge=verbs.judge_with(task, len(turns)),
    refresh=restart if start == "base" else verbs.keep_state,
    curate=curate, loss=verbs.likelihood_loss(model),
  )
