"""The first state of a stage: its shapes, shardings and sources."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from sitrain.models import decoder, heads
from sitrain.models.parameters import computed
from sitrain.runtime import checkpoint, logs, sharding, sinks, snapshot
from sitrain.runtime.watch import Watch
from sitrain.train import init_state
from sitrain.types import Stage, TrainState


class Origin(NamedTuple):
  """Where the parameters of a role come from; made by build.origin_from."""

  init: Callable[[Any], Any]  # key -> trained parameters; traced for shapes
  first: Callable[[Any, Any], Any]  # (key, abstract) -> their first values
  base: Any  # shapes of the base weights of adapters, or ()
  read_base: Callable[[Any], Any]  # abstract -> base weights
  scale: float  # of the adapters' output


class Role(NamedTuple):
  """A role of config.roles."""

  model: Any
  start: str  # "policy": the policy's parameters; "init": its own origin
  head: str  # "scalar" or ""
  origin: Origin  # of its parameters; the policy's if it starts from it


class Run(NamedTuple):
  """Everything that the stages of a run share."""

  workdir: Any
  mesh: Any
  model: Any  # of the policy
  seed: int
  sink: sinks.Sink
  show: Callable[..., None]  # (stage, step, steps, record, tokens_per_second)
  save_every: int  # fused calls between checkpoints
  keep: int  # last checkpoints kept
  profile: tuple[int, int]  # steps of each stage to trace; (0, 0): none
  max_gap: float  # nat between sampler and trainer, in the mean of a step
  origin: Origin  # of the policy
  roles: dict[str, Role] = {}  # except policy and reference
  watchdog: logs.Watchdog = logs.ASLEEP  # wraps every fused call
  watch: Watch = Watch()  # evaluations and samples while a stage trains


def folder(run: Run, stage: str) -> epath.Path:
  """The folder of a stage's checkpoints."""
  return epath.Path(run.workdir) / stage


def role_of(run: Run, name: str) -> Role:
  """The role of that name; policy and reference always exist.

  Raises ValueError for an undefined role.
  """
  policy = Role(run.model, "policy", "", run.origin)
  known = {"policy": policy, "reference": policy} | run.roles
  if name not in known:
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]!r}? Else " if near else ""
    raise ValueError(
      f"the role {name!r} is not defined: {meant}set config.roles.{name}, such"
      f" as --config.roles.{name}.start=policy"
    )
  return known[name]


def init_role(run: Run, name: str, key: Any) -> Any:
  """Newly initialized parameters of a role; traced for their shapes."""
  role = role_of(run, name)
  params = role.origin.init(key)
  return heads.add(role.model, params) if role.head else params


def new_state(run: Run, stage: Stage, key: Any) -> TrainState:
  """A newly initialized state; traced for its shapes."""
  params = {name: init_role(run, name, key) for name in stage.trained}
  held = {
    name: computed(init_role(run, name, key), role_of(run, name).model.dtype)
    for name in stage.held
  }
  state = init_state(
    params, stage.optimizer, held=held, memory=stage.method.memory(key),
    rounds=stage.rounds,
  )
  return state._replace(frozen=_frozen(run, stage, run.origin.base, 0))


def _frozen(run: Run, stage: Stage, base: Any, first: int) -> dict[str, Any]:
  """The table, the first iteration of the stage, and the base weights."""
  table = stage.frozen() if callable(stage.frozen) else stage.frozen
  frozen = dict(table or {})
  frozen["first"] = np.int32(first)
  if base == ():
    return frozen
  return frozen | {"base": base, "scale": np.float32(run.origin.scale)}


def layout(run: Run, stage: Stage) -> Any:
  """ShapeDtypeStructs of the stage's state, each with its sharding."""
  shapes = jax.eval_shape(
    lambda key: new_state(run, stage, key), jax.random.key(0)
  )
  rules = decoder.PARTITION_RULES
  return sharding.abstract(
    shapes, sharding.state_shardings(rules, shapes, run.mesh)
  )


def start_state(
  run: Run, stage: Stage, abstract: Any, first: int = 0
) -> TrainState:
  """The first state of a stage: initialized, or from other stages.

  `first` counts the iterations of earlier stages.
  """
  params, opt_state = _trained(run, stage, abstract)
  held = {
    name: _held(run, name, source, abstract.held[name])
    for name, source in stage.held.items()
  }
  place = jax.tree.map(lambda x: x.sharding, abstract)
  key = jax.random.fold_in(keys_of(run)[0], first + 1)
  memory = jax.jit(stage.method.memory, out_shardings=place.memory)(key)
  step = jax.device_put(jnp.int32(first), place.step)
  posed = jax.tree.map(lambda x: jax.device_put(jnp.int32(0), x), place.posed)
  state = TrainState(step, {}, params, opt_state, held, memory, posed)
  return with_frozen(run, stage, state, abstract, first)


