"""Run by test_weights.py as a process of 8 fake CPU devices.

`python eight_devices_weights.py FOLDER`: reads the model in FOLDER onto
meshes; prints as JSON what was fetched, and what the devices then hold.
"""

import json
import sys

import jax
import numpy as np

from sitrain.models import decoder
from sitrain.models.huggingface import tensorfile, weights
from sitrain.runtime import sharding

MESHES = {"fsdp": (1, 8, 1), "all": (2, 2, 2)}


def wanted(model, mesh):
  shapes = jax.eval_shape(lambda k: decoder.init(model, k), jax.random.key(0))
  place = sharding.state_shardings(decoder.PARTITION_RULES, shapes, mesh)
  return sharding.abstract(shapes, place)


def record(spans):
  """Has every span of every tensor that is read noted in `spans`."""
  rows = tensorfile.rows

  def noted(tensor, start, stop):
    spans.append((tensor.name, start, stop))
    return rows(tensor, start, stop)

  tensorfile.rows = noted
  return rows


def check(folder, model, plain, sizes):
  mesh, spans = sharding.make_mesh(*sizes), []
  rows = record(spans)
  want = wanted(model, mesh)
  params = weights.read(folder, model, want)
  tensorfile.rows = rows
  leaves = jax.tree.leaves(params)
  same = all(
    np.array_equal(x, y) for x, y in zip(leaves, jax.tree.leaves(plain))
  )
  placed = all(
    x.sharding == w.sharding for x, w in zip(leaves, jax.tree.leaves(want))
  )
  held = {x.addressable_shards[0].data.nbytes / x.nbytes for x in leaves}
  return {
    "same": same, "placed": placed, "least": min(held),
    "read": sum(stop - start for _, start, stop in spans),
    "twice": len(spans) - len(set(spans)),
  }


def main(folder):
  assert jax.device_count() == 8
  model = weights.from_folder(folder)
  shapes = jax.eval_shape(lambda k: decoder.init(model, k), jax.random.key(0))
  plain = weights.read(folder, model, shapes)
  found = {
    name: check(folder, model, plain, sizes) for name, sizes in MESHES.items()
  }
  tensors = tensorfile.read_headers(folder)
  found["rows"] = sum(tensor.shape[0] for tensor in tensors.values())
  print(json.dumps(found))


if __name__ == "__main__":
  main(sys.argv[1])
