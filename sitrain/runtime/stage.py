"""One stage of a run: from its start, or from where it stopped, to its end."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from sitrain.models import decoder
from sitrain.runtime import checkpoint, metrics, sharding, stopping
from sitrain.runtime.compile import profile_steps
from sitrain.runtime.optimizer import one_of
from sitrain.runtime.workdir import array_bytes, check_space
from sitrain.train import (
  init_state,
  make_iteration,
  make_loop,
  make_parts,
  make_train_step,
)
from sitrain.types import Mean, Progress, Stage, TrainState


class Run(NamedTuple):
  """What all stages of a run share."""

  workdir: Any
  mesh: Any
  model: Any
  seed: int
  sink: metrics.Sink
  show: Callable[..., None]  # (stage, step, steps, record, tokens_per_second)
  save_every: int  # fused calls between checkpoints
  keep: int  # last checkpoints kept
  profile: tuple[int, int]  # steps of each stage to trace; (0, 0): none


def folder(run: Run, stage: str) -> epath.Path:
  """Where the checkpoints of a stage lie."""
  return epath.Path(run.workdir) / stage


def new_state(run: Run, stage: Stage, key: Any) -> TrainState:
  """A state from nothing; traced only for its shapes unless start is init."""
  params, reference = decoder.init(run.model, key), ()
  if stage.anchor != "none":
    cast = lambda x: jnp.array(x, run.model.dtype, copy=True)
    reference = jax.tree.map(cast, params)
  return init_state(params, stage.optimizer, reference=reference)


def layout(run: Run, stage: Stage) -> Any:
  """ShapeDtypeStructs of the stage's state, each with its sharding."""
  shapes = jax.eval_shape(
    lambda key: new_state(run, stage, key), jax.random.key(0)
  )
  rules = decoder.PARTITION_RULES
  return sharding.abstract(
    shapes, sharding.state_shardings(rules, shapes, run.mesh)
  )


def start_state(run: Run, stage: Stage, abstract: Any) -> TrainState:
  """The state that a stage begins with: made, or taken from other stages."""
  state = _started(run, stage, abstract)
  if stage.anchor == "none":
    return state
  only = abstract._replace(opt_state=(), reference=())
  other, _ = checkpoint.restore(*_source(run, stage.anchor), only)
  cast = jax.jit(
    lambda tree: jax.tree.map(lambda x: x.astype(run.model.dtype), tree),
    out_shardings=jax.tree.map(lambda x: x.sharding, abstract.reference),
  )
  return state._replace(reference=cast(other.params["policy"]))


def _started(run: Run, stage: Stage, abstract: Any) -> TrainState:
  """Parameters and optimizer of `start`; the reference is left out."""
  wanted = abstract._replace(reference=())
  place = jax.tree.map(lambda x: x.sharding, wanted)
  if stage.start == "init":
    alone = stage._replace(anchor="none")
    make = lambda key: new_state(run, alone, key)
    return jax.jit(make, out_shardings=place)(_keys(run)[0])
  if stage.restart:
    wanted = wanted._replace(opt_state=())
  state, _ = checkpoint.restore(*_source(run, stage.start), wanted)
  if stage.restart:
    init = jax.jit(stage.optimizer.init, out_shardings=place.opt_state)
    state = state._replace(opt_state=init(state.params))
  return state


def _source(run: Run, name: str) -> tuple[epath.Path, str]:
  stage, which = name.split("/")
  return folder(run, stage), which


def _keys(run: Run):
  """The key of the first parameters and the root of all other draws."""
  return jax.random.split(jax.random.key(run.seed, impl="threefry2x32"))


def parts_of(stage: Stage, mesh: Any) -> tuple[Callable, Callable, Callable]:
  """collect, judge and learn of a stage, generating per group of devices."""
  method = stage.method
  method = method._replace(generate=sharding.by_group(method.generate, mesh))
  parts = dict(stage.parts)
  step = make_train_step(
    stage.optimizer, method.loss, microbatches=parts.pop("microbatches")
  )
  return make_parts(method, step, **parts)


