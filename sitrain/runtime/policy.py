"""Loads the parameters of a model, or of a role in a stage of a run."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sitrain.models import decoder, lora
from sitrain.models.decoder import Decoder
from sitrain.models.huggingface.weights import is_scorer, locate
from sitrain.models.parameters import computed
from sitrain.runtime import activity, build, checkpoint, sharding
from sitrain.runtime.options import ConfigError, closest
from sitrain.runtime.reading import weights_of
from sitrain.runtime.snapshot import check_finite
from sitrain.runtime.start import Origin, only
from sitrain.types import Params

_LOG = logging.getLogger("sitrain")


def of_model(path: str, model: Decoder, mesh: Mesh) -> Params:
  """The parameters of a folder or of a model of the hub, on the mesh.

  Raises NotFinite for NaN or infinite parameters.
  """
  wanted = shapes_of(model, mesh)
  params = weights_of(path, model, wanted)
  check_finite(
    only(params={"policy": params}), f"config.model.path={path} holds",
    "give another model",
  )
  return params


def unstacked(params: Params) -> Params:
  """`decoder.unstack` of parameters that are sampled from, without a copy.

  On CPUs, where every device has all of them: a layer is a part of the memory
  of the stacked array, and the devices share it. In a program each of them
  would make a copy of the layers. Other parameters are returned as they are.
  """
  def each(leaf):
    whole, place = np.asarray(leaf.addressable_shards[0].data), leaf.sharding
    if isinstance(place, NamedSharding):  # Its spec has an axis for layers.
      place = NamedSharding(place.mesh, PartitionSpec())
    return [
      jax.make_array_from_callback(part.shape, place, part.__getitem__)
      for part in whole
    ]

  leaves, tree = jax.tree.flatten(params["layers"])
  if isinstance(params["layers"], tuple) or not all(map(_on_every_cpu, leaves)):
    return params
  layers = zip(*map(each, leaves), strict=True)
  return params | {"layers": tuple(map(tree.unflatten, layers))}


def _on_every_cpu(leaf: jax.Array) -> bool:
  (device, *_) = leaf.sharding.device_set
  whole = leaf.is_fully_replicated and leaf.is_fully_addressable
  return device.platform == "cpu" and whole


def shapes_of(model: Decoder, mesh: Mesh) -> Params:
  """Shapes and places of the parameters of `of_model`.

  In the dtype of the computation, because nothing of it is trained: else a
  program would hold a copy beside them.
  """
  init = lambda key: computed(decoder.init(model, key), model.dtype)
  return _layout(init, mesh)


def of_role(config: dict, role: str) -> dict:
  """The config with the model of a role.

  Raises ConfigError for an undefined role, and for one with a scalar head,
  which generates no text.
  """
  if role in ("policy", "reference"):
    return config
  roles = config.get("roles", {})
  if role not in roles:
    known = ("policy", "reference", *roles)
    raise ConfigError(f"--role={role}: {closest(role, known)}")
  path = roles[role].get("path", "")
  if roles[role].get("head", "") or path and is_scorer(locate(path)):
    raise ConfigError(
      f"--role={role} has a scalar head in the place of logits: it writes no "
      "text that could be sampled or exported"
    )
  if not path:
    return config
  model = {n: v for n, v in config["model"].items() if n != "lora"}
  return config | {"model": model | {"path": path}}


def of_stage(
  config: dict, model: Decoder, mesh: Mesh, folder: epath.Path, which: str,
  *, role: str = "policy",
) -> Params:
  """The parameters of `restored`, without the line that names them."""
  return restored(config, model, mesh, folder, which, role=role)[0]


def restored(
  config: dict, model: Decoder, mesh: Mesh, folder: epath.Path, which: str,
  *, role: str = "policy",
) -> tuple[Params, str]:
  """A role's parameters in a stage's "last" or "best" checkpoint, on the mesh.

  And a line that names them, as "policy of stage2, last, step 300": with the
  step of the checkpoint that was read, which may be one before a damaged one.
  `folder` is that of the stage, `config` that of `of_role`. Adapters are merged
  into the base weights. Raises ConfigError if the stage has no such role.
  """
  origin = build.origin_from(config, model)
  params, line = _read(origin, model, mesh, folder, which, role)
  if origin.base == ():
    return params, line
  base = origin.read_base(_placed(origin.base, mesh))
  merge = jax.jit(partial(lora.merge, scale=origin.scale))
  return merge(base, params), line


def restored_adapters(
  config: dict, model: Decoder, mesh: Mesh, folder: epath.Path, which: str,
  *, role: str = "policy",
) -> tuple[Params, str]:
  """The adapters of `restored`, in float32, without their base."""
  origin = build.origin_from(config, model)
  return _read(origin, model, mesh, folder, which, role)


def _read(
  origin: Origin, model: Decoder, mesh: Mesh, folder: epath.Path, which: str,
  role: str,
) -> tuple[Params, str]:
  """What the checkpoint has of a role, and the line of `restored`."""
  field, wanted = _saved(origin, model, mesh, folder, which, role)
  wanted = only(**{field: {role: wanted}})
  with activity.during(f"reading the {which} checkpoint of {folder.name}"):
    state, progress = checkpoint.restore(folder, which, wanted)
  params = getattr(state, field)[role]
  return params, f"{role} of {folder.name}, {which}, step {progress.step}"


def shapes_of_stage(
  config: dict, model: Decoder, mesh: Mesh, folder: epath.Path, which: str,
  *, role: str = "policy",
) -> Params:
  """Shapes and places of the parameters of `of_stage`; it raises the same."""
  origin = build.origin_from(config, model)
  _, saved = _saved(origin, model, mesh, folder, which, role)
  return saved if origin.base == () else _placed(origin.base, mesh)


def _saved(
  origin: Origin, model: Decoder, mesh: Mesh, folder: epath.Path, which: str,
  role: str,
) -> tuple[str, Params]:
  """The field of the checkpoint that has a role, and what to read of it."""
  if role in checkpoint.roles(folder, which):
    return "params", _layout(origin.init, mesh)
  if role not in checkpoint.roles(folder, which, "held"):
    raise ConfigError(f"--role={role}: the stage {folder} does not have it")
  init = lambda key: computed(origin.init(key), model.dtype)
  return "held", _layout(init, mesh)


def _layout(init: Callable[[Any], Params], mesh: Mesh) -> Params:
  return _placed(jax.eval_shape(init, jax.random.key(0)), mesh)


def _placed(shapes: Params, mesh: Mesh) -> Params:
  place = sharding.state_shardings(decoder.PARTITION_RULES, shapes, mesh)
  return sharding.abstract(shapes, place)


def has_role(folder: epath.Path, role: str) -> bool:
  """Whether a stage has a checkpoint with the role, trained or held.

  Warns of a stage whose checkpoints are all damaged.
  """
  if not checkpoint.steps(folder):
    _warn_of_lost(folder)
    return False
  return any(
    role in checkpoint.roles(folder, "last", field)
    for field in ("params", "held")
  )


def stage_of(config: dict, folder: epath.Path, name: str) -> str:
  """The stage `name`; for "" the last stage with a checkpoint of a policy.

  Warns of later stages whose checkpoints are all damaged. Raises ConfigError
  for a stage that is not in the run or has no checkpoint.
  """
  stages = config["stages"]
  if name and name not in stages:
    raise ConfigError(
      f"--stage={name} is not in the run: {closest(name, stages)}"
    )
  trained = [
    each for each in stages if checkpoint.steps(folder / each)
    and "policy" in config["stage"][each].get("trained", ("policy",))
  ]
  if not (trained and (name or trained[-1]) in trained):
    which = f"stage {name}" if name else "every stage"
    check_lost(folder, [name] if name else stages)
    raise ConfigError(f"{which} of {folder} lacks a checkpoint: train it first")
  if not name:
    for later in stages[stages.index(trained[-1]) + 1 :]:
      _warn_of_lost(folder / later)
  return name or trained[-1]


def check_lost(folder: epath.Path, stages: Sequence[str]) -> None:
  """Raises ConfigError for a stage whose checkpoints are all damaged."""
  for name in stages:
    if why := checkpoint.lost(folder / name):
      raise ConfigError(f"stage {name} of {folder} cannot be read: {why}")


def _warn_of_lost(folder: epath.Path) -> None:
  if jax.process_index() == 0 and (why := checkpoint.lost(folder)):
    _LOG.warning("stage %s is left out: %s", folder, why)
