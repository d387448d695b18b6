"""A few episodes as text, of every kind of outcome."""

from typing import Any

import numpy as np
from jaxtyping import Int

from sitrain.evaluate.player import Played
from sitrain.judge.roles import attempts
from sitrain.types import GIVEN, Task

KINDS = {"c->c": (1, 1), "i->c": (0, 1), "c->i": (1, 0), "i->i": (0, 0)}


def dialogue(
  task: Task, tokens: Int[np.ndarray, " T"], turn: Int[np.ndarray, " T"]
) -> dict[str, str]:
  """The texts of one episode: problem, attempt_k, instruction(_k) between.

  instruction stands after attempt 1, instruction_k after attempt k > 1.
  """
  own = np.flatnonzero(turn > GIVEN)
  start = own[0] if own.size else len(turn)
  texts = {"problem": task.tokenizer.decode(tokens[:start])}
  for k in range(1, int(turn.max()) + 1):
    columns = np.flatnonzero(turn == k)
    own = tokens[columns]
    if task.texts != () and own.size and own[-1] in task.eos:
      own = own[:-1]  # without an end token such as "<|im_end|>"
    texts[f"attempt_{k}"] = task.tokenizer.decode(own)
    later = np.flatnonzero(turn > k)
    if later.size:
      name = "instruction" if k == 1 else f"instruction_{k}"
      between = tokens[columns[-1] + 1 : later[0]]
      texts[name] = task.tokenizer.decode(between)
  return texts


def dialogues(
  task: Task,
  episodes: Played,
  level: Int[np.ndarray, " P"],
  *,
  each: int = 2,
) -> list[dict[str, Any]]:
  """Up to `each` episodes of every kind that occurs, as text.

  A kind is whether the first and the last attempt are right (c->c, i->c, c->i,
  i->i); a verdict of the policy is no attempt, and `verdicts` has the turns
  that are verdicts, if any. Problems that the verifier could not judge are left
  out.
  """
  judged = episodes.judged
  turns = range(1, judged.right.shape[1] + 1)
  tried = attempts(task, len(turns))
  verdicts = [k for k in turns if k not in tried]
  said, last = {"verdicts": verdicts} if verdicts else {}, tried[-1] - 1
  ends = np.stack([judged.right[:, 0], judged.right[:, last]], axis=1)
  known = judged.known.all(axis=1)
  found = []
  for kind, outcome in KINDS.items():
    for i in np.flatnonzero((ends == outcome).all(axis=1) & known)[:each]:
      texts = dialogue(task, episodes.tokens[i], episodes.turn[i])
      right = enumerate(judged.right[i].astype(bool).tolist(), start=1)
      texts |= {f"right_{k}": value for k, value in right}
      name = task.levels[int(level[i])]
      found.append({"kind": kind, "level": name, **said, **texts})
  return found
