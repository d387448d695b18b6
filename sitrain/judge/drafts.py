"""Which of several drafts a workspace keeps, and what became of them.

A distiller is choose(keys [P * calls], problems, drafts, calls) -> places
[P * calls, keep] of drafts among those of their problem, for each call that
will read them. Those of PDR (arXiv:2510.01123), from a note on the paper, are
random-k, another choice for each call; top-k, in which the model chooses; and a
summary that the model writes, which is left out. How it chooses is decided
here: by the votes of its drafts or by its own verdicts on them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from sitrain.judge.groups import masked_mean
from sitrain.judge.roles import roles
from sitrain.judge.verifier import final_answers, verify
from sitrain.types import (
  PAD,
  Episodes,
  Metrics,
  Problems,
  Task,
  Verdict,
)


def draft_turns(task: Task, turns: tuple[int, ...]) -> tuple[int, ...]:
  """The limits of a draft's turns; one number is that of all of them."""
  return (turns[:1] + turns[:2][-1:])[: roles(task)]


def votes(final: Int[Array, "P n"]) -> Int[Array, "P n"]:
  """Attempts of the problem with the same answer; 0 without one (-1)."""
  same = (final[:, :, None] == final[:, None]).sum(axis=2)
  return jnp.where(final >= 0, same, 0)


def mean_logprob(episodes: Episodes, turns: int) -> Float[Array, "B K"]:
  """Mean log-probability of the tokens of each turn; -inf of unwritten ones."""
  inside = episodes.turn[:, None] == jnp.arange(1, turns + 1)[:, None]
  count = inside.sum(axis=2)
  total = jnp.where(inside, episodes.logprob[:, None], 0.0).sum(axis=2)
  return jnp.where(count > 0, total / jnp.maximum(count, 1), -jnp.inf)


def at_random(
  keys: Key[Array, " B"], drafts: int, keep: int
) -> Int[Array, "B {keep}"]:
  """Places of `keep` different drafts, drawn anew for each of B calls."""
  draw = lambda key: jax.random.uniform(key, (drafts,))
  return jnp.argsort(jax.vmap(draw)(keys), axis=1)[:, :keep]


def of_most(
  points: Float[Array, "P D"], score: Float[Array, "P D"], keep: int
) -> Int[Array, "P {keep}"]:
  """Places of the `keep` drafts with the most points, then the best score."""
  return jnp.lexsort((-score, -points), axis=1)[:, :keep]


def of_votes(
  final: Int[Array, "P D"], score: Float[Array, "P D"], keep: int
) -> Int[Array, "P {keep}"]:
  """Places of the `keep` drafts whose answers have the most votes.

  First one draft of every answer, the one with the highest score, by votes;
  copies of an answer and drafts without one only where answers are too few.
  """
  order = jnp.lexsort((-score, -votes(final)), axis=1)
  ranked = jnp.take_along_axis(final, order, axis=1)
  same = ranked[:, :, None] == ranked[:, None]
  before = jnp.tril(jnp.ones(same.shape[1:], bool), -1)
  copy = jnp.any(same & before, axis=2) | (ranked == PAD)
  first = jnp.argsort(copy, axis=1, stable=True)
  return jnp.take_along_axis(order, first, axis=1)[:, :keep]


def _by_vote(task, problems, drafts, score, keep):
  final = jnp.asarray(final_answers(task, drafts, 1))
  return of_votes(final.reshape(score.shape), score, keep)


def _by_verdict(task, problems, drafts, score, keep):
  said = jnp.asarray(task.accepts(drafts, 2))[:, 1].astype(score.dtype)
  return of_most(said.reshape(score.shape), score, keep)


def _by_verifier(task, problems, drafts, score, keep):
  verdict = verify(task, problems, drafts, 1)
  reward = jnp.where(verdict.known > 0, verdict.reward, 0.0)
  return of_most(reward.reshape(score.shape), score, keep)


TOP = {"vote": _by_vote, "verdict": _by_verdict, "oracle": _by_verifier}
DISTIL = (*TOP, "random")


