"""Functions of a user's own files, named as file:PATH.py:FUNCTION.

A file is loaded once in a process, whatever names it: what it keeps between
calls is the same for a task and its rewards. Its folder is searched last for
the modules that it imports.
"""

import ast
import copyreg
import difflib
import importlib.util
import inspect
import pathlib
import re
import sys
import traceback
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

FILE = "file:"
_OWN = "sitrain_file_"  # prefix of the names of modules from a user's files
# What a user's code raises. sys.exit() inside of it would end the whole run, as
# if it had come to its end.
ERRORS = (Exception, SystemExit)


class OwnError(ValueError):
  """An error of a user's function; one line with the field, the file, the line.
  """


class Own(NamedTuple):
  """A function of a user's file, which another process loads anew."""

  name: str  # file:PATH.py:FUNCTION
  function: Callable


def load(name: str, default: str) -> Callable:
  """The function that `name` names; without :FUNCTION the `default`.

  Raises ValueError, which does not begin with the name, for a file that is not
  there, that raises, or that has no such function of its own.
  """
  path, _, function = name.removeprefix(FILE).partition(":")
  file = pathlib.Path(path).expanduser().resolve()
  if not file.is_file():
    raise ValueError(f"there is no file {file}")
  module, wanted = _module(file), function or default
  own = [
    n for n, value in vars(module).items()
    if (inspect.isfunction(value) or inspect.isclass(value))
    and value.__module__ == module.__name__
  ]
  if wanted not in own:
    near = difflib.get_close_matches(wanted, own, n=1, cutoff=0.5)
    known = ", ".join(sorted(own))
    fix = f"choose one of {known}" if own else "there is none"
    if near:
      fix = f"did you mean {near[0]!r}? (known: {known})"
    if wanted in vars(module):
      fix = f"{_other(vars(module)[wanted])}: write one with def"
    raise ValueError(f"{file.name} has no function {wanted}: {fix}")
  return getattr(module, wanted)


def _other(value: Any) -> str:
  """What stands in a file under a name, where it is no function of it."""
  if inspect.isfunction(value) or inspect.isclass(value):
    return f"that is imported from {value.__module__}"
  return f"that is a {type(value).__name__}"


def _module(file: pathlib.Path) -> ModuleType:
  # a-b.py and a_b.py are two files, whose names are the same in words alone.
  words = re.sub(r"\W", "_", str(file))
  name = f"{_OWN}{words}_{zlib.crc32(bytes(file)):08x}"
  if name in sys.modules:
    return sys.modules[name]
  if str(file.parent) not in sys.path:
    sys.path.append(str(file.parent))
  spec = importlib.util.spec_from_file_location(name, file)
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  try:
    spec.loader.exec_module(module)
  except ERRORS as error:
    del sys.modules[name]
    frames = traceback.extract_tb(error.__traceback__)
    lines = [x.lineno for x in frames if x.filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
      lines = [error.lineno]
    place = f"{file.name}, line {lines[-1]}" if lines else file.name
    raise ValueError(f"{place}, raises {_what(error)}") from error
  if other := _imported_from_elsewhere(file):
    del sys.modules[name]
    raise ValueError(f"{file.name} imports {other}: rename its own")
  return module


def _imported_from_elsewhere(file: pathlib.Path) -> str:
  """A module with the name of a neighbour of `file`, which it was to import.

  Python has one module of a name: of two folders that have a utils.py each, the
  files of the second would work with that of the first.
  """
  for path in with_imports(file)[1:]:
    package = path.name == "__init__.py"
    name = (path.parent if package else path.with_suffix("")).name
    if path.parents[package] != file.parent:
      continue  # It is inside of a package, which is checked.
    found = sys.modules.get(name) or importlib.util.find_spec(name)
    there = getattr(found, "__file__", "") or getattr(found, "origin", "")
    if pathlib.Path(there or path).resolve() != path.resolve():
      return f"{name}, which is {there} here and not {path}"
  return ""


def with_imports(file: pathlib.Path) -> list[pathlib.Path]:
  """A file, and the files of its folder that it imports, and so on.

  The imports are read from the text. What is installed, and what a file reads
  while it runs, is not among them. Behind a link it is the folder of what the
  link names, as in `load`.
  """
  file = file.resolve()
  found, todo = {file: None}, [file]
  while todo:
    for name in _imported(todo.pop(), file.parent):
      if name not in found and name.is_file():
        found[name] = None
        todo.append(name)
  return [file, *sorted(path for path in found if path != file)]


def _imported(file: pathlib.Path, root: pathlib.Path) -> list[pathlib.Path]:
  """The files that the imports of a file may mean, below the folder `root`."""
  try:
    nodes = list(ast.walk(ast.parse(file.read_bytes())))
  except (SyntaxError, ValueError):  # It is a text, or will not load.
    return []
  places = []
  for node in nodes:
    if isinstance(node, ast.Import):
      places += [root.joinpath(*one.name.split(".")) for one in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = [root, *file.parents][node.level]
      inner = base.joinpath(*(node.module or "").split("."))
      places += [inner, *(inner / one.name for one in node.names)]
  inside = {
    part for place in places for part in (place, *place.parents)
    if part != root and part.is_relative_to(root)
  }
  ends = lambda part: (part.with_name(f"{part.name}.py"), part / "__init__.py")
  return [path for part in inside for path in ends(part)]


def is_own(function: Callable) -> bool:
  """Whether a function is of a user's file."""
  return function.__module__.startswith(_OWN)


def own_place(error: BaseException) -> str:
  """The line of a user's file that raised an error, or ""."""
  known = {
    getattr(module, "__file__", ""): pathlib.Path(module.__file__).name
    for name, module in sys.modules.copy().items() if name.startswith(_OWN)
  }
  for frame in reversed(traceback.extract_tb(error.__traceback__)):
    if frame.filename in known:
      return f"{known[frame.filename]}, line {frame.lineno},"
  return ""


def failure(error: BaseException) -> str:
  """What a user's file raised, and where; "" for an error of another.

  A ValueError is shown by its message, as it says what to give.
  """
  if not (place := own_place(error).rstrip(",")):
    return ""
  if isinstance(error, ValueError) and str(error).strip():
    return f"{place}: {_first_line(error)}"
  return f"{place}, raises {_what(error)}"


def defined_at(function: Callable) -> str:
  """The file and line of a user's function, or the file of its module."""
  function = inspect.unwrap(function)
  while hasattr(function, "func"):  # of functools.partial
    function = inspect.unwrap(function.func)
  code = getattr(function, "__code__", ())
  if not code:
    return ""
  return f"{pathlib.Path(code.co_filename).name}, line {code.co_firstlineno}"


def _what(error: BaseException) -> str:
  """Kind and message of an error, as the last line of a traceback has it."""
  return f"{type(error).__name__}: {_first_line(error)}".removesuffix(": ")


def _first_line(error: BaseException) -> str:
  """The message without what JAX adds to explain tracing in further lines."""
  lines = str(error).strip().splitlines()
  return " ".join(lines[0].split())[:600] if lines else ""


def last_line(error: BaseException) -> str:
  """The last line of an error's traceback, with its place in a user's file."""
  reason = traceback.format_exception_only(error)[-1].strip()
  reason = " ".join(reason.split())[:300]
  place = own_place(error).rstrip(",")
  return f"{reason} ({place})" if place else reason


def _again(name: str) -> Own:
  return Own(name, load(name, "make"))


# A process of a pool cannot import the module by its name: it loads the file.
copyreg.pickle(Own, lambda own: (_again, (own.name,)))
