"""Run by test_storage.py: checkpoints on a bucket that has faults.

`python storage_cases.py URL` plays every case once and says as JSON what came
of each: the steps that are there afterwards, the last one that can be read,
the error, and how many requests met a fault.
"""

import json
import logging
import sys

import gcs
import jax
import jax.numpy as jnp
import numpy as np
from eight_devices import make_state
from gcs import fault

from sitrain.runtime import checkpoint
from sitrain.runtime.storage import check_writable
from sitrain.types import Progress, TrainState

FOLDER = "gs://bucket/cases/stage"
DATA = "POST.*cases/stage/%d/arrays.*/d/"  # the arrays' bytes, by tensorstore
RECORD = "POST.*cases/stage/%d/record/metadata"  # by gcsfs
COMMIT = "POST.*cases/stage/%d/commit_success"
# Of the save of step i + 2; step 1 is saved without.
CASES = {
  "unavailable": [(DATA, "unavailable", 2), (RECORD, "unavailable", 1)],
  "slow": [(DATA, "slow", 1), (RECORD, "slow", 1), (COMMIT, "slow", 1)],
  "torn": [(DATA, "torn", 2), (RECORD, "torn", 1)],
  "lost": [(DATA, "lost", 1), (RECORD, "lost", 1), (COMMIT, "lost", 1)],
  "busy": [(DATA, "busy", 1)],
  "full": [(DATA, "quota", 10**6)],
  "full_for_the_record": [(RECORD, "quota", 10**6)],
  "forbidden": [("POST", "forbidden", 10**6)],
  "unfinished": [(COMMIT, "forbidden", 10**6)],
}


def state_of(step):
  w = jax.random.normal(jax.random.key(0), (64, 32)) + step
  return TrainState(jnp.int32(step), {}, {"policy": {"w": w}}, (), {}, ())


def save(step):
  manager = checkpoint.open_manager(FOLDER)
  try:
    progress = Progress("stage", step, {}, 0.0, 0, False)
    checkpoint.save(manager, step, state_of(step), progress, 0.5)
  finally:
    checkpoint.finish(manager)


def save_for_two_processes():
  """What two_processes_storage.py is to read."""
  manager = checkpoint.open_manager("gs://bucket/mesh/one")
  progress = Progress("stage", 3, {}, 0.5, 0, False)
  checkpoint.save(manager, 3, make_state(), progress, 0.5)
  checkpoint.finish(manager)


def last():
  """The newest step whose numbers are those that were saved."""
  want = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state_of(0),
  )
  state, progress = checkpoint.restore(FOLDER, "last", want)
  same = jax.tree.map(np.array_equal, state, state_of(progress.step))
  assert jax.tree.all(same)
  return progress.step


def told(function, *given):
  try:
    function(*given)
    return ""
  except OSError as error:
    return str(error)


def main(server):
  save_for_two_processes()
  save(1)
  found = {}
  for step, (name, faults) in enumerate(CASES.items(), 2):
    server.faults(*(
      fault(on.replace("%d", str(step)), kind, times=times)
      for on, kind, times in faults
    ))
    error = told(save, step)
    met = len(server.served())
    server.faults()
    steps = checkpoint.steps(FOLDER)
    found[name] = {"step": step, "error": error, "steps": steps, "met": met}
    found[name]["last"] = last()
  server.faults(fault("GET", "forbidden"))
  found["unreadable"] = {"error": told(last)}
  for kind, on in (("forbidden", "POST"), ("forbidden", "DELETE")):
    server.faults(fault(on, kind))
    found[f"{on}_forbidden"] = {"error": told(check_writable, FOLDER)}
  server.faults()
  found["missing"] = {"error": told(check_writable, "gs://no-such-bucket/run")}
  found["writable"] = {"error": told(check_writable, "gs://bucket/cases")}
  print(json.dumps(found))


if __name__ == "__main__":
  logging.getLogger("absl").setLevel(logging.WARNING)
  main(gcs.at(sys.argv[1]))
