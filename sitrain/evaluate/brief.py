"""A short evaluation of a policy while it trains: shares per turn.

It has problems of its own: where a task draws them, other ones than those that
`run.evaluate` gets with the same key, so a checkpoint that is chosen by these
numbers is not chosen by those of the summary. A table has only its first rows.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sitrain.evaluate.behaviours import PATTERNS, means
from sitrain.evaluate.diversity import repeated_mistakes
from sitrain.evaluate.edits import tokens_of_turn
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
Decode = Callable[[Any], str]


def names(turns: int, *, sampled: bool, behaviours: bool = False) -> list[str]:
  """The metrics of `brief`, without the start "eval/"."""
  own = [f"{name}_{k + 1}" for k in range(turns) for name in EACH]
  own += [f"copied_{k + 1}" for k in range(1, turns)]
  own += ["gain"] * (turns > 1) + ["unknown"]
  own += [
    f"{name}_{k + 1}" for k in range(turns) for name in PATTERNS if behaviours
  ]
  return own + [f"sampled_{name}" for name in own] * sampled


def brief(
  player: Player, params: Params, key: Key, *, problems: int, batch: int,
  temperature: float, sampled: bool, behaviours: tuple[Decode, ...] = (),
  on_progress: OnProgress = no_progress,
) -> dict[str, float]:
  """Numbers by name: of greedy attempts, and of sampled ones if `sampled`.

  One program serves both. `temperature` is that of the sampled attempts.
  `behaviours` has the decoder of the tokens where behaviours are counted.
  """
  key = jax.random.fold_in(key, OWN)
  options = dict(problems=problems, batch=batch, on_progress=on_progress)
  _, greedy = played(player, params, key, temperature=0.0, **options)
  found = shares(greedy) | habits(greedy, behaviours)
  if sampled:
    _, drawn = played(player, params, key, temperature=temperature, **options)
    own = shares(drawn) | habits(drawn, behaviours)
    found |= {f"sampled_{name}": x for name, x in own.items()}
  return {f"{PREFIX}{name}": x for name, x in found.items()}


def shares(episodes: Played) -> dict[str, float]:
  """Of each turn the share of full rewards, the mean reward, and the cuts.

  A problem counts only where the verifier has judged all its turns; `unknown`
  is the share of the others. Without any the rest is NaN. `copied_k`: of wrong
  attempts, how many turn k repeats but for a tenth (diversity.repeats).
  """
  judged = episodes.judged
  known = judged.known.all(axis=1)
  mean = lambda x: float(np.mean(x[known])) if known.any() else np.nan
  found, turns = {}, judged.right.shape[1]
  for k in range(turns):
    for name, x in zip(EACH, (judged.right, judged.reward, judged.truncated)):
      found[f"{name}_{k + 1}"] = mean(x[:, k].astype(np.float64))
  rows = [
    [tokens_of_turn(*row, k + 1) for row in zip(episodes.tokens, episodes.turn)]
    for k in range(turns)
  ]
  for k in range(1, turns):
    wrong = (known & (judged.right[:, k - 1] == 0)).tolist()
    found[f"copied_{k + 1}"] = repeated_mistakes(rows[k - 1], rows[k], wrong)
  if turns > 1:
    found["gain"] = found[f"accuracy_{turns}"] - found["accuracy_1"]
  return found | {"unknown": float(1 - known.mean())}


def habits(
  episodes: Played, behaviours: tuple[Decode, ...]
) -> dict[str, float]:
  """Counts of each behaviour a text, of each turn; {} without a decoder."""
  found = {}
  for decode in behaviours:
    for k in range(1, episodes.judged.right.shape[1] + 1):
      pairs = zip(episodes.tokens, episodes.turn)
      rows = [tokens_of_turn(*pair, k) for pair in pairs]
      texts = [decode(row) for row in rows if row]
      found |= {f"{name}_{k}": x for name, x in means(texts).items()}
  return found
