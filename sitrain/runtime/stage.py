"""Trains one stage of a run, from its start or its newest checkpoint."""

import contextlib
import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import jax
from etils import epath

from sitrain.models.roles import for_sampling, params_of
from sitrain.rollout.lengths import cut_prompts
from sitrain.runtime import (
  activity,
  checkpoint,
  peers,
  samples,
  sharding,
  signals,
  sinks,
  stopping,
)
from sitrain.runtime.compile import ahead, profile_steps
from sitrain.runtime.distributed import meet, stop_agreed
from sitrain.runtime.errors import begun
from sitrain.runtime.host import shapes_only
from sitrain.runtime.options import ConfigError
from sitrain.runtime.recording import ranked_now, record
from sitrain.runtime.snapshot import check_finite
from sitrain.runtime.staged import (
  Sampler,
  lower_staged,
  make_sampler,
  make_staged,
)
from sitrain.runtime.start import (
  Run,
  began_at,
  folder,
  keys_of,
  layout,
  start_state,
  with_frozen,
)
from sitrain.runtime.workdir import array_bytes, check_space
from sitrain.train import (
  make_iteration,
  make_loop,
  make_parts,
  make_train_step,
)
from sitrain.types import Method, Progress, Stage, TrainState

_LOG = logging.getLogger("sitrain")


def by_group(stage: Stage, mesh: Any) -> Method:
  """The stage's method, generating per group of devices, with cut prompts."""
  method, prepare = stage.method, partial(for_sampling, dtype=stage.dtype)
  generate = sharding.by_group(method.generate, mesh, prepare=prepare)
  generate = cut_prompts(generate, stage.parts.get("buckets", 1))
  return method._replace(generate=generate)


def parts_of(stage: Stage, mesh: Any) -> tuple[Callable, Callable, Callable]:
  """collect, judge and learn of a stage, generating per group of devices."""
  method, parts = by_group(stage, mesh), dict(stage.parts)
  step = make_train_step(
    stage.optimizer, method.loss, microbatches=parts.pop("microbatches")
  )
  return make_parts(method, step, **parts)


def iteration_of(stage: Stage, mesh: Any) -> Callable:
  """The fused iteration of a stage, with several rounds if configured."""
  more = {"wanted": stage.method.wanted, "rounds": stage.rounds}
  return make_iteration(
    *parts_of(stage, mesh), **(more if stage.rounds > 1 else {})
  )


def lower_stage(
  run: Run, stage: Stage, abstract: Any, key: Any
) -> dict[str, Any]:
  """The stage's programs by name, lowered from the shapes of state and key.

  Fused: the "loop" of `steps_per_call` iterations, one jitted scan. Staged: the
  same parts as separate programs, with the names in `staged.NAMES`.
  """
  if run.watch.samples_every and not stage.writes:
    stage = stage._replace(method=shown(run, stage, abstract))
  if not stage.fused or stage.writes:
    learn = parts_of(stage, run.mesh)[2]
    grouped = stage._replace(method=by_group(stage, run.mesh))
    return lower_staged(grouped, learn, run.mesh, abstract, key)
  place = jax.tree.map(lambda x: x.sharding, abstract)
  everywhere = sharding.replicated(run.mesh)
  loop = make_loop(iteration_of(stage, run.mesh), stage.steps_per_call)
  jitted = jax.jit(loop, donate_argnums=0, out_shardings=(place, everywhere))
  return {"loop": jitted.lower(abstract, key)}


def shown(run: Run, stage: Stage, abstract: Any) -> Method:
  """The stage's method, which hands on a few rows of each step."""
  method, key = stage.method, jax.random.key(0, impl="threefry2x32")

  def rows_of(key, state):
    problems = method.pose(key, state)
    keys = jax.random.split(key, problems.prompt.shape[0])
    return method.generate(keys, state, problems)

  with shapes_only():  # The host may answer between turns.
    rows = jax.eval_shape(rows_of, key, abstract)
  return samples.showing(method, run.watch.samples, samples.columns_of(rows))


def programs(stage: Stage) -> str:
  """How many programs `lower_stage` makes, as text."""
  if stage.fused and not stage.writes:
    return "1 program"
  count = 2 if stage.writes else 4 + 2 * (stage.rounds > 1)
  return f"{count + hasattr(stage.method.generate, 'by_turn')} programs"


