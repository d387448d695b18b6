"""Reward functions of a user: found, called, checked and added up.

On the host a reward is a Python function

  reward(prompts, texts, rows, turn) -> list of a number or None for each text

that names those of the four that it reads: `prompts`, what the policy had read
before the turn; `texts`, what it wrote; `rows`, their rows of the data set;
`turn`, from 1. None is not known: the turn is masked, and counts in no
baseline. Whatever else is wrong ends the run, as a wrong reward would teach.
"""

import copy
import functools
import inspect
import logging
import math
import pathlib
import pickle
import re
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from sitrain.tasks import limited, matching
from sitrain.tasks.own_functions import ERRORS, FILE, Own, last_line, load
from sitrain.tasks.verifiers import pool as pools

_LOG = logging.getLogger("sitrain")
_WEIGHTED = re.compile(r"(.+)\*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))")
ASKS = ("prompts", "texts", "rows", "turn")
DEVICE_ASKS = ("tokens", "answer", "turn")
# Metrics of a verdict that a named reward must not overwrite.
TAKEN = (
  "reward", "malformed", "unknown", "changed", "corrected", "spoiled", "ended",
  "environment", "no_signal", "pass", "majority", "distinct", "copied",
  "balance", "caught", "cleared", "true",
)


_TEXTS = (str, bytes, bytearray, memoryview)


class Reward(NamedTuple):
  """A function with its weight."""

  name: str  # of its metrics
  weight: float  # 0: it is logged only
  own: Own  # without a name where it is one of this package
  asks: tuple[str, ...]  # the arguments that it names
  shown: str  # "polite of rewards.py", for messages


class Given(NamedTuple):
  """Texts of one turn, and what they answer."""

  prompts: Sequence[str]
  texts: Sequence[str]
  rows: Sequence[Mapping[str, Any]]
  turn: int
  where: Sequence[str]  # "row 7 of a.jsonl", for messages
  ended: Sequence[bool]  # whether the policy ended the turn by itself


class Limits(NamedTuple):
  """How functions of a user are called."""

  seconds: float  # of a call; in a pool, of one text
  pool: bool  # in processes, text by text
  workers: int
  memory: int  # MiB of a process


def parse(
  option: str, text: str, asks: tuple[str, ...] = ASKS
) -> list[Reward]:
  """The rewards of "file:a.py:exact,file:b.py:polite*0.2,number".

  `option` is the name of the config's field. Raises ValueError for what is no
  function, or one with other arguments than some of `asks`.
  """
  found = []
  for part in filter(None, (word.strip() for word in text.split(","))):
    weighted = _WEIGHTED.fullmatch(part)
    name, weight = weighted.groups() if weighted else (part, "1")
    try:
      found.append(_reward(name, float(weight), asks))
    except ValueError as error:
      raise ValueError(f"{option}={name!r}: {error}") from error
  if text.strip() and not found:
    raise ValueError(f"{option}={text!r} names nothing: write a function")
  return _named(option, found)


def _reward(name: str, weight: float, asks: tuple[str, ...]) -> Reward:
  if not name.startswith(FILE):
    known = ", ".join(matching.KINDS) if asks == ASKS else "none"
    if name not in matching.KINDS or asks != ASKS:
      raise ValueError(
        f"write file:PATH.py:FUNCTION, or one that is here: {known}"
      )
    # `matching.bound` replaces the function when the answers are known.
    return Reward(name, weight, Own("", matching.bound), (), name)
  function = load(name, "reward")
  path, _, given = name.removeprefix(FILE).partition(":")
  # A lambda, or what another function made, has no name of its own.
  given = given or "reward"
  shown = f"{given} of {pathlib.Path(path).name}"
  own = Own(f"{FILE}{path}:{given}", function)
  return Reward(given, weight, own, _asked(function, asks, shown), shown)


def _asked(
  function: Callable, asks: tuple[str, ...], shown: str
) -> tuple[str, ...]:
  """The arguments that a function is called with, by name."""
  if inspect.isclass(function):
    raise ValueError(f"{shown} is a class: write a function with def")
  if inspect.iscoroutinefunction(function):
    raise ValueError(f"{shown} is async: write it with def, and asyncio.run")
  if inspect.isgeneratorfunction(function):
    raise ValueError(f"{shown} yields: let it return a list")
  known = inspect.signature(function).parameters.values()
  every = any(p.kind is p.VAR_KEYWORD for p in known)
  for p in known:
    if every and p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
      continue
    if p.name not in asks and p.default is p.empty or p.kind is (
      p.POSITIONAL_ONLY
    ):
      raise ValueError(
        f"{shown} asks for {p.name!r}: name any of {', '.join(asks)}"
      )
  if every:
    return asks
  found = tuple(p.name for p in known if p.name in asks)
  if not found:
    raise ValueError(f"{shown} reads nothing: name any of {', '.join(asks)}")
  return found


