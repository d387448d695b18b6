"""SuperCorrect's correction DPO: how a wrong attempt is diagnosed and mended.

Yang et al. 2024 (arXiv:2410.09008), stage 2: behind an own wrong attempt a
teacher's analysis of the first wrong step and its correction are preferred to
the policy's own. A verifier, there a model, keeps true ones of the former; that
own right ones are left out is inferred, as is the loss. Here rounds as in
dpo.py. teacher="policy" (both are its own samples) is not in the paper.
"""

import jax.numpy as jnp

from sitrain.curate import edits, pairs, roles
from sitrain.methods import dpo, verbs
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
  verbs.check_verdicts(task, turns)
  verbs.check_role(models, teacher)
  verbs.check_choice("scope", scope, ("step", "whole"))
  if len(turns) != 3:
    raise ValueError(f"turns={turns}: attempt, verdict, correction: give 3")
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
