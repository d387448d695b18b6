"""The task of a run, and the tokenizer if its problems are text."""

import importlib
import inspect
import json
import logging
import math
import tempfile
from collections.abc import Callable

from etils import epath

from sitrain.models.huggingface import (
  end_tokens,
  families,
  tokenizer,
  weights,
)
from sitrain.runtime import environments, own
from sitrain.runtime.options import ConfigError, accepted, call, find
from sitrain.tasks.own_functions import defined_at, is_own
from sitrain.tasks.text import lengths
from sitrain.types import PAD, Chat, Task

_LOG = logging.getLogger("sitrain")


def task_from(config: dict, workdir: str = "", *, part: str = "") -> Task:
  """The task that config.task names.

  `part` names a part of the config whose own `task` changes some options, such
  as "evaluate". A tokenizer that is trained is kept in the workdir. A task of a
  user's own file is tried once.
  """
  changed = part and config[part].get("task", {})
  return _task(config, f"{part}.task" if changed else "task", part, workdir)


def _task(config: dict, field: str, part: str, workdir: str) -> Task:
  options, extra = environments.options_of_task(
    options_of(config, part), field
  )
  maker = find("tasks", options.pop("name"), "task.name")
  chat = _chat_from(config, maker, workdir) if _takes_chat(maker) else None
  task = call(maker, field, options, *([chat] if chat else []))
  if not isinstance(task, Task):
    raise ConfigError(
      f"config.{field}.name={options_of(config, part)['name']!r} returns a"
      f" {type(task).__name__}: return a sitrain.types.Task"
    )
  if is_own(maker):
    task = own.own_task(task, field)
  if not extra.environment:
    return task
  return environments.attach(task, extra, field, chat)


def reads_text(config: dict) -> bool:
  """Whether the problems of config.task are text, which needs a tokenizer."""
  return _takes_chat(find("tasks", config["task"]["name"], "task.name"))


def chat_of(config: dict, workdir: str) -> Chat:
  """The tokenizer and chat template of a config whose task `reads_text`."""
  maker = find("tasks", config["task"]["name"], "task.name")
  return _chat_from(config, maker, workdir)


def _takes_chat(maker: Callable) -> bool:
  return "chat" in inspect.signature(maker).parameters


def task_of_stage(
  config: dict, field: str, changed: dict, workdir: str
) -> Task:
  """The task of config.`field`.task: config.task with other options.

  A task of another name gets no options of config.task. Raises ConfigError.
  """
  options = config["task"]
  other = changed.get("name", options["name"]) != options["name"]
  config = config | {"task": changed if other else options | changed}
  try:
    return _task(config, f"{field}.task", "", workdir)
  except ConfigError as error:
    line = str(error).replace("config.task", f"config.{field}.task", 1)
    raise ConfigError(line) from error


def options_of(config: dict, part: str = "") -> dict:
  """The options of the task, with the changes of a part of the config."""
  changed = config[part].get("task", {}) if part else {}
  return dict(config["task"]) | changed


def check_role_tokens(config: dict, workdir: str = "") -> None:
  """Raises ConfigError for a role's model that reads other tokens than the run.

  Its scores and log-probabilities would be those of other texts. A folder
  without a tokenizer is taken to have that of the run, with a warning. One that
  the run trains is in the workdir by now.
  """
  own = config.get("tokenizer", {}).get("path", "")
  own = own or config["model"].get("path", "")
  if not own and workdir:
    trained = epath.Path(workdir) / "tokenizer"
    own = str(trained) if tokenizer.is_trained(trained) else ""
  for name, role in config.get("roles", {}).items():
    path = role.get("path", "")
    if not path or not own or path == own or not reads_text(config):
      continue
    where = f"config.roles.{name}.path={path}"
    if not tokenizer.is_there(weights.locate(path)):
      _LOG.warning("%s has no tokenizer: it reads that of the run", where)
    elif token := tokenizer.other_token(own, path):
      raise ConfigError(
        f"{where} has another tokenizer than the run: {token!r} has another id"
        " there, or none: give a model of the same tokens"
      )


def write_tokenizer(
  config: dict, folder: epath.Path, output: epath.Path
) -> list[str]:
  """Writes the tokenizer of the run, if it has one; returns its file names.

  Chat template and end tokens are those of the run, even if its config has
  other ones than the tokenizer.
  """
  options = config.get("tokenizer", {})
  path = options.get("path", "") or config["model"].get("path", "")
  if not path and not (folder / "tokenizer").exists():
    return []
  names = tokenizer.copy(
    path or folder / "tokenizer", output,
    template=options.get("template", ""),
    thinking=options.get("thinking", "default"),
  )
  if reads_text(config):
    names += end_tokens.write(output, chat_of(config, str(folder)).eos)
  return sorted(set(names))