def compile_loop(run: Run, stage: Stage, abstract: Any) -> Callable:
  """The stage's program for `steps_per_call` iterations, compiled once.

  Fused: one jitted scan. Staged: the same parts, each jitted, and the judge
  between them on the host.
  """
  collect, judge, learn = parts_of(stage, run.mesh)
  place = jax.tree.map(lambda x: x.sharding, abstract)
  whole = sharding.replicated(run.mesh)
  if stage.fused:
    iteration = make_iteration(collect, judge, learn)
    loop = make_loop(iteration, stage.steps_per_call)
    jitted = jax.jit(loop, donate_argnums=0, out_shardings=(place, whole))
    return jitted.lower(abstract, _keys(run)[1]).compile()
  learn = jax.jit(learn, donate_argnums=0, out_shardings=(place, whole))
  iteration = make_iteration(jax.jit(collect), judge, learn)
  return _staged(iteration, stage.steps_per_call)


def _staged(iteration: Callable, steps: int) -> Callable:
  """The loop on the host, with the same results as `make_loop`."""

  def loop(state, root_key):
    rows = []
    for _ in range(steps):
      key = jax.random.fold_in(root_key, state.step)
      state, measured = iteration(state, key)
      rows.append(measured)
    return state, jax.tree.map(lambda *x: jnp.stack(x), *rows)

  return loop


def run_stage(run: Run, stage: Stage) -> tuple[Any, Progress]:
  """Trains a stage to its end and returns its last parameters.

  Starts from the newest checkpoint of the stage where there is one; a stage
  that is done is only read.
  """
  manager = checkpoint.open_manager(folder(run, stage.name), keep=run.keep)
  try:
    abstract = layout(run, stage)
    if manager.all_steps():
      state, progress = checkpoint.restore_last(manager, abstract)
    else:
      checkpoint.check_fresh(manager)
      needed = (run.keep + 2) * array_bytes(abstract)
      check_space(run.workdir, needed)
      state = start_state(run, stage, abstract)
      progress = Progress(stage.name, 0, {}, -math.inf, 0, False)
    if not progress.done:
      path = epath.Path(run.workdir) / "metrics.jsonl"
      metrics.truncate(path, stage.name, progress.step)
      state, progress = _train(run, stage, abstract, manager, state, progress)
    return state.params["policy"], progress
  finally:
    checkpoint.finish(manager)


def _train(run, stage, abstract, manager, state, progress):
  loop, key = compile_loop(run, stage, abstract), _keys(run)[1]
  box = {"state": state}
  profiler = profile_steps(
    epath.Path(run.workdir) / stage.name, *run.profile,
    wait=lambda: jax.block_until_ready(box["state"]),
  )
  calls, ended = 0, time.monotonic()
  while not progress.done:
    profiler.before(progress.step)
    began = time.monotonic()
    between, (state, measured) = began - ended, loop(state, key)
    measured = jax.device_get(measured)
    ended = time.monotonic()
    box["state"], calls = state, calls + 1
    spent = {"run/seconds": ended - began, "run/host_seconds": between}
    progress = _after(run, stage, progress, measured, spent)
    profiler.after(progress.step)
    if progress.done or calls % run.save_every == 0:
      save(stage, manager, state, progress)
  profiler.close()
  return state, progress


def _after(run, stage, progress, measured, spent) -> Progress:
  """Writes the records of a call, shows the last, and decides what is next.

  `spent` holds the seconds of the call, and those of the host before it.
  """
  rows = metrics.records(measured)
  rate = tokens_written(measured) / spent["run/seconds"]
  spent = {name: value / len(rows) for name, value in spent.items()}
  for i, row in enumerate(rows):
    step = progress.step + i + 1
    run.sink.write({"stage": stage.name, "step": step} | row | spent)
  step = progress.step + len(rows)
  recent = {name: [row[name] for row in rows] for name in rows[0]}
  show = {name: float(np.nanmean(values)) for name, values in recent.items()
          if not np.all(np.isnan(values))}
  run.show(stage.name, step, stage.steps, show, rate)
  window = stopping.extend(progress.window, rows, stage.window)
  if stage.best:
    one_of(f"config.stage.{stage.name}.best", stage.best, rows[0])
  score = show.get(stage.best, float(step))
  done = step >= stage.steps or stage.until(window)
  return progress._replace(
    step=step, window=window, best=score, done=bool(done)
  )


def tokens_written(measured: dict[str, Mean]) -> float:
  """Tokens that the policy wrote in a call, over all turns; NaN if none."""
  names = [name for name in measured if name.startswith("generate/length_")]
  total = sum(float(np.sum(measured[name].total)) for name in names)
  return total if names else math.nan


def save(stage: Stage, manager: Any, state: TrainState, progress: Progress):
  """One checkpoint, ranked by the last call's mean of the stage's metric."""
  checkpoint.save(manager, progress.step, state, progress, progress.best)
