"""Tasks and methods of a user's own file: tried early, named in every error.

Their functions are wrapped, so that whatever they raise, also in the middle of
a run, is one line with the field of the config, the file, the line, and what
the function takes and returns. A task is tried before anything is trained; of a
method `checks.count_rows` traces all verbs.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sitrain.rollout import by_turn
from sitrain.runtime.host import HostOnly
from sitrain.runtime.options import ConfigError, naming
from sitrain.tasks.own_functions import ERRORS, OwnError, defined_at, failure
from sitrain.types import (
  GIVEN,
  PAD,
  ROOT,
  Batch,
  Episodes,
  Method,
  Problems,
  Reply,
  Task,
  TrainState,
  Verdict,
)

TRIED = 4  # problems that a task is tried on
TURNS = 2


class Form(NamedTuple):
  """What a function of a task or method takes and returns."""

  call: str
  returns: str
  fits: Callable[[Any], bool]  # whether a result is of that type


def _is(*kinds: type) -> Callable[[Any], bool]:
  return lambda value: isinstance(value, kinds)


def _pair(first: Any, second: Any) -> Callable[[Any], bool]:
  return lambda value: type(value) is tuple and len(value) == 2 and (
    first(value[0]) and second(value[1])
  )


def _one_or_several(kind: type) -> Callable[[Any], bool]:
  """One of a kind, or {name: one of that kind}."""
  return lambda value: isinstance(value, kind) or (
    isinstance(value, dict) and all(map(_is(kind), value.values()))
  )


TASK = {
  "problems": Form(
    "problems(key, n)", "Problems of n rows", _is(Problems)
  ),
  "level": Form(
    "level(problems)", "for each problem its index in levels",
    lambda value: hasattr(value, "shape"),
  ),
  "reply": Form(
    "reply(answer [B A], episodes, turn [B])",
    "Reply(tokens [B F], done [B])", _is(Reply),
  ),
  "verify": Form(
    "verify(answer [B A], episodes, turns)",
    "Verdict(reward, known), both [B, turns]", _is(Verdict),
  ),
  "final": Form(
    "final(episodes, turns)",
    "an id of each answer, [B, turns], -1 where there is none",
    lambda value: hasattr(value, "shape"),
  ),
}
METHOD = {
  "pose": Form("pose(key, state)", "Problems", _is(Problems)),
  "generate": Form(
    "generate(keys [P], state, problems)", "Episodes, or {name: Episodes}",
    _one_or_several(Episodes),
  ),
  "judge": Form(
    "judge(key, state, problems, rows)",
    "(verdict, metrics), or ({name: verdict}, metrics)",
    _pair(_one_or_several(Verdict), _is(dict)),
  ),
  "refresh": Form(
    "refresh(state, problems, rows, verdicts)", "TrainState", _is(TrainState)
  ),
  "curate": Form(
    "curate(key, state, problems, rows, verdicts)", "(Batch, metrics)",
    _pair(_is(Batch), _is(dict)),
  ),
  "loss": Form(
    "loss(params, state, batch)", "({name: Mean}, metrics)",
    _pair(_is(dict), _is(dict)),
  ),
  "memory": Form("memory(key)", "arrays of fixed shape", lambda value: True),
  "wanted": Form(
    "wanted(problems, rows, verdicts)",
    "for each problem whether it teaches something, an array of bool [P]",
    lambda value: hasattr(value, "dtype"),
  ),
}
TRACED = (
  jax.errors.TracerArrayConversionError,
  jax.errors.TracerIntegerConversionError,
  jax.errors.ConcretizationTypeError,  # and of booleans
  jax.errors.NonConcreteBooleanIndexError,
)


def own_method(method: Method, field: str) -> Method:
  """The method of a user's file, whose verbs name config.`field` in errors."""
  return _wrapped(method, METHOD, field)


