"""Shows what a model will read of a config's task; loads no weights.

  sitrain data --config=chat \\
    --config.task.source=my.jsonl --config.model.path=FOLDER_OR_HUB_ID

Prints how many rows were read, which were dropped and why, statistics of their
lengths in tokens, and the first prompts as text with the borders of their
tokens and what is trained on. --of=evaluate shows the test problems, and --of
with the name of a stage those of a stage with a task of its own.
"""

import sitrain.runtime.early  # noqa: F401

# isort: split

import sys

from absl import flags
from rich.console import Console

from sitrain.runtime import build, fields, logs, overrides, reading_matter
from sitrain.runtime.checks import check_config
from sitrain.runtime.errors import run_main
from sitrain.runtime.options import ConfigError, closest
from sitrain.runtime.task import task_of_stage
from sitrain.types import Task

CONFIG = overrides.define(
  "The run: a name, as quickstart, or a file; with :arguments if it has any."
)
OF = flags.DEFINE_string(
  "of", "task", "task, evaluate, or a stage with a task of its own."
)
ROWS = flags.DEFINE_integer("rows", 2, "Problems to show.", lower_bound=0)
FIRST = flags.DEFINE_integer("first", 1, "First to show.", lower_bound=1)
flags.declare_key_flag("config")  # --help is to show it.
flags.DEFINE_bool("traceback", False, "Show where an error came from.")


def task_of(config: dict, part: str) -> Task:
  """The task that a part of a config names; ConfigError for another part."""
  own = {
    name: given for name, given in config["stage"].items()
    if given.get("task", {})
  }
  if part in own:
    return task_of_stage(config, f"stage.{part}", own[part]["task"], "")
  if part not in ("task", "evaluate"):
    known = ("task", "evaluate", *own)
    raise ConfigError(f"--of={part!r}: {closest(part, known)}")
  return build.task_from(config, "", part="" if part == "task" else part)


def limits_of(config: dict, part: str) -> dict[str, tuple[int, ...]]:
  """The token limits of turns by the name of their stage."""
  if part == "evaluate":
    return {"the evaluation": tuple(config["evaluate"]["turns"])}
  names = [part] if part in config["stage"] else config["stages"]
  return {
    name: tuple(config["stage"][name]["method"].get("turns", ()))
    for name in names
  }


def main(argv: list[str]) -> None:
  """Checks the flags and prints."""
  if CONFIG.value is None:
    raise ConfigError("--config is missing: say which, as --config=quickstart")
  config = fields.placed(build.plain(CONFIG.value))
  check_config(config, trains=False)
  logs.quiet_libraries()
  build.check_folders(config)
  console = Console(width=None if sys.stdout.isatty() else 100)
  reading_matter.show(
    task_of(config, OF.value), first=FIRST.value - 1, count=ROWS.value,
    limits=limits_of(config, OF.value), colours=console.is_terminal,
    write=lambda what: console.print(what, soft_wrap=True, highlight=False),
  )


if __name__ == "__main__":
  run_main(main)
