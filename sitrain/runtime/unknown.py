"""What is said of a word of the command line that is no flag, and of a gap.

Most who write --steps=2 mean a field of the config, as
--config.stage.base.steps=2, or have misspelt a flag.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from absl import flags

from sitrain.runtime import config_files

MOST = 3  # fields that are named
LIKE = 0.7  # of difflib: 1 is equal


def names(known: flags.FlagValues) -> list[str]:
  """The flags of a main: not those of libraries, nor fields of the config."""
  return sorted(
    flag.name for module, own in known.flags_by_module_dict().items()
    if not module.startswith(("absl.", "orbax.")) for flag in own
    if not flag.name.startswith("config.")
  )


def flag(
  name: str, words: Sequence[str], known: flags.FlagValues, config: Any = None
) -> str:
  """The line about a flag that there is not, with those that may be meant.

  `words` are the command line, and `config` is what --config names, as dicts;
  None without one.
  """
  name = name.lstrip("-")
  own, fields = names(known), list(paths(config or {}))
  meant = like(name, own, fields, _value(name, words))
  line = f"--{name} is no flag of this command"
  if meant:
    return f"{line}: did you mean {_either(meant)}?"
  if "config" in own and config is None:
    return (
      f"{line}: --help prints them; fields of a config are given as"
      " --config=NAME --config.FIELD=VALUE"
    )
  if name.startswith("config") and "workdir" in own:
    return f"{line}: leave it out; the config is that of --workdir"
  if "show" in own:
    return f"{line}: --show prints the fields of the config, --help the flags"
  return f"{line}: --help prints those that there are"


def argument(
  word: str, words: Sequence[str], known: flags.FlagValues, config: Any = None
) -> str:
  """The line about a word that belongs to no flag; arguments as of `flag`."""
  return meant(word, words, known, config) or (
    f"unknown argument {word!r}: flags are given as --NAME=VALUE; --help prints"
    " them"
  )


def meant(
  word: str, words: Sequence[str], known: flags.FlagValues, config: Any = None
) -> str:
  """The line about a word that is meant as a flag; "" for any other."""
  own = names(known)
  name, equals, _ = word.partition("=")
  config_name = word.partition(":")[0] in config_files.names()
  if "config" in own and config is None and config_name:
    return f"{word!r} is no flag: did you mean --config={word}?"
  if equals and (name.startswith("config.") or name in own):
    return f"{word!r} is no flag: did you mean --{word}?"
  if equals:
    return flag(name, [f"--{word}"], known, config)
  before = dict(zip(words[1:], words)).get(word, "")
  of = before.lstrip("-")
  if before != of and of in known and known[of].boolean:
    return f"{before} {word}: it takes no value; give {before} or --no{of}"
  return ""


def like(
  name: str, own: Sequence[str], fields: Sequence[str] = (), value: str = ""
) -> list[str]:
  """Flags of a main and fields of its config that are like a name.

  With the value that was given. Equal names first, then groups (task for
  config.task.name), then initials (lr), then similar names.
  """
  last = name.rpartition(".")[2]
  if last in own:
    return [f"--{last}{value}"]
  fields = sorted(fields, key=lambda field: field.count("."))
  lasts = {field: field.rpartition(".")[2] for field in fields}
  near = difflib.get_close_matches(
    last, sorted({*own, *lasts.values()}), n=1, cutoff=LIKE
  )
  below = [x for x in fields if x.rpartition(".")[0].endswith(f".{name}")]
  for found, given in (
    ([x for x in fields if x.endswith(
      (f".{name}", f".{name}.name", f".{name}.path")
    )], value),
    ([x for x in fields if _initials(lasts[x]) == name], value),
    (below, "=..."),
    ([x for x in own if x in near], value),
    ([x for x in own if x in name.split("_")], value),
    ([x for x in fields if lasts[x] in near], value),
    ([x for x in fields if lasts[x] in name.split("_")], value),
  ):
    if found:
      return [f"--{one}{given}" for one in found[:MOST]]
  return []


def _initials(name: str) -> str:
  """The initials of a name of several words; "" of one word."""
  return "".join(word[:1] for word in name.split("_")) if "_" in name else ""


def paths(tree: dict, field: str = "config") -> Iterator[str]:
  """The dotted names of all fields that hold a value, in order."""
  for name, value in tree.items():
    inner = f"{field}.{name}"
    if isinstance(value, dict):
      yield from paths(value, inner)
    else:
      yield inner


def elsewhere(name: str, fields: Sequence[str]) -> str:
  """The fields of a config with the last name of one that there is not.

  As flags; "" if there is none. Those near to it come first.
  """
  parent, _, last = name.rpartition(".")
  fields = sorted(fields, key=lambda field: field.count("."))
  found = [field for field in fields if field.endswith(f".{last}")]
  near = [field for field in found if field.startswith(f"{parent}.")]
  return _either([f"--{field}" for field in (near or found)[:MOST]])


def _value(name: str, words: Iterable[str]) -> str:
  """"=VALUE" as it was given; "" if it was not."""
  for word in words:
    given, equals, value = word.partition("=")
    if given.lstrip("-") == name and equals:
      return f"={value}"
  return ""


def _either(words: Sequence[str]) -> str:
  *first, last = words or [""]
  return f"{', '.join(first)} or {last}" if first else last