def _named(option: str, found: list[Reward]) -> list[Reward]:
  """The rewards under names that differ and are no other metric's."""
  names = [reward.name for reward in found]
  if len(found) > 1:
    for i, reward in enumerate(found):
      if names.count(reward.name) > 1 or reward.name in TAKEN:
        file = pathlib.Path(reward.own.name.removeprefix(FILE)).name
        names[i] = f"{file.partition('.')[0]}_{reward.name}"
  twice = {name for name in names if names.count(name) > 1}
  if twice:
    raise ValueError(
      f"{option}: two rewards would both be logged as {sorted(twice)[0]!r}: "
      "rename one"
    )
  return [r._replace(name=name) for r, name in zip(found, names)]


def scorer(
  rewards: Sequence[Reward], limits: Limits
) -> Callable[[Given], dict[str, Float[np.ndarray, " N"]]]:
  """`Given` -> {name: a number for each text, NaN where it is not known}.

  Functions of this package are called here. Raises ValueError, in one line with
  the row, for a function that raises, takes too long, or returns anything but a
  list of finite numbers and None. In a pool a text that takes too long, or ends
  its process, is not known.
  """
  make = functools.partial(
    pools.make, workers=limits.workers, seconds=limits.seconds,
    memory=limits.memory,
  )
  pool = {r.name: make() for r in rewards if limits.pool and r.own.name}

  def scores(given: Given) -> dict[str, Float[np.ndarray, " N"]]:
    found = {}
    for one in rewards:
      if not given.texts:
        found[one.name] = []
      elif not one.own.name:
        found[one.name] = one.own.function(given)
      elif one.name in pool:
        found[one.name] = _in_pool(pool[one.name], one, given)
      else:
        found[one.name] = _here(one, given, limits.seconds)
    return {name: np.array(x, np.float32) for name, x in found.items()}

  return scores


def _here(one: Reward, given: Given, seconds: float) -> list[float]:
  try:
    result = limited.call(lambda: _call(one, given), seconds)
  except limited.Overdue as error:
    raise ValueError(
      f"{_name(one, given)} took longer than {seconds:g} seconds for "
      f"{len(given.texts)} texts ({_places(given)}): mend it, raise seconds, "
      "or set pool=True, where a text that takes too long is not known"
    ) from error
  except ERRORS as error:
    where, error = _failing(one, given, error, seconds)
    raise ValueError(_failure(one, given, where, last_line(error))) from error
  return checked(one, given, result)


def _call(one: Reward, given: Given) -> Any:
  """What the function returns for copies of what it reads.

  It may change what it gets, and neither the next function nor the next step
  must see that. Raises ValueError where it changes its texts: after a sort or
  a pop its rewards would be those of other rows.
  """
  known = {name: getattr(given, name) for name in one.asks}
  own = {
    name: value if name == "turn" else [_copied(x) for x in value]
    for name, value in known.items()
  }
  result = one.own.function(**own)
  for name in ("texts", "prompts"):
    if name in own and own[name] != [*known[name]]:
      raise ValueError(
        f"it changes the list {name}, so that its rewards may be in another "
        f"order: let it change a copy, list({name})"
      )
  return result


def _copied(value: Any) -> Any:
  if isinstance(value, str):
    return value
  try:
    return copy.deepcopy(value)
  except Exception:  # noqa: BLE001 `prepare` may add anything to a row.
    return copy.copy(value)


def _failing(
  one: Reward, given: Given, error: BaseException, seconds: float
) -> tuple[str, BaseException]:
  """The first row for which a function fails alone, and how it does."""
  for i in range(len(given.texts) if len(given.texts) > 1 else 0):
    try:
      limited.call(lambda i=i: _call(one, _only(given, i)), seconds)
    except ERRORS as own:
      return given.where[i], own
  return _places(given), error


def _only(given: Given, i: int) -> Given:
  """One text of those given."""
  return Given(*(
    x if isinstance(x, int) else x[i : i + 1] for x in given
  ))


def _places(given: Given) -> str:
  """The rows of the texts, the first ones by name."""
  rows = list(dict.fromkeys(given.where))
  more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
  return ", ".join(rows[:3]) + more


def _name(one: Reward, given: Given) -> str:
  return f"the reward {one.shown} (turn {given.turn})"


