"""Metrics: divides means into numbers (only here), and checks them."""

import json
import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from sitrain.types import Mean, Metrics

# "stage", "step" of the stage, "iteration" of the run, and numbers by name
Record = dict[str, Any]


def divide(mean: Mean) -> np.ndarray:
  """total / count on the host; NaN where the count is 0."""
  total = np.asarray(mean.total, np.float64)
  count = np.asarray(mean.count, np.float64)
  safe = np.where(count == 0, 1.0, count)
  return np.where(count == 0, np.nan, total / safe)


def records(metrics: Metrics) -> list[dict[str, float]]:
  """One dict of numbers per step from the metrics of one fused call.

  Args:
    metrics: means whose totals and counts are [steps].
  """
  host = jax.device_get(metrics)
  numbers = derived({name: divide(mean) for name, mean in host.items()})
  steps = {len(x) for x in numbers.values()}
  if len(steps) > 1:
    raise ValueError(f"metrics of different numbers of steps: {sorted(steps)}")
  return [
    {name: float(x[i]) for name, x in numbers.items()}
    for i in range(steps.pop() if steps else 0)
  ]


def derived(numbers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The numbers, with the effective sample size of ratios for their square.

  (mean r)^2 / mean r^2 (Kish 1965): no mean itself, so it is made of two.
  """
  if "learn/ratio_squared" not in numbers:
    return numbers
  square = numbers.pop("learn/ratio_squared")
  size = numbers["learn/ratio"] ** 2 / square
  return numbers | {"learn/effective_sample": size}


_VERBS = ("generate/", "judge/", "curate/", "learn/")  # in the order of a step


def not_finite(measured: Metrics) -> tuple[int, str, float]:
  """(index of the step, name, value) of the first metric that is not finite.

  Within a step the first in the order of the verbs, because it spreads to the
  later ones; (-1, "", 0.0) if all are finite. Means with a count of 0 are
  skipped.
  """
  order = lambda name: [not name.startswith(verb) for verb in _VERBS]
  names = sorted(measured, key=order)
  if not names:
    return -1, "", 0.0
  # One array [names, steps], as this runs between any two calls.
  total = np.array([measured[name].total for name in names], np.float64)
  count = np.array([measured[name].count for name in names], np.float64)
  bad = ~np.isfinite(total + count) & (count != 0)
  if not bad.any():
    return -1, "", 0.0
  step, first = np.argwhere(bad.T)[0]
  return int(step), names[first], float(total[first, step])


def finite(value: Any) -> Any:
  """`value` with None for NaN and infinities, which JSON lacks."""
  if isinstance(value, dict):
    return {str(k): finite(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [finite(v) for v in value]
  if isinstance(value, (np.ndarray, np.generic, Array)):
    return finite(np.asarray(value).tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def to_line(record: Record) -> str:
  """One line of valid JSON."""
  return json.dumps(finite(record), allow_nan=False) + "\n"
