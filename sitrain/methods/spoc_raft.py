"""SPOC by RAFT: imitation of the right messages of each problem's best sample.

Zhao et al. 2025 (arXiv:2506.06923), Alg. 3, beside their RLOO (spoc.py): the
sample with the best last solution; no sample of a problem if neither that nor
a verdict of the sample is right; messages weigh their own reward of 0 or 1.
Inferred: of equal samples the first, the mean over tokens, and no KL.
"""

import jax.numpy as jnp

from sitrain.curate import roles
from sitrain.curate.policy import own_turns
from sitrain.curate.select import imitation_batch
from sitrain.judge.roles import binary
from sitrain.judge.verifier import written
from sitrain.methods import checks, rest_em, verbs
from sitrain.types import Method, Task


@verbs.forwards(rest_em.make, without=("least", "per_problem", "start"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...], samples: int,
  named: bool = True, **options,
) -> Method:
  """RAFT on a task in which the policy judges itself, as chain.critic.

  `named`: whether a verdict must also name what is wrong to be right; the
  paper's are a yes or a no. Other options: see rest_em.make; every round goes
  on from the one before. Raises ValueError for a task without verdicts of the
  policy, and for a lone sample.
  """
  checks.check_verdicts(task, turns)
  checks.check_samples(samples)
  task = task if named else binary(task)
  method = rest_em.make(
    models, task, optimizer, turns=turns, samples=samples, start="previous",
    **options,
  )

  def curate(key, state, problems, episodes, verdict):
    kept = roles.best_messages(
      verdict.reward, own_turns(episodes, verdict.known),
      written(episodes, len(turns)), episodes.problem,
      problems.prompt.shape[0],
    )
    batch = imitation_batch(episodes, kept, jnp.ones(kept.shape[0]))
    return batch, {"curate/kept": verbs.share(jnp.any(kept, axis=1))}

  return method._replace(curate=curate)