def _chat_from(config: dict, maker: Callable, workdir: str) -> Chat:
  """The tokenizer of config.tokenizer, else that of config.model.path.

  Without both, a tokenizer of config.tokenizer.size is trained on the texts of
  the task, once, and saved in the workdir; for workdir "" it is not saved.
  """
  options = {"path": "", "size": 0} | config.get("tokenizer", {})
  path, size = options.pop("path"), options.pop("size")
  model = config["model"].get("path", "")
  path = path or model
  if path:
    return call(tokenizer.load, "tokenizer", options, path, model)
  if not size:
    raise ConfigError(
      "config.tokenizer: this task needs one: set config.model.path, "
      "config.tokenizer.path, or config.tokenizer.size to train it"
    )
  if workdir:
    folder = _trained(config, maker, epath.Path(workdir), size)
    return call(tokenizer.load, "tokenizer", options, folder)
  with tempfile.TemporaryDirectory() as folder:
    tokenizer.train_bpe(_texts(config, maker), folder, size=size)
    return call(tokenizer.load, "tokenizer", options, folder)


def _trained(
  config: dict, maker: Callable, workdir: epath.Path, size: int
) -> epath.Path:
  """The folder of the workdir's own tokenizer, which is trained if missing.

  A command that failed before its first step may have left a tokenizer of
  another config; a run that has begun keeps its own.
  """
  folder = workdir / "tokenizer"
  source = json.dumps({"size": size, "task": config["task"]}, sort_keys=True)
  record = folder / "trained_on.json"
  begun = (workdir / "metrics.jsonl").exists()
  same = begun or (record.exists() and record.read_text() == source)
  if not (same and tokenizer.is_trained(folder)):
    tokenizer.train_bpe(_texts(config, maker), folder, size=size)
    record.write_text(source)
  return folder


def _texts(config: dict, maker: Callable) -> list[str]:
  """All texts in the rows of the task, and the text between attempts."""
  module = importlib.import_module(maker.__module__)
  if not hasattr(module, "rows"):
    raise ConfigError(
      f"config.tokenizer.size: {defined_at(maker)}: its file has no function "
      "rows, whose texts a tokenizer could be trained on: write it, or set "
      "config.tokenizer.path"
    )
  known, given = accepted(module.rows), config["task"]
  rows = call(module.rows, "task", {n: given[n] for n in known if n in given})
  options = accepted(maker)
  again = options["again"].default if "again" in options else ""
  again = given.get("again", again)
  return [
    text for row in rows for text in (row.message, *row.solutions, again)
  ]


def describe(task: Task) -> str:
  """How many problems a table has, and how long they are; "" without one."""
  if task.table == ():
    return ""
  prompt = lengths((task.table.prompt != PAD).sum(axis=1))
  text = (
    f"{prompt.count} problems; prompts of {prompt.median} tokens (median), "
    f"{prompt.most} (95 %), {prompt.longest} (longest)"
  )
  given = (task.table.solution != PAD).sum(axis=1)
  if given.any():
    turns = lengths(given[given > 0])
    text += (
      f"; given solutions of {turns.median}, {turns.most}, {turns.longest}"
    )
  return text


def context_of(config: dict) -> float | int:
  """The tokens that a model reads at the most; only a checkpoint says so."""
  path = config["model"].get("path", "")
  if not path:
    return math.inf
  known = families.text_config(weights.read_config(weights.locate(path)))
  return known.get("max_position_embeddings", math.inf)


def check_context(config: dict, field: str, task: Task, columns: int) -> None:
  """Raises ConfigError if dialogues exceed the context of the model.

  `columns` is the most tokens after a prompt, by config.`field`. Only models
  from a checkpoint have a limit (max_position_embeddings).
  """
  path, most = config["model"].get("path", ""), context_of(config)
  if task.table == () or math.isinf(most):
    return
  prompt = lengths((task.table.prompt != PAD).sum(axis=1)).longest
  if prompt + columns > most:
    raise ConfigError(
      f"config.{field} and prompts of up to {prompt} tokens make dialogues of "
      f"{prompt + columns}, and {path} reads {most}: lower turns, or "
      "config.task.prompt_length"
    )