def compile_loop(
  run: Run, stage: Stage, abstract: Any
) -> Callable | Sampler:
  """Compiles `steps_per_call` iterations of the stage.

  In a staged stage the judge runs on the host, between the programs. A stage
  that writes rows has only the sampler.
  """
  lowered = lower_stage(run, stage, abstract, keys_of(run)[1])
  if "loop" in lowered:
    return lowered["loop"].compile()
  begun = {name: ahead(one.compile) for name, one in lowered.items()}
  programs = {name: one.result() for name, one in begun.items()}
  grouped = stage._replace(method=by_group(stage, run.mesh))
  make = make_sampler if stage.writes else make_staged
  return make(grouped, programs, run.mesh)


def compile_ahead(
  run: Run, stage: Stage, *, after: Sequence[Future] = ()
) -> Future:
  """Starts `compile_loop` in a thread; the result is the loop.

  The thread first waits for all of `after`, so that programs needed earlier get
  the machine. The result raises ConfigError if the compiler fails, for example
  for lack of memory.
  """

  def make():
    for future in after:
      future.result()
    try:
      with jax.set_mesh(run.mesh):  # It is thread-local.
        return compile_loop(run, stage, layout(run, stage))
    except jax.errors.JaxRuntimeError as error:
      raise ConfigError(
        f"config.stage.{stage.name} does not compile: {error}"
      ) from error

  return ahead(make)


def run_stage(
  run: Run, stage: Stage, compiled: Future, first: int = 0
) -> tuple[Any, Progress]:
  """Trains a stage to its end; returns its last policy, as decoders take it.

  Starts from the newest checkpoint of the stage if there is one; a finished
  stage is only read. `compiled` is the result of `compile_ahead`, and `first`
  counts the iterations of earlier stages. A stage that does not train the
  policy returns () for it.
  """
  manager = checkpoint.open_manager(folder(run, stage.name), keep=run.keep)
  try:
    abstract = layout(run, stage)
    saved = bool(checkpoint.saved_steps(manager))
    with activity.during(preparing(stage, saved, compiled.done())):
      state, progress = begin(run, stage, manager, abstract, first)
    progress = reopened(stage, progress)
    if progress.done:
      activity.say(trained_before(stage, progress.step))
    else:
      sinks.drop_later(run.workdir, stage.name, progress.step)
      if progress.step:
        activity.say(f"{stage.name} goes on after step {progress.step}")
      with activity.during(f"compiling {stage.name} ({programs(stage)})"):
        loop = compiled.result()
      meet(stage.name)
      begun()
      with signals.training(peers.leave):
        try:
          state, progress = _train(run, stage, loop, manager, state, progress)
        finally:
          checkpoint.wait(manager)
      if remark := stopping.remark(progress.window):
        _LOG.warning("stage %s: %s", stage.name, remark)
    trained = "policy" in stage.trained
    return params_of(state, "policy") if trained else (), progress
  finally:
    checkpoint.finish(manager)


def preparing(stage: Stage, saved: bool, compiled: bool) -> str:
  """What a stage does before its first step, and why that takes a while.

  `saved` is whether it has a checkpoint, `compiled` whether its programs are
  compiled already.
  """
  doing = f"reading {stage.start}, and compiling what starts from it"
  if saved:
    doing = "reading its last checkpoint"
  elif stage.start == "init":
    # Those of a model on a disk are reported while they are read.
    doing = "compiling and initializing parameters and optimizer"
  meanwhile = "" if compiled else f"; meanwhile {programs(stage)} compiling"
  return f"preparing {stage.name} ({doing}{meanwhile})"


def trained_before(stage: Stage, steps: int) -> str:
  """The line about a stage that ended before this start of the run.

  Its evaluation is stored only as a whole, in the summary.
  """
  line = f"{stage.name} is trained: all {steps} steps are done"
  if "policy" in stage.trained:
    return f"{line}; its evaluation, which was not finished, is done again"
  return f"{line}, and the next stage follows"


def saved_part(state: TrainState) -> TrainState:
  """The saved part of a state; the rest comes from the sources of the run."""
  return state._replace(frozen={})