def _failure(one: Reward, given: Given, where: str, message: str) -> str:
  fix = "mend it, or return None for a text that it cannot judge"
  if "main thread" in message:
    fix = "set pool=True: it needs a main thread of its own"
  return f"{_name(one, given)} fails for {where}: {message}: {fix}"


def checked(one: Reward, given: Given, result: Any) -> list[float]:
  """The result of a function as floats, NaN for None; ValueError otherwise."""
  if isinstance(result, (*_TEXTS, Mapping, Set)) or not hasattr(
    result, "__len__"
  ):
    raise ValueError(
      f"{_name(one, given)} returns {_kind(result)}: return a list with a "
      "number or None for each text"
    )
  if len(result) != len(given.texts):
    raise ValueError(
      f"{_name(one, given)} returns {len(result)} rewards for "
      f"{len(given.texts)} texts: return one for each text"
    )
  return [_number(one, given, i, value) for i, value in enumerate(result)]


def _number(one: Reward, given: Given, i: int, value: Any) -> float:
  if value is None:
    return math.nan
  if math.isnan(number := finite(value)):
    raise ValueError(
      f"{_name(one, given)} returns {_kind(value)} for {given.where[i]}: "
      "return a finite number, or None where the reward is not known"
    )
  return number


def finite(value: Any) -> float:
  """A number, of a library too, as a float; NaN for what float32 cannot hold.

  A text that looks like a number is a mistake.
  """
  try:
    number = math.nan if isinstance(value, _TEXTS) else float(value)
  except (TypeError, ValueError, OverflowError):
    return math.nan
  fits = abs(number) <= float(np.finfo(np.float32).max)
  return number if fits else math.nan


def _kind(value: Any) -> str:
  if value is None or isinstance(value, (int, float)):
    huge = isinstance(value, int) and abs(value) > 10**60
    return "a huge number" if huge else str(value)
  return f"a {type(value).__name__} ({str(value)[:40]!r})"


def judge_one(one: Reward, given: Given) -> tuple[str, float | str]:
  """The reward of a single text, in a process of a pool."""
  try:
    result = _call(one, given)
  except MemoryError:
    raise
  except ERRORS as error:
    return "failed", _failure(one, given, given.where[0], last_line(error))
  try:
    return "done", checked(one, given, result)[0]
  except ValueError as error:
    return "failed", str(error)


def _in_pool(pool: pools.Pool, one: Reward, given: Given) -> list[float]:
  texts = [_only(given, i) for i in range(len(given.texts))]
  try:
    results = pool.map(functools.partial(judge_one, one), texts)
  except (pickle.PicklingError, TypeError, AttributeError) as error:
    raise ValueError(
      f"{_name(one, given)}: its rows cannot be sent to a process "
      f"({last_line(error)}): let prepare return text, numbers and lists only, "
      "or set pool=False"
    ) from error
  found, lost = [], []
  for where, result in zip(given.where, results):
    status, value = result.value if result.status == "done" else ("", math.nan)
    if status == "failed":
      raise ValueError(value)
    if result.status == "error":
      raise ValueError(_failure(one, given, where, str(result.value)))
    lost += [] if status else [f"{where} {result.value}"]
    found.append(value)
  if lost:
    _LOG.warning(
      "%s: %s: its reward is not known, nor that of %d other texts; "
      "judge/unknown_%d counts them", _name(one, given), lost[0], len(lost) - 1,
      given.turn,
    )
  return found


def total(
  rewards: Sequence[Reward], parts: Mapping[str, Any], xp: Any
) -> tuple[Any, Any, dict[str, Any]]:
  """(weighted sum, known, parts) of rewards of which NaN is not known.

  A sum of which one part is not known is not known. A part of weight 0 is only
  logged: it stays NaN where it is not known, and the sum does not depend on it.
  `xp` is numpy or jax.numpy.
  """
  stack = xp.stack([parts[r.name] for r in rewards])
  weight = xp.asarray([r.weight for r in rewards], xp.float32)
  logged = (weight == 0).reshape(-1, *[1] * (stack.ndim - 1))
  finite = xp.isfinite(stack)
  known = xp.all(finite | logged, axis=0)
  safe = xp.where(finite, stack, 0.0)
  summed = xp.where(known, xp.einsum("r...,r->...", safe, weight), 0.0)
  shown = xp.where(logged, stack, safe)
  several = zip(rewards, shown) if len(rewards) > 1 else ()
  return summed, known.astype(xp.float32), {r.name: x for r, x in several}
