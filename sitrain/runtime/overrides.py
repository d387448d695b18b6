"""The flag --config, and --config.FIELD=VALUE behind it."""

import os
import re
from typing import Any

from absl import flags
from ml_collections import config_flags

from sitrain.runtime.options import ConfigError, closest

# Here every name is an option of a function, or refused by who reads it: a flag
# may give one that the config file does not name.
_OPEN = re.compile(
  r"config\.(task|model|evaluate(\.task)?|roles\.\w+|"
  r"stage\.\w+(\.(method|optimizer|held|task|table))?)"
)


def define(about: str, **more: Any) -> flags.FlagHolder:
  """The flag --config of a main; `more` as of DEFINE_config_file."""
  return config_flags.DEFINE_config_file(
    "config", None, about, lock_config=False, accept_new_attributes=True, **more
  )


def parse(
  words: list[str], known: flags.FlagValues = flags.FLAGS
) -> list[str]:
  """Reads a command line; what is no flag is left.

  Raises ConfigError for a --config without its file, and for the first
  --config.a.b=1 that nothing will read.
  """
  spec = _spec(words)
  file = spec.partition(":")[0]
  if spec and not os.path.isfile(file):
    raise ConfigError(f"--config={spec}: there is no file {file}")
  try:
    left = known(words)
  except (AttributeError, KeyError):
    # ml_collections names the last part of a field that is not there.
    _check(words, spec, known)
    raise
  _check(words, spec, known)
  return left


def _spec(words: list[str]) -> str:
  """What --config says, or "" where it is not given."""
  for word, after in zip(words, [*words[1:], ""]):
    name, equals, value = word.partition("=")
    if name in ("--config", "-config"):
      return value if equals else after
  return ""


def _check(words: list[str], spec: str, known: flags.FlagValues) -> None:
  names = [word.partition("=")[0].lstrip("-") for word in words]
  names = [name for name in names if name.startswith("config.")]
  if names and spec and "config" in known:
    config = known["config"].parser.parse(spec)
    for name in names:
      _check_field(config, name)


def _check_field(config: Any, name: str) -> None:
  at, (*parents, last) = config, name.split(".")
  for part in (*parents[1:], last):
    known = list(at) if hasattr(at, "items") else []
    if part in known:
      at = at[part]
    elif part is last and _OPEN.fullmatch(".".join(parents)):
      return
    else:
      raise ConfigError(f"--{name}: no such field: {closest(part, known)}")
