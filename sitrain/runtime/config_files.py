"""Finds config files: --config=quickstart:quick names one of the package."""

import difflib
import importlib.util
import os
import pathlib

from sitrain.runtime.options import ConfigError


def is_name(file: str) -> bool:
  """Whether FILE of --config=FILE:ARGUMENT is a name, and no path."""
  return bool(file) and "/" not in file and not file.endswith(".py")


def names() -> list[str]:
  """The configs of the package: the files that have a get_config."""
  return sorted(path.stem for path in _folder().glob("*.py") if _has(path))


def abouts() -> dict[str, str]:
  """name -> what it is, the first line of its docstring."""
  first = lambda name: (_folder() / f"{name}.py").open().readline()
  return {name: first(name).strip().strip('"') for name in names()}


def uninstalled() -> str:
  """What to do in a source tree that is not installed, or ""."""
  if names():
    return ""
  return (
    "sitrain is not installed, so its configs are not found: run pip install"
    f" -e '.[train]' in {pathlib.Path(__file__).parents[2]}"
  )


def located(spec: str) -> str:
  """PATH:ARGUMENT, where NAME:ARGUMENT may have been given.

  Raises ConfigError for a folder, and for what there is not, with similar
  names.
  """
  if spec.startswith("~"):  # A shell does not expand it after a "=".
    spec = os.path.expanduser(spec)
  file, colon, argument = spec.partition(":")
  if is_name(file) and file in names():
    return f"{_folder() / file}.py{colon}{argument}"
  if os.path.isdir(file):
    raise ConfigError(f"--config={file} is a folder{_of_folder(file)}")
  if not os.path.isfile(file):
    raise ConfigError(f"--config={spec}: {_missing(file)}")
  return spec


def _has(path: pathlib.Path) -> bool:
  """Whether a file has a get_config."""
  return "\ndef get_config(" in "\n" + path.read_text(errors="replace")


def _of_folder(folder: str) -> str:
  """What to give in the place of a folder, for a sentence that names it."""
  place = pathlib.Path(folder)
  if (place / "config.json").exists():
    return (
      " with a run: name the config that it began with, as"
      f" --config=quickstart --workdir={folder}"
    )
  found = sorted(str(path) for path in place.glob("*.py") if _has(path))
  first = [path for path in found if path.endswith("quickstart.py")]
  if not found:
    return " without a config: give a file or a name, as --config=quickstart"
  return f": name a file in it, as --config={(first or found)[0]}"


def _folder() -> pathlib.Path:
  """Where sitrain.configs is, without its import."""
  spec = importlib.util.find_spec("sitrain.configs")
  if spec is None or not spec.submodule_search_locations:
    return pathlib.Path(os.devnull)  # a source tree that is not installed
  return pathlib.Path(next(iter(spec.submodule_search_locations)))


def _missing(file: str) -> str:
  """What is missing, and what may have been meant."""
  if is_name(file) and (why := uninstalled()):
    return why
  known, stem = names(), pathlib.Path(file).stem
  plain = stem.lower().replace("-", "_")
  begun = [name for name in known if plain.startswith(f"{name}_")]
  close = difflib.get_close_matches(plain, known, n=3)
  near = list(dict.fromkeys([*begun, *close]))[:3]
  if stem in known:  # A path from the top of the repository, elsewhere.
    near = [stem]
  if is_name(file) and os.path.isfile(f"{file}.py"):
    near = [f"{file}.py"]
  what = f"config {file!r}" if is_name(file) else f"file {file}"
  if near:
    similar = " or ".join(f"--config={name}" for name in near)
    return f"there is no {what}: did you mean {similar}?"
  if is_name(file):
    what += f": give a file, or one of {', '.join(known)}"
  return f"there is no {what}"
