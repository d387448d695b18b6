"""RAC: the reference corrects own answers (reference-answer correction).

arXiv:2410.14655: no critic tells what is wrong with an answer of the policy;
the given solution is its correction, so row and loss are `x, own answer, fix,
solution` with the loss on the solution, beside plain `x, solution`. The form of
rows, the mixture and whether right answers are corrected, too, were not seen
and are inferred. Here `fix` is the task's instruction between two attempts; it
is given and not trained, so nothing learns when to correct.
"""

import jax.numpy as jnp

from sitrain.curate.select import balanced, imitation_batch, row_noise
from sitrain.judge.groups import FULL
from sitrain.methods import checks, pair_sft, verbs
from sitrain.rollout import contexts
from sitrain.types import PAD, Method, Task


@verbs.forwards(pair_sft.make)
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  share: float = 0.5, also_correct: bool = True, **options,
) -> Method:
  """`share`: that of corrections in rows and weights; the others are plain.
  `also_correct`: whether the solution stands behind right answers as well.

  The first given turn is the solution; problems without one are left out.
  Raises ValueError for a share that is none, one turn, and a task without
  solutions. Options: see pair_sft.make.
  """
  checks.check_share(share=share)
  checks.check_turns(task, turns, least=2)
  checks.check_solutions(task, turns[1:2])
  method = pair_sft.make(models, task, optimizer, turns=turns, **options)

  def curate(key, state, problems, episodes, verdict):
    given = contexts.only_turn(problems, 1, task.eos).solution
    given = given[episodes.problem, : turns[1]]
    end = jnp.ones_like(episodes.problem)
    reply = task.reply(problems.answer[episodes.problem], episodes, end)
    corrected = contexts.join(episodes, reply.tokens, given)
    plain = contexts.append(contexts.before(episodes, 1), given, 1)
    right, has = verdict.reward[:, 0] >= FULL, jnp.any(given != PAD, axis=1)
    usable = has & (verdict.known[:, 0] > 0) & ~reply.done
    usable &= ~right | also_correct
    mixed = row_noise(key, episodes.tokens)[:, 0] < share
    fixed, alone = mixed & usable, has & ~mixed
    rows = contexts.either(alone, plain, corrected)
    weight = balanced(fixed, fixed | alone, share)
    batch = imitation_batch(rows, jnp.stack([alone, fixed], axis=1), weight)
    return batch, {
      "curate/kept": verbs.share(fixed | alone),
      "curate/corrections": verbs.share(fixed),
      "curate/confident": verbs.share(fixed & right),
    }

  return method._replace(curate=curate)
