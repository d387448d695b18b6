"""Answers of strategies: how they are played, their records, their summary."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from sitrain.evaluate import player as playing
from sitrain.evaluate.bootstrap import bootstrap, estimate
from sitrain.evaluate.correction import share
from sitrain.evaluate.player import Judged, Player
from sitrain.evaluate.samples import Record, head
from sitrain.evaluate.verdicts import agreement
from sitrain.strategies.meter import spent
from sitrain.strategies.strategy import Answer, Play, Strategy
from sitrain.types import Key, Params, Problems, Task


class Answered(NamedTuple):
  """An answer and the judgement of every attempt, by round."""

  answer: Answer
  judged: tuple[Judged, ...]


def sampler(
  model: Any, task: Task, *, top_k: int, top_p: float,
  spread: Callable[[Callable], Callable], jit: Callable[..., Callable],
) -> Play:
  """`play` of strategies. State: (parameters, temperature).

  Where the task is judged on the device, a strategy is compiled as a whole;
  where on the host, this is what of it is compiled.
  """
  compiled = jit if task.on_host else lambda function, **_: function

  @cache
  def generate(samples, turns):
    return playing.make(
      model, task, turns=turns, samples=samples, top_k=top_k, top_p=top_p,
      reply=task.reply, spread=spread, jit=compiled,
    ).play

  def play(keys, state, problems, *, samples, turns):
    return generate(samples, turns)(keys, state, problems)

  return play


def program(
  strategy: Strategy, task: Task, *, jit: Callable[..., Callable]
) -> Callable[..., Answered]:
  """`(keys [P], state, problems) -> Answered`, one program where possible."""
  judge, compiled = playing.make_judge(task, strategy.turns), partial(jit)

  def run(keys, state, problems):
    answer = strategy.answer(keys, state, problems)
    judged = (judge(problems, rows) for rows in answer.rounds)
    return Answered(answer, tuple(judged))

  return run if task.on_host else compiled(run)


def answer_rows(
  run: Callable[..., Answered],
  player: Player,
  params: Params,
  key: Key,
  posed: Problems,
  rows: Int[np.ndarray, " N"],
  *,
  batch: int,
  temperature: float,
) -> Answered:
  """Answers to the problems `rows`, on the host.

  Draws are those of `player.play_rows`: functions of the key and the number of
  a problem, whatever the batch. Of `player` only `samples` counts.
  """
  keys, part = playing.part_of(player, key, posed, rows, batch=batch)
  part = jax.tree.map(jnp.asarray, part)
  found = jax.device_get(run(keys, (params, jnp.float32(temperature)), part))
  # Copies of the last problem stand behind the others.
  count, whole, answer = len(rows), len(keys), found.answer
  kept = lambda tree: jax.tree.map(
    lambda x: np.asarray(x)[: len(x) // whole * count], tree
  )
  return kept(Answered(answer, found.judged))


def records(
  strategy: Strategy,
  task: Task,
  posed: Problems,
  rows: Int[np.ndarray, " N"],
  found: Answered,
) -> list[Record]:
  """One record for each of the problems `rows` of `posed`.

  `attempts` has all attempts and verdicts of the policy in the order in which
  they were written; `choice` is the place of the answer among them.
  """
  used = spent(found.answer, len(rows))
  written, chosen = [[] for _ in rows], [0] * len(rows)
  for number, (episodes, judged) in enumerate(
    zip(found.answer.rounds, found.judged, strict=True), start=1
  ):
    calls = len(episodes.turn) // len(rows)
    for row, (tokens, turn) in enumerate(zip(episodes.tokens, episodes.turn)):
      own = written[row // calls]
      for k in range(1, strategy.turns + 1):
        if not np.any(turn == k):
          continue
        is_last = number == len(found.judged)
        if is_last and _is_answer(found.answer, row, row // calls, k):
          chosen[row // calls] = len(own)
        own_tokens = tokens[turn == k]
        # The end of a verdict is what it says.
        if (k - 1) % strategy.every == 0:
          own_tokens = _text(own_tokens, task.eos)
        own.append({
          "round": number, "call": row % calls + 1, "turn": k,
          "text": task.tokenizer.decode(own_tokens),
          "tokens": int(np.sum(turn == k)),
          "status": _status(judged, row, k - 1),
        } | _read(found.answer, number, row, calls))
  return [
    head(task, posed, int(row)) | {
      "attempts": attempts, "choice": place, "answer": attempts[place]["text"],
      "verdict": attempts[place]["status"],
      "sequential_tokens": int(used.sequential[i]),
      "total_tokens": int(used.total[i]),
    }
    for i, (row, attempts, place) in enumerate(zip(rows, written, chosen))
  ]


def _is_answer(answer, row, problem, turn):
  return answer.row[problem] == row and answer.turn[problem] == turn


def _text(tokens, eos):
  """The tokens of a turn without its end, as sampling.texts_of_turn."""
  return tokens[:-1] if len(tokens) and tokens[-1] in eos else tokens


def _read(answer, number, row, calls):
  """Which calls of the round before a call has read."""
  if number == 1:
    return {}
  before = len(answer.rounds[number - 2].turn) * calls
  size = before // len(answer.rounds[number - 1].turn)
  return {"read": [int(x) % size + 1 for x in answer.read[number - 2][row]]}


def _status(judged: Judged, row: int, k: int) -> str:
  """As of samples: unknown, right, cut, none (no answer) or wrong."""
  cases = {
    "unknown": judged.known[row, k] == 0, "right": judged.right[row, k] == 1,
    "cut": judged.truncated[row, k] == 1, "none": judged.final[row, k] < 0,
  }
  return next((word for word, holds in cases.items() if holds), "wrong")


def summarize(
  rng: np.random.Generator,
  found: Mapping[str, Sequence[Record]],
  every: Mapping[str, int],
  *,
  draws: int = 1000,
) -> dict[str, dict[str, Any]]:
  """Accuracy and tokens of strategies on the same problems, by name.

  `accuracy` of the answers; `any_right`: an attempt was right, `changed`: the
  answer differs from the first attempt's; `sequential` and `total`: mean
  tokens; `difference`: accuracy less that of the first strategy. `intervals`
  are over problems, which are drawn for all strategies together. A problem
  whose answer the verifier could not judge counts for no strategy. `every`: see
  Strategy. Where verdicts end dialogues also those of `verdicts_of`.
  """
  known = np.min([
    [row["verdict"] != "unknown" for row in rows] for rows in found.values()
  ], axis=0).astype(float)
  values = {name: _values(rows, every[name]) for name, rows in found.items()}
  first = next(iter(values.values()))["accuracy"]
  for row in values.values():
    row["difference"] = row["accuracy"] - first

  def statistic(weight):
    return {
      f"{key} {name}": share(x, weight * known)
      for name, row in values.items() for key, x in row.items()
    }

  ends = bootstrap(rng, statistic, len(known), draws=draws)
  summary: dict[str, dict[str, Any]] = {
    name: {"problems": len(rows), "judged": int(known.sum()), "intervals": {}}
    for name, rows in found.items()
  }
  for both, value in estimate(statistic, len(known)).items():
    key, _, name = both.partition(" ")
    summary[name][key] = value
    summary[name]["intervals"][key] = ends[both]
  for name, rows in found.items():
    # In a dialogue a verdict decides whether another attempt follows it.
    alone = all(one["round"] == 1 for row in rows for one in row["attempts"])
    if every[name] > 1 and alone:
      summary[name] |= verdicts_of(rows)
  return summary


def _values(rows, every):
  attempts = [
    [one for one in row["attempts"] if (one["turn"] - 1) % every == 0]
    for row in rows
  ]
  is_right = lambda one: one["status"] == "right"
  return {
    "accuracy": np.array([row["verdict"] == "right" for row in rows], float),
    "any_right": np.array([any(map(is_right, a)) for a in attempts], float),
    "attempts": np.array([len(a) for a in attempts], float),
    "changed": np.array(
      [row["answer"] != a[0]["text"] for row, a in zip(rows, attempts)], float
    ),
    "sequential": np.array([row["sequential_tokens"] for row in rows], float),
    "total": np.array([row["total_tokens"] for row in rows], float),
  }


def verdicts_of(rows: Sequence[Record]) -> dict[str, float]:
  """How good a policy's own verdicts on its attempts are.

  A verdict is "right" where no attempt follows it; see verdicts.agreement.
  """
  called, truth = [], []
  for row in rows:
    turns = {one["turn"]: one for one in row["attempts"]}
    for k in (k for k in turns if k % 2 == 0):
      if turns[k - 1]["status"] != "unknown":
        called.append(k + 1 not in turns)
        truth.append(turns[k - 1]["status"] == "right")
  return agreement(np.array(called, bool), right=np.array(truth, bool))
