"""S3c-Math: steps that are taken back within a solution, without being asked.

arXiv:2409.01524. A wrong step that the policy samples before a random step of a
right solution is spliced in, a tag and the right step behind it; all but it is
imitated. There a model words the reflection, and a step is wrong if all that
follows fails (`rollouts`). Inferred: the share, and that prefixes are trained.
"""

from functools import partial

from sitrain.curate import splices
from sitrain.curate.edits import ids_of, one_id
from sitrain.curate.segments import step_numbers
from sitrain.curate.select import row_noise
from sitrain.judge.steps import step_names
from sitrain.judge.verifier import verify_as_one_turn
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
  replace one by another, and sample no steps. Options: see pair_sft.make.
  """
  names = [] if rollouts else step_names(task)
  stops, ids = (ids_of(task, text) for text in (ends, values))
  same, mark = dict(samples=samples, temperature=temperature), one_id(task, tag)
  steps = dict(tries=tries, ends=stops, limit=step)
  find = partial(splices.wrong_steps, ids=ids, names=names, **steps)
  options |= same | {"turns": turns[:1]}
  method = pair_sft.make(models, task, optimizer, **options)

  def judge(key, state, problems, rows):
    solve, metrics = method.judge(key, state, problems, rows["solve"])
    each, _ = verify_as_one_turn(task, problems, rows["step"])
    return {"solve": solve, "step": each}, metrics

  def curate(key, state, problems, rows, verdicts):
    solve, verdict = rows["solve"], verdicts["solve"]
    found = find(key, problems, rows, verdicts["step"])
    right = (verdict.reward[:, 0] > 0) & (verdict.known[:, 0] > 0)
    used = right & found.found & (row_noise(key, solve.tokens)[:, 0] < share)
    spliced = splices.splice(solve, found, mark, stops)
    batch = splices.batch_of(solve, right, spliced, used, wrong)
    kept, spliced = map(verbs.share, (right, used))
    return batch, {"curate/kept": kept, "curate/spliced": spliced}

  generate = branches.make(
    models["policy"], task, method.generate, partial(step_numbers, ends=stops),
    rollouts=rollouts, rest=turns[0], **steps, **same,
  )
  return method._replace(generate=generate, judge=judge, curate=curate)
