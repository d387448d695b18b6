"""SuperCorrect's correction DPO: preferring a teacher's correction of an error.

Yang et al. 2024 (arXiv:2410.09008), stage 2: for a wrong attempt of the policy,
the chosen response is a teacher's diagnosis of the first wrong step with its
correction, the rejected one the policy's own. The teacher's are filtered by a
verifier, a model in the paper. Inferred: right corrections of the policy are
left out, and the loss. Not in the paper: online rounds as in dpo.py, and
teacher="policy", where both are samples of the policy.
"""

import jax.numpy as jnp

from sitrain.curate import edits, pairs, roles
from sitrain.methods import checks, dpo, verbs
from sitrain.rollout import continued
from sitrain.types import Method, Task


@verbs.forwards(dpo.make, without=("rule", "after_prefix"))
def make(
  models: dict, task: Task, optimizer, *, samples: int, turns: tuple[int, ...],
  teacher: str = "teacher", scope: str = "step", ends: str = "",
  temperature: float = 1.0, slots: int = 0, **options,
) -> Method:
  """`samples` rows of the policy and of the teacher go on from one attempt.

  `scope`: "step" compares verdicts and next attempts up to the end of the step
  that is changed, "whole" all of them; steps end with the tokens `ends`, or
  with the turn. Options: see preference.build.
  """
  checks.check_verdicts(task, turns, ("attempt", "verdict", "correction"))
  checks.check_role(models, teacher)
  checks.check_choice("scope", scope, ("step", "whole"))
  stops = edits.ids_of(task, ends)
  rows = dict(
    samples=samples, turns=turns, temperature=temperature, slots=slots
  )
  method = dpo.make(
    models, task, optimizer, rule="right_and_wrong", **rows, **options
  )

  def compared(problems, episodes, verdict):
    each = verdict.reward.shape[0] // problems.prompt.shape[0]
    taught = jnp.arange(verdict.reward.shape[0]) % each >= samples
    return problems, episodes, roles.corrections(verdict, taught)

  def curate(key, state, *rows):
    batch, metrics = method.curate(key, state, *compared(*rows))
    mask = batch.mask * (batch.turn > 1)
    if scope == "step":
      mask *= edits.until_changed(batch.tokens, batch.turn, stops)
    batch = batch._replace(mask=mask)
    differ = pairs.trained_differ(batch)[:, None, None]
    return batch._replace(mask=mask * differ), metrics

  generate = continued.make(models, task, ("policy", teacher), **rows)
  wanted = lambda *rows: method.wanted(*compared(*rows))
  return method._replace(generate=generate, curate=curate, wanted=wanted)
