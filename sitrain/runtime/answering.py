"""Answers the rows of a rollout, and judges them, by an environment.

Everything here runs on the host, on NumPy arrays, between the programs of
rollout/by_turn.py.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from sitrain.rollout import stops
from sitrain.runtime.replies import LATE, Outcome, call_all
from sitrain.tasks import fields, limited, rewards
from sitrain.tasks.dialogue import (
  NO_ROW,
  Dialogue,
  Form,
  NoSeedInReward,
  dialogue_of,
  failed,
)
from sitrain.tasks.own_functions import ERRORS, own_place
from sitrain.types import PAD, Episodes, Mean, Reply, Task, Verdict

_LOG = logging.getLogger("sitrain")
_WIDEST = 256  # characters of a token: more of a reply is cut unread


class Options(NamedTuple):
  """The options of config.task that belong to its environment."""

  environment: str = ""  # "": none
  environment_options: dict = {}
  reply_tokens: int = 128  # of one reply, the form of its message included
  reply_seconds: float = 10.0  # that one reply may take
  reply_workers: int = 16  # replies at a time
  reply_errors: str = "tell"  # the policy; "end" the row, or "stop" the run
  stop: str = ""  # strings that end a turn, with commas between them


class Environment(NamedTuple):
  """What an environment does, and its name for messages."""

  reply: Callable[[Dialogue], str | None]
  reward: Callable[[Dialogue], float | None] | None
  name: str


class Host(NamedTuple):
  """Everything that answers rows."""

  environment: Environment
  options: Options
  form: Form
  task: Task
  overhead: int  # tokens of a message without its text
  counts: Counter
  hung: list[threading.Thread]
  warned: set[str]  # kinds of warnings
  stops: stops.Stops  # the strings that end turns


def answer(host: Host, answer, rows: Episodes, turn, alive, seed) -> Reply:
  """Replies to the rows that are alive after `turn`; NumPy in and out."""
  which = np.flatnonzero(alive).tolist()
  asked = [
    dialogue_of(
      host.form, host.task, answer[b], rows.tokens[b], rows.turn[b], turn,
      int(seed[b]),
    ) for b in which
  ]
  width = host.options.reply_tokens
  tokens = np.full((len(alive), width), PAD, np.int32)
  done = np.ones(len(alive), bool)
  outcomes = _ask(host, host.environment.reply, asked, answer[which])
  for b, dialogue, one in zip(which, asked, outcomes):
    text, over = _text_of(host, one, partial(_place, host, answer[b], b))
    done[b] = over
    if text is not None:
      ids = _fitted(host, text, dialogue.ended)
      tokens[b, : len(ids)] = ids
  host.counts["asked"] += len(which)
  host.counts["over"] += sum(
    one.value is None and one.error is None for one in outcomes
  )
  return Reply(tokens, done)


def _ask(host, function, dialogues, answers) -> list[Outcome]:
  """All outcomes, once the failures among them are counted and logged."""
  options = host.options
  try:
    found = call_all(
      function, dialogues, seconds=options.reply_seconds,
      workers=options.reply_workers, hung=host.hung,
    )
  except RuntimeError as error:
    said, i = error.args
    raise ValueError(
      f"{_place(host, answers[i], i)}: {host.environment.name}: {said}, each "
      "for more than "
      f"config.task.reply_seconds={options.reply_seconds:g}: end them in reply "
      "itself, or raise config.task.reply_seconds"
    ) from None
  host.counts["seconds"] += sum(one.seconds for one in found)
  bad = [i for i, one in enumerate(found) if one.error is not None]
  if not bad:
    return found
  first = found[bad[0]]
  what = (
    f"{_place(host, answers[bad[0]], bad[0])}: {host.environment.name} "
    + _reason(first, options)
  )
  if isinstance(first.error, (KeyboardInterrupt, MemoryError)):
    raise first.error
  if options.reply_errors == "stop" or len(bad) == len(found) > 1:
    every = f"all {len(found)} replies failed; " * (len(bad) == len(found) > 1)
    raise ValueError(
      f"{every}{what}: mend it, or see config.task.reply_errors"
    ) from (None if first.error is LATE else first.error)
  _warn_once(host, "error", f"{what}; further errors are only counted")
  for i in bad:
    kind = "late" if found[i].error is LATE else "errors"
    host.counts[kind] += 1
  return found


def _warn_once(host: Host, kind: str, text: str) -> None:
  if kind not in host.warned:
    _LOG.warning("%s", text)
  host.warned.add(kind)


def _reason(one: Outcome, options: Options) -> str:
  if one.error is LATE:
    return (
      f"took longer than config.task.reply_seconds={options.reply_seconds:g}"
    )
  place = own_place(one.error) if one.error.__traceback__ else ""
  where = f" ({place.rstrip(',')})" if place else ""
  text = f"{type(one.error).__name__}: {one.error}".removesuffix(": ")
  return f"raises {' '.join(text[:300].split())}{where}"


def _place(host: Host, answer, b: int) -> str:
  """The row in words."""
  number = int(answer[0])
  if host.task.texts == () or number == NO_ROW:
    return f"row {b + 1} of the batch"
  name = host.task.texts.rows[number].name
  return f"row {number + 1} of the data" + (f" ({name})" if name else "")


def _text_of(host: Host, one: Outcome, place: Callable) -> tuple[Any, bool]:
  """(what the row reads or None, whether it ends) of an outcome."""
  if one.error is not None:
    reason = "it took too long"
    if one.error is not LATE:
      reason = f"{type(one.error).__name__}: {one.error}"
    told = reason[:200].encode(errors="replace").decode()
    return f"error: {told}", host.options.reply_errors == "end"
  if one.value is not None and not isinstance(one.value, str):
    raise ValueError(
      f"{place()}: {host.environment.name} returned "
      f"{type(one.value).__name__} {str(one.value)[:60]!r}: return a text, or "
      "None where the dialogue is over"
    )
  read = lambda value: value if value is None else fields.text(value)
  where = f"{place()}: the reply of {host.environment.name}"
  return fields.read(one.value, read, where), one.value is None


def _fitted(host: Host, text: str, ended: bool) -> Sequence[int]:
  """The tokens of a reply; one that is too long loses its end."""
  form, limit = host.form, host.options.reply_tokens
  whole, text = text, text[: limit * _WIDEST]
  try:
    ids = form.write(text, ended)
    if len(ids) <= limit:
      return ids
    body = host.task.tokenizer.encode(text)
  except ValueError as error:
    raise ValueError(
      f"{host.environment.name} replied {text[:60]!r}: {error}"
    ) from error
  _warn_once(
    host, "cut",
    f"a reply of {host.environment.name} has "
    f"{'more than ' * (text != whole)}{len(ids)} tokens and is cut at "
    f"config.task.reply_tokens={limit}; further ones are only counted",
  )
  host.counts["cut"] += 1
  keep = limit - host.overhead
  while len(ids) > limit:
    ids = form.write(host.task.tokenizer.decode(body[:keep]), ended)
    keep -= max(1, len(ids) - limit)
  return ids


def as_judged(host: Host, episodes: Episodes, turns: int) -> Episodes:
  """The rows as the task's verifier gets them: what a string ended has ended.
  """
  ends = host.stops
  return stops.as_ended(ends, episodes, turns, host.task.eos) if (
    len(ends.length)
  ) else episodes


def verify(host: Host, answer, episodes: Episodes, turns: int) -> Verdict:
  """The task's verdict, plus the rewards of the environment."""
  seen = as_judged(host, episodes, turns)
  base = Verdict(*jax.device_get(
    tuple(host.task.verify(answer, seen, turns))
  ))
  reward = np.array(base.reward, np.float32)
  known = np.array(base.known, np.float32)
  tokens, mark = np.asarray(episodes.tokens), np.asarray(episodes.turn)
  parts = dict(base.parts)
  if host.environment.reward:
    own, judged = _rewards(host, np.asarray(answer), tokens, mark, turns)
    parts = (parts or {"answer": reward}) | {"environment": own}
    reward, known = reward + own, known * judged
  for b, turn in enumerate(failed(mark)):
    if 0 < turn <= turns:
      known[b, turn - 1] = 0.0
  return Verdict(reward, known, parts)


