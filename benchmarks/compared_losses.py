"""What benchmarks.references compares: rows, and two functions of them."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sitrain.losses import policy_gradient as policy
from sitrain.losses import reduce

LENGTHS = (5, 1, 3, 8, 2, 7, 8, 4)
GROUP = (0, 0, 0, 1, 1, 2, 2, 2)
REWARD = (1.0, 0.0, 0.25, 0.5, 0.5, 0.0, 1.0, 1.0)
COLUMNS, LIMIT = 8, 16


class Rows(NamedTuple):
  """What losses and advantages read; arrays of NumPy, JAX or torch."""

  mask: object  # [B T], as all up to `token_reward`
  old: object
  reference: object
  advantage: object
  value: object
  old_value: object
  returns: object
  token_reward: object
  reward: object  # [B]
  group: object


def draw() -> tuple[np.ndarray, Rows]:
  """(log-probabilities, the rest), in float64 and 0 outside of the mask."""
  rng = np.random.default_rng(0)
  mask = (np.arange(COLUMNS) < np.array(LENGTHS)[:, None]).astype(float)
  logprob = rng.uniform(-3, -0.1, mask.shape) * mask
  move = lambda size: (logprob + size * rng.normal(size=mask.shape)) * mask
  old = move(0.4)
  old[0, :2], old[3, 4:6] = logprob[0, :2] + [6, -6], logprob[3, 4:6] + [3, -3]
  normal = lambda: rng.normal(size=mask.shape) * mask
  last = np.arange(COLUMNS) == np.array(LENGTHS)[:, None] - 1
  return logprob, Rows(
    mask=mask, old=old, reference=move(0.8), advantage=normal(),
    value=normal(), old_value=normal(), returns=normal(),
    token_reward=0.1 * normal() + last * np.array(REWARD)[:, None],
    reward=np.array(REWARD), group=np.array(GROUP),
  )


class Comparison(NamedTuple):
  """Two functions of one argument, [B T] or none, that are to be equal."""

  ours: str  # the function's name below sitrain/
  peer: str  # whose, and its name there
  about: str  # settings, and what has to be allowed for
  here: Callable
  there: Callable
  at: np.ndarray | tuple  # () where they take no argument


def difference(one: Comparison) -> float:
  """The largest difference of values, and of gradients where there is one."""
  if isinstance(one.at, tuple):
    pairs = [(one.here(), one.there())]
  else:
    import torch

    given = torch.tensor(one.at, requires_grad=True)
    value = one.there(given)
    (slope,) = torch.autograd.grad(value, given)
    found = jax.value_and_grad(one.here)(jnp.asarray(one.at, jnp.float32))
    pairs = list(zip(found, (value.detach(), slope)))
  gaps = [_gap(np.asarray(a, float), np.asarray(b)) for a, b in pairs]
  return float(np.max(gaps))  # NaN where one is; Python's max may lose it.


def _gap(ours: np.ndarray, theirs: np.ndarray) -> float:
  return float(np.max(np.abs(ours - theirs)) / max(1.0, np.abs(theirs).max()))


def here(rows: Rows) -> Rows:
  """In float32, with infinities outside of the mask."""
  outside = np.where(rows.mask > 0, 0.0, -np.inf)
  wide = rows._replace(
    old=rows.old + outside, reference=rows.reference - outside
  )
  arrays = [jnp.asarray(x, jnp.float32) for x in wide[:-1]]
  return Rows(*arrays, jnp.asarray(rows.group))


def there(rows: Rows) -> Rows:
  """As tensors of torch, in float64."""
  import torch

  return Rows(*(torch.tensor(x) for x in rows))


def reduced(name: str, mask) -> Callable:
  """(x [B T]) -> its aggregate."""
  aggregate = reduce.aggregate_of(name, LIMIT)
  return lambda x: reduce.value(aggregate(x, mask))


def surrogates(rows: Rows) -> dict[str, Callable]:
  """Losses of tokens as functions of log-probabilities."""
  ratio = lambda x: policy.importance_ratio(x, rows.old)
  clipped = functools.partial(
    policy.clipped, advantage=rows.advantage, clip=0.2, clip_high=0.28
  )
  return {
    "clipped": lambda x: clipped(ratio(x)),
    "dual": lambda x: policy.dual_clip(clipped(ratio(x)), rows.advantage, 3.0),
    "sequence": lambda x: policy.clipped(
      policy.sequence_ratio(x, rows.old, rows.mask), rows.advantage,
      clip=0.03, clip_high=0.04,
    ),
    "soft": lambda x: policy.soft_gate(
      ratio(x), rows.advantage, positive=1.0, negative=1.05
    ),
    "cispo": lambda x: policy.cispo(
      x, rows.old, rows.advantage, clip=0.2, clip_high=0.28
    ),
    "cispo, open": lambda x: policy.cispo(
      x, rows.old, rows.advantage, clip=math.inf, clip_high=0.28
    ),
    "plain": lambda x: policy.clipped(
      ratio(x), rows.advantage, clip=math.inf, clip_high=math.inf
    ),
  }