def own_task(task: Task, field: str) -> Task:
  """The task of a user's file, tried once; errors name config.`field`.

  On the device `reply`, `verify` and `final` are traced, on the host the last
  two are called with attempts that are an end token alone. Raises ConfigError
  for fields that cannot be, and for a function that raises or that returns
  anything else than TASK says.
  """
  for name, fits, fix in (
    ("eos", _some_ints, "a tuple with the ids that end a turn"),
    ("levels", _some_names, "a tuple of names, ('all',) where there is one"),
    ("rewards", _names, "a tuple with the names of Verdict.parts"),
    ("turn_length", lambda x: _is_int(x) and x > 0,
     "tokens of a turn, above 0"),
    ("table", lambda x: isinstance(x, Problems) or type(x) is tuple and not x,
     "Problems, or () where they are drawn"),
    *((name, callable, f"a function {one.call}") for name, one in TASK.items()),
  ):
    value = getattr(task, name)
    if not fits(value):
      raise ConfigError(
        f"config.{field}: {name}={value!r} of the Task: give {fix}"
      )
  task = _wrapped(task, TASK, field)
  with naming(field):
    _try(task, field)
  return task


def _wrapped(made: Any, forms: dict[str, Form], field: str) -> Any:
  return made._replace(**{
    name: _guarded(getattr(made, name), name, form, field)
    for name, form in forms.items() if getattr(made, name) != ()
  })


def _guarded(
  function: Callable, name: str, form: Form, field: str
) -> Callable:
  """The function with errors that name the field, its line and the fix."""

  @functools.wraps(function)
  def call(*args: Any, **options: Any) -> Any:
    try:
      value = function(*args, **options)
    except (ConfigError, OwnError, HostOnly):
      raise
    except ERRORS as error:
      if not (line := failure(error)):
        raise
      fix = f"{form.call} returns {form.returns}"
      if isinstance(error, TRACED):
        fix = f"{name} is traced, so write it in jax.numpy"
        if name in ("verify", "final"):
          fix += ", or set on_host=True of the Task"
      raise OwnError(f"config.{field}: {line}; mend {name}: {fix}") from error
    if not form.fits(value):
      raise _wrong(function, name, form, field, f"a {type(value).__name__}")
    return value

  return call


def _wrong(function, name, form, field, what) -> OwnError:
  """The error for a function that returns `what` it should not."""
  place = defined_at(function)
  return OwnError(
    f"config.{field}: {place}{': ' * bool(place)}{name} returns {what}: return"
    f" {form.returns}"
  )


def _try(task: Task, field: str) -> None:
  """Calls or traces every function of the task, and checks what it returns."""

  def check(name: str, right: bool, what: str) -> None:
    if not right:
      raise _wrong(getattr(task, name), name, TASK[name], field, what)

  def check_shape(name: str, label: str, value: Any, shape: tuple) -> None:
    found = jnp.shape(value)
    what = f"{label} of shape {list(found)} where {list(shape)} are asked for"
    check(name, found == shape, what)

  problems = _some(task)
  place = "table" if task.table != () else "problems"
  if fault := _fault(problems, task.tokenizer.size):
    if place == "table":
      raise ConfigError(f"config.{field}: table of the Task: {fault}")
    check("problems", False, fault)
  count = len(problems.prompt)
  if place == "problems":
    check_shape("problems", "prompts", problems.prompt[:, 0], (TRIED,))
  level = np.asarray(task.level(problems))
  check_shape("level", "levels", level, (count,))
  there = (level >= 0) & (level < len(task.levels))
  check("level", bool(there.all()),
        f"{level.min()} to {level.max()} where levels has {len(task.levels)}")
  few = jax.tree.map(lambda x: x[:TRIED], problems)
  rows = _attempts(few, task.eos[0])
  shape = len(rows.tokens), TURNS
  if not by_turn.on_host(task.reply):
    reply = jax.eval_shape(task.reply, few.answer, rows, rows.problem * 0 + 1)
    check_shape("reply", "done", reply.done, shape[:1])
    ids = reply.tokens
    check("reply", ids.ndim == 2 and len(ids) == shape[0],
          f"tokens of shape {list(ids.shape)} for {shape[0]} rows")
  asked = lambda answer, rows: (
    task.verify(answer, rows, TURNS), task.final(rows, TURNS)
  )
  call = asked if task.on_host else functools.partial(jax.eval_shape, asked)
  verdict, final = call(few.answer, rows)
  check("verify", verdict.parts.keys() == set(task.rewards),
        f"the parts {sorted(verdict.parts)} where Task.rewards has "
        f"{sorted(task.rewards)}")
  for name, value in dict(verdict._asdict(), **verdict.parts).items():
    if name != "parts":
      check_shape("verify", name, value, shape)
  check_shape("final", "ids", final, shape)


