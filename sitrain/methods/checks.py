"""What methods refuse: tasks, tables, turns and options, before any program."""

import math
from typing import Any

import numpy as np

from sitrain.tasks.rows import some_problems
from sitrain.types import PAD, Task


def check_turns(task: Task, turns: tuple[int, ...], *, least: int = 1) -> None:
  """Raises ValueError for too few turns, or one too short for the answers."""
  if len(turns) < least:
    raise ValueError(
      f"turns={tuple(turns)}: this method needs {least} or more: give the "
      "token limit of each"
    )
  if any(t < task.turn_length for t in turns):
    raise ValueError(
      f"turns={tuple(turns)}: this task's answers need "
      f"{task.turn_length} tokens a turn; set every turn to at least that"
    )


def check_verdicts(
  task: Task, turns: tuple[int, ...], only: tuple[str, ...] = ()
) -> None:
  """Raises ValueError unless the policy judges its own attempts here.

  `only` names the turns of a method that knows no others.
  """
  if task.accepts == ():
    raise ValueError(
      "this method trains verdicts of the policy on its own attempts, and this "
      "task has none: take one with them, such as chain.critic"
    )
  check_turns(task, turns, least=2)
  if only and len(turns) != len(only):
    raise ValueError(f"turns={turns}: {', '.join(only)}: give {len(only)}")


def check_attempts(
  task: Task, turns: tuple[int, ...] = (), exactly: int = 0
) -> None:
  """Raises ValueError where the turn after an attempt is a verdict on it.

  And for turns of another number than `exactly`, unless that is 0.
  """
  if task.accepts != ():
    raise ValueError(
      "this method takes every turn for an attempt, and every second one of "
      "this task is the policy's verdict: take the task without them, such as "
      "chain, or a method that trains verdicts, such as pag"
    )
  if exactly and len(turns) != exactly:
    raise ValueError(f"turns={turns}: attempts are compared: give {exactly}")


def check_clip(clip: float, dual: float = math.inf) -> None:
  """Raises ValueError for bounds of ratios that leave nothing to train."""
  if clip <= 0.0:
    raise ValueError(f"clip={clip}: set it above 0, or inf for no clipping")
  if dual <= 1.0:
    raise ValueError(f"dual={dual}: set it above 1, or inf for none")


def check_above_zero(**options: float) -> None:
  """Raises ValueError naming an option that turns a loss around, or off."""
  for name, value in options.items():
    if not value > 0.0:
      raise ValueError(f"{name}={value}: set it above 0")


def check_kl(beta: float, kl: str) -> None:
  """Raises ValueError for a weight of a KL that is not computed."""
  if beta and kl == "none":
    raise ValueError(
      f"beta={beta} weighs a KL, and kl='none' computes none: set kl to exact"
    )


def check_credit(discount: float, kl_weights: tuple[float, ...]) -> None:
  """Raises ValueError for a negative weight of a KL, and a discount above 1."""
  if not all(0.0 <= weight < math.inf for weight in kl_weights):
    raise ValueError(f"{kl_weights} weigh the KL of turns: set them from 0 on")
  check_share(discount=discount)


def check_share(**options: float) -> None:
  """Raises ValueError naming an option that is no share."""
  for name, value in options.items():
    if not 0.0 <= value <= 1.0:
      raise ValueError(f"{name}={value}: set it from 0 to 1")


def check_from_zero(**options: float | int) -> None:
  """Raises ValueError naming an option that must be 0 or more, and finite."""
  for name, value in options.items():
    if not 0.0 <= value < math.inf:
      raise ValueError(f"{name}={value}: set it to 0 or more, but not inf")


def check_finite(**options: float | int) -> None:
  """Raises ValueError naming an option that is no finite number."""
  for name, value in options.items():
    if not math.isfinite(value):
      raise ValueError(f"{name}={value}: give a finite number")


def check_temperature(temperature: float) -> None:
  """Raises ValueError where samples would have no log-probability to train."""
  if not 0.0 < temperature < float("inf"):
    raise ValueError(
      f"temperature={temperature}: samples to train on need one above 0, such "
      "as 1.0; 0 (greedy) is for evaluation"
    )


def check_solutions(task: Task, turns: tuple[int, ...]) -> None:
  """Raises ValueError where a given turn of the table is longer than its limit.

  Also where no row gives any. Cut short, it would teach the policy to stop in
  the middle, and what is left would be taken for the next turn.
  """
  solution = np.asarray(some_problems(task).solution)
  if not (solution != PAD).any():
    raise ValueError(
      "this task gives no solutions to imitate: take another task or method"
    )
  end = np.isin(solution, task.eos)
  turn = np.cumsum(end, axis=1) - end
  for k, limit in enumerate(turns):
    length = np.sum((turn == k) & (solution != PAD), axis=1)
    if long := np.flatnonzero(length > limit).tolist():
      row = task.texts.kept[long[0]] if task.texts != () else long[0]
      raise ValueError(
        f"turns={tuple(turns)}: turn {k + 1} of {len(long)} of {len(length)} "
        f"given solutions has more than {limit} tokens (first in row {row + 1},"
        f" the longest has {length.max()}): raise turns to that, or leave these"
        " rows out"
      )


def check_pairs(task: Task, turns: tuple[int, ...]) -> None:
  """Raises ValueError where a row gives no pair of turns, or one too long."""
  if len(turns) != 1:
    raise ValueError(f"turns={turns}: a pair is of one turn: give one limit")
  given = np.asarray(some_problems(task).solution)
  if (np.isin(given, task.eos).sum(axis=1) < 2).any():
    raise ValueError(
      "this task gives no pairs: it needs rows with chosen and rejected"
    )
  check_solutions(task, turns * 2)


def check_samples(samples: int, least: int = 2) -> None:
  """Raises ValueError where a problem's samples cannot be compared."""
  if samples < least:
    why = "this method compares the samples of a problem: " * (least > 1)
    raise ValueError(f"samples={samples}: {why}set it to {least} or more")


def check_role(models: dict, role: str, head: str = "") -> None:
  """Raises ValueError where the run does not define a role."""
  if role not in models:
    raise ValueError(
      f"this method needs the role {role!r}: set config.roles.{role} to "
      f"{{'start': 'policy', 'head': {head!r}}}"
    )


def check_choice(name: str, value: str, choices: Any) -> None:
  """Raises ValueError naming the option, its value and what is allowed."""
  if value not in choices:
    raise ValueError(f"{name}={value!r}: choose one of {', '.join(choices)}")
