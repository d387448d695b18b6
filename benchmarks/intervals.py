"""Means over seeds with their intervals."""

import math

import numpy as np
from scipy import stats


def interval(values: list[float]) -> tuple[float, float, float]:
  """(mean, low, high): the 95 % t-interval of the mean over seeds."""
  x = np.asarray(values, float)
  mean = float(x.mean())
  if len(x) < 2:
    return mean, math.nan, math.nan
  error = float(stats.sem(x))
  half = error * float(stats.t.ppf(0.975, len(x) - 1))
  return mean, mean - half, mean + half
