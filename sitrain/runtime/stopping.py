"""Early stopping: functions of the window of recent metrics.

They read saved numbers only, so a resumed run stops at the same step, and all
processes stop together.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from sitrain.runtime.optimizer import one_of

BEST_SPAN = 20  # steps whose mean ranks a checkpoint
EVAL = "eval/"  # start of the metrics that only evaluations have
EVALUATED = "eval/step"  # in a window: the steps after which there was one

Window = dict[str, list[float]]
Until = Callable[[Window], bool]


def never() -> Until:
  """The stage runs for all of its steps."""
  return lambda window: False


def plateau(metric: str, *, span: int, tolerance: float, above: float) -> Until:
  """Stops when a metric is high and does not rise any more.

  mean(last span) >= above and
  mean(last span) - mean(span before) < tolerance, of the numbers that are
  not NaN. Before 2 * span steps it never stops. Of a metric that starts with
  "eval/" the numbers are those of evaluations, and `span` counts these.

  Raises ValueError where the window has no such metric.
  """
  if span < 1:
    raise ValueError(f"plateau: span={span} is not 1 or more")

  def until(window: Window) -> bool:
    if metric not in window:
      if not window or metric.startswith(EVAL):
        return False
      one_of("plateau: metric", metric, window)
    values = window[metric][-2 * span :]
    if len(values) < 2 * span:
      return False
    before = mean_of_known(values[:span])
    last = mean_of_known(values[span:])
    return last >= above and last - before < tolerance

  return until


def mean_of_known(values: Sequence[float]) -> float:
  """The mean of the values that are not NaN; without any NaN."""
  finite = [x for x in values if not math.isnan(x)]
  return sum(finite) / len(finite) if finite else math.nan


def remark(window: Window) -> str:
  """A warning about a finished stage that learned nothing, or "".

  Nothing was learned if all gradients in the window are 0.
  """
  norms = window.get("learn/gradient_norm", [])
  if not norms or any(norms):  # NaN is true.
    return ""
  nll = window.get("learn/nll", [])
  nll_text = f" and learn/nll is {nll[-1]:.3g}" if nll else ""
  return (
    f"the gradient was 0 in the last {len(norms)} steps{nll_text}, so nothing"
    " was learned: see whether any rewards differ (judge/), or lower the"
    " learning rate where the parameters have grown too large"
  )


def extend(
  window: Window, records: Sequence[dict[str, float]], length: int
) -> Window:
  """The window after these records: the last `length` values by name.

  NaN replaces metrics that a record lacks, to keep the steps aligned. Numbers
  of evaluations are kept as they are.
  """
  kept = {n: x for n, x in window.items() if n.startswith(EVAL)}
  window = {n: x for n, x in window.items() if n not in kept}
  seen = len(next(iter(window.values()), []))
  names = list(dict.fromkeys([*window, *(n for r in records for n in r)]))
  return kept | {
    name: (
      window.get(name, [math.nan] * seen)
      + [float(r.get(name, math.nan)) for r in records]
    )[-length:]
    for name in names
  }


def add_evaluation(
  window: Window, found: dict[str, float], step: int, length: int
) -> Window:
  """The window with the numbers of an evaluation after `step`, if any.

  They have lists of their own, with one number per evaluation and not per step.
  """
  own = {name: x for name, x in found.items() if name.startswith(EVAL)}
  own |= {EVALUATED: float(step)} if own else {}
  return window | {
    name: [*window.get(name, []), x][-length:] for name, x in own.items()
  }


_MAKERS = {"never": never, "plateau": plateau}


def options(name: str) -> dict[str, inspect.Parameter]:
  """The options of `make`, without the name."""
  one_of("name", name, _MAKERS)
  return dict(inspect.signature(_MAKERS[name]).parameters)


def make(name: str, **options: Any) -> Until:
  """`never()` or `plateau(**options)`, by the name in a config."""
  one_of("name", name, _MAKERS)
  return _MAKERS[name](**options)
