"""Answers problems by strategies at test time, and counts their tokens.

  sitrain infer RUN --strategy=self_consistency --samples=8
  sitrain infer RUN --strategy=self_consistency,sequential,pdr \\
    --tokens=200 --output=answers.jsonl

Of a stage of a run, or of a model without one (--config, as in sitrain sample).
The strategies are best_of_n, pdr, self_consistency, self_refine, sequential,
sequential_refinement and verify_and_revise, or file:PATH.py:FUNCTION. All
answer the same problems, those of config.evaluate.task; a table compares them.
--tokens is what a problem may take: each strategy gets as many samples or
rounds as fit, in the worst case. docs/infer.md explains each.
"""

import sitrain.runtime.early  # noqa: F401

# isort: split

import functools
import io
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from etils import epath
from rich.console import Console

from sitrain.evaluate import answers, pictures, tables
from sitrain.evaluate import player as playing
from sitrain.judge.drafts import DISTIL
from sitrain.runtime import (
  activity,
  build,
  distributed,
  lock,
  logs,
  machine,
  placing,
  progress,
  requested_policy,
  rows_file,
  sharding,
)
from sitrain.runtime import compile as compiling
from sitrain.runtime import workdir as workdirs
from sitrain.runtime.errors import begun, run_main
from sitrain.runtime.host import on_host
from sitrain.runtime.requested_answers import (
  MEASURES,
  OPTIONS,
  Chosen,
  Plan,
  options_of,
  plan_from,
  strategies_from,
)
from sitrain.runtime.requested_samples import config_of
from sitrain.types import PAD, Params, Problems, Task

requested_policy.define()
flags.adopt_module_key_flags(requested_policy)
flags.DEFINE_list(
  "strategy", [], "One of those above, or several with commas between them.",
)
flags.DEFINE_list(
  "tokens", [], "Budgets of tokens a problem; with several each strategy"
  " runs at each."
)
flags.DEFINE_enum(
  "measure", MEASURES[0], MEASURES, "What --tokens counts: all calls, or the"
  " longest chain of calls.",
)
flags.DEFINE_integer(
  "samples", None, "Attempts of a problem side by side; default: the"
  " strategy's.", lower_bound=1
)
flags.DEFINE_integer(
  "rounds", None, "Attempts one after the other; default: the strategy's.",
  lower_bound=1
)
flags.DEFINE_integer(
  "keep", None, "Drafts that pdr shows to the next round; default: 1.",
  lower_bound=1
)
flags.DEFINE_enum(
  "distil", None, DISTIL, "Which drafts pdr keeps: one of every answer, those"
  " with the most votes first; those that the policy accepts; random ones; or,"
  " an upper bound, right ones (oracle). Default: vote."
)
flags.DEFINE_string(
  "output", "", "A file .jsonl of answers, one a strategy; beside it the table"
  " and a picture.",
)
flags.DEFINE_integer(
  "draws", 1000, "Bootstrap draws of an interval.", lower_bound=1
)
flags.adopt_module_key_flags(distributed)
flags.declare_key_flag("config")  # --help is to show it.
flags.DEFINE_bool("traceback", False, "Show where an error came from.")


class Asked(NamedTuple):
  """What all strategies have in common."""

  model: Any
  task: Task
  key: Any
  posed: Problems
  chosen: list[Chosen]


def pose(config: dict, plan: Plan, mesh: Any) -> Asked:
  """The problems and the strategies, with all checks that need no weights."""
  build.check_folders(config)
  with activity.during("reading problems"):
    task = on_host(build.task_from(config, plan.workdir, part="evaluate"))
  model = machine.suited(build.model_from(config, task), mesh)
  key = jax.random.key(plan.seed, impl="threefry2x32")
  count = plan.problems or config["evaluate"]["problems"]
  if task.table:
    count = plan.problems or len(task.table.prompt)
  pose = playing.make_poser(task, jax.jit)
  posed = jax.device_get(pose(jax.random.fold_in(key, 0), count))
  play = answers.sampler(
    model, task, top_k=plan.top_k, top_p=plan.top_p, jit=jax.jit,
    spread=partial(sharding.by_group_for_all, mesh=mesh),
  )  # fmt: skip
  chosen = strategies_from(
    config, plan, flags.FLAGS, play=play, task=task, posed=posed
  )
  prompt = int(np.sum(np.asarray(posed.prompt) != PAD, axis=1).max())
  for one in chosen:
    rows = one.strategy.rows
    part = playing.part_size(rows, plan.batch, len(posed.prompt))
    requested_policy.check_size(
      config, plan, model, task, mesh, rows=part * rows, samples=rows, slots=0,
      prompt=prompt, written=one.cost.row - prompt, field="evaluate.turns",
    )
  return Asked(model, task, key, posed, chosen)


def file_of(plan: Plan, label: str, several: bool) -> str:
  """The file of a strategy's answers: of several each has its name in it."""
  stem = plan.output.removesuffix(".jsonl")
  return f"{stem}.{label.replace('/', '_')}.jsonl" if several else (
    plan.output
  )


