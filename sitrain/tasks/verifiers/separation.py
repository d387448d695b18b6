"""Whether tests can run in a separate process, and what they need for it.

Reads the text of the tests, which comes from the data set, not from a model.
"""

import ast
import builtins
import collections
import decimal
import fractions
import functools
import symtable
import sys
from typing import NamedTuple

# With these, tests could look up names that are not in their text.
LOOKUPS = {"eval", "exec", "globals", "locals", "vars", "__import__"}
# Modules that inspect a program, or share state of one process with it.
INSIDE = {
  "program", "__main__", "inspect", "gc", "asyncio", "threading", "concurrent",
  "multiprocessing", "subprocess", "os", "tempfile", "pathlib", "shutil",
}
# Names and attributes of shared state: output, files, settings.
SHARED = {
  "open", "input", "setattr", "delattr", "redirect_stdout", "redirect_stderr",
  "stdout", "stderr", "stdin", "environ", "seed", "setrecursionlimit",
  "settrace", "setprofile", "modules", "getcontext", "setcontext",
}
CROSSING = (
  int, float, complex, str, bytes, bytearray, list, dict, set, frozenset, range,
  collections.Counter, collections.OrderedDict, collections.deque,
  fractions.Fraction, decimal.Decimal, Exception, type(x for x in ()),
)
ATTRIBUTES = {name for kind in CROSSING for name in dir(kind)}
ATTRIBUTES -= {"__doc__", "__module__", "__dict__"}  # not as the program has it
ATTRIBUTES |= {
  "year", "month", "day", "hour", "minute", "second", "days", "seconds", "date",
  "total_seconds", "isoformat", "strftime", "weekday",  # of datetime
  "__name__",
}

