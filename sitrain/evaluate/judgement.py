"""A study of P(True): is a policy right as often as it says?"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from sitrain.evaluate import calibration
from sitrain.evaluate.player import OnProgress, Player, no_progress, played
from sitrain.evaluate.truth import p_true
from sitrain.types import ROOT, Episodes, Key, Params, Policy, Task


class Asked(NamedTuple):
  """What a policy is asked about its attempt, as token ids."""

  question: tuple[int, ...]
  right: tuple[int, ...]
  wrong: tuple[int, ...]  # (): right against all other tokens


def asked(task: Task, question: str, labels: Sequence[str]) -> Asked:
  """The question and one or two labels in the task's tokens.

  Raises ValueError where a label is not one token, or there are not one or two.
  """
  if not 1 <= len(labels) <= 2:
    raise ValueError(
      f"labels={list(labels)}: give the one of a right attempt, such as <ok>, "
      "or also that of a wrong one, such as True and False"
    )
  ids = [tuple(task.tokenizer.encode(label)) for label in labels]
  for label, one in zip(labels, ids):
    if len(one) != 1:
      raise ValueError(
        f"labels={list(labels)}: {label!r} has {len(one)} tokens; give labels "
        "of one token each, with a space before them where the text needs one"
      )
  return Asked(
    tuple(task.tokenizer.encode(question)) if question else (),
    ids[0], ids[1] if len(ids) > 1 else (),
  )


def make(
  model: Policy, what: Asked, *, temperature: float
) -> Callable[[Params, Episodes], Any]:
  """(params, episodes) -> P(True) [B] of first attempts."""
  return lambda params, episodes: p_true(
    model, params, episodes, turn=1, temperature=temperature,
    **what._asdict(),
  )


def study(
  player: Player,
  ask: Callable[[Params, Episodes], Any],
  params: Params,
  key: Key,
  *,
  problems: int = 1024,
  batch: int = 512,
  temperature: float,
  draws: int = 0,
  on_progress: OnProgress = no_progress,
) -> dict[str, Any]:
  """calibration.summarize of P(True) against the verifier, on one attempt each.

  `ask` is what `make` returns, compiled; it gets `batch` rows at a time.
  `draws` is not used: there are no intervals.
  """
  del draws
  _, found = played(
    player, params, key, problems=problems, batch=batch,
    temperature=temperature, on_progress=on_progress,
  )  # fmt: skip
  rows = found.tokens.shape[0]
  each = min(batch, rows)
  starts = range(0, rows, each)
  parts = [np.arange(i, i + each) % rows for i in starts]  # of one shape
  values = [
    np.asarray(ask(params, jax.tree.map(partial(_take, part), _rows(found))))
    for part in parts
  ]
  confidence = np.concatenate(values)[:rows]
  right, known = found.judged.right[:, 0], found.judged.known[:, 0]
  written = (found.turn == 1).any(axis=1)
  return calibration.summarize(
    confidence, np.asarray(right, float), np.asarray(known * written, float)
  )


def _take(part, x):
  return x[part]


def _rows(found) -> Episodes:
  none = np.zeros(found.turn.shape, np.int32)
  number = np.arange(len(none), dtype=np.int32)
  return Episodes(
    found.tokens, found.turn, none.astype(np.float32), none, number,
    np.full_like(number, ROOT),
  )
