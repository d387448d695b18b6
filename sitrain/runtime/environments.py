"""Environments: Python on the host that answers the policy between turns.

config.task.environment names one: a built-in, or "file:PATH.py:NAME" of a
user's file. Its `reply(dialogue)` returns a text, or None where the dialogue is
over; a class may also have `reward(dialogue)`, the reward of the turn that has
just ended.
"""

import inspect
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sitrain.runtime.host import is_traced
from sitrain.runtime.options import (
  ConfigError,
  check_options,
  closest,
  from_file,
  own_place,
)
from sitrain.runtime.replies import LATE, Outcome, call_all
from sitrain.tasks.dialogue import (
  Dialogue,
  Form,
  dialogue_of,
  failed,
  form_of_chat,
  form_of_tokens,
)
from sitrain.tasks.environments import calculator, interpreter
from sitrain.types import PAD, Chat, Episodes, Mean, Reply, Task, Verdict

_LOG = logging.getLogger("sitrain")
BUILT_IN = {"calculator": calculator.make, "python": interpreter.make}
ERRORS = ("tell", "end", "stop")


class Options(NamedTuple):
  """The options of config.task that belong to its environment."""

  environment: str = ""  # "": none
  environment_options: dict = {}
  reply_tokens: int = 128  # of one reply, the form of its message included
  reply_seconds: float = 10.0  # that one reply may take
  reply_workers: int = 16  # replies at a time
  reply_errors: str = "tell"  # the policy; "end" the row, or "stop" the run


class Environment(NamedTuple):
  """What an environment does, and its name for messages."""

  reply: Callable[[Dialogue], str | None]
  reward: Callable[[Dialogue], float | None] | None
  name: str


class _Host(NamedTuple):
  """Everything that answers rows."""

  environment: Environment
  options: Options
  form: Form
  task: Task
  overhead: int  # tokens of a message without its text
  counts: Counter
  hung: list[threading.Thread]


def options_of_task(given: dict, field: str) -> tuple[dict, Options]:
  """The options of config.task without those of its environment, and those.

  Raises ConfigError for values that do not fit.
  """
  own = {n: given[n] for n in Options._fields if n in given}
  rest = {n: x for n, x in given.items() if n not in own}
  known = {
    n: inspect.Parameter(
      n, inspect.Parameter.KEYWORD_ONLY, annotation=Options.__annotations__[n],
      default=Options._field_defaults[n],
    ) for n in Options._fields
  }
  options = Options(**check_options(field, own, known))
  if not options.environment:
    if own and "environment" not in own:
      name = sorted(own)[0]
      raise ConfigError(
        f"config.{field}.{name} is of an environment: set config.{field}."
        "environment, or leave it out"
      )
    return rest, options
  for name in ("reply_tokens", "reply_seconds", "reply_workers"):
    if getattr(options, name) <= 0:
      raise ConfigError(
        f"config.{field}.{name}={getattr(options, name)}: set it above 0"
      )
  if options.reply_errors not in ERRORS:
    raise ConfigError(
      f"config.{field}.reply_errors={options.reply_errors!r}: choose one of "
      + ", ".join(ERRORS)
    )
  return rest, options


def environment_of(options: Options, field: str) -> Environment:
  """Finds and makes the environment; ConfigError where it is none."""
  name, where = options.environment, f"{field}.environment"
  if name.startswith("file:"):
    found = from_file(name, where, default="reply")
  elif name in BUILT_IN:
    found = BUILT_IN[name]
  else:
    raise ConfigError(
      f"config.{where}={name!r}: {closest(name, BUILT_IN)}, or give "
      "file:PATH.py:NAME"
    )
  given, inner = options.environment_options, f"{field}.environment_options"
  label = getattr(found, "__name__", name)
  if not inspect.isclass(found) and _asks(found):
    if given:
      raise ConfigError(
        f"config.{inner}: {label} is the reply itself and takes no options: "
        "leave them out"
      )
    return Environment(found, None, label)
  made = _made(found, inner, given)
  reply = getattr(made, "reply", made)
  if not callable(reply) or not _asks(reply):
    raise ConfigError(
      f"config.{where}={name!r}: {label} has no reply(dialogue): write "
      "`def reply(self, dialogue)` that returns a text or None"
    )
  return Environment(reply, getattr(made, "reward", None), label)


def _made(maker: Callable, field: str, given: dict) -> Any:
  """maker(**given), checked against its parameters; raises ConfigError."""
  plain = (
    inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
  )
  parameters = inspect.signature(maker).parameters.items()
  known = {n: one for n, one in parameters if one.kind in plain}
  options = check_options(field, given, known)
  try:
    return maker(**options)
  except ValueError as error:
    raise ConfigError(f"config.{field}: {error}") from error
  except Exception as error:
    if not (place := own_place(error)):
      raise
    raise ConfigError(
      f"config.{field}: {place} raises {type(error).__name__}: {error}"
    ) from error


def _asks(function: Any) -> bool:
  """Whether a function takes one dialogue."""
  try:
    inspect.signature(function).bind(())
    return True
  except (TypeError, ValueError):
    return False