def _some(task: Task) -> Problems:
  """The table, or a few problems, as NumPy arrays."""
  if task.table != ():
    return jax.tree.map(np.asarray, task.table)
  # A loop is one program. Without it, each of a hundred operations is compiled.
  keys = jax.random.key(0, impl="threefry2x32")[None]
  drawn = jax.lax.map(lambda key: task.problems(key, TRIED), keys)
  return jax.tree.map(lambda x: np.asarray(x[0]), drawn)


def _fault(problems: Problems, size: int) -> str:
  """What is wrong with problems of a vocabulary of `size` tokens, or ""."""
  for name, value in problems._asdict().items():
    if not hasattr(value, "ndim"):
      return f"{name} is a {type(value).__name__}, not an array"
    if value.ndim != 2 or not np.issubdtype(value.dtype, np.integer):
      return (
        f"{name} is {value.dtype} {list(value.shape)}, not integers [P, N]"
      )
    if len(value) != len(problems.prompt) or not len(value):
      return f"{name} has {len(value)} rows for {len(problems.prompt)} prompts"
  for name in ("prompt", "solution"):
    value = getattr(problems, name)
    if value.size and not PAD <= value.min() <= value.max() < size:
      return (
        f"{name} has tokens from {value.min()} to {value.max()} where the"
        f" tokenizer has {size} and PAD is {PAD}"
      )
  empty = problems.prompt == PAD
  if (empty[:, 1:] & ~empty[:, :-1]).any():
    return "a prompt has PAD behind a token, its padding stands before it"
  if empty.all(axis=1).any():
    return "a prompt is empty, give it one token at least"
  empty = problems.solution == PAD
  if (~empty[:, 1:] & empty[:, :-1]).any():
    return "a solution has PAD before a token, its padding stands behind it"
  return ""


def _attempts(problems: Problems, eos: int) -> Episodes:
  """A row of each problem, whose turns are an end token alone."""
  prompt = problems.prompt
  count, width = len(prompt), prompt.shape[1] + TURNS
  ends = np.full((count, TURNS), eos, np.int32)
  turn = np.where(prompt == PAD, PAD, GIVEN).astype(np.int32)
  turn = np.concatenate([turn, ends * 0 + np.arange(1, TURNS + 1)], axis=1)
  order = np.argsort(turn == PAD, axis=1, kind="stable")
  left = lambda x: np.take_along_axis(x, order, axis=1).astype(np.int32)
  return Episodes(
    tokens=left(np.concatenate([prompt, ends], axis=1)), turn=left(turn),
    logprob=np.zeros((count, width), np.float32),
    path=np.zeros((count, width), np.int32),
    problem=np.arange(count, dtype=np.int32),
    parent=np.full(count, ROOT, np.int32),
  )


def _is_int(value: Any) -> bool:
  return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _names(value: Any) -> bool:
  return isinstance(value, tuple) and all(map(_is(str), value))


def _some_names(value: Any) -> bool:
  return _names(value) and bool(value)


def _some_ints(value: Any) -> bool:
  return isinstance(value, Iterable) and bool(tuple(value)) and (
    all(map(_is_int, value))
  )
