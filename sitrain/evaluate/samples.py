"""Attempts at a test set as records for a file, and their summary."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sitrain.evaluate import monitors
from sitrain.evaluate.bootstrap import bootstrap, estimate
from sitrain.evaluate.correction import changes, share
from sitrain.evaluate.player import FULL, Judged, Played, make_judge
from sitrain.evaluate.summary import is_partial
from sitrain.evaluate.verdicts import agreement, rows_of
from sitrain.evaluate.votes import majority_at, pass_at
from sitrain.judge.roles import attempts, roles
from sitrain.judge.verifier import written
from sitrain.rollout import stops
from sitrain.tasks.text import turn_tokens
from sitrain.types import PAD, ROOT, Episodes, Problems, Task

Record = dict[str, Any]  # one problem with all its attempts, as in the file


class Marks(NamedTuple):
  """The judgement of one attempt of every episode."""

  statuses: list[str]
  right: list[int]  # 1 for a full reward, else 0; 0 where not known
  known: list[int]  # 0 where the verifier failed
  finals: list[str]  # the final answer, as votes count it; "" for none
  rewards: list[float]  # 0 where not known; only partial ones are kept


def records(
  tasks: Mapping[str, Task],
  posed: Problems,
  rows: Int[np.ndarray, " N"],
  played: Played,
  *,
  samples: int,
  turns: int,
) -> list[Record]:
  """One record for each of the problems `rows` of `posed`.

  `tasks` holds the same task by the name of its verifier. The marks of the
  first verifier are in the record itself, those of the others under `also`.
  Fields hold a list, one entry a sample; those of a later attempt, which is
  turn k, are under `attempts_<k>`, and those of a verdict of the policy, which
  is no attempt, under `verdicts_<k>`.
  """
  task, problem = next(iter(tasks.values())), np.repeat(rows, samples)
  played, numbers = _as_ended(task, played, turns), attempts(task, turns)
  judged = {
    name: _judged(one, problem, played, turns) for name, one in tasks.items()
  }
  first = _attempt(tasks, problem, played, judged, 0)
  later = {
    f"attempts_{k}": _attempt(tasks, problem, played, judged, k - 1)
    for k in numbers if k > 1
  } | {
    f"verdicts_{k}": _verdict(task, played, turns, k)
    for k in range(1, turns + 1) if k not in numbers
  }
  found = []
  for i, row in enumerate(rows):
    own = slice(i * samples, (i + 1) * samples)
    more = {name: _entries(x, own) for name, x in later.items()}
    found.append(head(task, posed, int(row)) | _entries(first, own) | more)
  return found


def _episodes(played: Played) -> Episodes:
  """The rows that were played, each of a problem of its own."""
  none, rows = np.zeros(played.turn.shape, np.int32), len(played.turn)
  return Episodes(
    tokens=played.tokens, turn=played.turn, logprob=none.astype(np.float32),
    path=none, problem=np.arange(rows, dtype=np.int32),
    parent=np.full(rows, ROOT),
  )


def _as_ended(task: Task, played: Played, turns: int) -> Played:
  """Turns that a string of the environment ended were not cut."""
  ends = getattr(task.reply, "stops", stops.NONE)
  if not len(ends.length):
    return played
  rows = stops.as_ended(ends, _episodes(played), turns, task.eos)
  return played._replace(tokens=rows.tokens, turn=rows.turn)


def _judged(task: Task, problem, played: Played, turns: int) -> Judged | tuple:
  """What is known of the rows before their texts are graded; () is nothing.

  Some verifiers look at more than a turn's text, and get the whole rows.
  """
  if task.texts == ():
    return played.judged
  if task.texts.grade != ():
    return ()
  posed = Problems(*(np.asarray(x)[problem] for x in task.table))
  found = make_judge(task, turns)(posed, _episodes(played))
  return Judged(*map(np.asarray, found))


def _verdict(task, played, turns, k) -> dict[str, Any]:
  """Turn k: texts, whether they accept the attempt before, and rightly so.

  None where the row had ended before, and `right` where the attempt could not
  be judged. A part that a verdict names, such as `<bad@2>`, is not looked at.
  """
  rows, judged = rows_of(played), played.judged
  there = written(rows, turns)[:, k - 1]
  accepts = np.asarray(task.accepts(rows, turns))[:, k - 1] > 0
  true = (accepts == (judged.right[:, k - 2] > 0)).astype(int)
  known = there & (judged.known[:, k - 2] > 0)
  # A verdict's last token is what it says, and no end to be left out.
  texts = [
    task.tokenizer.decode(tokens[turn == k])
    for tokens, turn in zip(played.tokens, played.turn)
  ]
  where = lambda mask, values: [
    x if on else None for on, x in zip(mask, values)
  ]
  return {
    "texts": where(there, texts), "accepts": where(there, accepts.tolist()),
    "right": where(known, true.tolist()),
  }


def _attempt(tasks, problem, played, judged, k) -> dict[str, Any]:
  """Attempt k (from 0) of every episode: texts and their marks."""
  first, *others = tasks
  texts, ended = _standing(tasks[first], played, k + 1)

  def mark(name):
    fields = _marks(
      tasks[name], problem, judged[name], texts, ended, k
    )._asdict()
    if not is_partial(np.array(fields["rewards"])):
      fields.pop("rewards")
    return fields

  found = {"texts": texts} | mark(first)
  found["truncated"] = [int(bool(t) and not e) for t, e in zip(texts, ended)]
  return found | (
    {"also": {name: mark(name) for name in others}} if others else {}
  )


def _standing(task, played, turn) -> tuple[list[str], list[bool]]:
  """As texts_of_turn; the last attempt of a row stands for later ones.

  So does one that a verdict accepted, or after which a reply ended the row.
  Their marks are its own, too: see player.make_judge.
  """
  texts, ended = texts_of_turn(task, played, turn)
  before = turn - roles(task)
  if before < 1:
    return texts, ended
  there = (played.turn == turn).any(axis=1)
  other = _standing(task, played, before)
  texts, ended = (
    [x if on else old for on, x, old in zip(there, *pair)]
    for pair in zip((texts, ended), other)
  )
  return texts, ended


def texts_of_turn(
  task: Task, played: Played, turn: int
) -> tuple[list[str], list[bool]]:
  """Texts of a turn of every episode, and whether each ended by itself."""
  rows, ended = turn_tokens(played, turn, task.eos)
  return [task.tokenizer.decode(row) for row in rows], ended


def _marks(task, problem, judged, texts, ended, k) -> Marks:
  """Marks of attempt k (from 0); a text that was cut is wrong, and ungraded."""
  if task.texts == ():
    return _judged_marks(judged, k)
  if task.texts.grade == ():
    return _verified_marks(task, judged, texts, ended, k)
  complete = np.flatnonzero(ended)
  numbers = [int(task.texts.kept[problem[b]]) for b in complete]
  graded = task.texts.grade([texts[b] for b in complete], numbers)
  grades = dict(zip(complete.tolist(), graded, strict=True))
  marks = Marks([], [], [], [], [])
  for b, text in enumerate(texts):
    given = grades.get(b)
    marks.statuses.append(given.status if given else "cut")
    reward = float(given.right * given.known) if given else 0.0
    marks.right.append(int(reward >= FULL))
    marks.rewards.append(reward)
    marks.known.append(int(given.known) if given else 1)
    marks.finals.append(task.texts.claim(text) if given else "")
  return marks


def _verified_marks(task, judged, texts, ended, k) -> Marks:
  """Marks by `Task.verify`, whose rewards look at more than a turn's text."""
  right, known, reward = (
    np.asarray(x)[:, k] for x in (judged.right, judged.known, judged.reward)
  )
  cases = [known == 0, right > 0, ~np.array(ended)]
  words = np.select(cases, ["unknown", "right", "cut"], "wrong")
  return Marks(
    words.tolist(), right.astype(int).tolist(), known.astype(int).tolist(),
    [task.texts.claim(text) if end else "" for text, end in zip(texts, ended)],
    reward.astype(float).tolist(),
  )


