"""Answers of a real model: sitrain's beside those of transformers' generate.

  sitrain sample --config=humaneval --config.model.path=FOLDER \\
    --config.model.dtype=float32 --output=F.jsonl
  python -m benchmarks.real_answers --config=humaneval \\
    --config.model.path=FOLDER --config.model.dtype=float32 --output=F.jsonl \\
    --transformers=PYTHON

The second command takes the flags of the first, and reads its rows. It gives
the same prompts to transformers' generate, greedily, and judges what that
writes by the same verifiers; its rows go to F.jsonl.transformers.jsonl, and the
same command resumes where it stopped. Prints what each gets right, how many
texts are equal, and how many prompts transformers' own template would give.
PYTHON is the interpreter of an environment with torch and transformers. With
--drafts its generate gets sitrain's answers as drafts: it reads each in one
pass, and writes only from the first token on that it would choose otherwise.
"""

import json
import time
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from benchmarks import rounds
from sitrain import sample
from sitrain.evaluate import samples
from sitrain.evaluate.bootstrap import bootstrap
from sitrain.evaluate.player import Played
from sitrain.runtime import rows_file
from sitrain.runtime.errors import run_main
from sitrain.runtime.requested_samples import config_of, options_of, plan_from
from sitrain.runtime.test_sets import tasks_of
from sitrain.types import GIVEN, PAD, Task

flags.DEFINE_string(
  "transformers", "", "Interpreter that has torch and transformers."
)
flags.DEFINE_integer("rows", 8, "Prompts of a call of generate.", 1)
flags.adopt_module_key_flags(sample)
flags.DEFINE_bool("drafts", False, "Check sitrain's answers in one pass each.")
SECONDS = 3600.0  # of one call of generate


class Compared(NamedTuple):
  """Two sets of records of the same problems, in the same order."""

  own: list[samples.Record]
  peer: list[samples.Record]


def prompts_of(task: Task, count: int) -> list[list[int]]:
  """The tokens of the first `count` prompts; 0: of all."""
  table = np.asarray(task.table.prompt)
  return [row[row != PAD].tolist() for row in table[: count or len(table)]]


def played(prompts: list[list[int]], written: list[list[int]]) -> Played:
  """Dialogues of one turn; what is read has the mark GIVEN."""
  rows = [[*before, *after] for before, after in zip(prompts, written)]
  shape = len(rows), max(map(len, rows))
  tokens, turn = np.full(shape, PAD), np.full(shape, GIVEN)
  for b, (before, row) in enumerate(zip(prompts, rows)):
    tokens[b, : len(row)] = row
    turn[b, len(before) : len(row)] = 1
  return Played(tokens, turn, ())


def write_missing(
  config: dict, plan: Any, tasks: dict, python: str, drafts: dict[int, str]
) -> str:
  """Generates what the peer's file lacks; returns the file.

  drafts: answers by number of the row; empty where none are to be read.
  """
  task, output = next(iter(tasks.values())), f"{plan.output}.transformers.jsonl"
  prompts = prompts_of(task, plan.problems)
  kept = task.texts.kept[: len(prompts)]
  options = options_of(config, plan)
  rows_file.claim(output, options)
  todo = np.flatnonzero(rows_file.missing(output, kept))
  if not len(todo):
    return output
  if not python:
    raise app.UsageError(f"--transformers is missing: {len(todo)} problems have"
                         " no answer of its generate yet")
  rows_file.begin(output, options)
  case = {
    "folder": config["model"]["path"], "dtype": config["model"]["dtype"],
    "new": plan.turns[0], "eos": list(task.eos), "prompts": prompts,
    "messages": [task.texts.rows[int(number)].message for number in kept],
  }
  rows, began, peer = flags.FLAGS.rows, time.monotonic(), "transformers"
  command = rounds.modules("answers", {peer: python})[peer]
  with rounds.workers({peer: command}) as workers:
    ask = lambda seconds, **words: rounds.request(
      workers[peer], seconds, **words
    )
    facts = ask(rounds.PREPARE_SECONDS, action="prepare", case=case)
    print(f"{facts['settings']}: {facts['same']} of {len(prompts)} prompts are"
          " those of its own template")
    for at in range(0, len(todo), rows):
      now = todo[at : at + rows]
      given = [prompts[i] for i in now]
      said = {"prompts": given}
      if drafts:
        said["drafts"] = [drafts.get(int(kept[i]), "") for i in now]
      answer = ask(SECONDS, action="run", given=said)
      rows_file.add(output, samples.records(
        tasks, (), now, played(given, answer["written"]), samples=1, turns=1
      ))
      done, passed = at + len(now), time.monotonic() - began
      left = passed / done * (len(todo) - done) / 60
      print(f"{done} of {len(todo)} problems, {left:.0f} min left", flush=True)
  return output


def compare(found: Compared, draws: int) -> dict[str, Any]:
  """Shares with 95 % intervals over problems, and counts of equal texts."""
  right = [np.array([r["right"][0] for r in rows], float) for rows in found]
  pairs = list(zip(*(column.tolist() for column in right)))
  columns = {"sitrain": right[0], "transformers": right[1]}
  columns["difference"] = right[0] - right[1]

  def means(weight):
    total = weight.sum(axis=1)
    return {name: weight @ x / total for name, x in columns.items()}

  return {
    "problems": len(pairs),
    "pass@1": {name: float(x.mean()) for name, x in columns.items()},
    "intervals": bootstrap(
      np.random.default_rng(0), means, len(pairs), draws=draws
    ),
    "equal_texts": sum(
      a["texts"] == b["texts"] for a, b in zip(*found, strict=True)
    ),
    "equal_verdicts": sum(a == b for a, b in pairs),
    "only_sitrain": sum(a > b for a, b in pairs),
    "only_transformers": sum(a < b for a, b in pairs),
  }


def main(argv: list[str]) -> None:
  """Checks the flags, generates what is missing, and compares."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown words on the command line: {argv[1:]}")
  given = flags.FLAGS
  config = config_of(given)
  plan = plan_from(config, given)
  if plan.workdir or plan.temperature > 0 or len(plan.turns) > 1:
    raise app.UsageError(
      "only greedy first attempts of a folder can be compared: leave out"
      " --workdir and --turns, and give --temperature=0"
    )
  rows_file.claim(plan.output, options_of(config, plan))
  own = rows_file.read(plan.output)
  if not own:
    raise app.UsageError(f"--output={plan.output} has no rows: run `sitrain"
                         " sample` with these flags first")
  tasks = tasks_of(config, plan.workdir, verifiers=plan.verifiers)
  drafts = {row["row"]: row["texts"][0] for row in own if given.drafts}
  path = write_missing(config, plan, tasks, given.transformers, drafts)
  peer = rows_file.finish(path)
  known = {row["row"] for row in own} & {row["row"] for row in peer}
  found = Compared(*(
    [row for row in rows if row["row"] in known] for rows in (own, peer)
  ))
  print(json.dumps(compare(found, plan.draws), indent=1))


if __name__ == "__main__":
  run_main(main)
