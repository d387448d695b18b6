"""S3c-Math: steps that are taken back within a solution, without being asked.

arXiv:2409.01524. Before a random step of a right solution the policy samples
another one; a wrong one is spliced in, with a tag and the right step behind it,
and all but the wrong step is imitated. There a model words the reflection where
a tag is here, and a step is wrong if all its continuations fail, as with
`rollouts`. Where the task judges steps all those of a solution must be right.
Inferred: what share is spliced, and that the prefix is trained.
"""

from functools import partial

from sitrain.curate import splices
from sitrain.curate.edits import ids_of, one_id
from sitrain.curate.segments import step_names, step_numbers
from sitrain.curate.select import row_noise
from sitrain.judge.groups import FULL
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
  splice one of them in for another; steps are sampled all the same, and not
  used. Raises ValueError for what is no share, weight or number of steps, and
  for less than two values. Options: see pair_sft.make.
  """
  splices.check(share, wrong, values, tries=tries, step=step, rollouts=rollouts)
  names = [] if rollouts else step_names(task)
  stops, ids = (ids_of(task, text) for text in (ends, values))
  same, mark = dict(samples=samples, temperature=temperature), one_id(task, tag)
  steps = dict(tries=tries, ends=stops, limit=step)
  options |= same | {"turns": turns[:1]}
  method = pair_sft.make(models, task, optimizer, **options)

  def judge(key, state, problems, rows):
    solve, metrics = method.judge(key, state, problems, rows["solve"])
    each, _ = verify_as_one_turn(task, problems, rows["step"])
    return {"solve": solve, "step": each}, metrics

  def curate(key, state, problems, rows, verdicts):
    solve, verdict = rows["solve"], verdicts["solve"]
    found = splices.wrong_steps(
      key, problems, rows, verdicts["step"], ids=ids, names=names,
      eos=task.eos, **steps,
    )
    right = (verdict.reward[:, 0] >= FULL) & (verdict.known[:, 0] > 0)
    right &= splices.all_right(solve, verdict, stops, names)
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
