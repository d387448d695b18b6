"""The functions between a verdict and its gradient, with their lines.

python -m benchmarks.walk

Prints a line for each hop of one SCoRe step, and the files that a reader opens
from the main. Ends with an error where the lists below are not what runs.

How that is known: `judge` and `learn` of the quickstart's stage II are traced,
and every call of a function of sitrain is noted. A nested function belongs to
the one that it is in, and a private one to the function of its file that calls
it. Each must be in one of these lists:

  HOPS    what has to be read.
  LEAVES  arithmetic of at most LONGEST lines whose name says what it does. It
          calls leaves and the task alone: no hop can hide behind it.
  ASIDE   what makes metrics, and what follows the gradient; what it calls is
          not looked at. Nor are models/ behind their hop, nor tasks/, which
          make the verdict.

The files before the hops, BEFORE, are those on the stack when the method and
the parts of its iteration are made, beginning with what the main calls itself.
GENERIC functions only call what they are given. Files of HOPS, LEAVES and
BEFORE count, those of GENERIC and ASIDE do not.
"""

import ast
import pathlib
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any
from unittest import mock

import jax
from absl import app

from sitrain.configs import quickstart
from sitrain.methods import reinforce
from sitrain.runtime import build, sharding
from sitrain.runtime import stage as stages
from sitrain.runtime.start import Run, new_state
from sitrain.types import Stage

PACKAGE = pathlib.Path(__file__).parents[1] / "sitrain"
Function = tuple[str, str]  # (file in the package, name)

BEFORE = (
  "main.py", "runtime/build.py", "runtime/stage.py", "methods/score.py",
)
FIRST = ("build.prepare", "compile_ahead")  # what the main calls
GENERIC = (("runtime/options.py", "call"), ("runtime/compile.py", "ahead"))
HOPS = (
  ("train.py", "make_parts"),
  ("methods/reinforce.py", "build"),
  ("methods/verbs.py", "judge_with"),
  ("curate/policy.py", "policy_batch"),
  ("curate/advantage.py", "returns"),
  ("curate/advantage.py", "leave_one_out"),
  ("curate/policy.py", "token_batch"),
  ("train.py", "make_train_step"),
  ("methods/objectives.py", "policy_objective"),
  ("models/logprobs.py", "token_scores_and_kl"),
  ("losses/policy_gradient.py", "policy_gradient"),
  ("losses/reduce.py", "per_turn"),
)
LONGEST = 8
LEAVES = (
  ("judge/verifier.py", "verify"),
  ("judge/verifier.py", "check_shapes"),
  ("judge/verifier.py", "written"),
  ("methods/verbs.py", "keep_state"),
  ("curate/policy.py", "own_turns"),
  ("curate/advantage.py", "progress_bonus"),
  ("curate/advantage.py", "same_outcome"),
  ("curate/advantage.py", "to_tokens"),
  ("curate/advantage.py", "token_mask"),
  ("methods/reinforce.py", "group_rows"),
  ("train.py", "split_rows"),
  ("losses/policy_gradient.py", "importance_ratio"),
  ("losses/policy_gradient.py", "log_ratio"),
  ("losses/policy_gradient.py", "truncate"),
  ("losses/policy_gradient.py", "clipped"),
  ("losses/reduce.py", "per_episode"),
  ("losses/reduce.py", "at_least_float32"),
  ("losses/reduce.py", "masked"),
  ("losses/reduce.py", "value"),
)
ASIDE = (
  ("judge/verifier.py", "samples_of"),
  ("judge/verifier.py", "verdict_metrics"),
  ("methods/objectives.py", "policy_metrics"),
  ("losses/ratios.py", "token_metrics"),
  ("runtime/optimizer.py", "_decayed"),
)
MODELS, TASKS = "models/", "tasks/"
END = "models/logprobs.py"  # what the walk reads of the model


def stage_two() -> tuple[Run, Stage]:
  """The run and the stage II of the small quickstart, which begins it here."""
  config = build.plain(quickstart.get_config("quick"))
  given = {"start": "init", "held": {"reference": "init"}}
  config["stages"] = ("stage2",)
  config["stage"] = {"stage2": config["stage"]["stage2"] | given}
  ready = build.prepare(config, "", sharding.make_mesh())
  return ready.run, ready.stages[0]


class _Found(Exception):
  """Ends what is looked at."""


def stack_at(module: Any, name: str, look: Callable[[], Any]) -> list[Function]:
  """The functions of sitrain on the stack where `look` calls module.name."""
  found: list[Function] = []

  def call(*args, **options):
    found.extend(map(_owner, _callers(sys._getframe())))
    raise _Found

  with mock.patch.object(module, name, call):
    try:
      look()
    except _Found:
      return found[::-1]
  raise ValueError(f"{module.__name__}.{name} is not called")


