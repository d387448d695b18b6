"""Environments: Python on the host that answers the policy between turns.

config.task.environment names one: a built-in, or "file:PATH.py:NAME" of a
user's file. Its `reply(dialogue)` returns a text, or None where the dialogue is
over; a class may also have `reward(dialogue)`, the reward of the turn that has
just ended.
"""

import ast
import inspect
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from sitrain.rollout import stops
from sitrain.runtime import answering
from sitrain.runtime.answering import Environment, Host, Options
from sitrain.runtime.host import is_traced
from sitrain.runtime.options import (
  ConfigError,
  check_options,
  closest,
  from_file,
  naming,
)
from sitrain.runtime.own_rows import together
from sitrain.tasks.dialogue import form_of_chat, form_of_tokens
from sitrain.tasks.environments import calculator, interpreter
from sitrain.types import PAD, Chat, Episodes, Reply, Task

BUILT_IN = {"calculator": calculator.make, "python": interpreter.make}
ERRORS = ("tell", "end", "stop")


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
  if isinstance(own.get("environment_options"), str):  # A flag's value.
    own["environment_options"] = _parsed(own["environment_options"], field)
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


def _parsed(text: str, field: str) -> dict:
  try:
    return dict(ast.literal_eval(text))
  except (ValueError, TypeError, SyntaxError) as error:
    raise ConfigError(
      f"config.{field}.environment_options={text!r}: write a dictionary of "
      "Python, as {'folder': 'notes'}"
    ) from error


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
  label = name if name in BUILT_IN else found.__name__
  if not inspect.isclass(found) and _asks(found):
    if given:
      raise ConfigError(
        f"config.{inner}: {label} is the reply itself and takes no options: "
        "leave them out"
      )
    _check_waits(found, None, where, label)
    return Environment(found, None, label)
  made = _made(found, inner, given)
  reply = getattr(made, "reply", made)
  if not callable(reply) or not _asks(reply):
    raise ConfigError(
      f"config.{where}={name!r}: {label} has no reply(dialogue): write "
      "`def reply(self, dialogue)` that returns a text or None"
    )
  reward = getattr(made, "reward", None)
  if reward is not None and not (callable(reward) and _asks(reward)):
    raise ConfigError(
      f"config.{where}={name!r}: reward of {label} cannot be called with a "
      "dialogue alone: write `def reward(self, dialogue)`, or leave it out"
    )
  _check_waits(reply, reward, where, label)
  return Environment(reply, reward, label)


def _check_waits(reply: Any, reward: Any, field: str, label: str) -> None:
  """Raises ConfigError for functions of which a call does not wait."""
  for name, function in (("reply", reply), ("reward", reward)):
    if inspect.iscoroutinefunction(function):
      raise ConfigError(
        f"config.{field}: {name} of {label} is async: write it with def, and "
        "asyncio.run inside"
      )


def _made(maker: Callable, field: str, given: dict) -> Any:
  """maker(**given), checked against its parameters; raises ConfigError."""
  plain = (
    inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
  )
  parameters = inspect.signature(maker).parameters.items()
  known = {n: one for n, one in parameters if one.kind in plain}
  options = check_options(field, given, known)
  with naming(field):
    return maker(**options)


def _asks(function: Any) -> bool:
  """Whether a function takes one dialogue."""
  try:
    inspect.signature(function).bind(())
    return True
  except (TypeError, ValueError):
    return False


def _stops(given: str, task: Task, field: str) -> stops.Stops:
  """The automata of the strings that end a turn, over the task's tokens.

  Raises ConfigError for a string that its own tokens do not complete, as they
  end inside of its letters.
  """
  if not given:
    return stops.NONE
  strings = [part.strip() for part in given.split(",")]
  with naming(field):
    tokens = _spelled(task, strings[0])
    for one in strings:
      if one not in "".join(tokens[i] for i in task.tokenizer.encode(one)):
        raise ValueError(
          f"the tokens of {one!r} end inside of its letters, so that it would"
          " not be found: take a string of other letters"
        )
    return stops.make(strings, tokens)


def _spelled(task: Task, text: str) -> list[str]:
  """The text of each token inside of a text.

  Alone, or where it stands first, a token of SentencePiece may lose its space.
  """
  decode, size = task.tokenizer.decode, task.tokenizer.size
  first = task.tokenizer.encode(text)[:1]
  before = decode(first)
  whole = [decode([*first, token]) for token in range(size)]
  return [
    one.removeprefix(before) if one.startswith(before) else decode([token])
    for token, one in enumerate(whole)
  ]


def attach(
  task: Task, options: Options, field: str, chat: Chat | None
) -> Task:
  """The task, answered by the environment between turns and judged with it.

  `reply` may be traced for shapes only; its attribute `answer` is called by
  rollout/by_turn.py, or `together` where every process has all rows. Rewards
  are those of the task's verifier, plus those of the environment, each logged
  by name. A turn after which the environment failed is not known. Raises
  ConfigError for an environment that cannot be made, and for replies without
  room for a text.
  """
  environment = environment_of(options, field)
  form = form_of_chat(chat) if chat else form_of_tokens(task)
  overhead = len(form.write("", False))
  if overhead >= options.reply_tokens:
    raise ConfigError(
      f"config.{field}.reply_tokens={options.reply_tokens}: the form of a "
      f"message alone takes {overhead}: set {overhead + 32} or more"
    )
  ends = _stops(options.stop, task, f"{field}.stop")
  host = Host(
    environment, options, form, task, overhead, Counter(), [], set(), ends
  )

  def reply(answer, episodes: Episodes, turn) -> Reply:
    if not is_traced((answer, episodes, turn)):
      raise ValueError(
        "an environment on the host answers through reply.answer only"
      )
    rows = turn.shape[0]
    none = jnp.full((rows, options.reply_tokens), PAD, jnp.int32)
    return Reply(none, jnp.zeros(rows, bool))

  reply.columns = options.reply_tokens
  if options.stop:
    reply.stops = ends
  reply.answer = partial(answering.answer, host)
  reply.together = together(reply.answer)
  reply.counted = partial(answering.counted, host)
  rewards = task.rewards
  if environment.reward:
    rewards = (*(rewards or ("answer",)), "environment")
  return task._replace(
    verify=partial(answering.verify, host), reply=reply, on_host=True,
    rewards=rewards,
    final=lambda episodes, turns: np.asarray(
      task.final(answering.as_judged(host, episodes, turns), turns)
    ),
  )
