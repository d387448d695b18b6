"""Sampling with prompts cut to the columns in which one of them has text."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sitrain.rollout import contexts
from sitrain.types import PAD, Episodes, Problems, Rows


def cut_prompts(generate: Callable[..., Rows], buckets: int) -> Callable:
  """`generate(keys, state, problems)` without columns that are all padding.

  Prompts are cut to the least of `buckets` equally spaced lengths that holds
  the longest; each is a branch of one program. Rows are filled up to the
  columns that they have without it. Problems and draws stay the same, as a draw
  depends on no column. Raises ValueError for less than one.
  """
  if buckets < 1:
    raise ValueError(f"buckets={buckets}: set it to at least 1")

  def generate_cut(keys: Array, state: Any, problems: Problems) -> Rows:
    slots = problems.prompt.shape[1]
    full = jax.eval_shape(generate, keys, state, problems)
    lengths = sorted({-(-slots * i // buckets) for i in range(1, buckets + 1)})
    tokens = jnp.sum(problems.prompt != PAD, axis=1)
    bucket = jnp.sum(jnp.max(tokens) > jnp.array(lengths[:-1], jnp.int32))
    branches = [
      functools.partial(_with_slots, generate, full, n) for n in lengths
    ]
    return jax.lax.switch(bucket, branches, keys, state, problems)

  return generate_cut if buckets > 1 else generate


def _with_slots(generate, full, kept, keys, state, problems):
  """Rows of prompts of `kept` columns, filled up to those of `full`."""
  slots = problems.prompt.shape[1]
  problems = problems._replace(prompt=problems.prompt[:, slots - kept :])
  rows = generate(keys, state, problems)
  return jax.tree.map(_fill, rows, full, is_leaf=_is_kind)


def _is_kind(x: Any) -> bool:
  return isinstance(x, Episodes)


def _fill(kind: Episodes, full: Episodes) -> Episodes:
  return contexts.widen(kind, full.tokens.shape[1])
