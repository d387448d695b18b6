"""An operator as a rollout: drafts, a workspace of some of them, refinements.

PDR's round (arXiv:2510.01123), known here from a note on the paper: generate M
drafts of a problem, distill them into a bounded workspace, refine. What plays
and what distills are given, so that strategies at test time and training have
the same operator.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from sitrain.rollout import by_turn, workspace
from sitrain.rollout.play import row_keys
from sitrain.types import Episodes, Problems, Reply, Task

# Folded into a problem's key, so that they are no number of a sample.
DRAFT, CHOICE, OPERATOR = 1 << 20, 1 << 21, 1 << 22


def refine(
  play: Callable[..., Episodes],
  choose: Callable,
  keys: Key[Array, " P"],
  state: Any,
  problems: Problems,
  drafts: Episodes,
  *,
  reply: Callable[..., Reply],
  turns: tuple[int, ...],
  then: tuple[int, ...],
  calls: int,
  number: int,
) -> tuple[Episodes, Int[Array, "P*{calls} k"]]:
  """`calls` rows a problem that have each read a workspace of some drafts.

  Args:
    play: as strategies.strategy.Play has it.
    choose: a distiller, judge/drafts.py.
    keys, state, problems: those of the drafts.
    drafts: rows of the problems, those of one together.
    reply: the task's.
    turns: the token limits of a draft.
    then: of what is written now.
    calls: rows of a problem.
    number: of the round; other rounds have other draws.

  Also the rows of `drafts` that each call has read.
  """
  count = keys.shape[0]
  fold = lambda by: jax.vmap(partial(jax.random.fold_in, data=by + number))
  place = choose(row_keys(fold(CHOICE)(keys), calls), problems, drafts, calls)
  own = jnp.repeat(jnp.arange(count), calls) * (
    drafts.problem.shape[0] // count
  )
  read = own[:, None] + place
  posed = workspace.compose(reply, problems, drafts, read, turns=turns)
  written = play(
    row_keys(fold(DRAFT)(keys), calls), state, posed, samples=1, turns=then
  )
  return written._replace(problem=written.problem // calls), read


def make(
  play: Callable[..., Episodes],
  choose: Callable,
  task: Task,
  *,
  turns: tuple[int, ...],
  drafts: int,
  samples: int,
  workspaces: int,
) -> Callable[..., tuple[Episodes, Episodes]]:
  """Rounds of the operator, as generate(keys, state, problems) -> both rows.

  A problem has `workspaces` of them, each with `drafts` drafts of its own, and
  `samples` refinements in all, which are one attempt each. So drafts are [P * W
  * D T], refinements [P * S T], and refinement s of a problem has read drafts
  of round s // (S / W). `turns` are the limits of a draft: an attempt, and the
  verdict on it where the policy gives one. Raises ValueError for workspaces
  that do not divide the samples, and where the host replies.
  """
  if workspaces < 1 or samples % workspaces:
    raise ValueError(
      f"workspaces={workspaces}: set it to a divisor of samples={samples}, the "
      "refinements of a problem"
    )
  if by_turn.on_host(task.reply):
    raise ValueError(
      "an environment answers the turns of this task, so they are no drafts: "
      "take another task or method"
    )

  def generate(keys, state, problems):
    own = jax.vmap(partial(jax.random.fold_in, data=OPERATOR))(keys)
    own = row_keys(own, workspaces)
    posed = jax.tree.map(
      lambda x: jnp.repeat(x, workspaces, axis=0), problems
    )
    first = play(own, state, posed, samples=drafts, turns=turns)
    then, _ = refine(
      play, choose, own, state, posed, first, reply=task.reply,
      turns=turns, then=turns[:1], calls=samples // workspaces, number=2,
    )
    of_problem = lambda rows: rows._replace(
      problem=rows.problem // workspaces
    )
    return of_problem(first), of_problem(then)

  return generate
