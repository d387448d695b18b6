"""PDR's operator-consistent RL: half of the rows refine drafts of the policy.

arXiv:2510.01123, after a note on it; its authors have published no code. Half
of a batch are standard rollouts, half end one round of the operator: drafts, a
bounded workspace of some, refinements. J = CISPO's objective and `anchor` times
the likelihood of turns with a full reward. Inferred: of a round the refinement
alone is trained, and `train_drafts` gives its drafts the final reward, too;
all refinements of a problem are compared; who distills, judge/drafts.py.
"""

from sitrain.judge import drafts as judging
from sitrain.methods import cispo, kinds, verbs
from sitrain.rollout import operators
from sitrain.types import Method, Task


@verbs.forwards(cispo.make, without=(
  "offline", "share_prompts", "prompt_columns"
))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...], samples: int,
  drafts: int = 8, keep: int = 2, distil: str = "vote", workspaces: int = 1,
  train_drafts: bool = False, temperature: float = 1.0, slots: int = 0,
  anchor: float = 0.1, **options,
) -> Method:
  """`samples` standard rows a problem, and as many refinements, which each read
  `keep` of `drafts` drafts; a problem has `workspaces` such rounds. `turns`: of
  standard rows. Options: see cispo.make. Raises ValueError for what cannot be
  distilled, and for a lone round whose drafts are to be trained."""
  judging.check_trained(task, distil, train_drafts, workspaces)
  choose = judging.distiller(task, distil, keep=keep, drafts=drafts)
  own = judging.draft_turns(task, turns)
  rows = {"temperature": temperature, "slots": slots}
  options |= rows | {"samples": samples, "anchor": anchor}
  method = cispo.make(models, task, optimizer, turns=turns, **options)
  one = cispo.make(models, task, optimizer, turns=own, **options)
  operate = operators.make(
    verbs.player(models["policy"], task, **rows), choose, task, turns=own,
    drafts=drafts, samples=samples, workspaces=workspaces,
  )

  def generate(keys, state, problems):
    standard = method.generate(keys, state, problems)
    written, refined = operate(keys, state, problems)
    return {"standard": standard, "operator": refined, "drafts": written}

  def judge(key, state, problems, rows):
    verdict, metrics = method.judge(key, state, problems, rows["standard"])
    judged, more = judging.judge_rounds(
      task, problems, rows, turns=len(own), each=drafts
    )
    return judged | {"standard": verdict}, metrics | more

  trained = {"standard": method, "operator": one}
  trained |= {"drafts": one} if train_drafts else {}
  curate, wanted = kinds.train_all(trained)
  return method._replace(
    generate=generate, judge=judge, curate=curate, wanted=wanted
  )
