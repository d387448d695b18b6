"""Samples a test set: texts, verdicts of the verifiers, pass@k and maj@k.

  sitrain sample --config=score_gsm8k \\
    --config.model.path=FOLDER_OR_HUB_ID --samples=8 --output=gsm8k.jsonl
  sitrain sample RUN --turns=2 --output=gsm8k.jsonl

Samples from a model without a run, or from a stage of a run. Writes a row for
each problem, and a summary to gsm8k.jsonl.json. The same command resumes where
it stopped: with --slots, as on CPUs, problems are written as they end, else in
parts of --batch rows. The problems are those of config.evaluate.task.
"""

import sitrain.runtime.early  # noqa: F401

# isort: split

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import flags
from rich.console import Console

from sitrain.evaluate import pieces as in_pieces
from sitrain.evaluate import player as playing
from sitrain.evaluate import samples as sampling
from sitrain.evaluate import tables
from sitrain.judge.roles import attempts
from sitrain.rollout import by_turn
from sitrain.rollout.play import columns_of
from sitrain.runtime import (
  activity,
  build,
  distributed,
  lock,
  logs,
  machine,
  pieces,
  placing,
  progress,
  requested_policy,
  rows_file,
  sharding,
)
from sitrain.runtime import compile as compiling
from sitrain.runtime.errors import begun, run_main
from sitrain.runtime.requested_samples import (
  Plan,
  config_of,
  options_of,
  plan_from,
)
from sitrain.runtime.test_sets import tasks_of
from sitrain.types import PAD

_LOG = logging.getLogger("sitrain")
# On a CPU: rows that a group of devices decodes at a time, and how many times
# --batch rows wait for them. XLA multiplies float32 there in tiles of 5 rows.
SLOTS, PART = 20, 4

requested_policy.define()
flags.adopt_module_key_flags(requested_policy)
flags.DEFINE_string("output", "", "The file .jsonl to write, also on gs://.")
flags.DEFINE_list(
  "verifiers", [], "The first gives the rewards of the rows, all are in the"
  " summary; default: the config's, then the other of strict and lenient; of"
  " the task chat they are rewards, such as exact,squad_f1.",
)
flags.DEFINE_integer("samples", 1, "Samples of each problem.", lower_bound=1)
flags.DEFINE_integer(
  "turns", 1, "Attempts at a problem: 2 for one and its correction. Their"
  " limits in tokens are config.evaluate.turns.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "slots", -1, "Rows of --batch decoded at a time, on each group of devices:"
  " one that ends makes room for the next; 0: all; -1: all, but on CPUs, where"
  f" answers are texts, {SLOTS} of {PART} times --batch.", lower_bound=-1,
)
flags.DEFINE_list("ks", [], "k of pass@k and maj@k; default: 1, 2, 4, ...")
flags.DEFINE_integer(
  "draws", 1000, "Bootstrap draws of an interval.", lower_bound=1
)
flags.adopt_module_key_flags(distributed)
flags.declare_key_flag("config")  # --help is to show it.
flags.DEFINE_bool("traceback", False, "Show where an error came from.")


def with_slots(plan: Plan, task: Any, problems: int) -> Plan:
  """The plan with a number of slots, and the batch that goes with them.

  Without slots a batch is decoded until its longest text ends, and rows that
  have ended are computed all the same. Few rows keep the cores of a CPU busy.
  """
  if plan.slots >= 0:
    return plan
  few = problems * plan.samples <= SLOTS * jax.device_count()
  other = jax.default_backend() != "cpu" or by_turn.on_host(task.reply)
  if few or other or task.texts == ():
    return plan._replace(slots=0)
  return plan._replace(slots=SLOTS, batch=PART * plan.batch)


