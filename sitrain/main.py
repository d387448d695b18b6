"""Trains a language model to improve itself: all stages of a config, in order.

  sitrain train --config=quickstart --workdir=/tmp/sitrain
  sitrain train --config=chat --config.task.source=my.jsonl \\
    --config.model.path=FOLDER_OR_HUB_ID --workdir=/tmp/own

:quick after the name of a config takes two steps of a tiny model, to see that
all of it runs.

Any field of the config can be set on the command line, as in
--config.stage.stage2.method.bonus=2: --show prints all of them as they are, and
--list the options that there are. Started again with the same workdir it
resumes; when all stages are done it shows their table. The workdir may be on
gs://.
"""

import sitrain.runtime.early  # noqa: F401

# isort: split

import functools
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
from absl import flags
from etils import epath

from sitrain.evaluate import run as evaluation
from sitrain.runtime import (
  activity,
  build,
  distributed,
  fields,
  listing,
  lock,
  logs,
  machine,
  notice,
  overrides,
  packages,
  progress,
  services,
  sharding,
  summary,
  watch,
)
from sitrain.runtime import (
  compile as compiling,
)
from sitrain.runtime import (
  workdir as workdirs,
)
from sitrain.runtime.checks import check_config
from sitrain.runtime.errors import run_main
from sitrain.runtime.options import ConfigError
from sitrain.runtime.page.one_run import write_report
from sitrain.runtime.stage import compile_ahead, run_stage
from sitrain.runtime.start import Run
from sitrain.runtime.storage import check_writable
from sitrain.runtime.task import describe
from sitrain.runtime.written import write_stage
from sitrain.types import Stage

CONFIG = overrides.define(
  "The run: a name, as quickstart, or a file; with :arguments if it has any."
)
WORKDIR = flags.DEFINE_string(
  "workdir", "", "A folder for checkpoints, metrics and the report, of this run"
  " alone."
)
SHOW = flags.DEFINE_bool(
  "show", False, "Print the config with all its defaults, and train nothing."
)
LIST = flags.DEFINE_bool(
  "list", False, "Print all configs, methods, tasks and options, and train"
  " nothing."
)
flags.declare_key_flag("config")  # --help is to show it.
flags.adopt_module_key_flags(distributed)
flags.DEFINE_bool("traceback", False, "Show where an error came from.")


class Start(NamedTuple):
  """The start of a run: its time, and the programs that are compiling."""

  began: float  # on the monotonic clock
  programs: list[Future]  # of the unfinished stages
  took: dict[str, float]  # seconds to the first steps
  reached: dict[str, Future]  # by stage, set when its table is written


def evaluators(
  run: Run, task: Any, config: dict
) -> tuple[Callable[..., dict], watch.Watch]:
  """(params, say) -> the row of a stage, and what is looked at before its end.

  The row has accuracies, controls and dialogues; every stage gets the same
  problems. The programs are compiled once. `say` gets the progress as text.
  """
  options = {
    name: value for name, value in config["evaluate"].items()
    if name not in (*watch.OPTIONS, "task")  # `task` already has its options.
  }
  players = evaluation.make_player(
    run.model, task, turns=options.pop("turns"), jit=jax.jit,
    resamples=options.pop("resamples", 8),
    spread=functools.partial(sharding.by_group_for_all, mesh=run.mesh),
  )
  key = jax.random.key(options.pop("seed"), impl="threefry2x32")
  tell = progress.of_problems(programs=2)  # of both players
  judge = lambda params, say: evaluation.evaluate(
    players, params, task, key, on_progress=functools.partial(tell, say),
    **options
  )
  return judge, watch.make(config, players.episodes, task)


def watched(
  display: progress.Display, beat: Callable[..., None], start: Start
) -> Callable[..., None]:
  """The display's update, which also reports the time to the first steps.

  It raises compilation errors of later stages.
  """

  def update(stage: str, *status: Any) -> None:
    beat(stage, *status)
    if not start.took:
      start.took["seconds"] = time.monotonic() - start.began
      display.say(f"{stage} first steps after {start.took['seconds']:.1f} s")
    display.update(stage, *status)
    for program in start.programs:
      if program.done():
        program.result()

  return update


def claim(workdir: str, config: dict, found: dict) -> str:
  """Claims the workdir for this run; returns the config's hash.

  `found` is the result of sources.record. Raises ConfigError if a host does not
  see the workdir.
  """
  digest = workdirs.claim(workdir, config, found)
  distributed.meet("claimed")
  if not (epath.Path(workdir) / "config.json").exists():
    raise ConfigError(
      f"--workdir={workdir} is not seen by process {jax.process_index()}: give"
      " one that all hosts share"
    )
  return digest