def with_frozen(
  run: Run, stage: Stage, state: TrainState, abstract: Any, first: int
) -> TrainState:
  """The state with its unsaved part, with the shardings of `abstract`."""
  base = ()
  if run.origin.base != ():
    base = run.origin.read_base(abstract.frozen["base"])
  place = jax.tree.map(lambda x: x.sharding, abstract.frozen)
  frozen = jax.device_put(_frozen(run, stage, base, first), place)
  return state._replace(frozen=frozen)


def _trained(run: Run, stage: Stage, abstract: Any) -> tuple[Any, Any]:
  """Parameters and optimizer state from the stage's `start`."""
  place = jax.tree.map(lambda x: x.sharding, abstract)
  init = jax.jit(stage.optimizer.init, out_shardings=place.opt_state)
  if stage.start == "init":
    params = {n: _first(run, n, x) for n, x in abstract.params.items()}
    return params, init(params)
  source = _source(run, stage.start)
  params = {
    name: _from_source(run, source, name, wanted)
    for name, wanted in abstract.params.items()
  }
  if stage.restart:
    return params, init(params)
  saved, _ = checkpoint.restore(
    *source, only(opt_state=abstract.opt_state), fit=snapshot.cast_dtypes
  )
  return params, saved.opt_state


def _held(run: Run, name: str, source: str, wanted: Any) -> Any:
  """The parameters of a held role, in the dtypes of `wanted`."""
  if source == "init":
    return _first(run, name, wanted)
  return _from_source(run, _source(run, source), name, wanted)


def _first(run: Run, name: str, wanted: Any) -> Any:
  """The first parameters of a role, with the shardings of `wanted`."""
  role, key = role_of(run, name), keys_of(run)[0]
  if not role.head:
    return role.origin.first(key, wanted)
  shapes = jax.eval_shape(role.origin.init, key)
  if heads.NAME in shapes:  # It comes with its head.
    return role.origin.first(key, wanted)
  place = sharding.state_shardings(decoder.PARTITION_RULES, shapes, run.mesh)
  trunk = role.origin.first(key, sharding.abstract(shapes, place))
  return heads.add(role.model, trunk)


def _from_source(run: Run, source: Any, name: str, wanted: Any) -> Any:
  """A role's parameters in a checkpoint, or the policy's if it has none.

  Raises ValueError if the role does not start from the policy.
  """
  role = role_of(run, name)
  saved = name if name in checkpoint.roles(*source) else "policy"
  if saved != name and role.start != "policy":
    raise ValueError(
      f"{source[0]}/{source[1]} has no parameters of the role {name!r}: name a "
      "stage that trains it, or set its config.roles start to 'policy'"
    )
  add_head = role.head and saved != name
  trunk = {n: x for n, x in wanted.items() if n != heads.NAME or not add_head}
  state, _ = checkpoint.restore(
    *source, only(params={saved: trunk}), fit=snapshot.cast_dtypes
  )
  params = state.params[saved]
  return heads.add(role.model, params) if add_head else params


def only(**fields: Any) -> TrainState:
  """A TrainState with only the fields to read from a checkpoint."""
  return TrainState(*[()] * len(TrainState._fields))._replace(**fields)


def check_sources(run: Run, stages: Sequence[Stage]) -> None:
  """Raises ValueError if a checkpoint of another run does not fit."""
  for stage in stages:
    wanted = layout(run, stage) if _foreign(stage) else None
    if elsewhere(stage.start):
      params = {"policy": wanted.params["policy"]}
      _check_source(run, stage.start, params)
    for name, source in stage.held.items():
      if elsewhere(source):
        saved = checkpoint.roles(*_source(run, source))
        role = name if name in saved else "policy"
        if role_of(run, name).head and role != name:
          raise ValueError(
            f"{source} has no {name!r}: a new scalar head scores every text 0:"
            " name a stage that trains it"
          )
        _check_source(run, source, {role: wanted.held[name]})


def _foreign(stage: Stage) -> bool:
  return any(map(elsewhere, (stage.start, *stage.held.values())))


def _check_source(run: Run, source: str, params: dict) -> None:
  checkpoint.check(
    *_source(run, source), only(params=params), fit=snapshot.cast_dtypes
  )


def elsewhere(name: str) -> bool:
  """True for RUN/STAGE/best or /last of another run's workdir."""
  return name.count("/") > 1


def began_at(run: Run, stage: Stage, first: int) -> int:
  """TrainState.step at the start of a stage.

  It continues the count of another run's checkpoint, so that no keys are used
  twice.
  """
  if first or not elsewhere(stage.start):
    return first
  return checkpoint.iterations(*_source(run, stage.start))


def drawn(init: Callable[[Any], Any]) -> Origin:
  """An origin of parameters that `init` draws from a key."""

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
  """The key of the first parameters, and the root of all other keys."""
  return jax.random.split(jax.random.key(run.seed, impl="threefry2x32"))


def order_key(seed: int, stage: int = 0) -> np.ndarray:
  """The key for the order of a table's rows, as raw numbers.

  Each stage, by its number, has its own order.
  """
  key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), 1)
  return np.asarray(jax.random.key_data(jax.random.fold_in(key, stage)))
