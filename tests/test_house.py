"""The rules of the house, read off the source."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "sitrain"
# Imports point upward: a module imports from its own package or from earlier.
ORDER = (
  "types", "tasks", "models", "rollout", "judge", "curate", "losses",
  "methods", "train", "evaluate", "runtime", "main",
)
MAINS = (
  "main.py", "report.py", "export.py", "sample.py", "plan.py",
  "evaluate/__main__.py",
)
SOURCES = sorted(PACKAGE.rglob("*.py"))
# What reads and writes files, or runs processes, on behalf of a task or model.
HOST = (
  "tasks/tables.py",
  *(f"tasks/verifiers/{name}.py" for name in (
    "pool", "supervisor", "sandbox", "sandbox_process", "sandbox_child",
    "bubble", "bench", "together", "program_side", "tests_side", "talking",
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


def name(path):
  return str(path.relative_to(ROOT))


def tree_of(path):
  return ast.parse(path.read_text())


def imported(path):
  """Modules of the package that a file imports, as dotted names."""
  found = []
  for node in ast.walk(tree_of(path)):
    if isinstance(node, ast.ImportFrom) and node.module:
      if node.module == "sitrain":
        found += [f"sitrain.{alias.name}" for alias in node.names]
      found.append(node.module)
    if isinstance(node, ast.Import):
      found += [alias.name for alias in node.names]
  return [m for m in found if m.startswith("sitrain.")]


def rank(path):
  first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
  is_main = str(path.relative_to(PACKAGE)) in MAINS
  return ORDER.index("main" if is_main else first)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_point_upward(path):
  if path == PACKAGE / "__init__.py":
    return
  for module in imported(path):
    package = module.split(".")[1]
    if package == "configs":
      continue
    assert ORDER.index(package) <= rank(path), f"{name(path)}: {module}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_and_functions_are_short(path):
  lines = len(path.read_text().splitlines())
  assert lines <= 250, f"{name(path)} has {lines} lines"
  if path.parent.name == "methods" and path.stem not in ("verbs", "reinforce"):
    assert lines <= 80, f"{name(path)} has {lines} lines"
  for node in ast.walk(tree_of(path)):
    if isinstance(node, ast.FunctionDef):
      body = node.body
      if ast.get_docstring(node) and len(body) > 1:
        body = body[1:]
      size = body[-1].end_lineno - body[0].lineno + 1
      assert size <= 40, f"{name(path)}: {node.name} has {size} lines"


def depth_of(node):
  inner = [
    child for child in ast.walk(node)
    if child is not node and isinstance(child, ast.FunctionDef)
  ]
  return 1 + max([depth_of(child) for child in inner], default=0)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_functions_nest_two_deep_at_most(path):
  for node in tree_of(path).body:
    if isinstance(node, ast.FunctionDef):
      assert depth_of(node) <= 2, f"{name(path)}: {node.name}"


@pytest.mark.parametrize("path", BELOW, ids=name)
def test_nothing_below_the_mains_touches_the_machine(path):
  for node in ast.walk(tree_of(path)):
    if isinstance(node, ast.Call):
      text = ast.unparse(node.func)
      banned = ("print", "open", "jax.jit", "jit", "input")
      assert text not in banned, f"{name(path)}:{node.lineno} {text}"
      assert "debug.callback" not in text
    if isinstance(node, (ast.Import, ast.ImportFrom)):
      names = [alias.name for alias in node.names]
      names.append(getattr(node, "module", None) or "")
      for banned in ("time", "datetime", "ml_collections", "absl", "os"):
        assert banned not in names, f"{name(path)} imports {banned}"
      assert not any(n.startswith("sitrain.runtime") for n in names)


@pytest.mark.parametrize(
  "path", sorted((PACKAGE / "losses").glob("*.py")), ids=name
)
def test_losses_are_reduced_in_one_place(path):
  text = path.read_text()
  assert ".mean(" not in text, f"{name(path)}: use losses.reduce"


def classes(path):
  return [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.ClassDef)]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_classes_hold_data_only(path):
  for node in classes(path):
    bases = [ast.unparse(base) for base in node.bases]
    if any(base in ("nn.Module", "ValueError", "OSError") for base in bases):
      continue
    assert bases == ["NamedTuple"], f"{name(path)}: class {node.name}"
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    assert not methods, f"{name(path)}: {node.name} has behaviour"


def public_functions(path):
  return [
    n for n in tree_of(path).body
    if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")
  ]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_what_is_public_is_documented(path):
  assert path.stat().st_size == 0 or ast.get_docstring(tree_of(path))
  for node in public_functions(path) + classes(path):
    if not node.name.startswith("_"):
      assert ast.get_docstring(node), f"{name(path)}: {node.name}"


def test_no_file_of_the_project_names_a_machine():
  words = ("/work" + "/", "/home" + "/", "index" + "-url", "extra" + "-index")
  suffixes = (".py", ".md", ".cfg", ".toml", ".ipynb", ".sh", "")
  skipped = (".git", ".venv", "__pycache__", ".ruff_cache", ".pytest_cache")
  for path in ROOT.rglob("*"):
    parts = path.relative_to(ROOT).parts
    if not path.is_file() or any(p in skipped for p in parts):
      continue
    if path.suffix in suffixes and ".egg-info" not in str(path):
      text = path.read_text(errors="ignore")
      for word in words:
        assert word not in text, f"{name(path)} names {word}"