# The nodes that can be a problem.
JUDGED = (
  ast.Name, ast.Attribute, ast.ExceptHandler, ast.ClassDef, ast.Await,
  ast.AsyncFor, ast.AsyncWith,
)
# Source without any of these checks nothing, it only runs the program.
CHECKS = (ast.Assert, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Tests(NamedTuple):
  """Tests as they are run."""

  source: str  # with calls marked whose value is not used
  names: tuple[str, ...]  # of the program, that they use
  modules: tuple[str, ...]  # of the library, that they use without an import
  problem: str  # why they cannot run in a separate process, or ""


@functools.lru_cache(maxsize=4096)
def separate(
  tests: str, own: tuple[str, ...] = (), classes: tuple[str, ...] = ()
) -> Tests:
  """The tests as they run in a separate process.

  own: built-in names that the program defines anew. classes: names of classes
  that the program defines. ValueError where the tests are no Python.
  """
  try:
    tree = ast.parse(tests)
    free = _free(symtable.symtable(tests, "tests", "exec"))
  except (SyntaxError, ValueError) as error:
    raise ValueError(f"the tests of a program are no Python: {error}") from None
  free -= set(dir(builtins)) - set(own)
  nodes = list(ast.walk(tree))
  modules = {name for name in free if _is_module(name, nodes)}
  names = tuple(sorted(free - modules))
  stored = {
    n.id for n in nodes
    if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
  }
  problem = _problem(nodes, set(names) - stored, set(classes), modules)
  checks = any(isinstance(n, CHECKS) for n in nodes)
  if not problem and checks and not _reached(tree) & set(names):
    problem = "they run nothing of the program"
  return Tests(_marked(tests, nodes), names, tuple(sorted(modules)), problem)


def _free(table) -> set[str]:
  """Global names that are used, and are not defined by the tests.

  Those that they assign may be read before, as in `x = f(x)`.
  """
  tables, used = [table], set()
  for one in tables:
    tables += one.get_children()
    used |= {
      s.get_name() for s in one.get_symbols()
      if s.is_referenced() and (one is table or s.is_global())
    }
  return used - {
    s.get_name() for s in table.get_symbols()
    if s.is_imported() or s.is_namespace()
  }


def _is_module(name: str, nodes: list[ast.AST]) -> bool:
  """Whether a name is a module of the library, as in `sys.getsizeof`."""
  if name not in sys.stdlib_module_names or name in INSIDE:
    return False
  uses = [n for n in nodes if isinstance(n, ast.Name) and n.id == name]
  bases = [n.value for n in nodes if isinstance(n, ast.Attribute)]
  return all(any(use is base for base in bases) for use in uses)


def _problem(nodes, names: set[str], classes: set[str], modules) -> str:
  """Why the tests cannot run in a separate process, or ""."""
  imported = _imported(nodes)
  known, methods = _known(nodes, imported | modules), _methods(nodes)
  for node in nodes:
    if not isinstance(node, JUDGED):
      continue
    problem = ""
    if isinstance(node, ast.Name) and node.id in classes:
      problem = f"they use the class {node.id} of the program"
    elif isinstance(node, ast.Name) and node.id in LOOKUPS:
      problem = f"they look names up by {node.id}"
    elif SHARED & {getattr(node, "id", ""), getattr(node, "attr", "")}:
      problem = "they share what calls do not carry, "
      problem += getattr(node, "id", "") or node.attr
    elif isinstance(node, ast.Attribute) and isinstance(
      node.ctx, ast.Store
    ) and _base(node) in imported | modules:
      problem = f"they change .{node.attr} of a module"
    elif isinstance(node, ast.Attribute) and not (
      node.attr in methods or _base(node) in known or
      isinstance(node.ctx, ast.Load) and node.attr in ATTRIBUTES
    ):
      problem = f"they use .{node.attr}, which no plain value has"
    elif isinstance(node, ast.ExceptHandler) and names & _named(node.type):
      problem = "they catch an exception of the program's"
    elif isinstance(node, ast.ClassDef) and names & _named(*node.bases):
      problem = "they derive from a class of the program's"
    elif "TextTestRunner" in (
      getattr(node, "id", ""), getattr(node, "attr", "")
    ):
      problem = "they are run by TextTestRunner, which raises nothing"
    elif isinstance(node, (ast.Await, ast.AsyncFor, ast.AsyncWith)):
      problem = "they wait for what the program returns"
    if problem:
      return f"{problem}, in line {node.lineno}"
  found = sorted(INSIDE & imported)
  return f"they import {found[0]}" if found else ""


def _reached(tree: ast.Module) -> set[str]:
  """Names in code that is run: a function that nothing names is not called.

  Functions and classes for a runner (pytest, unittest) would pass anything.
  """
  inside: dict[str, set[str]] = {}
  reached, waiting = set(), list(tree.body)
  while waiting:
    node = waiting.pop()
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
      inside[node.name] = inside.get(node.name, set()) | _named(*node.body)
      reached |= _named(*node.decorator_list)
    elif isinstance(node, ast.Name):
      reached.add(node.id)
    else:
      waiting += ast.iter_child_nodes(node)
  while more := {
    n for name in reached & inside.keys() for n in inside.pop(name)
  } - reached:
    reached |= more
  return reached


def _imported(nodes: list[ast.AST]) -> set[str]:
  """Modules that the tests import, and what they call them."""
  found = set()
  for node in nodes:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
      for alias in node.names:
        found.add((alias.asname or alias.name).split(".")[0])
        found.add((getattr(node, "module", None) or alias.name).split(".")[0])
  return found


def _known(nodes: list[ast.AST], found: set[str]) -> set[str]:
  """Names of modules, and of what the tests get from them: `random.Random`."""
  for node in nodes:
    if isinstance(node, ast.Assign) and _base(node.value) in found:
      found = found | _named(*node.targets)
  return found | {"self"} if _methods(nodes) else found


def _methods(nodes: list[ast.AST]) -> set[str]:
  """Names of the methods and fields of the tests' own classes."""
  inside = [
    node for kind in nodes if isinstance(kind, ast.ClassDef)
    for node in ast.walk(kind)
  ]
  return {n.name for n in inside if isinstance(n, ast.FunctionDef)} | {
    n.attr for n in inside if isinstance(n, ast.Attribute)
    and isinstance(n.ctx, ast.Store)
  }


def _base(node: ast.AST) -> str:
  """The name that a chain of attributes and calls begins with, or ""."""
  while isinstance(node, (ast.Attribute, ast.Call)):
    node = node.func if isinstance(node, ast.Call) else node.value
  return node.id if isinstance(node, ast.Name) else ""


def _named(*nodes: ast.AST | None) -> set[str]:
  return {
    n.id for node in nodes if node is not None for n in ast.walk(node)
    if isinstance(n, ast.Name)
  }


def _marked(tests: str, nodes: list[ast.AST]) -> str:
  """Tests in which `f(x)` as a statement of its own is `__in_place__(f)(x)`.

  Line numbers stay the same.
  """
  lines = tests.encode().splitlines(keepends=True)
  marks = []
  for node in nodes:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
      called = node.value.func
      if isinstance(called, ast.Name):
        marks.append((called.lineno, called.end_col_offset, b")"))
        marks.append((called.lineno, called.col_offset, b"__in_place__("))
  # From the end, so that the places of earlier marks stay valid.
  for line, column, text in sorted(marks, reverse=True):
    old = lines[line - 1]
    lines[line - 1] = old[:column] + text + old[column:]
  return b"".join(lines).decode()


@functools.lru_cache(maxsize=4096)
def names_of_reference(
  tests: str, reference: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Names of a reference program that tests use: built-in ones, and classes."""
  defined = [
    node for node in ast.parse(reference).body
    if isinstance(node, (ast.FunctionDef, ast.ClassDef))
  ]
  named = {n.id for n in ast.walk(ast.parse(tests)) if isinstance(n, ast.Name)}
  used = {node.name: node for node in defined if node.name in named}
  classes = [n for n, node in used.items() if isinstance(node, ast.ClassDef)]
  return tuple(sorted(used.keys() & set(dir(builtins)))), tuple(sorted(classes))


@functools.lru_cache(maxsize=4096)
def helpers_of_prompt(prompt: str, name: str, test: str) -> str:
  """Definitions of a prompt besides `name`, if its test uses any of them."""
  for stub in (prompt, f"{prompt.rstrip()}\n    pass\n"):
    try:
      tree = ast.parse(stub)
      break
    except (SyntaxError, ValueError):
      tree = ast.Module([], [])  # no completion of it is Python either
  used = {n.id for n in ast.walk(ast.parse(test)) if isinstance(n, ast.Name)}
  others = [node for node in tree.body if getattr(node, "name", "") != name]
  if not used & {getattr(node, "name", "") for node in others}:
    return ""
  return "".join(f"{ast.unparse(node)}\n" for node in others)
