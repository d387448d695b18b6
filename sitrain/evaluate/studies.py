"""Studies beyond two attempts: many turns, and sampling budgets."""

from typing import Any

import numpy as np

from sitrain.evaluate.bootstrap import bootstrap, estimate
from sitrain.evaluate.correction import by_turn, share
from sitrain.evaluate.player import OnProgress, Player, no_progress, played
from sitrain.evaluate.run import SEED
from sitrain.evaluate.scaling import check_budgets, inference_scaling
from sitrain.evaluate.summary import is_partial
from sitrain.evaluate.votes import majority_at, vote
from sitrain.types import Key, Params


def many_turns(
  player: Player,
  params: Params,
  key: Key,
  *,
  problems: int = 1024,
  batch: int = 512,
  temperature: float,
  draws: int = 1000,
  back: int = 1,
  fresh: Player | None = None,
  on_progress: OnProgress = no_progress,
) -> dict[str, Any]:
  """Accuracy of every turn of one long episode a problem (fig. 8 of SCoRe).

  Lists over the turns: `accuracy`, `incorrect_to_correct` and
  `correct_to_incorrect` against turn 1, `majority` of the attempts so far,
  `ever` (one of them was right), and `intervals` with the same names; where
  rewards are neither 0 nor 1 also `reward`, their means. With a player of
  `fresh` first attempts also `parallel`: the majority of as many of them, at
  most as many as it samples. In RISE (arXiv:2407.18219) entry 1 of accuracy is
  m1@t1, and entries k of parallel, majority and ever are mk@t1, m1@tk and
  p1@tk. Problems with an attempt that the verifier could not judge are left
  out. `back`: every how many turns there is an attempt (judge.roles.roles);
  verdicts of the policy between them are left out.
  """
  found = played(
    player, params, key, problems=problems, batch=batch,
    temperature=temperature, on_progress=on_progress,
  )[1].judged  # fmt: skip
  known, right, reward = (
    x[:, ::back].astype(float) for x in (found.known, found.right, found.reward)
  )
  known, final = known.all(axis=1).astype(float), found.final[:, ::back]
  numbers = list(range(1, player.turns + 1, back))
  paid = enumerate(reward.T if is_partial(reward) else (), start=1)
  extra = {f"reward_{k}": column for k, column in paid}
  for k in range(1, len(numbers) + 1):
    extra[f"majority_{k}"] = vote(final[:, :k], right[:, :k])
  if fresh is not None:
    many = played(
      fresh, params, key, problems=problems, batch=batch, stream=1,
      temperature=temperature if temperature > 0 else 1.0,
      on_progress=on_progress,
    )[1].judged  # fmt: skip
    shape = (len(right), fresh.samples)
    known *= many.known.reshape(shape).all(axis=1)
    for k in range(1, min(len(numbers), fresh.samples) + 1):
      extra[f"parallel_{k}"] = majority_at(
        many.final.reshape(shape), many.right.reshape(shape) * 1.0, k
      )

  def statistic(weight):
    row = by_turn(right, weight * known)
    return row | {k: share(x, weight * known) for k, x in extra.items()}

  rng = np.random.default_rng(SEED)
  ends = bootstrap(rng, statistic, len(right), draws=draws)
  lists = _lists(estimate(statistic, len(right)), len(numbers))
  return {
    "turns": numbers,
    **lists,
    "intervals": _lists(ends, len(numbers)),
  }


def _lists(numbers, turns):
  """name_k -> name: [over k]."""
  names = dict.fromkeys(name.rsplit("_", 1)[0] for name in numbers)
  return {
    name: [
      numbers[f"{name}_{k}"] for k in range(1, turns + 1)
      if f"{name}_{k}" in numbers
    ]
    for name in names
  }


def scaling(
  player: Player,
  params: Params,
  key: Key,
  *,
  budgets: tuple[int, ...],
  problems: int = 1024,
  batch: int = 512,
  temperature: float,
  draws: int = 1000,
  back: int = 1,
  on_progress: OnProgress = no_progress,
) -> dict[str, Any]:
  """Parallel first attempts against corrections, by budget.

  As `inference_scaling`. `player` plays two turns, with at least as many
  samples as the largest budget; with back=2 three, of which the second is a
  verdict of the policy that no budget counts. Problems with an episode that the
  verifier could not judge are left out.
  """
  check_budgets(budgets)
  turns = 1 + back
  if player.turns != turns or player.samples < max(budgets):
    raise ValueError(
      f"a player of {player.turns} turns and {player.samples} samples: budgets "
      f"{budgets} need {turns} turns and {max(budgets)} samples"
    )
  found = played(
    player, params, key, problems=problems, batch=batch,
    temperature=temperature, on_progress=on_progress,
  )[1].judged  # fmt: skip
  shape = (-1, player.samples, turns)  # A table may have fewer than asked for.
  columns = found.known, found.final, found.right
  known, final, right = (x.reshape(shape)[..., ::back] for x in columns)
  known = known.all(axis=(1, 2))
  rng = np.random.default_rng(SEED)
  return inference_scaling(
    rng, final[known], right[known].astype(float), budgets=budgets, draws=draws,
  )  # fmt: skip
