"""A short evaluation of a policy while it trains: shares per turn.

It has problems of its own: where a task draws them, other ones than those that
`run.evaluate` gets with the same key, so a checkpoint that is chosen by these
numbers is not chosen by those of the summary. A table has only its first rows.
"""

import jax
import numpy as np

from sitrain.evaluate.player import (
  OnProgress,
  Played,
  Player,
  no_progress,
  played,
)
from sitrain.types import Key, Params

PREFIX = "eval/"
OWN = 2**31  # of the key: problems that no other evaluation has
EACH = ("accuracy", "reward", "truncated")  # of every turn


def names(turns: int, *, sampled: bool) -> list[str]:
  """The metrics of `brief`, without the start "eval/"."""
  own = [f"{name}_{k + 1}" for k in range(turns) for name in EACH]
  own += ["gain"] * (turns > 1) + ["unknown"]
  return own + [f"sampled_{name}" for name in own] * sampled


def brief(
  player: Player, params: Params, key: Key, *, problems: int, batch: int,
  temperature: float, sampled: bool, on_progress: OnProgress = no_progress,
) -> dict[str, float]:
  """Numbers by name: of greedy attempts, and of sampled ones if `sampled`.

  One program serves both. `temperature` is that of the sampled attempts.
  """
  key = jax.random.fold_in(key, OWN)
  options = dict(problems=problems, batch=batch, on_progress=on_progress)
  _, greedy = played(player, params, key, temperature=0.0, **options)
  found = shares(greedy)
  if sampled:
    _, drawn = played(player, params, key, temperature=temperature, **options)
    found |= {f"sampled_{name}": x for name, x in shares(drawn).items()}
  return {f"{PREFIX}{name}": x for name, x in found.items()}


def shares(episodes: Played) -> dict[str, float]:
  """Of each turn the share of full rewards, the mean reward, and the cuts.

  A problem counts only where the verifier has judged all its turns; `unknown`
  is the share of the others. Without any the rest is NaN.
  """
  judged = episodes.judged
  known = judged.known.all(axis=1)
  mean = lambda x: float(np.mean(x[known])) if known.any() else np.nan
  found, turns = {}, judged.right.shape[1]
  for k in range(turns):
    for name, x in zip(EACH, (judged.right, judged.reward, judged.truncated)):
      found[f"{name}_{k + 1}"] = mean(x[:, k].astype(np.float64))
  if turns > 1:
    found["gain"] = found[f"accuracy_{turns}"] - found["accuracy_1"]
  return found | {"unknown": float(1 - known.mean())}
