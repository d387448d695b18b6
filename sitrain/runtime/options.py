"""Functions and their options by name, with errors that name the fix."""

import contextlib
import difflib
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sitrain.runtime import extras
from sitrain.tasks import own_functions

MADE = ("Task", "Method", "Strategy")  # what functions of a package make


class ConfigError(ValueError):
  """An error that the user can fix in the config; one line."""


def closest(name: str, known: Iterable[str]) -> str:
  """What to give in the place of `name`: the most similar of `known`, and all.

  It ends a sentence, as in "x is not an option: did you mean 'y'? (known: y)".
  """
  known = sorted(known)
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  if not known:
    return "there is none"
  if not near:
    return f"choose one of {', '.join(known)}"
  return f"did you mean {near[0]!r}? (known: {', '.join(known)})"


def find(package: str, name: str, field: str) -> Callable:
  """`make` of sitrain.<package>.<name>, or the function after its dot.

  `file:PATH.py` names `make` of a user's file, and `file:PATH.py:FUNCTION`
  another function of it. Raises ConfigError, which names the field, if there is
  no such function.
  """
  if name.startswith("file:"):
    return from_file(name, field)
  folder = importlib.import_module(f"sitrain.{package}").__path__
  modules = [m.name for m in pkgutil.iter_modules(folder)]
  module, _, function = name.partition(".")
  if module not in modules:
    own = (n for n, f in makers(package).items() if not takes_functions(f))
    known = [*own, *not_installed(package)]
    raise ConfigError(
      f"config.{field}={name!r} is not in sitrain/{package}: "
      + closest(name, known)
    )
  try:
    found = importlib.import_module(f"sitrain.{package}.{module}")
  except ImportError as error:
    if not (why := extras.line(error)):
      raise
    raise ConfigError(f"config.{field}={name!r}: {why}") from error
  own = [n for n in vars(found) if _makes(found, n)]
  if (function or "make") not in own:
    full = [f"{module}.{n}" if n != "make" else module for n in own]
    raise ConfigError(f"config.{field}={name!r}: " + closest(name, full))
  return getattr(found, function or "make")


def makers(package: str) -> dict[str, Callable]:
  """All functions that `find` finds in a package, by name.

  Without those of modules that are `not_installed`.
  """
  found = {}
  for module, known in _modules(package):
    names = () if isinstance(known, str) else vars(known)
    for name in names:
      if _makes(known, name):
        full = module if name == "make" else f"{module}.{name}"
        found[full] = getattr(known, name)
  return found


def takes_functions(maker: Callable) -> bool:
  """Whether only other makers can call it: a config has no functions."""
  return any("Callable" in str(o.annotation) for o in accepted(maker).values())


def not_installed(package: str) -> dict[str, str]:
  """module -> which extra it needs, for those that cannot be imported here."""
  return {
    name: known for name, known in _modules(package) if isinstance(known, str)
  }


def _modules(package: str) -> Iterator[tuple[str, Any]]:
  """The modules of a package by name, or what has to be installed first."""
  folder = importlib.import_module(f"sitrain.{package}").__path__
  for module in sorted(m.name for m in pkgutil.iter_modules(folder)):
    try:
      yield module, importlib.import_module(f"sitrain.{package}.{module}")
    except ImportError as error:
      if not (why := extras.line(error)):
        raise
      yield module, why


def from_file(name: str, field: str, default: str = "make") -> Callable:
  """The function or class of file:PATH.py:NAME; a file is loaded only once.

  `default` is its name where the config gives none. Raises ConfigError.
  """
  try:
    return own_functions.load(name, default)
  except ValueError as error:
    raise ConfigError(f"config.{field}={name!r}: {error}") from error


def _makes(module, name: str) -> bool:
  """Whether a function of the module makes a task, method or strategy."""
  value = getattr(module, name)
  if name.startswith("_") or not inspect.isfunction(value):
    return False
  signature = inspect.signature(value)
  result = signature.return_annotation
  # What takes a method and returns one alters it, and is no maker.
  alters = any(p.annotation is result for p in signature.parameters.values())
  made = getattr(result, "__name__", result) in MADE and not alters
  return made and value.__module__ == module.__name__