def attach(
  task: Task, options: Options, field: str, chat: Chat | None
) -> Task:
  """The task, answered by the environment between turns and judged with it.

  `reply` may be traced for shapes only; its attribute `answer` is called by
  rollout/by_turn.py. Rewards are those of the task's verifier, plus those of
  the environment, each logged by name. A turn after which the environment
  failed is not known. Raises ConfigError for an environment that cannot be
  made, and for replies without room for a text.
  """
  if jax.process_count() > 1:
    raise ConfigError(
      f"config.{field}.environment answers in one process, and this run has "
      f"{jax.process_count()}: leave it out, or run it on one host"
    )
  environment = environment_of(options, field)
  form = form_of_chat(chat) if chat else form_of_tokens(task)
  overhead = len(form.write("", False))
  if overhead >= options.reply_tokens:
    raise ConfigError(
      f"config.{field}.reply_tokens={options.reply_tokens}: the form of a "
      f"message alone takes {overhead}: set {overhead + 32} or more"
    )
  host = _Host(environment, options, form, task, overhead, Counter(), [])

  def reply(answer, episodes: Episodes, turn) -> Reply:
    if not is_traced((answer, episodes, turn)):
      raise ValueError(
        "an environment on the host answers through reply.answer only"
      )
    rows = turn.shape[0]
    none = jnp.full((rows, options.reply_tokens), PAD, jnp.int32)
    return Reply(none, jnp.zeros(rows, bool))

  reply.columns = options.reply_tokens
  reply.answer = partial(_answer, host)
  reply.counted = partial(_counted, host)
  rewards = task.rewards
  if environment.reward:
    rewards = (*(rewards or ("answer",)), "environment")
  return task._replace(
    verify=partial(_verify, host), reply=reply, on_host=True, rewards=rewards,
    final=lambda episodes, turns: np.asarray(task.final(episodes, turns)),
  )


def _answer(host: _Host, answer, rows: Episodes, turn, alive, seed) -> Reply:
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
  host.counts["over"] += sum(one.value is None for one in outcomes)
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
    raise ValueError(
      f"{host.environment.name}: {error}, each for more than "
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
  if not host.counts.get("warned"):
    _LOG.warning("%s; further errors are only counted", what)
  host.counts["warned"] += 1
  for i in bad:
    kind = "late" if found[i].error is LATE else "errors"
    host.counts[kind] += 1
  return found


def _reason(one: Outcome, options: Options) -> str:
  if one.error is LATE:
    return (
      f"took longer than config.task.reply_seconds={options.reply_seconds:g}"
    )
  place = own_place(one.error) if one.error.__traceback__ else ""
  where = f" ({place.rstrip(',')})" if place else ""
  text = f"{type(one.error).__name__}: {one.error}".removesuffix(": ")
  return f"raises {' '.join(text[:300].split())}{where}"


def _place(host: _Host, answer, b: int) -> str:
  """The row in words."""
  if host.task.texts == ():
    return f"row {b + 1} of the batch"
  number = int(answer[0])
  name = host.task.texts.rows[number].name
  return f"row {number + 1} of the data" + (f" ({name})" if name else "")


def _text_of(host: _Host, one: Outcome, place: Callable) -> tuple[Any, bool]:
  """(what the row reads or None, whether it ends) of an outcome."""
  if one.error is not None:
    reason = "it took too long"
    if one.error is not LATE:
      reason = f"{type(one.error).__name__}: {one.error}"
    return f"error: {reason[:200]}", host.options.reply_errors == "end"
  if one.value is not None and not isinstance(one.value, str):
    raise ValueError(
      f"{place()}: {host.environment.name} returned "
      f"{type(one.value).__name__} {str(one.value)[:60]!r}: return a text, or "
      "None where the dialogue is over"
    )
  return one.value, one.value is None


def _fitted(host: _Host, text: str, ended: bool) -> Sequence[int]:
  """The tokens of a reply; one that is too long loses its end."""
  form, limit = host.form, host.options.reply_tokens
  try:
    ids = form.write(text, ended)
    if len(ids) <= limit:
      return ids
    body = host.task.tokenizer.encode(text)
  except ValueError as error:
    raise ValueError(
      f"{host.environment.name} replied {text[:60]!r}: {error}"
    ) from error
  if not host.counts["cut"]:
    _LOG.warning(
      "a reply of %s has %d tokens and is cut at config.task.reply_tokens=%d; "
      "further ones are only counted", host.environment.name, len(ids), limit,
    )
  host.counts["cut"] += 1
  keep = limit - host.overhead
  while len(ids) > limit:
    ids = form.write(host.task.tokenizer.decode(body[:keep]), ended)
    keep -= max(1, len(ids) - limit)
  return ids


def _verify(host: _Host, answer, episodes: Episodes, turns: int) -> Verdict:
  """The task's verdict, plus the rewards of the environment."""
  base = Verdict(*jax.device_get(
    tuple(host.task.verify(answer, episodes, turns))
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
      host.form, host.task, answer[b], tokens[b], mark[b], k + 1, 0
    )
    try:
      value = host.environment.reward(seen)
    except Exception as error:
      place, what = _place(host, answer[b], b), Outcome(None, error, 0.0)
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
  try:
    if np.isfinite(float(value)):
      return float(value)
  except (TypeError, ValueError):
    pass
  raise ValueError(
    f"{place}, turn {turn}: reward of {host.environment.name} returned "
    f"{value!r}: return a finite number, or None where it is not known"
  )


def _counted(host: _Host) -> dict[str, Mean]:
  """Metrics of the replies since the last call.

  environment/over: replies of None; failed, late, cut: shares of all replies;
  seconds: of one reply.
  """
  counts = host.counts
  asked = np.float32(counts["asked"])
  of = lambda name: Mean(np.float32(counts[name]), asked)
  found = {
    f"environment/{name}": of(name)
    for name in ("over", "errors", "late", "cut", "seconds")
  }
  warned = counts["warned"]
  counts.clear()
  counts["warned"] = warned
  return found
