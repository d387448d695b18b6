"""The command line of launch.tpu."""

import argparse
import os
import pathlib
import re
import shlex
from typing import NoReturn

from sitrain.runtime.options import ConfigError, closest

from . import accelerators
from .gcloud import Vm
from .jobs import Job

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,53}[a-z0-9])?")
# AI zones, such as us-south1-ai1b, have a number in their last part.
_ZONE = re.compile(r"[a-z]+(-[a-z]+)+\d+-(ai\d+)?[a-z]")
_DURATION = re.compile(r"(?=\d)(\d+d)?(\d+h)?(\d+m)?(\d+s)?")
_SETS = re.compile(r"[A-Za-z_]\w*=")
_WORKDIR = re.compile(r"gs://[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9](/.*)?")


def add(parser: argparse.ArgumentParser, *names: str) -> None:
  """Adds flags of _FLAGS to a parser."""
  for name in names:
    kind, default, text = _FLAGS[name]
    if kind is bool:
      parser.add_argument(f"--{name}", action="store_true", help=text)
    elif kind is list:
      parser.add_argument(
        f"--{name}", action="append", default=[], help=text, metavar="FLAG"
      )
    else:
      parser.add_argument(
        f"--{name}", type=kind, default=default, help=text,
        required=default is None,
      )


_FLAGS = {
  "name": (str, None, "of the TPU VM and of the job on it"),
  "zone": (str, None, "as us-east5-a"),
  "type": (str, None, "as v5p-64, v6e-8, v5litepod-16, v4-32"),
  "config": (str, None, "the run: a name or file of configs/, with :arguments"),
  "workdir": (str, None, "gs://bucket/folder for checkpoints and metrics"),
  "project": (str, "", "default: the one that gcloud is set to"),
  "version": (str, "", "of the TPU's software; default: what fits --type"),
  "spot": (bool, False, "cheap capacity that may be taken away"),
  "reserved": (bool, False, "capacity that is reserved for the project"),
  "queued": (bool, False, "wait in the queue for the TPU (a queued resource)"),
  "valid_until": (str, "", "how long to wait in the queue, as 6h"),
  "create_flag": (list, [], "one more for gcloud's create, any number of times,"
                  " as --create_flag=--network=mine"),
  "ssh_flag": (list, [], "one more for gcloud's ssh and scp, as"
               " --ssh_flag=--internal-ip or --ssh_flag=--batch-size=64"),
  "env_file": (str, "", "a file of NAME=VALUE for set-up and job, as"
               " HF_TOKEN=..."),
  "job": (str, "", "of the job, where it is not the VM's, as in a sweep"),
  "restarts": (int, 0, "starts after failures without a step in between;"
               " after a preemption it is started anyway"),
  "allow_dirty": (bool, False, "send changes of tracked files, uncommitted"),
  "delete_at_end": (bool, False, "delete the VM when the job is done"),
  "dry_run": (bool, False, "print the commands, call gcloud for none"),
  "poll": (float, 20.0, "seconds between two polls"),
  "tries": (int, 8, "of a command that fails for a reason that may pass"),
  "backoff": (float, 5.0, "seconds after a first such failure; doubles"),
  "grid": (str, None, "config.seed=0,1,2;config.stage.rl.steps=100,200"),
  "together": (int, 1, "VMs at the same time; each runs its share of the"
               " points one after the other"),
  "worker": (str, "0", "whose log: a number, or all"),
  "lines": (int, 50, "of the log"),
  "follow": (bool, False, "go on showing worker 0's log"),
}
_PLACE = ("name", "zone", "project", "ssh_flag", "poll", "tries", "backoff",
          "dry_run")
_START = ("type", "config", "workdir", "version", "spot", "reserved", "queued",
          "valid_until", "create_flag", "env_file", "restarts", "allow_dirty",
          "delete_at_end")
COMMANDS = {
  "run": ("makes or reuses a TPU VM, runs a config there to the end", _START),
  "sweep": ("the same for every point of a grid", (*_START, "grid",
                                                  "together")),
  "status": ("the VM and the job on each worker", ("job",)),
  "logs": ("the end of the log", ("job", "worker", "lines", "follow")),
  "stop": ("ends the job, which saves first; the VM stays", ("job",)),
  "delete": ("deletes the VM; the workdir stays", ()),
}


