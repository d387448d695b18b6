"""Run by test_storage.py as one of two processes of 4 fake devices each.

`python two_processes_storage.py ADDRESS COUNT NUMBER`: reads what one device
has saved on the bucket, over a mesh of data=8, saves it, reads that over
fsdp=4 and tensor=2, and goes on in the same folder.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from eight_devices import RULES, make_state
from jax.experimental import multihost_utils

from sitrain.runtime import checkpoint, sharding
from sitrain.types import Progress

ONE, MANY = "gs://bucket/mesh/one", "gs://bucket/mesh/many"


def progress(step):
  return Progress("stage", step, {}, 0.5, 0, False)


def wanted(mesh):
  shapes = jax.eval_shape(make_state)
  places = sharding.state_shardings(RULES, shapes, mesh)
  return sharding.abstract(shapes, places)


def check(state, step):
  """The numbers are those of make_state, wherever they lie."""
  want = make_state()._replace(step=jnp.int32(step))
  for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(want), strict=True):
    whole = multihost_utils.process_allgather(x, tiled=True)
    np.testing.assert_array_equal(whole, y)


def main(address, count, number):
  jax.distributed.initialize(address, num_processes=count, process_id=number)
  assert jax.device_count() == 8 and jax.local_device_count() == 4
  data, split = sharding.make_mesh(8, 1, 1), sharding.make_mesh(1, 4, 2)
  state, found = checkpoint.restore(ONE, "last", wanted(data))
  check(state, 3)
  manager = checkpoint.open_manager(MANY)
  checkpoint.save(manager, 4, state, found._replace(step=4), 0.5)
  checkpoint.finish(manager)
  # Where the newest is read, the next is written.
  manager = checkpoint.open_manager(MANY)
  state, found = checkpoint.restore_last(manager, wanted(split))
  check(state, 3)
  assert found.step == 4
  assert not state.params["policy"]["w"].is_fully_addressable
  state = state._replace(step=state.step + 2)
  checkpoint.save(manager, 5, state, progress(5), 0.1)
  checkpoint.finish(manager)
  # What another process has written is seen at once.
  assert checkpoint.steps(MANY) == [4, 5]
  state, _ = checkpoint.restore(MANY, "last", wanted(split))
  check(state, 5)
  print("all is there")


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
