"""Writes the report of a run again, as one self-contained HTML file.

  sitrain report /tmp/sitrain
  sitrain report RUN_A RUN_B RUN_C --output=compared.html

Several runs are compared in one page: their curves over each other, their
summaries side by side, and what differs in their configs.
"""

import sitrain.runtime.early  # noqa: F401

# isort: split

from absl import flags
from etils import epath

from sitrain.runtime.errors import run_main
from sitrain.runtime.options import ConfigError
from sitrain.runtime.page.compared import write_comparison
from sitrain.runtime.page.one_run import write_report
from sitrain.runtime.workdir import (
  absolute,
  check_file,
  check_folder,
  check_run,
)

WORKDIR = flags.DEFINE_string(
  "workdir", "", "Workdir of the run; without the flag: the workdirs of one"
  " run or several, as arguments."
)
OUTPUT = flags.DEFINE_string(
  "output", "", "HTML file; default: report.html of the workdir, or"
  " compared.html of this folder for several runs."
)
flags.DEFINE_bool("traceback", False, "Show where an error came from.")


def main(argv: list[str]) -> None:
  """Checks the workdirs and writes the file."""
  given = ([WORKDIR.value] if WORKDIR.value else []) + argv[1:]
  folders = list(dict.fromkeys(map(absolute, given)))
  if not folders:
    raise ConfigError("--workdir is missing: name a run, or several to compare")
  for folder in folders:
    check_run(folder)
    if not any(
      (epath.Path(folder) / name).exists()
      for name in ("metrics.jsonl", "summary.json")
    ):
      raise ConfigError(
        f"--workdir={folder} has no metrics.jsonl: its run has not trained yet"
      )
  output = absolute(OUTPUT.value, "--output")
  if output:
    check_file(output, f"--output={output}")
  elif len(folders) == 1:
    check_folder(folders[0], f"--workdir={folders[0]}")
  if len(folders) == 1:
    print(write_report(folders[0], output))
  else:
    print(write_comparison(folders, output or absolute("compared.html")))


if __name__ == "__main__":
  run_main(main, takes_arguments=True)
