"""Parallel-distill-refine: drafts, a bounded workspace of some, new drafts.

PDR (arXiv:2510.01123), from a detailed note on the paper; no code was released.
Each round samples drafts that read the workspace of the round before; the last
round is one call, and its attempt is the answer. The workspace is made anew
from the last round's drafts alone and never grows. Of the three distillers
there are random-k, another choice for each call, and top-k; a summary that the
policy writes is left out. There the model chooses the k: that its vote over
final answers or its verdicts do it (judge/drafts.py), and the form of the
workspace (rollout/workspace.py), are decided here. methods/pdr.py trains it.
"""

from sitrain.judge.drafts import distiller, draft_turns
from sitrain.strategies.refine import refine
from sitrain.strategies.strategy import Play, Strategy, check_at_least
from sitrain.types import Task


def make(
  play: Play, task: Task, *, turns: tuple[int, ...], samples: int = 8,
  rounds: int = 2, keep: int = 1, distil: str = "vote",
) -> Strategy:
  """samples: drafts of each round but the last. rounds: with the last one.

  keep: drafts in a workspace; a policy that was trained on two attempts has
  never read more than one. distil: "vote", those with the most votes, each with
  another answer where there are so many; "verdict", those that the policy
  accepts; "random"; or "oracle", those that are right, an upper bound.
  """
  check_at_least("samples", samples, 1)
  check_at_least("rounds", rounds, 2)
  choose = distiller(
    task, distil, keep=keep, drafts=samples, option="samples"
  )
  answer, cost = refine(
    play, task, turns=turns, drafts=samples, rounds=rounds, keep=keep,
    choose=choose,
  )
  every = len(draft_turns(task, turns))
  return Strategy(
    answer, cost, rows=samples, turns=every, context=keep * every + 1,
    needs="drafts", grows="samples", every=every, varied=samples > 1,
    oracle=distil == "oracle",
  )
