"""The flags --config and --config.FIELD=VALUE."""

import logging
import os
import re
import traceback
from typing import Any

from absl import flags
from ml_collections import config_flags

from sitrain.runtime import (
  config_files,
  environments,
  fields,
  follow,
  unknown,
)
from sitrain.runtime.options import ConfigError, accepted, closest, find

# Here names are options of functions, which check them. So a flag may set one
# that the config file does not have.
_OPEN = re.compile(
  r"config\.(task|model(\.lora)?|tokenizer|evaluate(\.task)?|roles\.\w+|"
  r"stage\.\w+(\.(method|optimizer|held|task|table|until))?)"
)
# Those that a config file may leave out.
_GROUPS = re.compile(
  r"evaluate\.task|tokenizer|model\.lora|roles(\.\w+)?|"
  r"stage\.\w+\.(optimizer|held|task|table|until)"
)
# Messages of parsers, and what to tell the user.
_ILLEGAL = (
  ("invalid literal for int()", "give an int, a whole number"),
  ("could not convert string to float", "give a number"),
  ("Non-boolean argument", "give True or False"),
  ("Error while parsing string", "give a list, such as (5, 5) or ('a', 'b')"),
  ("as a ConfigDict", "it has fields of its own: set those, one flag for each"),
)


def define(about: str, **more: Any) -> flags.FlagHolder:
  """The flag --config of a main; `more` is passed to DEFINE_config_file."""
  return config_flags.DEFINE_config_file(
    "config", None, about, lock_config=False, accept_new_attributes=True, **more
  )


def parse(
  words: list[str], known: flags.FlagValues = flags.FLAGS,
  *, takes_arguments: bool = False, argument: str = "",
) -> list[str]:
  """Parses a command line; returns its first word, the program.

  --config may come after its fields. Also sets fields that follow from the
  given ones (follow.py). A word that is no flag is the value of the flag
  `argument`, if that is not given. Raises ConfigError if --config is not a
  config file, for the first --config.a.b=1 that nothing reads, for values of
  another type, and for other words that are no flags, unless `takes_arguments`.
  """
  _put_config_first(words)
  spec = _spec(words)
  given = _given(words)
  if "config" not in known:
    spec, given = "", []
  if "config" in known and {"--config=", "-config="} & {*words}:
    raise ConfigError("--config is empty: say which, as --config=quickstart")
  if given and not spec:
    near = unknown.like(given[0], unknown.names(known))
    raise ConfigError(
      f"--{given[0]}: --config is missing: say which, as --config=quickstart"
      + "".join(f"; or did you mean {flag}=...?" for flag in near)
    )
  if spec:
    _add_groups(known["config"].parser, given)
    kept = follow.keep(config_files.located(spec), given)
    words = _replaced(words, spec, kept)
    default = _read(kept, known, spec)
  try:
    left = known(words)
  except flags.UnrecognizedFlagError as error:
    config = _resolved(default) if spec else None
    raise ConfigError(
      unknown.flag(error.flagname, words, known, config)
    ) from error
  except flags.Error as error:
    raise ConfigError(_illegal(str(error))) from error
  except (AttributeError, KeyError):
    # ml_collections names only the last part of a missing field.
    for name in given:
      _check_field(default, name)
    raise
  if left[1:] and argument and not known[argument].present:
    _check_path(left[1], words, known)
    setattr(known, argument, left.pop(1))
  if left[1:] and not takes_arguments:
    config = _resolved(default) if spec else None
    raise ConfigError(unknown.argument(left[1], words, known, config))
  for name in given:
    _check_field(default, name)
    _check_place(default, name)
  if spec:
    follow.settle(known["config"].value, default, given)
    if is_quick(words):
      _check_kept(known, spec, given)
  return left


def _check_path(
  word: str, words: list[str], known: flags.FlagValues
) -> None:
  """Raises ConfigError for a word that is meant as a flag, not as a path."""
  if os.sep in word or os.path.exists(word):
    return
  if meant := unknown.meant(word, words, known):
    raise ConfigError(meant)


def _add_groups(parser: Any, given: list[str]) -> None:
  """Lets a parser add the groups of the given fields that a config lacks.

  As config.evaluate.task for --config.evaluate.task.name=chain: the group may
  be left out of a config file, and is checked later.
  """
  plain = getattr(parser, "plain", parser.parse)

  def parse(path: str) -> Any:
    config = plain(path)
    for name in given if hasattr(config, "to_dict") else ():
      _add_group(config, name)
    return config

  parser.plain, parser.parse = plain, parse


def _add_group(config: Any, name: str) -> None:
  at, path = config, ""
  for part in name.split(".")[1:-1]:
    path = f"{path}.{part}".lstrip(".")
    if part not in at and _GROUPS.fullmatch(path):
      with at.unlocked():
        at[part] = type(at)()
    if not hasattr(at.get(part), "unlocked"):
      return
    at = at[part]


def is_quick(words: list[str]) -> bool:
  """Whether a command line asks for the quick variant of a config."""
  return "quick" in _spec(words).partition(":")[2].split(",")


