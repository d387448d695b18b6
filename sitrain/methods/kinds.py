"""Several kinds of rows in one batch, each curated by a method of its own."""

import functools
import operator
from collections.abc import Callable

from sitrain.curate.policy import join_batches
from sitrain.methods.verbs import of_kind
from sitrain.types import Method


def train_all(methods: dict[str, Method]) -> tuple[Callable, Callable | tuple]:
  """(curate, wanted) of methods by the names of the rows that they train.

  Their batches, which have one kind of targets, stand one after the other in
  the order of `methods`, so where kinds have equally many rows a minibatch has
  as many of each. A problem is wanted where one of them wants it, or `()` where
  none compares.
  """
  each = [of_kind(name, method) for name, method in methods.items()]

  def curate(*given):
    batches, metrics = zip(*(one.curate(*given) for one in each), strict=True)
    joined = functools.reduce(operator.or_, metrics)
    return join_batches(*batches), joined

  def wanted(*given):
    return functools.reduce(operator.or_, (one.wanted(*given) for one in each))

  return curate, () if any(one.wanted == () for one in each) else wanted
