"""Run by test_weights.py as one of two processes of 4 fake CPU devices each.

`python two_processes_weights.py ADDRESS NUMBER FOLDER OUT`: reads the model in
FOLDER together, and writes it to OUT.
"""

import json
import sys

import eight_devices_weights
import jax
import numpy as np

from sitrain.models.huggingface import weights
from sitrain.runtime import sharding


def main(address, number, folder, out):
  jax.distributed.initialize(address, num_processes=2, process_id=number)
  assert jax.device_count() == 8 and len(jax.local_devices()) == 4
  mesh = sharding.make_mesh(1, 4, 2)
  model, spans = weights.from_folder(folder), []
  eight_devices_weights.record(spans)
  want = eight_devices_weights.wanted(model, mesh)
  params = weights.read(folder, model, want)
  config = weights.read_config(folder)
  weights.write(
    out, model, params, config, dtype="float32", shard_bytes=30_000
  )
  norm = np.sum(np.asarray(params["norm"].addressable_shards[0].data))
  print(json.dumps({
    "spans": len(spans), "different": len(set(spans)), "norm": float(norm)
  }))  # fmt: skip


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
