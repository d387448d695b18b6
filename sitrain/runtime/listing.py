"""Lists the fields of a config with all defaults, and all options."""

import inspect
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from sitrain.models.decoder import Decoder
from sitrain.models.huggingface import tokenizer
from sitrain.runtime import (
  adapters,
  checks,
  config_files,
  fields,
  optimizer,
  stopping,
  written,
)
from sitrain.runtime.options import (
  accepted,
  find,
  makers,
  not_installed,
  takes_functions,
)

WIDTH = 80


def resolved(config: dict) -> dict:
  """A checked config with the defaults of everything that it names.

  Values that depend on data or a tokenizer, such as the vocabulary, are left
  out, and so are stages that are not run.
  """
  task = find("tasks", config["task"]["name"], "task.name")
  found = dict(config)
  found["task"] = config["task"] | _defaults(task) | config["task"]
  found["evaluate"] = _of(checks.evaluation_options()) | config["evaluate"]
  found["model"] = _model(config["model"])
  found["roles"] = {
    name: fields.ROLE | role for name, role in config.get("roles", {}).items()
  }
  if "chat" in inspect.signature(task).parameters:
    own = {"path": "", "size": 0} | _defaults(tokenizer.load)
    found["tokenizer"] = own | config.get("tokenizer", {})
  found["stage"] = {
    name: _stage(name, config["stage"][name]) for name in config["stages"]
  }
  return found


def _stage(name: str, given: dict) -> dict:
  stage = fields.STAGE | given
  method = stage["method"]
  maker = find("methods", method["name"], f"stage.{name}.method.name")
  stage["method"] = method | _defaults(maker) | method
  if not stage["writes"]:
    updates = stage["steps"] * stage["minibatches"] * stage["epochs"]
    own = _defaults(optimizer.make) | {"steps": updates}
    stage["optimizer"] = own | stage["optimizer"]
  until = {"name": "never"} | stage["until"]
  stage["until"] = until | _of(stopping.options(until["name"])) | until
  if stage["table"]:
    stage["table"] = _defaults(written.table_of) | stage["table"]
  return stage


def _model(given: dict) -> dict:
  path = given.get("path", "")
  own = {
    name: Decoder.__dataclass_fields__[name].default
    for name in checks.model_fields(path) if name != "vocabulary"
  } | {"dtype": "float32"}
  own = {n: v._asdict() if hasattr(v, "_asdict") else v for n, v in own.items()}
  if path:
    own["lora"] = adapters.settings_of(given)._asdict()
  return given | own | {n: v for n, v in given.items() if n != "lora"}


def _defaults(function: Callable) -> dict[str, Any]:
  return _of(accepted(function))


def _of(options: dict[str, inspect.Parameter]) -> dict[str, Any]:
  return {
    name: one.default for name, one in options.items()
    if one.default is not one.empty
  }


def shown(config: dict, given: dict) -> list[str]:
  """A resolved config as lines of Python for a get_config function.

  `given` is the unresolved config: dicts that it lacks are set in one line.
  """
  return list(_lines("config", config, given))


def _lines(field: str, tree: dict, given: dict) -> Iterator[str]:
  for name, value in tree.items():
    inner = f"{field}.{name}"
    if isinstance(value, dict) and value and name in given:
      yield from _lines(inner, value, given[name])
    else:
      yield f"{inner} = {_literal(value)}"


def _literal(value: Any) -> str:
  """A value as Python reads it."""
  if isinstance(value, dict):
    inside = (f"{name!r}: {_literal(x)}" for name, x in value.items())
    return "{" + ", ".join(inside) + "}"
  if isinstance(value, (tuple, list)):
    inside = ", ".join(map(_literal, value))
    return f"({inside},)" if len(value) == 1 else f"({inside})"
  if isinstance(value, float) and not math.isfinite(value):
    return f'float("{value}")'
  return repr(value)


def listed() -> list[str]:
  """All configs, methods, tasks and options, with types and defaults."""
  lines = ["Configs: --config=NAME", ""]
  about = config_files.abouts()
  lines += [f"  {name}: {line}" for name, line in about.items()]
  if why := config_files.uninstalled():
    lines.append(f"  {why}")
  lines.append("")
  for title, package in (
    ("Methods: config.stage.NAME.method", "methods"),
    ("Tasks: config.task", "tasks"),
  ):
    lines += [title, ""]
    for name, maker in makers(package).items():
      if not takes_functions(maker):
        lines += [*_listed(f"name={name}", maker), ""]
    for name, why in not_installed(package).items():
      lines += [f"  name={name}", f"    {why}", ""]
  for title, maker in (
    ("Optimizers: config.stage.NAME.optimizer", optimizer.make),
    ("Written tables: config.stage.NAME.table", written.table_of),
    ("Adapters: config.model.lora", adapters.settings),
    ("Tokenizers: config.tokenizer, with path or size", tokenizer.load),
  ):
    lines += [title, "", *_listed("", maker), ""]
  lines += ["Stages: config.stage.NAME", ""]
  lines += [f"  {n} = {_literal(v)}" for n, v in fields.STAGE.items()]
  lines += ["", "Evaluation: config.evaluate", ""]
  options = checks.evaluation_options()
  lines += [_option(name, one, "") for name, one in options.items()]
  lines += ["", "Models: config.model, with path for one of the hub", ""]
  lines += [
    f"  {name}: {_type(one.type)}"
    for name, one in Decoder.__dataclass_fields__.items()
    if name in checks.model_fields("")
  ]
  return lines


def _listed(name: str, maker: Callable) -> list[str]:
  about = described(maker)
  first = (inspect.getdoc(maker) or "").splitlines()[:1]
  if maker.__name__ == "make" and name:
    first = [inspect.getmodule(maker).__doc__.splitlines()[0], *first]
  head = [f"  {name}"] if name else []
  return head + [f"    {line}" for line in first] + [
    _option(option, one, about.get(option, ""))
    for option, one in accepted(maker).items()
  ]


def _option(name: str, one: inspect.Parameter, about: str) -> str:
  default = " (to be set)"
  if one.default is not one.empty:
    default = f" = {_literal(one.default)}"
    default = default if len(default) < WIDTH // 2 else " = '...'"
  line = f"    {name}: {_type(one.annotation)}{default}"
  return f"{line}  # {about}" if about else line


def _type(kind: Any) -> str:
  text = kind.__name__ if inspect.isclass(kind) else str(kind)
  return re.sub(r"\w+\.", "", text)


def described(maker: Callable) -> dict[str, str]:
  """Option -> its description in the docstring, including forwarded options."""
  found = {}
  if hasattr(maker, "forwards"):
    found = described(maker.forwards[0])
  text = (inspect.getdoc(maker) or "").partition("Args:\n")[2]
  text = text.partition("\n\n")[0]
  entry = r"^  ([a-z][\w, ]*): (.*(?:\n    .*)*)"
  for names, about in re.findall(entry, text, re.MULTILINE):
    for name in names.split(", "):
      found[name] = " ".join(about.split())
  return found
