"""The rules of the house, read off the source."""

import ast
import functools
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "sitrain"
# Imports point upward: a module imports from its own package or from earlier.
ORDER = (
  "types", "tasks", "models", "rollout", "judge", "curate", "losses",
  "methods", "strategies", "train", "evaluate", "runtime", "main",
)
MAINS = (
  "cli.py", "main.py", "report.py", "export.py", "sample.py", "plan.py",
  "data.py", "infer.py", "talk.py",
  "evaluate/__main__.py",
)
SOURCES = sorted(PACKAGE.rglob("*.py"))
# What reads and writes files, or runs processes, on behalf of a task or model.
HOST = (
  "tasks/tables.py",
  *(f"tasks/verifiers/{name}.py" for name in (
    "pool", "supervisor", "sandbox", "sandbox_process", "sandbox_child",
    "bubble", "separate_process", "same_process", "program_side", "tests_side",
    "messages", "printed",
  )),
  *(f"models/huggingface/{name}.py" for name in (
    "download", "tensorfile", "tokenizer", "weights",
  )),
)
BELOW = [
  path for path in SOURCES
  if str(path.relative_to(PACKAGE)) not in MAINS
  and path.relative_to(PACKAGE).parts[0] != "runtime"
  and str(path.relative_to(PACKAGE)) not in HOST
]


# Hands on to the mains what the user has given; nothing else knows ConfigDict.
OPTIONS = "runtime/overrides.py"


def name(path):
  return str(path.relative_to(ROOT))


@functools.cache
def tree_of(path):
  return ast.parse(path.read_text())


def walk(path, kind):
  return [node for node in ast.walk(tree_of(path)) if isinstance(node, kind)]


def at(path, node):
  return f"{name(path)}:{node.lineno}"


def imported(path):
  """(node, module) of all that a file imports, as dotted names."""
  found = []
  for node in walk(path, (ast.ImportFrom, ast.Import)):
    if isinstance(node, ast.ImportFrom):
      found.append((node, node.module or ""))
      prefix = f"{node.module}."
    else:
      prefix = ""
    found += [(node, prefix + alias.name) for alias in node.names]
  return found


def rank(path):
  first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
  is_main = str(path.relative_to(PACKAGE)) in MAINS
  return ORDER.index("main" if is_main else first)


def test_imports_point_upward():
  offenders = []
  for path in SOURCES:
    if path == PACKAGE / "__init__.py":
      continue
    for node, module in imported(path):
      package = [*module.split("."), ""][1]
      if not module.startswith("sitrain.") or package == "configs":
        continue
      if ORDER.index(package) > rank(path):
        offenders.append(f"{at(path, node)} imports {module}")
  assert not offenders


def test_files_are_short():
  """A guard against monsters: an idea is not split to please it."""
  sizes = {path: len(path.read_text().splitlines()) for path in SOURCES}
  assert not [
    f"{name(path)} has {size} lines" for path, size in sizes.items()
    if size > 400
  ]
  assert not [
    f"{name(path)} has {size} lines" for path, size in sizes.items()
    if path.parent.name == "methods" and size > 80
    and path.stem not in (
      "verbs", "checks", "objectives", "reinforce", "preference"
    )
  ]
  # What several strategies share is no strategy.
  shared = ("__init__", "strategy", "meter", "choose", "refine", "needs")
  assert not [
    f"{name(path)} has {size} lines" for path, size in sizes.items()
    if path.parent.name == "strategies" and not 20 <= size <= 60
    and path.stem not in shared
  ]


def size_of(function):
  """Lines of the body of a function, without its docstring."""
  body = function.body
  if ast.get_docstring(function) and len(body) > 1:
    body = body[1:]
  return body[-1].end_lineno - body[0].lineno + 1


def test_functions_are_short():
  assert not [
    f"{at(path, node)} {node.name} has {size_of(node)} lines"
    for path in SOURCES for node in walk(path, ast.FunctionDef)
    if size_of(node) > 60
  ]


def depth_of(node):
  inner = [
    child for child in ast.walk(node)
    if child is not node and isinstance(child, ast.FunctionDef)
  ]
  return 1 + max([depth_of(child) for child in inner], default=0)


def test_functions_nest_two_deep_at_most():
  assert not [
    f"{at(path, node)} {node.name}"
    for path in SOURCES for node in tree_of(path).body
    if isinstance(node, ast.FunctionDef) and depth_of(node) > 2
  ]


def test_nothing_below_the_mains_prints_compiles_or_opens_a_file():
  banned = ("print", "open", "jax.jit", "jit", "input")
  calls = [
    (path, node, ast.unparse(node.func))
    for path in BELOW for node in walk(path, ast.Call)
  ]
  assert not [
    f"{at(path, node)} {text}" for path, node, text in calls
    if text in banned or "debug.callback" in text
  ]


def test_nothing_below_the_mains_has_a_clock_flags_or_the_runtime():
  banned = ("time", "datetime", "absl", "os", "sitrain.runtime")
  assert not [
    f"{at(path, node)} imports {module}"
    for path in BELOW for node, module in imported(path)
    if any(f"{module}.".startswith(f"{one}.") for one in banned)
  ]


def test_no_config_dict_below_the_main():
  assert not [
    f"{at(path, node)} imports {module}"
    for path in SOURCES for node, module in imported(path)
    if module.split(".")[0] == "ml_collections"
    and str(path.relative_to(PACKAGE)) not in (*MAINS, OPTIONS)
  ]


def test_losses_are_reduced_in_one_place():
  assert not [
    f"{name(path)}:{number} use losses.reduce"
    for path in (PACKAGE / "losses").glob("*.py")
    for number, line in enumerate(path.read_text().splitlines(), 1)
    if ".mean(" in line
  ]


def test_classes_hold_data_only():
  offenders = []
  for path in SOURCES:
    for node in walk(path, ast.ClassDef):
      bases = [ast.unparse(base) for base in node.bases]
      if {"nn.Module", "Protocol", "ValueError", "OSError"} & set(bases):
        continue
      methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
      if bases != ["NamedTuple"] or methods:
        offenders.append(f"{at(path, node)} class {node.name}")
  assert not offenders


def test_what_is_public_is_documented():
  offenders = []
  for path in SOURCES:
    if path.stat().st_size and not ast.get_docstring(tree_of(path)):
      offenders.append(name(path))
    functions = [
      node for node in tree_of(path).body if isinstance(node, ast.FunctionDef)
    ]
    offenders += [
      f"{at(path, node)} {node.name}"
      for node in functions + walk(path, ast.ClassDef)
      if not node.name.startswith("_") and not ast.get_docstring(node)
    ]
  assert not offenders


def test_no_file_of_the_project_names_a_machine():
  words = ("/work" + "/", "/home" + "/", "index" + "-url", "extra" + "-index")
  suffixes = (".py", ".md", ".cfg", ".toml", ".ipynb", ".sh", "")
  skipped = (".git", ".venv", "__pycache__", ".ruff_cache", ".pytest_cache")
  offenders = []
  for path in ROOT.rglob("*"):
    parts = path.relative_to(ROOT).parts
    if not path.is_file() or any(p in skipped for p in parts):
      continue
    if path.suffix in suffixes and ".egg-info" not in str(path):
      text = path.read_text(errors="ignore")
      offenders += [f"{name(path)}: {word}" for word in words if word in text]
  assert not offenders
