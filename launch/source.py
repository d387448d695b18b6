"""Which code is sent: the committed tree, under a name that can be checked."""

import pathlib
from typing import NamedTuple

from launch.machine import Machine
from sitrain.runtime.options import ConfigError

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Source(NamedTuple):
  """A state of the repository."""

  commit: str  # what git archives
  revision: str  # what the processes compare; ends in -dirty-... if it is


def _git(*words: str) -> list[str]:
  return ["git", "-C", str(ROOT), *words]


def _ask(machine: Machine, *words: str) -> str:
  result = machine.execute(_git(*words))
  if result.code:
    said = " ".join(result.error.split())
    raise ConfigError(f"git: {said}: run it from a git checkout")
  return result.output.rstrip()


def check_clean(machine: Machine, *, allow_dirty: bool) -> list[str]:
  """Tracked files whose changes are not committed.

  Raises ConfigError where there is anything of that kind and must not be.
  """
  lines = _ask(machine, "status", "--porcelain").splitlines()
  new = [line[3:] for line in lines if line.startswith("??")]
  changed = [line[3:] for line in lines if not line.startswith("??")]
  if (changed or new) and not allow_dirty:
    raise ConfigError(
      f"{len(changed) + len(new)} files are not committed, such as"
      f" {(changed + new)[0]}: commit them, or give --allow_dirty"
    )
  if new:
    machine.say(f"not sent, because git does not know them: {', '.join(new)}")
  if changed:
    machine.say(f"sent without a commit: {', '.join(changed)}")
  return changed


def head(machine: Machine) -> Source:
  """The newest commit."""
  commit = _ask(machine, "rev-parse", "HEAD")
  return Source(commit, commit)


def find(machine: Machine, *, allow_dirty: bool) -> Source:
  """The newest commit; with allow_dirty, changes of tracked files as well.

  Raises ConfigError where something is not committed and must be.
  """
  if not check_clean(machine, allow_dirty=allow_dirty):
    return head(machine)
  # Makes a commit of the changes that no branch or stash refers to.
  who = ("-c", "user.name=launch", "-c", "user.email=launch@localhost")
  commit = _ask(machine, *who, "stash", "create")
  tree = _ask(machine, "rev-parse", f"{commit}^{{tree}}")
  revision = f"{head(machine).commit}-dirty-{tree[:12]}"
  return Source(commit, revision)


def check_file(machine: Machine, source: Source, path: str) -> None:
  """Raises ConfigError where a config's file is not part of what is sent."""
  file = path.partition(":")[0]
  found = machine.execute(_git("cat-file", "-e", f"{source.commit}:{file}"))
  if found.code:
    raise ConfigError(
      f"--config={path}: no such file in commit {source.commit[:12]}: give a"
      " path from the top of the repository, and commit it"
    )


def archive(source: Source, path: str) -> list[str]:
  """Packs the tree into a .tar.gz."""
  return _git("archive", "--format=tar.gz", f"--output={path}", source.commit)
