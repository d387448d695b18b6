"""Trains a language model to improve itself: all stages of a config, in order.

  python -m sitrain.main --config=configs/quickstart.py --workdir=/tmp/sitrain

Any field of the config can be set on the command line, as in
--config.stage.stage2.method.bonus=2. Started again with the same workdir it
resumes; when all stages are done it shows their table. The workdir may be on
gs://.
"""

import os

os.environ.setdefault("EPATH_USE_TF", "0")  # before etils: gs:// without TF

import functools
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
from absl import flags
from etils import epath

from sitrain.evaluate import run as evaluation
from sitrain.rollout.play import columns_of
from sitrain.runtime import (
  build,
  distributed,
  lock,
  logs,
  metrics,
  notice,
  overrides,
  packages,
  progress,
  report,
  sharding,
)
from sitrain.runtime import (
  compile as compiling,
)
from sitrain.runtime import (
  workdir as workdirs,
)
from sitrain.runtime.agree import from_first
from sitrain.runtime.errors import run_main
from sitrain.runtime.fields import check_names
from sitrain.runtime.host import on_host
from sitrain.runtime.options import ConfigError
from sitrain.runtime.stage import compile_ahead, run_stage
from sitrain.runtime.start import Run, check_sources
from sitrain.runtime.storage import check_writable
from sitrain.runtime.task import check_context, describe
from sitrain.runtime.written import check_new, write_stage

CONFIG = overrides.define(
  "The run: a file of configs/, with :arguments if it has any."
)
WORKDIR = flags.DEFINE_string(
  "workdir", "", "Where checkpoints, metrics and the report go."
)
flags.DEFINE_bool("traceback", False, "Show where an error came from.")


def open_sink(config: dict, workdir: str) -> metrics.Sink:
  """metrics.jsonl and TensorBoard events, and wandb where it is asked for."""
  folder = epath.Path(workdir)
  sinks = [
    metrics.jsonl(folder / "metrics.jsonl"),
    metrics.tensorboard(folder / "tensorboard"),
  ]
  if config["run"]["wandb"]:
    sinks.append(
      metrics.wandb(folder, project=config["run"]["wandb"], config=config)
    )
  return metrics.join(sinks)


def evaluator(run: Run, task: Any, config: dict) -> Callable[[Any], dict]:
  """params -> the row of a stage: accuracies, controls, intervals, dialogues.

  Every stage is asked the same problems; the programs are compiled once.
  """
  options = dict(config["evaluate"])
  options.pop("task", ())  # It has gone into `task`.
  players = evaluation.make_player(
    run.model, task, turns=options.pop("turns"), jit=jax.jit,
    resamples=options.pop("resamples", 8),
    spread=functools.partial(sharding.by_group_for_all, mesh=run.mesh),
  )
  key = jax.random.key(options.pop("seed"), impl="threefry2x32")
  return lambda params: evaluation.evaluate(
    players, params, task, key, **options
  )


class Start(NamedTuple):
  """How a run gets going."""

  began: float  # on the monotonic clock
  programs: list[Future]  # of the stages that are left
  took: dict[str, float]  # seconds to the first steps
  reached: dict[str, Future]  # stages that wait for a table to be written


def summarize(
  run: Run, stages: list, judge: Callable[[Any], dict], digest: str,
  start: Start,
) -> tuple[dict, bool]:
  """Runs what is left, stage by stage; summary.json grows with each.

  The first stage begins when its program is compiled; those of the others are
  compiled meanwhile, side by side. Returns the summary, and whether anything
  was left.
  """
  path = epath.Path(run.workdir) / "summary.json"
  begun = lambda: workdirs.read_json(path) if path.exists() else {}
  summary = from_first(begun) or _empty(run, digest)
  done = {row["name"] for row in summary["stages"]}
  left = [stage for stage in stages if stage.name not in done]
  check_sources(run, [stage for stage in left if not callable(stage.frozen)])
  for stage in left:
    if stage.writes:
      check_new(run, stage)
  for stage in left:
    after = start.programs[:1]
    if callable(stage.frozen):  # Its table is not there yet.
      after = [*after, start.reached.setdefault(stage.name, Future())]
    start.programs.append(compile_ahead(run, stage, after=after))
  first = summary["stages"][-1]["end"] if summary["stages"] else 0
  for stage, compiled in zip(left, start.programs):
    began = time.monotonic()
    if stage.name in start.reached:
      start.reached[stage.name].set_result(True)
    run_one = write_stage if stage.writes else run_stage
    params, progress = run_one(run, stage, compiled, first)
    first = progress.first + progress.step
    summary["start"] = start.took
    row = judge(params) if params != () else {}
    summary["dialogues"] = row.pop("dialogues", summary["dialogues"])
    seconds = time.monotonic() - began
    row = {"name": stage.name, "seconds": seconds, "end": first} | row
    summary["stages"].append(row)
    summary["seconds"] += seconds
    if jax.process_index() == 0:
      workdirs.write_json(path, summary)
  return summary, bool(left)


