"""How a model is computed where that depends on the machine alone."""

import jax.numpy as jnp
from jax.sharding import Mesh

from sitrain.models.decoder import Decoder


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