def answer_all(
  config: dict, plan: Plan, asked: Asked, one: Chosen, output: str,
  load: Callable[[], Params], show: Callable[..., None],
) -> list[dict[str, Any]]:
  """The records of one strategy; those that `output` has are not made again.
  """
  task, posed, total = asked.task, asked.posed, len(asked.posed.prompt)
  missing, made = np.ones(total, bool), []
  if output:
    rows_file.begin(output, options_of(config, plan, one))
    numbers = task.texts.kept[:total] if task.texts else range(total)
    missing = rows_file.missing(output, numbers)
  player = playing.Player((), (), (), one.strategy.rows, one.strategy.turns)
  run = answers.program(one.strategy, task, jit=jax.jit)
  params = load() if missing.any() else ()
  begun()
  todo = playing.parts_of(player, posed, batch=plan.batch)
  todo = [rows[missing[rows]] for rows in todo if missing[rows].any()]
  done = total - int(missing.sum())
  for i, rows in enumerate(todo, start=1):
    how = "compiling, and " * (i == 1)
    what = f"{one.label}: {how}answering part {i} of {len(todo)}"
    began = time.monotonic()
    with activity.during(what, seldom=i > 1):
      found = answers.answer_rows(
        run, player, params, asked.key, posed, rows, batch=plan.batch,
        temperature=plan.temperature,
      )
    written = sum((x.turn > 0).sum() for x in found.answer.rounds)
    rate = written / (time.monotonic() - began)
    made += answers.records(one.strategy, task, posed, rows, found)
    if output and jax.process_index() == 0:
      rows_file.add(output, made[-len(rows):])
    done += len(rows)
    show(one.label, done, total, {}, float(rate))
  if output and jax.process_index() == 0:
    return rows_file.finish(output)
  return sorted(made, key=lambda record: record["row"])


def infer(config: dict, plan: Plan) -> dict[str, Any]:
  """Answers by all strategies; returns the summary of each, by its label."""
  jax.config.update("jax_threefry_partitionable", True)
  if config["run"]["compile_cache"]:
    compiling.use_cache()
  mesh = placing.mesh_of(config, plan.mesh)
  display, found = progress.display(), {}
  try:
    with jax.set_mesh(mesh):
      asked = pose(config, plan, mesh)
      files = {}
      for one in asked.chosen if plan.output else ():
        files[one.label] = file_of(plan, one.label, len(asked.chosen) > 1)
        rows_file.claim(files[one.label], options_of(config, plan, one))
      load = functools.cache(
        lambda: requested_policy.load(config, plan, asked.model, mesh)[0]
      )
      for one in asked.chosen:
        found[one.label] = answer_all(
          config, plan, asked, one, files.get(one.label, ""), load,
          display.update,
        )
  finally:
    display.close()
  every = {one.label: one.strategy.every for one in asked.chosen}
  rng = np.random.default_rng(0)  # only for the bootstrap
  summary = answers.summarize(rng, found, every, draws=plan.draws)
  for i, one in enumerate(asked.chosen):
    summary[one.label] |= {
      "strategy": one.name, "options": one.options, "budget": one.budget,
      "oracle": one.strategy.oracle, "at_most": one.cost._asdict(),
      "is_first": i == 0, "turns": one.strategy.context,
      "known_turns": max(len(plan.turns), 1),
    }
  return summary


def save(summary: dict[str, Any], plan: Plan) -> list[str]:
  """Writes the summary and the picture beside the answers; their paths."""
  stem = plan.output.removesuffix(".jsonl")
  workdirs.write_json(epath.Path(f"{stem}.summary.json"), summary)
  file = io.BytesIO()
  pictures.accuracy_over_tokens(summary).savefig(file, format="png")
  epath.Path(f"{stem}.png").write_bytes(file.getvalue())
  return [f"{stem}.summary.json", f"{stem}.png"]


def show(summary: dict[str, Any], plan: Plan, config: dict) -> None:
  """Prints the table and what was written."""
  console = Console(width=None if sys.stdout.isatty() else 120)
  first = next(iter(summary.values()))
  whose = plan.stage or config["model"]["path"]
  title = (
    f"{whose}: {first['judged']} problems, "
    f"{f'temperature {plan.temperature:g}' if plan.temperature else 'greedy'}"
  )
  for table in tables.answers_tables(title, summary):
    console.print(table)
  if lacks := first["problems"] - first["judged"]:
    console.print(f"left out: {lacks} problems that could not be judged")
  if plan.output:
    answers_of = [file_of(plan, name, len(summary) > 1) for name in summary]
    for path in [*answers_of, *save(summary, plan)]:
      console.print(f"written: {path}", soft_wrap=True, highlight=False)


def main(argv: list[str]) -> None:
  """Checks the flags and answers."""
  given = flags.FLAGS
  distributed.start()
  config = config_of(given)
  logs.quiet_libraries()
  plan = plan_from(config, given)
  asked = [getattr(given, name) for name in ("strategy", "tokens", *OPTIONS)]
  distributed.check_agreement([config, *plan, *asked, given.measure])
  if not plan.output:
    try:
      summary = infer(config, plan)
    except KeyboardInterrupt:
      raise KeyboardInterrupt(
        "interrupted; answers are kept and gone on with where --output=FILE is"
        " given"
      ) from None
  else:
    with lock.held(f"--output={plan.output}", f"{plan.output}.lock"):
      summary = infer(config, plan)
  if jax.process_index() == 0:
    show(summary, plan, config)


if __name__ == "__main__":
  run_main(main, argument="workdir")