def watched(
  display: progress.Display, beat: Callable[..., None], start: Start
) -> Callable[..., None]:
  """The display's update, which says when the first steps were done.

  It raises what meanwhile went wrong with the program of a later stage.
  """

  def update(stage: str, *told: Any) -> None:
    beat(stage, *told)
    if not start.took:
      start.took["seconds"] = time.monotonic() - start.began
      display.say(f"{stage} first steps after {start.took['seconds']:.1f} s")
    display.update(stage, *told)
    for program in start.programs:
      if program.done():
        program.result()

  return update


def _empty(run: Run, digest: str) -> dict:
  device = jax.devices()[0]
  kind = f"{jax.device_count()} x {device.device_kind} ({device.platform})"
  return {
    "config_hash": digest, "seed": run.seed, "device": kind,
    "jax": jax.__version__, "seconds": 0.0, "stages": [], "dialogues": [],
  }


def claim(workdir: str, config: dict) -> str:
  """The config's hash; the workdir is this run's, and every host sees it.

  Raises ConfigError where one does not.
  """
  digest = workdirs.claim(workdir, config)
  distributed.meet("claimed")
  if not (epath.Path(workdir) / "config.json").exists():
    raise ConfigError(
      f"--workdir={workdir} is not seen by process {jax.process_index()}: give"
      " one that all hosts share"
    )
  return digest


def train(config: dict, workdir: str) -> dict:
  """Runs a config in a workdir; returns the summary."""
  start = Start(time.monotonic(), [], {}, {})
  check_names(config)
  facts = distributed.check_agreement(config, workdir=workdir)
  check_writable(workdir)
  with lock.held(f"--workdir={workdir}", epath.Path(workdir) / lock.NAME):
    return _train(config, workdir, start, facts)


def _train(config: dict, workdir: str, start: Start, facts: dict) -> dict:
  """`train`, in a workdir that is this run's alone."""
  jax.config.update("jax_threefry_partitionable", True)
  metrics.check_installed(project=config["run"]["wandb"])
  if config["run"]["compile_cache"]:
    compiling.use_cache()
  mesh = sharding.make_mesh(**config["mesh"])
  task = on_host(build.task_from(config, workdir))
  asked = on_host(build.task_from(config, workdir, part="evaluate"))
  model = build.model_from(config, task)
  bare = build.run_from(config, task, model, mesh)
  stages = build.stages_from(config, task, bare, workdir)
  build.check_evaluation(config, asked)
  turns = config["evaluate"]["turns"]
  check_context(config, "evaluate.turns", asked, columns_of(asked, turns)[1])
  digest = claim(workdir, config)
  log = logs.open_log(workdir, facts)
  if jax.process_index() == 0 and (said := describe(task)):
    print(said)
  display = progress.display()
  if jax.process_index() == 0:
    packages.keep(workdir, packages.installed())
  sink = open_sink(config, workdir)
  run = bare._replace(
    workdir=workdir, sink=sink,
    show=watched(display, logs.heartbeat(workdir, log), start),
    save_every=config["run"]["save_every"],
    keep=config["run"]["keep"], profile=config["run"]["profile_steps"],
    max_gap=config["run"]["max_sampler_gap"],
    watchdog=logs.watchdog(log.file, factor=10.0, floor=60.0),
  )
  try:
    with jax.set_mesh(mesh):
      judge = evaluator(run, asked, config)
      summary, fresh = summarize(run, stages, judge, digest, start)
  finally:
    display.close()
    sink.close()
  if jax.process_index() == 0:
    finish(summary, workdir, fresh)
  return summary


def finish(summary: dict, workdir: str, fresh: bool) -> None:
  """The report as a file; the table and a few dialogues on the screen."""
  page = report.write_report(workdir)
  progress.show_summary(summary)
  if not fresh:
    print(f"All stages were already done in {workdir}; nothing was trained.")
  print(f"report: {page}")


def main(argv: list[str]) -> None:
  """Checks the flags and runs."""
  distributed.start()
  notice.watch()
  if len(argv) > 1:
    raise ConfigError(f"unknown argument {argv[1]!r}; see --help")
  if CONFIG.value is None:
    raise ConfigError("--config is missing: say which file of configs/")
  if not WORKDIR.value:
    raise ConfigError("--workdir is missing: say where results go")
  logging.getLogger("absl").setLevel(logging.WARNING)
  train(build.plain(CONFIG.value), WORKDIR.value)


if __name__ == "__main__":
  run_main(main)
