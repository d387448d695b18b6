"""The evaluations of a policy that the mains call.

All return nested dicts of numbers, lists and texts. Problems and samples are
functions of (key, number of the problem): with the same key every policy and
evaluation gets the same problems, whatever the batch size.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sitrain.evaluate import player as playing
from sitrain.evaluate.dialogues import dialogues
from sitrain.evaluate.edits import edit_ratios, histogram
from sitrain.evaluate.parts import summarize as of_rewards
from sitrain.evaluate.player import (
  OnProgress,
  Player,
  no_progress,
  played,
  unsharded,
)
from sitrain.evaluate.summary import by_level, gather, summarize
from sitrain.evaluate.verdicts import summarize as of_verdicts
from sitrain.judge.roles import attempts
from sitrain.types import PAD, Key, Params, Task

SEED = 0  # of the bootstrap only
SHOWN = 6  # dialogues of every kind of outcome, at the most


class Players(NamedTuple):
  """The player of the episodes, and that of the control's first attempts."""

  episodes: Player
  fresh: Player


def make_player(
  model: Any,
  task: Task,
  *,
  turns: tuple[int, ...],
  resamples: int = 8,
  top_k: int = 0,
  top_p: float = 1.0,
  slots: int = 0,
  spread: Callable[[Callable], Callable] = unsharded,
  jit: Callable[..., Callable],
) -> Players:
  """Players of `evaluate`: one episode a problem, and `resamples` attempts.

  Options as in `player.make`. Raises ValueError for fewer than two turns or
  two resamples.
  """
  if len(turns) < 2 or resamples < 2:
    raise ValueError(
      f"turns={turns}, resamples={resamples}: need two or more of each"
    )
  make = partial(
    playing.make, model, task, top_k=top_k, top_p=top_p, slots=slots,
    reply=task.reply, spread=spread, jit=jit,
  )  # fmt: skip
  return Players(
    make(turns=turns, samples=1), make(turns=turns[:1], samples=resamples)
  )


def evaluate(
  players: Players,
  params: Params,
  task: Task,
  key: Key,
  *,
  problems: int = 1024,
  batch: int = 512,
  temperature: float,
  draws: int = 1000,
  on_progress: OnProgress = no_progress,
) -> dict[str, Any]:
  """The row of a stage: accuracies, corrections, control, levels, dialogues.

  Keys as `summary.summarize`, plus `tokens`, the mean length of an episode with
  its prompt and replies, `by_level` with the same row for each difficulty,
  `edits`, the histogram of edit ratios between the first and the last attempt,
  `dialogues`, and the means of named rewards (parts.summarize), but for those
  that would have the name of another number. `batch` counts
  rows on the device at once, `draws` those of the bootstrap. Temperature 0 is
  greedy; the control is drawn at 1 then, since greedy attempts do not vary.

  Where the policy judges its own attempts, turns of attempts alone are
  compared, under their own numbers; what its verdicts are worth is in
  `verdicts.summarize`. An episode that a verdict ended keeps its last attempt.
  """
  posed, episodes, fresh = _both(
    players, params, key, problems=problems, batch=batch,
    temperature=temperature, on_progress=on_progress,
  )  # fmt: skip
  turns = attempts(task, players.episodes.turns)
  options = dict(turns=turns, draws=draws)
  columns = [k - 1 for k in turns]
  evidence = gather(episodes.judged, fresh.judged, columns=columns)
  level = np.asarray(task.level(posed))
  rng = np.random.default_rng(SEED)
  row = summarize(rng, evidence, **options)
  levels = by_level(rng, evidence, level, task.levels, **options)
  row = of_rewards(task, posed, episodes) | row
  return row | of_verdicts(task, episodes) | {
    "tokens": float(np.mean(np.sum(episodes.turn != PAD, axis=1))),
    "by_level": levels,
    "edits": _edits(episodes, turns),
    "dialogues": dialogues(task, episodes, level, each=SHOWN),
  }


def _both(players, params, key, *, temperature, **options):
  """Problems, episodes, and fresh first attempts from other keys."""
  posed, episodes = played(
    players.episodes, params, key, temperature=temperature, **options
  )
  _, fresh = played(
    players.fresh, params, key, stream=1,
    temperature=temperature if temperature > 0 else 1.0, **options,
  )  # fmt: skip
  return posed, episodes, fresh


def _edits(episodes, turns):
  """Of the first of these turns and the last that was written."""
  there = (episodes.turn[:, :, None] == np.array(turns)).any(axis=1)
  last = np.max(np.where(there, turns, turns[0]), axis=1)
  ratios = edit_ratios(
    episodes.tokens, episodes.turn, before=turns[0], after=last
  )
  return histogram(ratios)


def make_refiner(
  model: Any,
  task: Task,
  *,
  turns: tuple[int, ...],
  texts: Sequence[Sequence[int]] = (),
  **options: Any,
) -> Players:
  """Players of `self_refine`: attempt, feedback, attempt (Madaan et al. 2023).

  `texts` are the token ids read after the attempt (asking for feedback) and
  after the feedback (asking for a new attempt); without them the task's own
  reply is read. `options` as in `make_player`. Raises ValueError unless there
  are three turns, and two texts or none.
  """
  if len(turns) != 3 or len(texts) not in (0, 2):
    raise ValueError(
      f"turns={turns} with {len(texts)} replies: self-refine has three turns "
      "and two replies between them, or none for the task's own"
    )
  reply = playing.replies(texts) if texts else task.reply
  return make_player(
    model, task._replace(reply=reply), turns=turns, **options
  )


def self_refine(
  players: Players,
  params: Params,
  key: Key,
  *,
  problems: int = 1024,
  batch: int = 512,
  temperature: float,
  draws: int = 1000,
  on_progress: OnProgress = no_progress,
) -> dict[str, Any]:
  """Turn 3 against turn 1 of attempt, feedback, attempt; as `summarize`.

  The policy reads the feedback of turn 2; the verifier does not judge it.
  """
  _, episodes, fresh = _both(
    players, params, key, problems=problems, batch=batch,
    temperature=temperature, on_progress=on_progress,
  )  # fmt: skip
  evidence = gather(episodes.judged, fresh.judged, columns=(0, 2))
  rng = np.random.default_rng(SEED)
  row = summarize(rng, evidence, turns=(1, 3), draws=draws)
  return row | {"edits": _edits(episodes, (1, 3))}
