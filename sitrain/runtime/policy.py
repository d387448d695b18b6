"""The policy of a model as it is, or of a stage of a run."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from sitrain.models import decoder, lora
from sitrain.models.decoder import Decoder
from sitrain.models.huggingface import weights
from sitrain.runtime import build, checkpoint, sharding
from sitrain.runtime.options import ConfigError, closest
from sitrain.runtime.start import only
from sitrain.types import Params


def of_model(path: str, model: Decoder, mesh: Mesh) -> Params:
  """The parameters of a folder or a name of the hub, over the mesh."""
  wanted = _layout(partial(decoder.init, model), mesh)
  return weights.read(weights.locate(path), model, wanted)


def of_stage(
  config: dict, model: Decoder, mesh: Mesh, folder: epath.Path, which: str
) -> Params:
  """The policy of a stage's "last" or "best" checkpoint, over the mesh.

  `folder` is that of the stage. Adapters are merged into what they adapt.
  """
  origin = build.origin_from(config, model)
  wanted = only(params={"policy": _layout(origin.init, mesh)})
  params = checkpoint.restore(folder, which, wanted)[0].params["policy"]
  if origin.base == ():
    return params
  base = origin.read_base(_placed(origin.base, mesh))
  return jax.jit(partial(lora.merge, scale=origin.scale))(base, params)


def _layout(init: Callable[[Any], Params], mesh: Mesh) -> Params:
  return _placed(jax.eval_shape(init, jax.random.key(0)), mesh)


def _placed(shapes: Params, mesh: Mesh) -> Params:
  place = sharding.state_shardings(decoder.PARTITION_RULES, shapes, mesh)
  return sharding.abstract(shapes, place)


def stage_of(config: dict, folder: epath.Path, asked: str) -> str:
  """The stage `asked`, or for "" the last of a run that has a checkpoint.

  Raises ConfigError for a stage that is not in the run or has none.
  """
  names = config["stages"]
  if asked and asked not in names:
    raise ConfigError(
      f"--stage={asked} is not in the run: {closest(asked, names)}"
    )
  trained = [
    name for name in names if checkpoint.steps(folder / name)
    and "policy" in config["stage"][name].get("trained", ("policy",))
  ]
  if not (trained and (asked or trained[-1]) in trained):
    which = f"stage {asked}" if asked else "every stage"
    raise ConfigError(f"{which} of {folder} lacks a checkpoint: train it first")
  return asked or trained[-1]
