"""How a stage begins: the shapes of its state, and where its values lie."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from sitrain.models import decoder
from sitrain.runtime import checkpoint, logs, metrics, sharding, snapshot
from sitrain.train import init_state
from sitrain.types import Stage, TrainState


class Origin(NamedTuple):
  """Where the parameters of a run come from; made by build.origin_from."""

  init: Callable[[Any], Any]  # key -> what is trained; traced for its shapes
  first: Callable[[Any, Any], Any]  # (key, abstract) -> its first values
  base: Any  # shapes of what adapters adapt, or ()
  read_base: Callable[[Any], Any]  # abstract -> its values
  scale: float  # of what adapters add


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
  max_gap: float  # nat between sampler and trainer, in the mean of a step
  origin: Origin
  table: Any  # what methods.verbs.frozen_of gives, as NumPy arrays
  watchdog: logs.Watchdog = logs.ASLEEP  # is told of every fused call


def folder(run: Run, stage: str) -> epath.Path:
  """Where the checkpoints of a stage lie."""
  return epath.Path(run.workdir) / stage


def new_state(run: Run, stage: Stage, key: Any) -> TrainState:
  """A state from nothing; traced for its shapes."""
  params, reference = run.origin.init(key), ()
  if _has_reference(run, stage):
    cast = lambda x: jnp.array(x, run.model.dtype, copy=True)
    reference = jax.tree.map(cast, params)
  state = init_state(params, stage.optimizer, reference=reference)
  return state._replace(frozen=_frozen(run, run.origin.base))


def _has_reference(run: Run, stage: Stage) -> bool:
  """Adapters need none to be held to what they adapt."""
  return stage.anchor != "none" and (
    stage.anchor != "init" or run.origin.base == ()
  )


def _frozen(run: Run, base: Any) -> Any:
  """The table, and under adapters what they adapt."""
  if base == ():
    return run.table
  scale = np.float32(run.origin.scale)
  return dict(run.table) | {"base": base, "scale": scale}


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
  state = with_frozen(run, _started(run, stage, abstract), abstract)
  if not _has_reference(run, stage):
    return state
  if stage.anchor == "init":
    return state._replace(reference=_first(run, abstract.reference))
  only = _of_anchor(abstract)
  other, _ = checkpoint.restore(
    *_source(run, stage.anchor), only, fit=snapshot.in_any_dtype
  )
  cast = jax.jit(
    lambda tree: jax.tree.map(lambda x: x.astype(run.model.dtype), tree),
    out_shardings=jax.tree.map(lambda x: x.sharding, abstract.reference),
  )
  return state._replace(reference=cast(other.params["policy"]))


def with_frozen(run: Run, state: TrainState, abstract: Any) -> TrainState:
  """The state with what no checkpoint holds, placed as `abstract` says."""
  base = ()
  if run.origin.base != ():
    base = run.origin.read_base(abstract.frozen["base"])
  place = jax.tree.map(lambda x: x.sharding, abstract.frozen)
  return state._replace(frozen=jax.device_put(_frozen(run, base), place))


def _started(run: Run, stage: Stage, abstract: Any) -> TrainState:
  """Parameters and optimizer of `start`; reference and frozen are left out."""
  place = jax.tree.map(lambda x: x.sharding, abstract)
  init = jax.jit(stage.optimizer.init, out_shardings=place.opt_state)
  if stage.start == "init":
    params = {"policy": _first(run, abstract.params["policy"])}
    step = jax.device_put(jnp.zeros((), jnp.int32), place.step)
    return TrainState(step, (), params, init(params), (), ())
  state, _ = checkpoint.restore(
    *_source(run, stage.start), _of_start(stage, abstract),
    fit=snapshot.in_any_dtype,
  )
  if stage.restart:
    state = state._replace(opt_state=init(state.params))
  return state


def _of_start(stage: Stage, abstract: TrainState) -> TrainState:
  """What is read of the checkpoint that a stage starts from."""
  wanted = abstract._replace(frozen=(), reference=())
  return wanted._replace(opt_state=()) if stage.restart else wanted


def _of_anchor(abstract: TrainState) -> TrainState:
  return abstract._replace(frozen=(), opt_state=(), reference=())


def check_sources(run: Run, stages: Sequence[Stage]) -> None:
  """Raises ValueError where the checkpoint of another run does not fit."""
  for stage in stages:
    parts = (stage.start, partial(_of_start, stage)), (stage.anchor, _of_anchor)
    for name, part in parts:
      if elsewhere(name):
        wanted = part(layout(run, stage))
        checkpoint.check(*_source(run, name), wanted, fit=snapshot.in_any_dtype)


def elsewhere(name: str) -> bool:
  """True for RUN/STAGE/best or /last of another run's workdir."""
  return name.count("/") > 1


def _first(run: Run, abstract: Any) -> Any:
  """The parameters that a run begins with, placed as `abstract` says."""
  return run.origin.first(keys_of(run)[0], abstract)


def drawn(init: Callable[[Any], Any]) -> Origin:
  """Parameters that are drawn from the key by `init`."""

  def first(key, abstract):
    cast = lambda x, a: x.astype(a.dtype)
    make = lambda key: jax.tree.map(cast, init(key), abstract)
    place = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(make, out_shardings=place)(key)

  return Origin(init, first, (), lambda abstract: (), 1.0)


def _source(run: Run, name: str) -> tuple[epath.Path, str]:
  stage, which = name.rsplit("/", 1)
  place = epath.Path(stage) if elsewhere(name) else folder(run, stage)
  return place, which


def keys_of(run: Run):
  """The key of the first parameters and the root of all other draws."""
  return jax.random.split(jax.random.key(run.seed, impl="threefry2x32"))


def order_key(seed: int) -> np.ndarray:
  """What the order of a table's rows is drawn from, as raw numbers."""
  key = jax.random.key(seed, impl="threefry2x32")
  return np.asarray(jax.random.key_data(jax.random.fold_in(key, 1)))