def accepted(function: Callable) -> dict[str, inspect.Parameter]:
  """Options of a maker, including those that it forwards to another maker.

  A maker declares forwarding with `methods.verbs.forwards`.
  """
  options = {
    n: p for n, p in inspect.signature(function).parameters.items()
    if p.kind is p.KEYWORD_ONLY
  }
  if hasattr(function, "forwards"):
    target, fixed = function.forwards
    more = accepted(target).items()
    options = {n: p for n, p in more if n not in fixed} | options
  return options


def call(function: Callable, field: str, options: dict, *args: Any) -> Any:
  """function(*args, **options); raises ConfigError that names the field."""
  options = checked(function, field, options)
  named = lambda error: _named(function, options, error)
  with naming(field, named=named):
    return function(*args, **options)


def _named(function: Callable, options: dict, error: Exception) -> str:
  """An error of a maker after the name of its option, where it is clear which.

  Makers say "samples=1: ..." of an option, or only its value, as of a file.
  """
  text = str(error)
  name, equals, _ = text.partition("=")
  if equals and name in accepted(function):
    return f".{text}"
  texts = {n: x for n, x in options.items() if isinstance(x, str) and x}
  # A word such as "drop" may stand in any message: it has to be in quotes.
  said = lambda x: x in text if {*x} & {*"./"} else repr(x) in text
  found = [n for n, x in texts.items() if said(x)]
  return f".{found[0]}: {text}" if len(found) == 1 else f": {text}"


@contextlib.contextmanager
def naming(
  field: str, part: str = "",
  named: Callable[[Exception], str] = lambda error: f": {error}",
) -> Iterator[None]:
  """Turns errors inside into ConfigErrors that name config.`field`.

  ValueErrors, and whatever a user's own file raises: of those the message names
  the line, and `part` of the field. Errors that name their field are kept, and
  of others `named` makes what follows the field.
  """
  try:
    yield
  except ConfigError:
    raise
  except own_functions.OwnError as error:
    raise ConfigError(str(error)) from error
  except own_functions.ERRORS as error:
    if line := own_functions.failure(error):
      raise ConfigError(f"config.{field}{part}: {line}") from error
    if not isinstance(error, ValueError):
      raise
    raise ConfigError(f"config.{field}{named(error)}") from error


def checked(function: Callable, field: str, options: dict) -> dict:
  """The options, checked by name and type against the function.

  Raises ConfigError, which names the field, also for a missing option.
  """
  return check_options(field, options, accepted(function))


def check_options(
  field: str, given: dict, known: dict[str, inspect.Parameter]
) -> dict:
  """Like `checked`, with the parameters instead of the function."""
  options = dict(given)
  for name, value in options.items():
    if name not in known:
      raise ConfigError(
        f"config.{field}.{name} is not an option: {closest(name, known)}"
      )
    value = options[name] = _number(value, known[name].annotation)
    check_type(f"{field}.{name}", value, known[name].annotation)
  missing = [
    n for n, p in known.items() if p.default is p.empty and n not in options
  ]
  if missing:
    raise ConfigError(f"config.{field}.{missing[0]} is missing: set it")
  return options


def _number(value: Any, wanted: Any) -> Any:
  """Converts inf and nan, which have no Python literal, from text."""
  if wanted is float and str(value).lstrip("+-") in ("inf", "nan"):
    return float(value)
  return value


def check_type(field: str, value: Any, wanted: Any) -> None:
  """Raises ConfigError for a value of another type, and for NaN."""
  simple = {
    int: int, float: (int, float), str: str, bool: bool, dict: dict,
    tuple: (tuple, list),
  }
  kinds = simple.get(wanted, ())
  if str(wanted).startswith("tuple["):
    kinds = (tuple, list)
  is_flag = isinstance(value, bool) and wanted is not bool
  if kinds and (not isinstance(value, kinds) or is_flag):
    name = getattr(wanted, "__name__", str(wanted))
    article = "an" if name[0] in "aeiou" else "a"
    raise ConfigError(
      f"config.{field}={value!r} is a {type(value).__name__}: give {article}"
      f" {name}"
    )
  if str(wanted) == "tuple[int, ...]":
    for one in value:
      if isinstance(one, bool) or not isinstance(one, int):
        raise ConfigError(
          f"config.{field}={value!r} has {one!r}, which is no whole number:"
          f" give a list of them, as --config.{field}='(5, 5)'"
        )
  if isinstance(value, float) and math.isnan(value):
    raise ConfigError(f"config.{field} is not a number (NaN): give one")
