"""Supervised self-correction with partial answer masking (ISC).

Han et al. 2024 (arXiv:2401.07301): answer, verdict and corrected answer in one
response. A right answer with its verdict is a good case; a wrong one, its
verdict and a right answer are a bad case, whose wrong answer has no loss, as
imitating it would teach errors. There labels give the verdicts; here the
policy's own are kept where they are true, and a right sample of the same
problem corrects a wrong one. Inferred: right answers are trained, and the share
of bad cases.
"""

import jax.numpy as jnp

from sitrain.curate import roles
from sitrain.curate.advantage import to_tokens
from sitrain.curate.pairs import partners
from sitrain.curate.select import balanced, imitation_batch
from sitrain.judge.roles import binary
from sitrain.methods import checks, rest_em, verbs
from sitrain.rollout.contexts import join
from sitrain.tasks.attempt import attempt
from sitrain.types import PAD, Method, Task, Weights


@verbs.forwards(rest_em.make, without=("least", "per_problem"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  bad: float = 0.5, wrong: float = 0.0, named: bool = False, **options,
) -> Method:
  """`bad`: the share that bad cases have in the weights. `wrong`: the weight of
  tokens of a wrong attempt, 0 in the paper. `named`: whether a true verdict
  names what is wrong. Raises ValueError for values outside of these ranges
  and a task without verdicts of the policy. Options: see rest_em.make.
  """
  checks.check_verdicts(task, turns, ("attempt", "verdict", "repair"))
  checks.check_from_zero(wrong=wrong)
  checks.check_share(bad=bad)
  checks.check_samples(options.get("samples", 2))
  task = task if named else binary(task)
  method = rest_em.make(models, task, optimizer, turns=turns[:2], **options)

  def curate(key, state, problems, episodes, verdict):
    right, good, refused = roles.cases(verdict)
    partner, found = partners(key, right, episodes.problem)
    end = jnp.full_like(episodes.problem, 2)
    reply = task.reply(problems.answer[episodes.problem], episodes, end)
    repair = attempt(episodes, 1, turns[0])[partner]
    mended = refused & found & ~reply.done & (bad > 0.0)
    added = lambda x: jnp.where(mended[:, None], x, PAD)
    rows = join(episodes, added(reply.tokens), added(repair))
    good &= bad < 1.0
    weight = balanced(good, good | mended, 1.0 - bad)
    by_turn = roles.case_weights(good, mended, wrong) * weight[:, None]
    batch = imitation_batch(rows, by_turn > 0, weight)
    batch = batch._replace(targets=Weights(to_tokens(by_turn, rows.turn)))
    kept, confident = map(verbs.share, (good | mended, good))
    return batch, {"curate/kept": kept, "curate/confident": confident}

  return method._replace(curate=curate)