def _judged_marks(judged: Judged, k: int) -> Marks:
  """Marks of a verifier on the device, which gives only ids of answers."""
  right, known, final, cut = (
    np.asarray(x)[:, k].astype(int) for x in judged[:4]
  )
  cases = [known == 0, right == 1, cut == 1, final < 0]
  words = np.select(cases, ["unknown", "right", "cut", "none"], "wrong")
  claims = ["" if i < 0 else str(i) for i in final]
  rewards = np.asarray(judged.reward)[:, k].astype(float)
  return Marks(
    words.tolist(), right.tolist(), known.tolist(), claims, rewards.tolist()
  )


def _entries(attempt: dict[str, Any], own: slice) -> dict[str, Any]:
  return {
    name: _entries(x, own) if isinstance(x, dict) else x[own]
    for name, x in attempt.items()
  }


def head(task: Task, posed: Problems, i: int) -> Record:
  """The fields of a record that say which problem it is."""
  if task.texts != ():
    number = int(task.texts.kept[i])
    row = task.texts.rows[number]
    head = {"row": number, "id": row.name or str(number), "level": row.level}
    head |= {"problem": row.message, "gold": row.answer}
    return head | ({"given": list(row.given)} if row.given else {})
  one = Problems(*(np.asarray(x)[i : i + 1] for x in posed))
  answer = one.answer[0]
  return {
    "row": i, "id": str(i), "level": task.levels[int(task.level(one)[0])],
    "problem": task.tokenizer.decode(one.prompt[0]),
    "gold": answer[answer != PAD].tolist(),
  }


def table_of(found: Sequence[Record], attempt: int, also: str = "") -> Judged:
  """Arrays [P n] of an attempt (from 1), by the first or another verifier.

  Equal answers have equal ids; -1: no answer.
  """
  cells = [cell_of(r, attempt) for r in found]
  marks = [cell["also"][also] if also else cell for cell in cells]
  ids = {"": -1}
  final = [[ids.setdefault(x, len(ids)) for x in m["finals"]] for m in marks]
  return Judged(
    right=np.array([m["right"] for m in marks], float),
    known=np.array([m["known"] for m in marks], float),
    final=np.array(final, int),
    truncated=np.array([cell["truncated"] for cell in cells], float),
    # Rows have none where they would say the same.
    reward=np.array([m.get("rewards", m["right"]) for m in marks], float),
  )


