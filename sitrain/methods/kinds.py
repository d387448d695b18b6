"""Several kinds of rows in one batch, each curated by a method of its own."""

import functools
import operator
from collections.abc import Callable

from sitrain.curate.policy import join_batches
from sitrain.methods.verbs import of_kind
from sitrain.types import Method


def train_all(methods: dict[str, Method]) -> tuple[Callable, Callable | tuple]:
  """(curate, wanted) of methods by the names of the rows that they train.

  Their batches, which have one kind of targets, are one, with the rows of a
  problem beside each other (curate.policy.join_batches). A problem is wanted
  where one of them wants it; `()` where one wants all.
  """
  each = [of_kind(name, method) for name, method in methods.items()]

  def curate(key, state, problems, *round_):
    batches, metrics = zip(*(
      one.curate(key, state, problems, *round_) for one in each
    ), strict=True)
    batch = join_batches(batches, problems.prompt.shape[0])
    return batch, functools.reduce(operator.or_, metrics)

  def wanted(*given):
    return functools.reduce(operator.or_, (one.wanted(*given) for one in each))

  return curate, () if any(one.wanted == () for one in each) else wanted
