"""STaR on two-turn traces: keep self-corrections, imitate them, repeat.

Kumar et al. 2024, section 4 (D_STaR, D+_STaR), with the iteration of ReST-EM:
sample with the current policy, restart from the base, train on the kept traces.
The paper does not say which tokens are trained; `trained` names the turns.
"""

import jax.numpy as jnp

from sitrain.curate.select import at_most, imitation_batch
from sitrain.methods import checks, verbs
from sitrain.types import Method, Task


def make(
  models: dict, task: Task, optimizer, *, problems: int, samples: int,
  turns: tuple[int, ...], temperature: float = 1.0, per_problem: int = 10,
  also_correct: bool = False, trained: tuple[int, ...] = (2,),
  slots: int = 0,
) -> Method:
  """Keeps wrong-then-right traces; `also_correct` adds right-then-right (D+).

  At most `per_problem` traces of a problem stay. `slots` rows are decoded at a
  time; 0: all. Raises ValueError for one turn: nothing could be corrected.
  """
  checks.check_turns(task, turns, least=2)
  model = models["policy"]

  def curate(key, state, problems, episodes, verdict):
    first, last = verdict.reward[:, 0], verdict.reward[:, -1]
    known = jnp.all(verdict.known > 0, axis=1)
    keep = (last > 0) & known & ((first == 0) | also_correct)
    kept = at_most(key, keep, episodes.problem, per_problem)
    turn = jnp.isin(jnp.arange(1, len(turns) + 1), jnp.asarray(trained))
    ones = jnp.ones(kept.shape[0])
    batch = imitation_batch(episodes, kept[:, None] & turn, ones)
    return batch, {"curate/kept": verbs.share(kept)}

  return Method(
    pose=verbs.pose_from(task, problems),
    generate=verbs.play_with(
      model, task, samples=samples, turns=turns, temperature=temperature,
      slots=slots,
    ),
    judge=verbs.judge_with(task, len(turns)),
    refresh=verbs.restart_from_reference(optimizer),
    curate=curate,
    loss=verbs.likelihood_loss(model),
  )