def calls_of(run: Run, stage: Stage) -> dict[Function, set[Function]]:
  """What each function calls while `judge` and `learn` of a stage are traced.

  Of ASIDE, models and tasks only that they are called.
  """
  key = jax.random.key(0)
  state = jax.eval_shape(lambda key: new_state(run, stage, key), key)
  collect, judge, learn = stages.parts_of(stage, run.mesh)
  problems, rows = jax.eval_shape(collect, state, key)
  calls: dict[Function, set[Function]] = {}

  def note(frame, event, _):
    if event != "call" or not _inside(frame):
      return
    callers = list(map(_owner, _callers(frame)))
    if callers and not any(map(_is_aside, callers)):
      callee = _owner(frame)
      calls.setdefault(callee, set())
      calls.setdefault(callers[0], set()).update({callee} - {callers[0]})

  sys.setprofile(note)
  try:
    verdicts, _ = jax.eval_shape(judge, state, key, problems, rows)
    jax.eval_shape(learn, state, key, problems, rows, verdicts)
  finally:
    sys.setprofile(None)
  return calls


def _inside(frame: FrameType) -> bool:
  return frame.f_code.co_filename.startswith(f"{PACKAGE}/")


def _callers(frame: FrameType) -> Iterator[FrameType]:
  """The frames of sitrain above one, the nearest first."""
  while frame := frame.f_back:
    if _inside(frame):
      yield frame


def _owner(frame: FrameType) -> Function:
  """The public function that a frame belongs to; see the docstring above."""
  path = frame.f_code.co_filename
  name = frame.f_code.co_qualname.split(".")[0]
  if name.startswith(("_", "<")):
    up = next(_callers(frame), None)
    if up is not None and up.f_code.co_filename == path:
      return _owner(up)
  return str(pathlib.Path(path).relative_to(PACKAGE)), name


def _is_aside(function: Function) -> bool:
  return function in ASIDE or function[0].startswith((MODELS, TASKS))


def faults(
  calls: dict[Function, set[Function]], hops=HOPS, leaves=LEAVES
) -> list[str]:
  """A line for everything in which the lists differ from what was called."""
  found = []
  for one in calls:
    known = one in hops or one in leaves or one[0] in BEFORE
    if not known and (one[0] == END or not _is_aside(one)):
      found.append(f"{_named(one)} runs: name it in HOPS, or in LEAVES")
  for one in (*hops, *leaves, *ASIDE):
    if one not in calls:
      found.append(f"{_named(one)} does not run: take it out")
  for one in leaves:
    found += [
      f"{_named(one)} is no leaf: it calls {_named(other)}"
      for other in sorted(calls.get(one, ()))
      if other not in leaves and not other[0].startswith(TASKS)
    ]
    if (lines := _lines_of(one)) > LONGEST:
      found.append(f"{_named(one)} is no leaf: it has {lines} lines")
  return found


def faults_before(*stacks: list[Function]) -> list[str]:
  """The same for the files that are opened before the hops."""
  passed = {one for stack in stacks for one in stack}
  files = {f for f, _ in passed - set(GENERIC)} | {"main.py"}
  files -= {file for file, _ in HOPS}
  main = ast.unparse(ast.parse((PACKAGE / "main.py").read_text()))
  return [
    f"sitrain/{file} is opened: name it in BEFORE"
    for file in sorted(files - set(BEFORE))
  ] + [
    f"sitrain/{file} is not opened: take it out of BEFORE"
    for file in sorted(set(BEFORE) - files)
  ] + [f"the main calls no {x}" for x in FIRST if f"{x}(" not in main]


def node_of(function: Function) -> ast.FunctionDef:
  """The definition of a function; ValueError where there is none."""
  file, name = function
  for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
    if isinstance(node, ast.FunctionDef) and node.name == name:
      return node
  raise ValueError(f"sitrain/{file} has no function {name}")


def _lines_of(function: Function) -> int:
  """Lines of code of a function, without its docstring."""
  body = node_of(function).body
  if isinstance(body[0], ast.Expr) and len(body) > 1:
    body = body[1:]
  return body[-1].end_lineno - body[0].lineno + 1


def _named(function: Function) -> str:
  return "sitrain/{}: {}".format(*function)


def files() -> set[str]:
  """The files that a reader opens from the main to the gradient."""
  return {*BEFORE, *(file for file, _ in (*HOPS, *LEAVES))}


def look() -> list[str]:
  """The faults of all lists, by tracing one step."""
  made = stack_at(reinforce, "build", stage_two)
  run, stage = stage_two()
  ahead = lambda: stages.compile_ahead(run, stage).result()
  parts = stack_at(stages, "make_parts", ahead)
  return faults(calls_of(run, stage)) + faults_before(made, parts)


def main(argv: list[str]) -> None:
  """Prints the walk."""
  del argv
  for number, one in enumerate(HOPS, 1):
    print(f"{number:2d}  sitrain/{one[0]}:{node_of(one).lineno}  {one[1]}")
  print(f"{len(HOPS)} hops; {len(files())} files from the main:"
        f" {', '.join(sorted(files()))}")
  if found := look():
    raise SystemExit("\n".join(found))


if __name__ == "__main__":
  app.run(main)