def train(config: dict, workdir: str, *, remark: str = "") -> dict:
  """Runs a config in a workdir; returns the summary.

  `remark` is a line about its numbers, to be printed below their table.
  """
  start = Start(time.monotonic(), [], {}, {})
  config, workdir = fields.placed(config), workdirs.absolute(workdir)
  check_config(config)
  services.check_installed(config["run"])
  facts = distributed.check_agreement(config, workdir=workdir)
  display = progress.display()
  try:
    check_writable(workdir)
    workdirs.check_folder(workdir, f"--workdir={workdir}")
    with lock.held(f"--workdir={workdir}", epath.Path(workdir) / lock.NAME):
      return _train(config, workdir, start, facts, display, remark)
  finally:
    display.close()
    activity.leave("heartbeat")


def _train(
  config: dict, workdir: str, start: Start, facts: dict,
  display: progress.Display, remark: str,
) -> dict:
  """`train`, while the workdir is locked."""
  jax.config.update("jax_threefry_partitionable", True)
  if config["run"]["compile_cache"]:
    compiling.use_cache()
  mesh = sharding.make_mesh(**config["mesh"])
  machine.warn_of_unused(mesh)
  with activity.during("reading problems"):
    ready = build.prepare(config, workdir, mesh)
  with jax.set_mesh(mesh):
    judge, looks = evaluators(ready.run, ready.evaluation_task, config)
    summary.check_left(ready.run._replace(workdir=workdir), ready.stages)
  digest = claim(workdir, config, ready.found)
  log = logs.open_log(workdir, facts)
  if jax.process_index() == 0 and (description := describe(ready.task)):
    display.say(description)
  if jax.process_index() == 0:
    packages.keep(workdir, packages.installed())
  sink = services.open_all(workdir, config["run"], config)
  run = ready.run._replace(
    workdir=workdir, sink=sink,
    show=watched(display, logs.heartbeat(workdir, log), start),
    save_every=config["run"]["save_every"],
    keep=config["run"]["keep"], profile=config["run"]["profile_steps"],
    max_gap=config["run"]["max_sampler_gap"],
    watchdog=logs.watchdog(log.file, factor=10.0, floor=60.0), watch=looks,
  )
  try:
    with jax.set_mesh(mesh):
      found, fresh = run_stages(run, ready.stages, judge, digest, start)
  finally:
    sink.close()
  display.close()
  if jax.process_index() == 0:
    finish(found, workdir, fresh, remark)
  return found


def run_stages(
  run: Run, stages: list[Stage], judge: Callable[..., dict], digest: str,
  start: Start,
) -> tuple[dict, bool]:
  """Runs the unfinished stages in order; summary.json grows with each.

  The first stage starts when its program is compiled; the other programs are
  compiled meanwhile, in parallel. Returns the summary, and whether any stage
  was unfinished.
  """
  found = summary.read(run) or summary.empty(run, digest)
  left = summary.unfinished(stages, found)
  if not left:
    names = [stage.name for stage in stages if not stage.writes]
    summary.check_kept(run.workdir, names)
  for stage in left:
    after = start.programs[:1]
    if callable(stage.frozen):  # Its table is not there yet.
      after = [*after, start.reached.setdefault(stage.name, Future())]
    start.programs.append(compile_ahead(run, stage, after=after))
  first = found["stages"][-1]["end"] if found["stages"] else 0
  for stage, compiled in zip(left, start.programs):
    began = time.monotonic()
    if stage.name in start.reached:
      start.reached[stage.name].set_result(True)
    run_one = write_stage if stage.writes else run_stage
    params, done = run_one(run, stage, compiled, first)
    first = done.first + done.step
    found["start"] = start.took
    with activity.during(f"evaluating {stage.name}") as say:
      row = judge(params, say) if params != () else {}
    found["dialogues"] = row.get("dialogues", found["dialogues"])
    seconds = time.monotonic() - began
    row = {"name": stage.name, "seconds": seconds, "end": first} | row
    summary.add_row(run, stage, found, row)
  return found, bool(left)


QUICK = (
  "A quick run only tries whether all parts work: its numbers mean nothing."
  " Without :quick the same command, with another workdir, trains."
)


def finish(found: dict, workdir: str, fresh: bool, remark: str) -> None:
  """Writes the report; prints the table and a few dialogues."""
  page = write_report(workdir)
  progress.show_summary(found)
  if remark:
    print(remark)
  if not fresh:
    print(f"All stages were already done in {workdir}; nothing was trained.")
  print(f"report: {page}")


def main(argv: list[str]) -> None:
  """Checks the flags and runs."""
  distributed.start()
  notice.watch()
  if LIST.value:
    print("\n".join(listing.listed()))
    return
  if CONFIG.value is None:
    raise ConfigError("--config is missing: say which, as --config=quickstart")
  config = fields.placed(build.plain(CONFIG.value))
  if SHOW.value:
    check_config(config)
    print("\n".join(listing.shown(listing.resolved(config), config)))
    return
  if not WORKDIR.value:
    raise ConfigError("--workdir is missing: say where results go")
  logs.quiet_libraries()
  train(config, WORKDIR.value, remark=QUICK * overrides.is_quick(sys.argv))


if __name__ == "__main__":
  run_main(main)