def _check_kept(
  known: flags.FlagValues, spec: str, given: list[str]
) -> None:
  """Raises ConfigError for an option of a task that `quick` has replaced."""
  name = known["config"].value.get("task", {}).get("name", "")
  try:
    options = accepted(find("tasks", name, "task.name"))
  except ValueError:  # It is refused later, with its field.
    return
  options = {"name", *options, *environments.Options._fields}
  file = config_files.located(spec).partition(":")[0]
  for field in given:
    parent, _, last = field.rpartition(".")
    if parent == "config.task" and last not in options:
      if _read(file, known, spec).task.get("name", "") != name:
        raise ConfigError(
          f"--{field}: a quick run has the small task {name!r}, which has no"
          " such option; --config.task.source=... keeps the task of the config"
        )


def _resolved(config: Any) -> dict:
  """A config with the defaults of what it names, if it is right so far."""
  from sitrain.runtime import listing  # Only here: it loads all methods' parts.

  plain = config.to_dict()
  try:
    return listing.resolved(plain)
  except Exception:  # noqa: BLE001  The config may lack anything.
    return plain


def _spec(words: list[str]) -> str:
  """The value of --config, or "" if it is not given."""
  for word, after in zip(words, [*words[1:], ""]):
    name, equals, value = word.partition("=")
    if name in ("--config", "-config"):
      return value if equals else after
  return ""


def _put_config_first(words: list[str]) -> None:
  """Moves --config before its fields, where ml_collections wants it.

  In place: its flag reads sys.argv itself.
  """
  for i, word in enumerate(words):
    name, equals, _ = word.partition("=")
    if name in ("--config", "-config"):
      end = i + 1 if equals else i + 2
      words[:end] = [*words[:1], *words[i:end], *words[1:i]]
      return


def _replaced(words: list[str], old: str, new: str) -> list[str]:
  """The words with another value of --config."""
  return [
    new if word == old and before in ("--config", "-config")
    else re.sub(r"^(--?config=).*", lambda found: found[1] + new, word)
    for before, word in zip(["", *words], words)
  ]


def _given(words: list[str]) -> list[str]:
  """The names of the given fields, as config.a.b."""
  names = [word.partition("=")[0].lstrip("-") for word in words]
  return [name for name in names if name.startswith("config.")]


def _read(path: str, known: flags.FlagValues, spec: str) -> Any:
  """The config of PATH:ARGUMENT without overrides.

  Raises ConfigError in one line that names `spec`, which the user has given.
  """
  file = path.partition(":")[0]
  log = logging.getLogger("absl")
  level = log.level
  log.setLevel(logging.ERROR)  # It warns about errors that are raised below.
  try:
    config = known["config"].parser.parse(path)
  except Exception as error:
    raise ConfigError(f"--config={spec}: {_why(error, file)}") from error
  finally:
    log.setLevel(level)
  if not hasattr(config, "to_dict"):
    raise ConfigError(
      f"--config={spec}: its get_config returns a {type(config).__name__}:"
      " return an ml_collections.ConfigDict"
    )
  return config


def _why(error: Exception, file: str) -> str:
  """The error of a config file, with its line."""
  if getattr(error, "name", "") == "sitrain.configs":
    if tell := config_files.uninstalled():
      return tell
  if "has no attribute 'get_config'" in str(error):
    return "it has no function get_config(argument): add it"
  if isinstance(error, ValueError):
    return str(error)
  lines = [
    frame.lineno for frame in traceback.extract_tb(error.__traceback__)
    if os.path.basename(frame.filename) == os.path.basename(file)
  ]
  line = getattr(error, "lineno", None) or (lines[-1] if lines else "")
  where = f"line {line} raises " if line else ""
  return f"{where}{type(error).__name__}: {error}"


def _illegal(text: str) -> str:
  """The message of a flag's parser, reworded for the user."""
  if text.startswith("Missing value for flag "):
    flag = text.removeprefix("Missing value for flag ")
    return f"{flag} has no value: give it one, as {flag}=VALUE"
  flag, _, why = text.removeprefix("flag ").partition(": ")
  fix = next((fix for part, fix in _ILLEGAL if part in why), why)
  return f"{flag}: {fix}"


def _check_field(config: Any, name: str) -> None:
  at, (*parents, last) = config, name.split(".")
  for part in (*parents[1:], last):
    known = list(at) if hasattr(at, "items") else []
    if part in known:
      at = at[part]
    elif part is last and _OPEN.fullmatch(".".join(parents)):
      return
    else:
      near = part is last and unknown.elsewhere(name, _fields(config))
      near = f"did you mean {near}?" if near else closest(part, known)
      raise ConfigError(f"--{name}: no such field: {near}")


def _check_place(config: Any, name: str) -> None:
  """Raises ConfigError for an option of a stage's parts, given to the stage.

  As config.stage.NAME.learning_rate, which is its optimizer's.
  """
  parent, _, last = name.rpartition(".")
  if re.fullmatch(r"config\.stage\.\w+", parent) and last not in fields.STAGE:
    below = [x for x in _fields(config) if x.startswith(f"{parent}.")]
    if near := unknown.elsewhere(name, below):
      raise ConfigError(f"--{name}: no such field: did you mean {near}?")


def _fields(config: Any) -> list[str]:
  return list(unknown.paths(_resolved(config)))
