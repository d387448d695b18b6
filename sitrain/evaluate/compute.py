"""Accuracy at equal compute: one long attempt against several short ones.

A long attempt is swept by the tokens that it may write, several attempts by
their number, of which a perfect verifier chooses; what either costs is counted
in the operations of generation. Beside it, how alike two texts are in their
steps.

Source: the comparison of "To Backtrack or Not to Backtrack" (2025,
arXiv:2504.07052), known here from its abstract and the authors' arrays; the
formulas below are our own.
"""

from collections.abc import Set
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sitrain.evaluate.votes import pass_at


def generation_flops(
  prompt: int | np.ndarray, written: int | np.ndarray, *, params: int,
  layers: int, width: int,
) -> float | np.ndarray:
  """Operations that write a text behind a prompt, with a cache of the keys.

  2 params for every token that is read or written, but for the last, which
  nothing reads; and 4 layers width for each that it attends to, itself among
  them: products with keys and with values. `width` is that of all heads
  together; `params` are those of matrices (an embedding that is looked up costs
  nothing, one that gives the logits counts).
  """
  tokens = prompt + written - 1
  return 2 * params * tokens + 4 * layers * width * tokens * (tokens + 1) / 2


def within(
  right: Float[np.ndarray, "P n"], written: Int[np.ndarray, "P n"],
  budget: int,
) -> Float[np.ndarray, " P"]:
  """Accuracy of each problem where a turn is cut at a budget of tokens.

  The draws of a turn do not depend on its limit, so a turn that is cut earlier
  has the same tokens: it is right where the whole turn is and fits.
  """
  return np.mean((right > 0) & (written <= budget), axis=1)


def by_budget(
  right: Float[np.ndarray, "P n"], written: Int[np.ndarray, "P n"],
  budgets: tuple[int, ...], *, prompt: int, **sizes: int,
) -> list[dict[str, float]]:
  """A row for each budget of tokens: budget, accuracy, tokens, flops.

  Means over all samples; a turn costs what it writes, up to the budget. `sizes`
  are those of `generation_flops`.
  """
  rows = []
  for budget in budgets:
    spent = np.minimum(written, budget)
    accuracy = float(within(right, written, budget).mean())
    rows.append({
      "budget": float(budget), "accuracy": accuracy,
      "tokens": float(spent.mean()),
      "flops": float(np.mean(generation_flops(prompt, spent, **sizes))),
    })
  return rows


def by_samples(
  right: Float[np.ndarray, "P n"], written: Int[np.ndarray, "P n"],
  counts: tuple[int, ...], *, prompt: int, **sizes: int,
) -> list[dict[str, float]]:
  """A row for each number of samples: samples, accuracy, tokens, flops.

  Accuracy is pass@k: the verifier finds a right one among them. Each sample
  pays for its prompt.
  """
  each = float(np.mean(generation_flops(prompt, written, **sizes)))
  return [{
    "samples": float(k), "accuracy": float(pass_at(right, k).mean()),
    "tokens": k * float(written.mean()), "flops": k * each,
  } for k in counts]


def jaccard(one: Set[Any], other: Set[Any]) -> float:
  """Shared elements / elements of either; NaN where both are empty."""
  either = len(one | other)
  return len(one & other) / either if either else float("nan")
