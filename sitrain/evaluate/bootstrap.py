"""Bootstrap intervals over problems."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

Statistic = Callable[[np.ndarray], dict[str, np.ndarray]]


def weights(
  rng: np.random.Generator, problems: int, draws: int, cells: int
) -> Iterator[Float[np.ndarray, "D P"]]:
  """How often each problem is in each draw, in parts of several draws.

  A part has at most `cells` numbers, but at least one draw.
  """
  chances = np.full(problems, 1.0 / problems)
  part = max(1, cells // problems)
  for done in range(0, draws, part):
    size = min(part, draws - done)
    yield rng.multinomial(problems, chances, size=size).astype(float)


def bootstrap(
  rng: np.random.Generator,
  statistic: Statistic,
  problems: int,
  *,
  draws: int = 1000,
  level: float = 0.95,
  cells: int = 1 << 21,
) -> dict[str, list[float]]:
  """Percentile intervals [low, high] of every number of `statistic`.

  `statistic(weight [D P])` returns numbers [D] by name, from how often each
  problem counts. All use the same draws, and a problem is drawn with all its
  numbers, so differences between arms are paired. A draw in which a number is
  undefined (NaN) is left out for that number; without draws its interval is
  NaN (Efron and Tibshirani 1993, chapter 13). `cells` bounds the memory.
  Raises ValueError for no problems.
  """
  if problems < 1:
    raise ValueError("no problems to draw from: give at least one")
  parts = [statistic(w) for w in weights(rng, problems, draws, cells)]
  tail = 50.0 * (1.0 - level)
  found = {}
  for name in parts[0]:
    values = np.concatenate([np.atleast_1d(part[name]) for part in parts])
    values = values[~np.isnan(values)]
    ends = np.percentile(values, [tail, 100 - tail]) if values.size else None
    found[name] = [np.nan] * 2 if ends is None else [float(x) for x in ends]
  return found


def estimate(statistic: Statistic, problems: int) -> dict[str, float]:
  """The estimates of `statistic`, where each problem counts once."""
  row = statistic(np.ones((1, problems)))
  return {name: float(value[0]) for name, value in row.items()}