def make_player(
  model: Any, task: Any, plan: Plan, mesh: Any
) -> tuple[playing.Player, Any]:
  """The player, and the programs of a rollout in slots; () without slots.

  Texts are judged later, by the first process only.
  """
  options = dict(
    turns=plan.turns, samples=plan.samples, top_k=plan.top_k, top_p=plan.top_p,
    slots=plan.slots, reply=task.reply,
  )
  player = playing.make(
    model, task, **options, jit=jax.jit,
    spread=partial(sharding.by_group_for_all, mesh=mesh),
  )  # fmt: skip
  if task.texts != ():
    player = player._replace(judge=lambda problems, episodes: ())
  # Between processes a rollout in pieces has not been tried.
  if not plan.slots or jax.process_count() > 1:
    return player, ()
  return player, pieces.compiled(model, mesh, **options, eos=task.eos)


def parts_of(
  player: playing.Player, programs: Any, params: Any, key: Any, posed: Any,
  plan: Plan, mesh: Any,
) -> Callable[[Any], Iterator[in_pieces.Ended]]:
  """Numbers of problems -> what is played of them, as they end.

  Without slots they end together. `programs` as `make_player` gives them.
  """
  options = dict(batch=plan.batch, temperature=plan.temperature)
  if programs:
    return partial(
      in_pieces.play_rows, programs, player, programs.prepare(params), key,
      posed, groups=sharding.groups(mesh), **options,
    )

  def play(rows):
    found = playing.play_rows(player, params, key, posed, rows, **options)
    yield in_pieces.Ended(rows, found, int((found.turn > 0).sum()))

  return play


def unanswered(config: dict, turns: int, task: Any, stage: str) -> str:
  """What to say where a lone turn leaves something out, or "".

  That is the replies of an environment, or turns that the stage has trained;
  `stage` is "" without a run.
  """
  most = len(config["evaluate"]["turns"])
  if turns > 1 or most == 1:
    return ""
  if by_turn.on_host(task.reply):
    return (
      "--turns=1: dialogues end before the environment of the task replies:"
      f" --turns={most} samples all of them"
    )
  trained = config["stage"][stage]["method"].get("turns", ()) if stage else ()
  if len(trained) < 2:
    return ""
  return (
    f"--turns=1: {stage} has trained {len(trained)} turns, and only the first"
    f" is sampled: --turns={most} samples the next, too"
  )


def write_missing(
  config: dict, plan: Plan, tasks: dict, mesh: Any, show: Callable[..., None]
) -> tuple[int, str]:
  """Samples the problems that the output lacks; returns how many, and of what.

  `show` is the update of a display.
  """
  task = next(iter(tasks.values()))
  rows = len(task.table.prompt) if task.table else plan.problems
  count = plan.problems or rows or config["evaluate"]["problems"]
  plan = with_slots(plan, task, count)
  model = machine.suited(build.model_from(config, task), mesh)
  player, programs = make_player(model, task, plan, mesh)
  key = jax.random.key(plan.seed, impl="threefry2x32")
  posed = player.pose(jax.random.fold_in(key, 0), count)
  total = len(posed.prompt)
  size = playing.part_size(plan.samples, plan.batch, total)  # Checks the batch.
  rows_file.claim(plan.output, options_of(config, plan))
  kept = task.texts.kept[:total] if task.texts else range(total)
  missing = rows_file.missing(plan.output, kept)
  if not missing.any():
    return 0, rows_file.known(plan.output).get("of", "")
  requested_policy.check_size(
    config, plan, model, task, mesh, rows=size * plan.samples,
    samples=plan.samples, slots=plan.slots, field="evaluate.turns",
    prompt=int(np.sum(np.asarray(posed.prompt) != PAD, axis=1).max()),
    written=columns_of(task, plan.turns)[1],
  )
  params, of = requested_policy.load(config, plan, model, mesh)
  rows_file.begin(plan.output, options_of(config, plan))
  begun()
  play = parts_of(player, programs, params, key, posed, plan, mesh)
  note = partial(
    sampling.records, tasks, posed, samples=plan.samples, turns=len(plan.turns)
  )
  todo = playing.parts_of(player, posed, batch=plan.batch)
  todo = [rows[missing[rows]] for rows in todo if missing[rows].any()]
  done = total - int(missing.sum())
  if not programs:  # Else the time left is counted from when they are compiled.
    show("problems", done, total, {}, math.nan)
  for i, rows in enumerate(todo, start=1):
    what = f"sampling part {i} of {len(todo)} ({len(rows)} problems)"
    for new, rate in timed(play(rows), what, compiles=i == 1):
      if len(new.problems) and jax.process_index() == 0:
        with activity.during("judging", seldom=True):
          rows_file.add(plan.output, note(new.problems, new.played))
      done += len(new.problems)
      show("problems", done, total, {}, rate)
  return int(missing.sum()), of