def begin(
  run: Run, stage: Stage, manager: Any, abstract: Any, first: int
) -> tuple[TrainState, Progress]:
  """The newest state of the stage, or its first.

  Raises NotFinite for NaN or infinite parameters, OSError if the disk has too
  little space for the checkpoints.
  """
  if checkpoint.saved_steps(manager):
    saved = saved_part(abstract)
    state, progress = checkpoint.restore_last(manager, saved)
    state = with_frozen(run, stage, state, abstract, progress.first)
    return state, progress
  checkpoint.check_fresh(manager)
  # The last `keep`, the best, and the one that is being written.
  needed = (run.keep + 2) * array_bytes(saved_part(abstract))
  check_space(run.workdir, needed)
  first = began_at(run, stage, first)
  state = start_state(run, stage, abstract, first)
  base = {"base": state.frozen.get("base", ())}
  check_finite(
    saved_part(state)._replace(held=state.held | base),
    f"config.stage.{stage.name} begins with",
    f"mend what config.stage.{stage.name}.start or config.model.path names",
  )
  return state, Progress(stage.name, 0, {}, -math.inf, 0, False, first)


def reopened(stage: Stage, progress: Progress) -> Progress:
  """Reopens a finished stage that has got more steps.

  A stage that `until` ended stays finished: more steps would not change that.
  """
  more = progress.step < stage.steps and not stage.until(progress.window)
  return progress._replace(done=progress.done and not more)


def _train(run, stage, loop, manager, state, progress):
  box, key = {"state": state}, keys_of(run)[1]
  profiler = profile_steps(
    epath.Path(run.workdir) / stage.name, *run.profile,
    wait=lambda: jax.block_until_ready(box["state"]),
  )
  ended, stop, took = time.monotonic(), 0, deque(maxlen=101)
  while not progress.done and not stop:
    profiler.before(progress.step)
    run.watchdog.before()
    began = time.monotonic()
    with _call(run, stage, progress, took):
      between, (state, measured) = began - ended, loop(state, key)
      measured = jax.device_get(measured)
    ended = time.monotonic()
    run.watchdog.after(ended - began)
    box["state"] = state
    spent = {"run/seconds": ended - began, "run/host_seconds": between}
    progress = record(run, stage, progress, measured, spent, state)
    profiler.after(progress.step)
    stop = stop_agreed()
    if not stop:  # A signal that comes from here on ends the next call.
      _announce(run, stage, progress, took)
    save(run, stage, manager, state, progress, extra=bool(stop))
  profiler.close()
  if stop:
    raise signals.Stopped(stop, f" after step {progress.step} of {stage.name}")
  return state, progress


def _announce(run, stage, progress, took) -> None:
  """Says which call a signal would end after: the one after `progress`."""
  signals.working(*[] if progress.done else [signals.Working(
    stage.name, progress.step, _last(stage, progress), time.monotonic(),
    statistics.median(took or [math.nan]),
    saved=lambda: max(checkpoint.steps(folder(run, stage.name)), default=0),
  )])  # fmt: skip


def _last(stage, progress) -> int:
  return min(progress.step + stage.steps_per_call, stage.steps)


@contextlib.contextmanager
def _call(run, stage, progress, took) -> Iterator[None]:
  """Around a call: announces it; `took` has the seconds of earlier ones."""
  step, last = progress.step, _last(stage, progress)
  began = time.monotonic()
  _announce(run, stage, progress, took)
  steps = f"step {last}" if last == step + 1 else f"steps {step + 1} to {last}"
  with activity.during(f"{stage.name} {steps} of {stage.steps}", seldom=True):
    yield
  took.append(time.monotonic() - began)
  # The first call of a process is slower than the others.
  if len(took) == 2 and took[-1] > signals.NOTICE:
    activity.say(signals.slow(took[-1]))


def save(
  run: Run, stage: Stage, manager: Any, state: TrainState, progress: Progress,
  *, extra: bool,
) -> None:
  """Saves a checkpoint if one is due, or if `extra`.

  One is due, too, where an evaluation has ranked it. Its score is that of
  `best_score`. An extra one ranks last: a run without interruption does not
  have it, and must find the same best checkpoint.
  """
  calls = progress.step // stage.steps_per_call
  due = progress.done or calls % run.save_every == 0
  due = due or ranked_now(stage, progress.window, progress.step)
  if due or extra:
    state = saved_part(state)
    score = progress.best if due else -math.inf
    run.sink.flush()  # A checkpoint must not be ahead of the records.
    checkpoint.save(manager, progress.step, state, progress, score)
