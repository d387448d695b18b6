"""Which tests are left to .ci/nightly, and when .ci/run runs them too.

`python tests/nightly.py [PATH...]` prints the test files with tests marked
nightly: all of them, or those whose subject is among the paths that changed.
Every other test runs always; docs/testing.md says what is left out.
"""

import pathlib
import sys

TESTS = pathlib.Path(__file__).parent
# What the nightly tests of a file are about: files and folders.
SUBJECTS = {
  "test_benchmarks.py": (
    "benchmarks", "sitrain/models", "sitrain/rollout", "sitrain/train.py",
  ),
  "test_collectives.py": (
    "sitrain/models", "sitrain/runtime/sharding.py", "sitrain/runtime/stage.py",
    "sitrain/rollout", "tests/eight_devices_collectives.py",
  ),
  "test_configs.py": ("configs", "sitrain/curate", "sitrain/methods"),
  "test_documents.py": ("colab", "docs", "mkdocs.yml", "tests/notebooks.py"),
  "test_overlap.py": ("sitrain/tasks/matching.py", "sitrain/tasks/overlap.py"),
  "test_package.py": (
    "setup.cfg", "pyproject.toml", "sitrain/cli.py",
    "sitrain/runtime/config_files.py", "sitrain/runtime/extras.py",
  ),
  "test_plan.py": (
    "sitrain/models", "sitrain/runtime/plan", "sitrain/runtime/sharding.py",
    "sitrain/train.py",
  ),
  "test_plan_counts.py": (
    "sitrain/models", "sitrain/runtime/plan", "sitrain/train.py",
  ),
  "test_report.py": ("sitrain/runtime/page", "sitrain/report.py"),
  "test_score_table.py": (
    "benchmarks/score_table", "sitrain/methods", "configs/common.py",
    "configs/countdown.py",
  ),
  "test_sentencepiece.py": ("sitrain/models/huggingface",),
  "test_structures.py": (
    "sitrain/curate", "sitrain/methods", "sitrain/runtime/stage.py",
    "sitrain/runtime/staged.py", "sitrain/train.py",
  ),
  "test_survival.py": (
    "benchmarks/kills.py", "sitrain/main.py", "sitrain/runtime/checkpoint.py",
    "sitrain/runtime/distributed.py", "sitrain/runtime/peers.py",
    "sitrain/runtime/signals.py", "sitrain/runtime/stage.py",
  ),
  "test_text_run.py": (
    "configs/score_gsm8k.py", "configs/score_mbpp.py", "configs/text.py",
    "sitrain/runtime/host.py", "sitrain/tasks/gsm8k.py",
    "sitrain/tasks/mbpp.py", "sitrain/tasks/text.py",
    "sitrain/tasks/verifiers",
  ),
}


def touched(path: str, subjects: tuple[str, ...]) -> bool:
  """Whether a path is one of the subjects, or lies in one."""
  return any(path == one or path.startswith(f"{one}/") for one in subjects)


def chosen(changed: list[str]) -> list[str]:
  """The test files to run once these paths have changed; () means all."""
  return [
    f"tests/{name}" for name, subjects in SUBJECTS.items()
    if not changed or any(
      touched(path, (f"tests/{name}", *subjects)) for path in changed
    )
  ]


if __name__ == "__main__":
  print("\n".join(chosen(sys.argv[1:])))