def _rewards(host, answer, tokens, mark, turns):
  """The environment's rewards [B K], and where they are known."""
  found = np.zeros((len(answer), turns), np.float32)
  known = np.ones_like(found)
  places = [
    (b, k) for b in range(len(answer)) for k in range(turns)
    if (mark[b] == k + 1).any()
  ]
  for b, k in places:
    seen = dialogue_of(
      host.form, host.task, answer[b], tokens[b], mark[b], k + 1,
      NoSeedInReward,
    )
    seconds = host.options.reply_seconds
    try:
      value = limited.call(partial(host.environment.reward, seen), seconds)
    except ERRORS as error:
      late = isinstance(error, limited.Overdue)
      place, what = _place(host, answer[b], b), Outcome(
        None, LATE if late else error, 0.0
      )
      raise ValueError(
        f"{place}, turn {k + 1}: reward of {host.environment.name} "
        f"{_reason(what, host.options)}: mend it, or return None where it is "
        "not known"
      ) from error
    known[b, k] = value is not None
    found[b, k] = _number(host, value, _place(host, answer[b], b), k + 1)
  return found, known


def _number(host, value, place, turn) -> float:
  if value is None:
    return 0.0
  if np.isfinite(number := rewards.finite(value)):
    return number
  raise ValueError(
    f"{place}, turn {turn}: reward of {host.environment.name} returned "
    f"{repr(value)[:60]}: return a finite number, or None where it is not known"
  )


def counted(host: Host) -> dict[str, Mean]:
  """Metrics of the replies since the last call.

  environment/over: replies of None; failed, late, cut: shares of all replies;
  seconds: of one reply.
  """
  counts = host.counts
  if counts["asked"] and not counts["over"]:
    _warn_once(host, "never", (
      f"{host.environment.name} ended none of the dialogues of a step "
      f"({counts['asked']} replies): they end with the last of config.stage."
      "NAME.method.turns; if one should end before, return None"
    ))
  asked = np.float32(counts["asked"])
  of = lambda name: Mean(np.float32(counts[name]), asked)
  found = {
    f"environment/{name}": of(name)
    for name in ("over", "errors", "late", "cut", "seconds")
  }
  counts.clear()
  return found
