"""Writes the report of a run again, as one self-contained HTML file.

  sitrain report --workdir=/tmp/sitrain
"""

import sitrain.runtime.early  # noqa: F401

# isort: split

from absl import flags
from etils import epath

from sitrain.runtime.errors import run_main
from sitrain.runtime.options import ConfigError
from sitrain.runtime.report import write_report
from sitrain.runtime.workdir import absolute, check_folder, check_run

WORKDIR = flags.DEFINE_string("workdir", "", "Of the run.")
flags.DEFINE_bool("traceback", False, "Show where an error came from.")


def main(argv: list[str]) -> None:
  """Checks the workdir and writes the file."""
  folder = absolute(WORKDIR.value)
  check_run(folder)
  check_folder(folder, f"--workdir={folder}")
  if not (epath.Path(folder) / "metrics.jsonl").exists():
    raise ConfigError(
      f"--workdir={folder} has no metrics.jsonl: its run has not trained yet"
    )
  print(write_report(folder))


if __name__ == "__main__":
  run_main(main)