def distiller(
  task: Task, distil: str, *, keep: int, drafts: int, option: str = "drafts"
) -> Callable:
  """A distiller by its name, of `keep` of the `drafts` of a round.

  "vote": the most votes, each with another answer where there are so many.
  "verdict": those that the policy accepts first, where every second turn of the
  task is its verdict. "oracle": those that the verifier finds right first, an
  upper bound. "random". Ties by the mean log-probability. Raises ValueError for
  another name, for a number that is out of range, and for "verdict" where the
  policy gives none. `option`: what the number of drafts is called there.
  """
  if distil not in DISTIL:
    raise ValueError(f"distil={distil!r}: choose one of {', '.join(DISTIL)}")
  if not 1 <= keep <= drafts:
    raise ValueError(
      f"keep={keep}: set it from 1 to {option}={drafts}, the drafts of a round"
    )
  if distil == "verdict" and roles(task) < 2:
    raise ValueError(
      f"distil={distil!r}: this task has no verdicts of the policy: choose one "
      "of vote, random, or a task with them, such as countdown.critic"
    )

  def choose(keys, problems, drafts, calls):
    count = problems.prompt.shape[0]
    if distil == "random":
      return at_random(keys, drafts.problem.shape[0] // count, keep)
    score = mean_logprob(drafts, 1).reshape(count, -1)
    places = TOP[distil](task, problems, drafts, score, keep)
    return jnp.repeat(places, calls, axis=0)

  return choose


def check_trained(
  task: Task, distil: str, drafts: bool, workspaces: int
) -> None:
  """Raises ValueError where rounds cannot be sampled in one program.

  And where drafts are trained that all have the same reward.
  """
  if task.on_host and distil in TOP:
    raise ValueError(
      f"distil={distil!r}: set it to 'random', as this task judges on the host,"
      " and drafts are chosen in the middle of a rollout"
    )
  if drafts and workspaces < 2:
    raise ValueError(
      f"workspaces={workspaces}: set it to 2 or more where train_drafts is on: "
      "all drafts of a problem would have the same reward"
    )


def judge_rounds(
  task: Task, problems: Problems, rows: dict[str, Episodes], *, turns: int,
  each: int,
) -> tuple[dict[str, Verdict], Metrics]:
  """Verdicts on the rows "drafts" and "operator" of rounds, and metrics.

  Rounds of `each` drafts, and as many refinements in one as in another
  (rollout/operators.py). A draft has `turns` turns, and so have the verdicts on
  refinements, of which only the first is written; that on a draft is what came
  of it. NumPy stays NumPy.
  """
  drafts, refined = rows["drafts"], rows["operator"]
  judged, found = (
    verify(task, problems, kind, turns) for kind in (drafts, refined)
  )
  rounds = drafts.problem.shape[0] // each
  credit = credited(drafts, judged.known, found, rounds)
  return {"drafts": credit, "operator": found}, round_metrics(
    drafts, judged, refined, found, rounds
  )


def credited(
  drafts: Episodes, known: Float[Array | np.ndarray, "N K"], refined: Verdict,
  rounds: int,
) -> Verdict:
  """The reward of every draft for what came of it, the same in all its turns.

  It is the mean reward of the refinements of its round, whether they have read
  it or not; `rounds` of them in all, rows of each together. `known` is that of
  the drafts: turns that were not written are not known, nor are those of a
  round with a refinement that could not be judged. NumPy stays NumPy.
  """
  xp = known.__array_namespace__()
  each = drafts.problem.shape[0] // rounds
  sure = xp.min(refined.known[:, 0].reshape(rounds, -1), axis=1)
  last = xp.where(refined.known[:, 0] > 0, refined.reward[:, 0], 0.0)
  value = xp.mean(last.reshape(rounds, -1), axis=1)
  over = lambda x: xp.repeat(x, each)[:, None].astype(known.dtype)
  return Verdict(over(value) * xp.ones_like(known), known * over(sure))


def round_metrics(
  drafts: Episodes, judged: Verdict, refined: Episodes, found: Verdict,
  rounds: int,
) -> Metrics:
  """Rewards and tokens of `rounds` rounds of drafts and refinements.

  Tokens are those that calls read and write, as strategies.meter counts them: a
  refinement's own and those of all drafts of its round, `total`; its own and
  those of the longest draft, which the distiller has to wait for, `sequential`.
  Lengths are of what was written alone. NumPy stays NumPy.
  """
  tokens, calls = (
    (rows.turn != PAD).sum(axis=1).reshape(rounds, -1)
    for rows in (drafts, refined)
  )
  longest = tokens.max(axis=1, keepdims=True)
  own = lambda rows: (rows.turn > 0).sum(axis=1)
  first = lambda verdict: masked_mean(
    verdict.reward[:, 0], verdict.known[:, 0].astype(np.float32)
  )
  over_all = lambda x: masked_mean(x, (x == x).astype(np.float32))
  return {
    "judge/draft": first(judged), "judge/refined": first(found),
    "generate/sequential": over_all(calls + longest),
    "generate/total": over_all(calls + tokens.sum(axis=1, keepdims=True)),
    "generate/length_draft": over_all(own(drafts)),
    "generate/length_refined": over_all(own(refined)),
  }