def parser(text: str) -> argparse.ArgumentParser:
  """The parser, with `text` as its description."""
  top = argparse.ArgumentParser(
    prog="python -m launch.tpu", description=text, allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = top.add_subparsers(dest="command", required=True)
  for name, (about, flags) in COMMANDS.items():
    each = commands.add_parser(
      name, help=about, description=about, allow_abbrev=False
    )
    add(each, *_PLACE[:2], *flags, *_PLACE[2:])
    each.error = refuse
  top.error = refuse
  return top


def refuse(line: str) -> NoReturn:
  """In the place of a parser's `error`, which prints the whole usage.

  Raises ConfigError.
  """
  name = re.search(r"invalid choice: '(.*?)'", line)
  if line.startswith("argument command") and name:
    line = f"{name[1]}: no such command; {closest(name[1], COMMANDS)}"
  elif line.endswith("required: command"):
    line = f"no command: give one of {', '.join(COMMANDS)}"
  raise ConfigError(f"{line} (--help prints all)")


def parse(
  text: str, words: list[str]
) -> tuple[argparse.Namespace, tuple[str, ...]]:
  """The flags, and those that are passed on to sitrain.main.

  The latter are --config.field=value and whatever follows a --. Raises
  ConfigError, with the closest flag, for one that nobody knows.
  """
  cut = words.index("--") if "--" in words else len(words)
  known, others = parser(text).parse_known_args(words[:cut])
  check_passed_on(others, (*COMMANDS[known.command][1], *_PLACE))
  more = (*others, *words[cut + 1:])
  if more and known.command not in ("run", "sweep"):
    raise ConfigError(f"{more[0]}: only `run` and `sweep` take it")
  return known, more


def check_passed_on(words: list[str], options: tuple[str, ...]) -> None:
  """Raises ConfigError for what is not --config.x=y; names the closest."""
  for word in words:
    if not (word.startswith("--config.") and "=" in word):
      name = word.partition("=")[0].lstrip("-")
      known = (*options, "config.FIELD")
      raise ConfigError(f"{word}: unknown; {closest(name, known)}")


def vm_from(flags: argparse.Namespace) -> Vm:
  """The VM; raises ConfigError for what cannot be one."""
  if not _NAME.fullmatch(flags.name):
    raise ConfigError(
      f"--name={flags.name}: give up to 55 of a-z, 0-9 and -, a letter first"
    )
  if not _ZONE.fullmatch(flags.zone):
    raise ConfigError(f"--zone={flags.zone}: give a zone, as us-east5-a")
  vm = Vm(
    flags.name, flags.zone, project=flags.project,
    ssh_flags=tuple(flags.ssh_flag),
  )
  if "type" not in flags:
    return vm
  software = accelerators.software_of(flags.type)
  if flags.spot and flags.reserved:
    raise ConfigError("--spot and --reserved: give one of them")
  if flags.valid_until and not flags.queued:
    raise ConfigError("--valid_until: give --queued with it")
  if flags.valid_until and not _DURATION.fullmatch(flags.valid_until):
    raise ConfigError(
      f"--valid_until={flags.valid_until}: give a duration, as 6h or 1d12h30m"
    )
  return vm._replace(
    type=flags.type, software=flags.version or software, spot=flags.spot,
    reserved=flags.reserved, queued=flags.queued,
    valid_until=flags.valid_until, create_flags=tuple(flags.create_flag),
  )


def job_from(flags: argparse.Namespace, more: tuple[str, ...]) -> Job:
  """The job; raises ConfigError for a workdir that would not last."""
  if not _WORKDIR.fullmatch(flags.workdir):
    why = (
      "a bucket's name has at least 3 of a-z, 0-9, -, _ and ."
      if flags.workdir.startswith("gs://")
      else "a TPU VM's own disk is lost with it"
    )
    raise ConfigError(
      f"--workdir={flags.workdir}: give gs://bucket/folder; {why}"
    )
  if flags.env_file and not os.path.isfile(flags.env_file):
    raise ConfigError(f"--env_file={flags.env_file}: there is no such file")
  check_environment(flags.env_file)
  workdir = flags.workdir.rstrip("/")
  return Job(flags.name, flags.config, workdir, more, flags.env_file)


def check_environment(path: str) -> None:
  """Raises ConfigError for a line that a shell would not read as NAME=VALUE."""
  lines = pathlib.Path(path).read_text().splitlines() if path else []
  for number, line in enumerate(lines, start=1):
    try:
      words = shlex.split(line, comments=True)
    except ValueError:  # A quotation without an end.
      words = ["", ""]
    if words and not (len(words) == 1 and _SETS.match(words[0])):
      raise ConfigError(
        f"--env_file={path}: line {number} is no NAME=VALUE: quote the value"
      )
