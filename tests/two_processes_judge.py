"""Run by test_devices.py as one of two processes that train together.

`python two_processes_judge.py ADDRESS COUNT NUMBER`: SCoRe's stage II on mazes
whose verifier runs on the host, on 4 devices in all; says as JSON how many rows
this process verified, and what came out.
"""

import json
import sys

import jax
import loops
import numpy as np
import optax

from sitrain.methods import score
from sitrain.models.decoder import Decoder
from sitrain.runtime import sharding
from sitrain.runtime.host import on_host
from sitrain.runtime.stage import compile_loop
from sitrain.runtime.start import layout, start_state
from sitrain.tasks import maze
from sitrain.types import Verdict

STEPS, PROBLEMS, SAMPLES, TURNS, WAVES = 2, 16, 2, (3, 3), 2


def hosted(task, rows):
  """The task with a verifier on the host; `rows` lists how many it saw.

  An attempt is right if its tokens and the answer add up to an even number,
  so that a policy from nothing is right in half of its attempts.
  """

  def total(episodes, turns):
    inside = episodes.turn[:, None] == np.arange(1, turns + 1)[:, None]
    return np.where(inside, episodes.tokens[:, None], 0).sum(axis=2)

  def verify(answer, episodes, turns):
    assert isinstance(answer, np.ndarray)
    rows.append(len(answer))
    sums = total(episodes, turns) + answer[:, :1]
    reward = (sums % 2 == 0).astype(np.float32)
    return Verdict(reward, np.ones_like(reward))

  return task._replace(verify=verify, final=total, on_host=True)


def judged(mesh):
  """What comes out on a mesh of four devices, and the rows verified here."""
  rows = []
  task = on_host(hosted(maze.make(doors=2, rooms=2), rows))
  model = Decoder(
    vocabulary=16, layers=1, width=16, heads=2, kv_heads=1, head_size=8,
    mlp_size=16,
  )
  optimizer = optax.adam(1e-2)
  method = score.stage_two(
    {"policy": model}, task, optimizer, problems=PROBLEMS, samples=SAMPLES,
    turns=TURNS,
  )
  stage = loops.stage_of(
    method, optimizer, steps_per_call=STEPS, fused=False,
    held={"reference": "init"}, parts=loops.PARTS | {"waves": WAVES},
  )
  run = loops.run_of(model, mesh=mesh)
  with jax.set_mesh(mesh):
    abstract = layout(run, stage)
    state = start_state(run, stage, abstract)
    state, told = compile_loop(run, stage, abstract)(state, jax.random.key(0))
    norm = jax.jit(optax.tree.norm)(state.params)
    reward = jax.device_get(told["judge/reward_2"])
  return {
    "rows": rows, "norm": float(norm), "reward": reward.total.tolist(),
    "count": reward.count.tolist(),
  }


def main(address, count, number):
  jax.distributed.initialize(address, num_processes=count, process_id=number)
  assert jax.device_count() == 4
  jax.config.update("jax_threefry_partitionable", True)
  print(json.dumps(judged(sharding.make_mesh(2, 2, 1))))


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
