"""SCL: the two attempts of a row as a pair, where one is right and one wrong.

He et al. 2024 (arXiv:2410.04055; their code): after the question alone the
right attempt is preferred to the wrong one, whichever came first, so that the
policy learns to answer well at once; all other rows are dropped. There it is
one round of DPO; here rounds as in dpo.py. Their beta and rate are not known.
"""

import jax
import jax.numpy as jnp

from sitrain.curate import pairs
from sitrain.judge.groups import right_turns
from sitrain.methods import checks, dpo, verbs
from sitrain.models.roles import params_of
from sitrain.types import Method, Task

SCOPES = {"first": 1, "review": 2}  # the turn that the pair stands in


@verbs.forwards(dpo.make, without=("rule", "after_prefix"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  scope: str = "first", smoothing: float = 0.0, temperature: float = 1.0,
  reference: str = "previous", **options,
) -> Method:
  """`scope`: "first", after the question; "review", not in the paper, after the
  first attempt and the instruction. Options: see preference.build.
  """
  checks.check_choice("scope", scope, SCOPES)
  checks.check_attempts(task, turns, exactly=2)
  method = dpo.make(
    models, task, optimizer, turns=turns, smoothing=smoothing,
    temperature=temperature, reference=reference, **options,
  )

  def usable(verdict):
    right = right_turns(verdict)
    return jnp.all(verdict.known > 0, axis=1) & (right[:, 0] != right[:, 1])

  def wanted(problems, episodes, verdict):
    count = problems.prompt.shape[0]
    return jax.ops.segment_max(usable(verdict) * 1, episodes.problem, count) > 0

  def curate(key, state, problems, episodes, verdict):
    found, first = usable(verdict), right_turns(verdict)[:, 0]
    both = pairs.attempts_of(episodes, first, SCOPES[scope], max(turns))
    scores = jnp.zeros((len(found), 2, both[0].tokens.shape[1]))
    if reference != "none":
      held = params_of(state, "reference")
      scores = pairs.score_pairs(
        models["policy"], held, *both, temperature=temperature
      )
    trained = found[:, None] & (jnp.arange(1, 3) == SCOPES[scope])
    label = jnp.full(len(found), 1.0 - smoothing)
    batch = pairs.pair_batch(*both, scores, trained=trained, label=label)
    return batch, {"curate/pairs": verbs.share(found)}

  return method._replace(curate=curate, wanted=wanted)
