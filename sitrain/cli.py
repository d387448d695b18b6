"""The command `sitrain`: runs one of the mains, in this process.

`sitrain train ...` does what `python -m sitrain.main ...` does, with the same
flags, signals and exit codes. A new command is a row of COMMANDS.
"""

from sitrain.runtime import early, extras

# isort: split

import importlib.util
import sys
from typing import NamedTuple

import sitrain


class Command(NamedTuple):
  """A main of the package. It is offered where its module exists."""

  module: str  # what `python -m` would run
  about: str  # what it does, in one line
  example: str  # arguments that work


COMMANDS = {
  "train": Command(
    "sitrain.main", "train a model: all stages of a config",
    "--config=quickstart --workdir=/tmp/sitrain",
  ),
  "sample": Command(
    "sitrain.sample", "sample a test set, with pass@k and maj@k",
    "/tmp/sitrain --turns=2 --output=both.jsonl",
  ),
  "evaluate": Command(
    "sitrain.evaluate", "measure a run: corrections, more turns, more samples",
    "/tmp/sitrain",
  ),
  "infer": Command(
    "sitrain.infer", "compare ways to answer: votes, revisions, drafts",
    "/tmp/sitrain --strategy=self_consistency",
  ),
  "talk": Command(
    "sitrain.talk", "look at a model's attempts in a terminal",
    "/tmp/sitrain",
  ),
  "report": Command(
    "sitrain.report", "write the HTML report of a run again",
    "/tmp/sitrain",
  ),
  "export": Command(
    "sitrain.export", "write a model that transformers can load",
    "/tmp/sitrain --output=/tmp/sitrain_model",
  ),
  "data": Command(
    "sitrain.data", "show what a model reads, and what is dropped",
    "--config=score_gsm8k",
  ),
  "plan": Command(
    "sitrain.plan", "whether a config fits a TPU slice: memory and time",
    "--config=score_math --topology=v5e:2x4",
  ),
}


def commands() -> dict[str, Command]:
  """The commands whose modules exist."""
  return {
    name: command for name, command in COMMANDS.items()
    if _can_run(command.module)
  }


def _can_run(module: str) -> bool:
  spec = importlib.util.find_spec(module)
  if spec is not None and spec.submodule_search_locations:
    spec = importlib.util.find_spec(f"{module}.__main__")
  return spec is not None


def help_text() -> str:
  """What each command does, with an example."""
  known = commands()
  width = max(map(len, known)) + 2
  lines = [
    f"sitrain {sitrain.__version__}: language models that improve themselves.",
    "",
    "  sitrain COMMAND [--FLAG=VALUE ...]",
    "  sitrain COMMAND --help    all flags of a command",
    "  sitrain train --list      all configs, methods, tasks and options",
    "  sitrain --version",
    "",
    "First: sitrain train --config=quickstart:quick --workdir=/tmp/try",
    "Your own rows: sitrain train --config=chat:quick \\",
    "  --config.task.source=my.jsonl --workdir=/tmp/own",
    "",
  ]
  for name, command in known.items():
    lines += [
      f"{name:{width}}{command.about}",
      f"{'':{width}}  sitrain {name} {command.example}",
    ]
  return "\n".join(lines)


def unknown(name: str) -> str:
  """The line about a command that there is not."""
  import difflib  # Ctrl-C is handled before anything that is not needed yet.

  near = difflib.get_close_matches(name, commands(), n=1, cutoff=0.4)
  hint = f"did you mean {near[0]!r}?" if near else "the commands are"
  return (
    f"error: {name!r} is no command: {hint} (known: {', '.join(commands())});"
    " see sitrain --help"
  )


def main() -> int:
  """Runs the command that sys.argv names; 2 for one that there is not."""
  early.listen()
  name, *words = sys.argv[1:] or ["--help"]
  if name in ("--help", "-h", "-help", "help"):
    try:
      print(help_text(), flush=True)
    except BrokenPipeError:  # `sitrain --help | head`
      sys.stdout = None
    return 0 if sys.argv[1:] else 2
  if name in ("--version", "-version"):
    print(f"sitrain {sitrain.__version__}")
    return 0
  if name not in commands():
    print(unknown(name), file=sys.stderr)
    return 2
  extras.require("train")
  import runpy

  sys.argv = [f"sitrain {name}", *words]
  # As `python -m` does: the main is __main__, for absl's --help and for what
  # multiprocessing starts. It ends the process.
  runpy.run_module(
    commands()[name].module, run_name="__main__", alter_sys=True
  )
  return 0


if __name__ == "__main__":
  sys.exit(main())
