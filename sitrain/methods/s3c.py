"""S3c-Math: steps that are taken back within a solution, without being asked.

arXiv:2409.01524. A wrong step that the policy samples before a random step of a
right solution is spliced in, a tag and the right step behind it; all but it is
imitated. There a model words the reflection, and a step is wrong if all that
follows fails (`rollouts`). Inferred: the share, that prefixes are trained, and
that all steps of a solution must be right where the task judges steps.
"""

from functools import partial

from sitrain.curate import splices
from sitrain.curate.edits import ids_of, one_id
from sitrain.curate.segments import step_numbers
from sitrain.curate.select import row_noise
from sitrain.judge.verifier import judge_steps_with, step_names
from sitrain.methods import pair_sft, verbs
from sitrain.rollout import branches
from sitrain.types import Method, Task


@verbs.forwards(pair_sft.make, without=("also_correct",))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  tag: str = "<fix>", ends: str = "0123456789", step: int = 1, tries: int = 8,
  rollouts: int = 0, share: float = 1.0, wrong: float = 0.0, values: str = "",
  samples: int, temperature: float = 1.0, **options,
) -> Method:
  """`tries` steps of up to `step` tokens, or to one of `ends`, for each sample.

  Of right samples with a wrong step a `share` is spliced; `wrong`: its weight.
  `rollouts`: continuations that must fail; 0: the task judges steps. `values`:
  one of them for another, in the place of what is sampled. Raises ValueError
  for what is no share, weight or count. Other options: see pair_sft.make.
  """
  splices.check(share, wrong, values, tries=tries, step=step, rollouts=rollouts)
  names = [] if rollouts else step_names(task)
  stops, ids = (ids_of(task, text) for text in (ends, values))
  same, mark = dict(samples=samples, temperature=temperature), one_id(task, tag)
  steps = dict(tries=tries, ends=stops, limit=step)
  find = steps | dict(ids=ids, names=names, eos=task.eos)
  options |= same | {"turns": turns[:1]}
  method = pair_sft.make(models, task, optimizer, **options)
  judge = judge_steps_with(task, method.judge)

  def curate(key, state, problems, rows, verdicts):
    solve = rows["solve"]
    found = splices.wrong_steps(key, problems, rows, verdicts["step"], **find)
    right = splices.all_right(solve, verdicts["solve"], stops, names)
    used = right & found.found & (row_noise(key, solve.tokens)[:, 0] < share)
    spliced = splices.splice(solve, found, mark, stops)
    batch = splices.batch_of(solve, right, spliced, used, wrong)
    named = {"curate/kept": right, "curate/spliced": used}
    return batch, {name: verbs.share(x) for name, x in named.items()}

  generate = branches.make(
    models["policy"], task, method.generate, partial(step_numbers, ends=stops),
    rollouts=rollouts, rest=turns[0], **steps, **same,
  )
  return method._replace(generate=generate, judge=judge, curate=curate)
