"""How a model is computed where that depends on the machine alone."""

import logging
import os
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax.sharding import Mesh

from sitrain.models.decoder import Decoder

_LOG = logging.getLogger("sitrain")


def suited(model: Decoder, mesh: Mesh) -> Decoder:
  """The model as the devices of a mesh compute it fastest; no number changes
  but by rounding.

  On CPUs products of bfloat16 are those of models/products.py, and of a layer
  only what is no product is recomputed for the gradient (remat "auto"): to
  recompute products costs a third of the time there, and to keep the rest costs
  more in fresh memory than it saves. Accelerators recompute all of it.
  """
  return suited_to(model, mesh.devices.flat[0].platform)


def suited_to(model: Decoder, platform: str) -> Decoder:
  """`suited`, by the name of a platform, such as "cpu"."""
  cpu, remat = platform == "cpu", model.remat
  if remat == "auto":
    remat = "dots" if cpu else "full"
  return model.clone(wide=cpu and model.dtype == jnp.bfloat16, remat=remat)


# The file of an accelerator's first device -> its name, the extras that use it.
_DEVICES = {
  "/dev/nvidia0": ("NVIDIA GPU", "sitrain[cuda12]' or 'sitrain[cuda]"),
  "/dev/accel0": ("TPU", "sitrain[tpu]"),
}


def unused_accelerator(
  platform: str, environment: Mapping[str, str] = os.environ,
  exists: Callable[[str], bool] = os.path.exists,
) -> str:
  """A sentence where JAX is on the CPU of a machine with an accelerator.

  "" where it is not, or where JAX_PLATFORMS says that it is meant.
  """
  if platform != "cpu" or environment.get("JAX_PLATFORMS", ""):
    return ""
  for path, (name, extra) in _DEVICES.items():
    if exists(path):
      return (
        f"this machine has {'an' if name[0] in 'NA' else 'a'} {name} ({path}),"
        f" but JAX computes on the CPU: pip install '{extra}', and start Python"
        " again; JAX_PLATFORMS=cpu says that it is meant"
      )
  return ""


def warn_of_unused(mesh: Mesh) -> None:
  """Warns where the devices are a CPU beside an accelerator that is idle."""
  if text := unused_accelerator(mesh.devices.flat[0].platform):
    _LOG.warning("%s", text)
