"""Optax optimizers by name, with schedule, clipping and accumulation."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

import jax
import optax

# Weight decay skips vectors. They are recognized by name, because the vectors
# of stacked layers have two dimensions.
_NO_DECAY = re.compile(r"norm|bias|scale")


def one_of(what: str, name: str, known: Iterable[str]) -> None:
  """Raises ValueError for an unknown name, with the closest known one."""
  known = sorted(known)
  if name not in known:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    raise ValueError(
      f"{what}={name!r} is not known: did you mean {close[0]!r}?"
      f" (one of {', '.join(known)})"
    )


def _constant(rate: float, steps: int, end: float) -> optax.Schedule:
  return optax.constant_schedule(rate)


def _cosine(rate: float, steps: int, end: float) -> optax.Schedule:
  return optax.cosine_decay_schedule(rate, steps, alpha=end)


def _linear(rate: float, steps: int, end: float) -> optax.Schedule:
  return optax.linear_schedule(rate, rate * end, steps)


_SCHEDULES = {"constant": _constant, "cosine": _cosine, "linear": _linear}


def make_schedule(
  name: str, *, learning_rate: float, warmup: int, steps: int, end_factor: float
) -> optax.Schedule:
  """Update number -> learning rate: a linear warm-up, then the schedule.

  rate(u) = learning_rate * (u + 1) / (warmup + 1) for u < warmup, so that no
  update is wasted on rate 0; then `name`, reaching learning_rate * end_factor
  at update `steps`.
  """
  one_of("schedule", name, _SCHEDULES)
  if not 0 <= warmup <= steps:
    raise ValueError(f"warmup={warmup} is not within steps={steps}")
  rest = max(steps - warmup, 1)
  after = _SCHEDULES[name](learning_rate, rest, end_factor)
  if warmup == 0:
    return after
  first = learning_rate / (warmup + 1)
  rising = optax.linear_schedule(first, learning_rate, warmup)
  return optax.join_schedules([rising, after], [warmup])


def _decayed(params: Any) -> Any:
  """True for every parameter that weight decay applies to."""

  def decays(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return leaf.ndim > 1 and not _NO_DECAY.search(name)

  return jax.tree_util.tree_map_with_path(decays, params)


def _adam(schedule, decay, b1, b2, eps):
  return optax.adamw(schedule, b1, b2, eps, weight_decay=decay, mask=_decayed)


def _lion(schedule, decay, b1, b2, eps):
  return optax.lion(schedule, b1, b2, weight_decay=decay, mask=_decayed)


def _sgd(schedule, decay, b1, b2, eps):
  return optax.chain(
    optax.add_decayed_weights(decay, mask=_decayed),
    optax.sgd(schedule, momentum=b1),
  )


def _adafactor(schedule, decay, b1, b2, eps):
  return optax.chain(
    optax.scale_by_factored_rms(),
    optax.add_decayed_weights(decay, mask=_decayed),
    optax.scale_by_learning_rate(schedule),
  )


_OPTIMIZERS = {
  "adamw": _adam,
  "lion": _lion,
  "sgd": _sgd,
  "adafactor": _adafactor,
}


def make(
  *,
  name: str = "adamw",
  learning_rate: float,
  schedule: str = "constant",
  warmup: int = 0,
  steps: int,
  end_factor: float = 0.1,
  clip: float = 1.0,
  weight_decay: float = 0.0,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  accumulate: int = 1,
) -> optax.GradientTransformation:
  """The optimizer that a config names: clip, then `name`, with a schedule.

  Args:
    name: adamw (adam where weight_decay is 0), lion, sgd, adafactor.
    learning_rate: its peak.
    schedule: constant, cosine or linear, after the warm-up.
    warmup: gradient steps until the peak.
    steps: gradient steps until the schedule ends.
    end_factor: the last learning rate by the peak.
    clip: the largest global norm of a gradient; inf: any.
    weight_decay: of matrices, times the learning rate.
    b1: decay of the first moment; the momentum of sgd.
    b2: decay of the second moment.
    eps: added to the root of adamw's second moment.
    accumulate: gradients averaged into one update; warm-up and schedule then
      take `accumulate` gradient steps for each of their updates.

  Raises ValueError for names that are not known, with the closest one.
  """
  one_of("name", name, _OPTIMIZERS)
  if clip <= 0.0:
    raise ValueError(f"clip={clip}: set a norm above 0, or inf for no clipping")
  if warmup > steps:
    raise ValueError(
      f"warmup={warmup} is more than all gradient steps, which are {steps}:"
      " lower it, or raise the steps of the stage"
    )
  if accumulate < 1:
    raise ValueError(f"accumulate={accumulate}: set 1 or more")
  rates = make_schedule(
    schedule,
    learning_rate=learning_rate,
    warmup=warmup // accumulate,
    steps=max(steps // accumulate, 1),
    end_factor=end_factor,
  )
  chain = optax.chain(
    optax.clip_by_global_norm(clip),
    _OPTIMIZERS[name](rates, weight_decay, b1, b2, eps),
  )
  if accumulate == 1:
    return chain
  return optax.MultiSteps(chain, accumulate).gradient_transformation()