def timed(
  played: Iterator[in_pieces.Ended], what: str, *, compiles: bool
) -> Iterator[tuple[in_pieces.Ended, float]]:
  """What is played, with tokens per second, which is NaN without tokens.

  It is played as the activity `what`; the first of it may have to be compiled.
  """
  how, new = "compiling, and " * compiles, ()
  while True:
    began = time.monotonic()
    with activity.during(f"{how}{what}", seldom=not how):
      new = next(played, ())
    if new == ():
      return
    seconds = time.monotonic() - began
    yield new, new.tokens / seconds if new.tokens else math.nan
    how = ""


def sample(config: dict, plan: Plan) -> dict[str, Any]:
  """Samples the missing problems; writes and returns the summary."""
  jax.config.update("jax_threefry_partitionable", True)
  if config["run"]["compile_cache"]:
    compiling.use_cache()
  mesh = placing.mesh_of(config, plan.mesh)
  display = progress.display()
  try:
    build.check_folders(config)
    with activity.during("reading problems"):
      tasks = tasks_of(config, plan.workdir, verifiers=plan.verifiers)
    build.check_evaluation(config, next(iter(tasks.values())))
    first = next(iter(tasks.values()))
    stage = plan.stage if plan.workdir else ""
    if note := unanswered(config, len(plan.turns), first, stage):
      _LOG.warning(note)
    with jax.set_mesh(mesh):
      new, of = write_missing(config, plan, tasks, mesh, display.update)
  finally:
    display.close()
  if jax.process_index() != 0:
    return {}
  found = rows_file.finish(plan.output)
  rng = np.random.default_rng(0)  # only for the bootstrap
  summary = sampling.summarize(
    rng, found, verifiers=tuple(tasks), ks=plan.ks,
    turns=attempts(next(iter(tasks.values())), len(plan.turns)),
    draws=plan.draws,
  )  # fmt: skip
  texts = next(iter(tasks.values())).texts
  left_out = len(texts.rows) - len(texts.kept) if texts else 0
  task = options_of(config, plan)["task"]
  device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
  summary = {"task": task["name"], "split": task.get("split", "")} | summary
  summary |= {
    "left_out": left_out, "samples": plan.samples, "new": new, "of": of,
    "temperature": plan.temperature, "device": device, "jax": jax.__version__,
  }
  rows_file.note(plan.output, summary)
  return summary


def show(summary: dict[str, Any], plan: Plan) -> None:
  """Prints the tables and the path of the output."""
  console = Console(width=None if sys.stdout.isatty() else 120)
  for table in tables.samples_tables(summary):
    console.print(table)
  if summary["left_out"]:
    console.print(
      f"left out: {summary['left_out']} problems whose prompts are too long"
    )
  if not summary["new"]:
    console.print("all samples were there already; none was drawn")
  of = f": {summary['of']}" if summary["of"] else ""
  console.print(f"written: {plan.output}{of}", soft_wrap=True, highlight=False)


def main(argv: list[str]) -> None:
  """Checks the flags and samples."""
  given = flags.FLAGS
  distributed.start()
  config = config_of(given)
  plan = plan_from(config, given)
  logs.quiet_libraries()
  distributed.check_agreement([config, *plan])
  with lock.held(f"--output={plan.output}", f"{plan.output}.lock"):
    summary = sample(config, plan)
  if jax.process_index() == 0:
    show(summary, plan)


if __name__ == "__main__":
  run_main(main, argument="workdir")