def summarize(
  rng: np.random.Generator,
  found: Sequence[Record],
  *,
  verifiers: Sequence[str],
  turns: tuple[int, ...],
  ks: Sequence[int],
  draws: int = 1000,
) -> dict[str, Any]:
  """The summary of a test set, by verifier, with 95 % intervals over problems.

  `turns` are the numbers of those that are attempts; the others are verdicts of
  the policy, whose accuracy and recall are those of `answers.verdicts_of`.
  Of every attempt: accuracy (the mean over samples, then over problems; where
  rewards are neither 0 nor 1, of full rewards alone, beside mean_reward),
  pass@k and maj@k, malformed (no answer), truncated and unknown; of later ones
  also the numbers of correction.changes. A problem counts for the accuracies
  only where all its attempts were judged; `judged` is the number of those.
  `disagreement` is the share of attempts that another verifier judges
  differently from the first one; `monitors` has those of monitors.summarize for
  each attempt, by the first verifier.
  """
  levels = sorted({record["level"] for record in found})
  options = dict(turns=turns, ks=ks, draws=draws)
  row: dict[str, Any] = {
    "problems": len(found), "verifiers": {}, "turns": list(turns)
  } | _verdicts(found)
  for i, name in enumerate(verifiers):
    also = name if i else ""
    row["verifiers"][name] = {
      "attempts": _attempts(rng, found, also, **options),
      "by_level": {
        level: _attempts(
          rng, [r for r in found if r["level"] == level], also, **options
        )
        for level in (levels if len(levels) > 1 else ())
      },
    }
  row["disagreement"] = {
    f"{verifiers[0]}, {name}": _disagreement(rng, found, name, turns, draws)
    for name in verifiers[1:]
  }
  cells = [[cell_of(r, k) for r in found] for k in turns]
  row["monitors"] = [
    monitors.summarize(own, table_of(found, k), cells[i - 1] if i else ())
    for i, (k, own) in enumerate(zip(turns, cells))
  ]
  return row


def _verdicts(found) -> dict[str, float]:
  """Of the verdicts on attempts that were judged; {} where there are none."""
  fields = [x for r in found for n, x in r.items() if n.startswith("verdicts_")]
  if not fields:
    return {}
  each = [
    pair for x in fields for pair in zip(x["accepts"], x["right"])
    if pair[1] is not None
  ]
  said, true = np.array(each, bool).reshape(-1, 2).T
  return agreement(said, right=said == true)


def cell_of(record: Record, attempt: int) -> dict[str, Any]:
  """The fields of an attempt, by the number of its turn (from 1)."""
  return record if attempt == 1 else record[f"attempts_{attempt}"]


def _attempts(rng, found, also, *, turns, ks, draws) -> list[dict[str, Any]]:
  """The summary of each attempt."""
  tables = [table_of(found, k, also) for k in turns]
  known = np.min([table.known.min(axis=1) for table in tables], axis=0)
  first, rows = tables[0].right, []
  for k, table in enumerate(tables):
    values = _values(table, ks)
    more = partial(changes, first, table.right) if k else lambda weight: {}
    rows.append({"judged": int(known.sum())})
    rows[-1] |= _estimated(rng, values, known, draws, more)
    rest = {
      "malformed": np.mean(table.final < 0, axis=1),
      "truncated": np.mean(table.truncated, axis=1),
      "unknown": np.mean(1 - table.known, axis=1),
    }
    rest = _estimated(rng, rest, np.ones_like(known), draws)
    rows[-1]["intervals"] |= rest.pop("intervals")
    rows[-1] |= rest
  return rows


def _values(
  table: Judged, ks: Sequence[int]
) -> dict[str, Float[np.ndarray, " P"]]:
  found = {"accuracy": np.mean(table.right, axis=1)}
  if is_partial(table.reward):
    found["mean_reward"] = np.mean(table.reward, axis=1)
  found |= {f"pass@{k}": pass_at(table.right, k) for k in ks}
  return found | {
    f"maj@{k}": majority_at(table.final, table.right, k) for k in ks
  }


def _disagreement(rng, found, name, turns, draws):
  differ = []
  for k in turns:
    own, other = table_of(found, k), table_of(found, k, name)
    both = own.known * other.known
    differ.append(np.mean(both * (own.right != other.right), axis=1))
  values = {f"attempt_{k}": x for k, x in zip(turns, differ)}
  return _estimated(rng, values, np.ones(len(found)), draws)


def _estimated(rng, values, counts, draws, more=lambda weight: {}):
  """Means over problems, each counted `counts` times, and their intervals.

  `more` gives other numbers of these counts.
  """

  def statistic(weight):
    weight = weight * counts
    return {n: share(x, weight) for n, x in values.items()} | more(weight)

  row: dict[str, Any] = dict(estimate(statistic, len(counts)))
  ends = bootstrap(rng, statistic, len(counts), draws=draws)
  return row | {"intervals": ends}
