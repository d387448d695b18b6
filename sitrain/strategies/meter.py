"""The token meter: what answers have cost, and what they may cost at the most.

A call is one row: a prompt, or a workspace in the place of one, and all turns
and replies after it. It costs its tokens, read and written: each once, as the
cache of a row serves all its turns. Calls of a problem that begin with the same
prompt pay for it each.

  total        tokens of all calls: what an answer costs
  sequential   tokens along the longest chain of calls that ends in the chosen
               one, each of which has read the one before: what one waits for,
               however many devices sample

These are B_tot and B_seq of PDR (arXiv:2510.01123), known here from a note on
the paper: what calls read and write, all of them or along the accepted path.
That a turn in the same row does not pay for its context again, and which of
several calls that were read is on the path, the longest, is decided here.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from sitrain.types import PAD


class Cost(NamedTuple):
  """The most tokens that one problem takes."""

  sequential: int
  total: int
  calls: int
  row: int  # of the longest call


class Spent(NamedTuple):
  """Tokens that the answers [P] took."""

  sequential: Int[np.ndarray, " P"]
  total: Int[np.ndarray, " P"]
  calls: int


def parallel(row: int, calls: int) -> Cost:
  """The cost of calls of up to `row` tokens that do not read each other."""
  return Cost(sequential=row, total=calls * row, calls=calls, row=row)


def then(first: Cost, second: Cost) -> Cost:
  """The cost of calls of which the second ones read the first."""
  return Cost(
    sequential=first.sequential + second.sequential,
    total=first.total + second.total,
    calls=first.calls + second.calls,
    row=max(first.row, second.row),
  )


def spent(answer: Any, problems: int) -> Spent:
  """The tokens that an `Answer` on the host took, by problem."""
  chain, total, calls = np.zeros(0, int), np.zeros(problems, int), 0
  for i, rows in enumerate(answer.rounds):
    tokens = np.sum(np.asarray(rows.turn) != PAD, axis=1)
    total += tokens.reshape(problems, -1).sum(axis=1)
    calls += len(tokens) // problems
    if i:
      tokens = tokens + chain[np.asarray(answer.read[i - 1])].max(axis=1)
    chain = tokens
  return Spent(chain[np.asarray(answer.row)], total, calls)
