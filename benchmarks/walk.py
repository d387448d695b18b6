"""The functions between a verdict and its gradient, with their lines.

python -m benchmarks.walk

Prints a line for each hop of one SCoRe step and the number of files. Fails
where a function no longer exists.
"""

import ast
import pathlib

from absl import app

PACKAGE = pathlib.Path(__file__).parents[1] / "sitrain"
# From the main to the step: files that a reader opens before the hops.
BEFORE = (
  "main.py", "runtime/build.py", "runtime/stage.py", "methods/score.py",
)
HOPS = (
  ("judge/verifier.py", "verify"),
  ("train.py", "make_parts"),
  ("methods/reinforce.py", "build"),
  ("curate/policy.py", "policy_batch"),
  ("curate/advantage.py", "returns"),
  ("curate/advantage.py", "leave_one_out"),
  ("curate/select.py", "token_mask"),
  ("train.py", "make_train_step"),
  ("methods/objectives.py", "policy_objective"),
  ("models/logprobs.py", "token_scores_and_kl"),
  ("losses/policy_gradient.py", "policy_gradient"),
  ("losses/reduce.py", "per_turn"),
)


def line_of(file: str, function: str) -> int:
  """The line of a function's definition; ValueError where there is none."""
  tree = ast.parse((PACKAGE / file).read_text())
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef) and node.name == function:
      return node.lineno
  raise ValueError(f"sitrain/{file} has no function {function}")


def main(argv: list[str]) -> None:
  """Prints the walk."""
  del argv
  for number, (file, function) in enumerate(HOPS, 1):
    print(f"{number:2d}  sitrain/{file}:{line_of(file, function)}  {function}")
  files = {file for file, _ in HOPS}
  print(f"{len(HOPS)} hops in {len(files)} files; with {', '.join(BEFORE)}:"
        f" {len(files | set(BEFORE))} files from the main")


if __name__ == "__main__":
  app.run(main)
