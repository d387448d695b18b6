"""Which code is sent: the committed tree, under a name that can be checked.

It is that of a checkout. From an installed wheel jobs can only be looked after.
"""

import pathlib
from typing import NamedTuple

from sitrain.runtime import config_files
from sitrain.runtime.options import ConfigError

from .machine import Runner

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Source(NamedTuple):
  """A state of the repository."""

  commit: str  # what git archives
  revision: str  # what the processes compare; ends in -dirty-... if it is


def _git(*words: str) -> list[str]:
  return ["git", "-C", str(ROOT), *words]


def _git_output(runner: Runner, *words: str) -> str:
  if not (ROOT / "setup.cfg").exists():
    # A virtual environment may lie inside of another project's checkout.
    raise ConfigError(
      f"the code that is sent is that of a git checkout of sitrain, and {ROOT}"
      " is none: clone it, and call `python -m launch.tpu` at its top"
    )
  result = runner.execute(_git(*words))
  if result.code:
    message = " ".join(result.error.split())
    raise ConfigError(f"git: {message}: run it from a git checkout")
  return result.output.rstrip()


def check_clean(runner: Runner, *, allow_dirty: bool) -> list[str]:
  """Tracked files whose changes are not committed.

  Raises ConfigError where there is anything of that kind and must not be.
  """
  lines = _git_output(runner, "status", "--porcelain").splitlines()
  new = [line[3:] for line in lines if line.startswith("??")]
  changed = [line[3:] for line in lines if not line.startswith("??")]
  if (changed or new) and not allow_dirty:
    raise ConfigError(
      f"{len(changed) + len(new)} files are not committed, such as"
      f" {(changed + new)[0]}: commit them, or give --allow_dirty"
    )
  if new:
    runner.say(f"not sent, because git does not know them: {', '.join(new)}")
  if changed:
    runner.say(f"sent without a commit: {', '.join(changed)}")
  return changed


def head(runner: Runner) -> Source:
  """The newest commit."""
  commit = _git_output(runner, "rev-parse", "HEAD")
  return Source(commit, commit)


def find(runner: Runner, *, allow_dirty: bool) -> Source:
  """The newest commit; with allow_dirty, changes of tracked files as well.

  Raises ConfigError where something is not committed and must be.
  """
  if not check_clean(runner, allow_dirty=allow_dirty):
    return head(runner)
  # Makes a commit of the changes that no branch or stash refers to.
  author = ("-c", "user.name=launch", "-c", "user.email=launch@localhost")
  commit = _git_output(runner, *author, "stash", "create")
  tree = _git_output(runner, "rev-parse", f"{commit}^{{tree}}")
  revision = f"{head(runner).commit}-dirty-{tree[:12]}"
  return Source(commit, revision)


def config_file(path: str) -> str:
  """PATH:ARGUMENT from the top of the repository; a name is one of configs/."""
  file, colon, argument = path.partition(":")
  if config_files.is_name(file):
    file = f"configs/{file}.py"
  return f"{file}{colon}{argument}"


def check_file(runner: Runner, source: Source, path: str) -> None:
  """Raises ConfigError where a config's file is not part of what is sent."""
  file = config_file(path).partition(":")[0]
  found = runner.execute(_git("cat-file", "-e", f"{source.commit}:{file}"))
  if found.code:
    raise ConfigError(
      f"--config={path}: no such file in commit {source.commit[:12]}: give a"
      " path from the top of the repository, and commit it"
    )


def archive(source: Source, path: str) -> list[str]:
  """Packs the tree into a .tar.gz."""
  return _git("archive", "--format=tar.gz", f"--output={path}", source.commit)
