"""Run by test_devices.py as one of two processes that train together.

`python two_processes_judge.py ADDRESS COUNT NUMBER`: SCoRe's stage II on mazes
whose verifier runs on the host, on 4 devices in all; says as JSON how many rows
this process verified, and what came out. `answered` has replies of the host.
"""

import json
import sys

import jax
import loops
import numpy as np
import optax

from sitrain.methods import score
from sitrain.models.decoder import Decoder, init
from sitrain.rollout import by_turn
from sitrain.runtime import sharding
from sitrain.runtime.host import on_host
from sitrain.runtime.own_rows import hosts_of, together
from sitrain.runtime.stage import compile_loop
from sitrain.runtime.start import layout, start_state
from sitrain.tasks import maze
from sitrain.types import PAD, Problems, Reply, Verdict

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


REPLY = 2  # tokens


def answered(mesh):
  """Rollouts of three turns: the rows that were answered here, and all tokens.

  "own": each process has the rows of its devices, as in training; "together":
  every process has all rows, as in an evaluation.
  """
  model = Decoder(
    vocabulary=16, layers=1, width=16, heads=2, kv_heads=1, head_size=8,
    mlp_size=16,
  )
  asked = []

  def answer(answer, rows, turn, alive, seed):
    asked[-1] += int(alive.sum())
    tokens = np.full((len(seed), REPLY), PAD, np.int32)
    tokens[:, 0] = np.where(seed % 3 == 0, PAD, np.int32(seed % 16))
    return Reply(tokens, answer[:, 0] + turn > 8)

  reply = lambda answer, rows, turn: Reply((), ())
  reply.columns, reply.answer = REPLY, answer
  turns = by_turn.make(
    model, lambda state: (state, 1.0), samples=2, reply=reply, turns=(3, 2, 3),
    eos=(3,),
  )
  prompt = np.arange(8 * 4).reshape(8, 4) % 13 + 1
  posed = Problems(prompt, np.arange(8)[:, None], prompt[:, :1])
  found, everywhere = {}, sharding.replicated(mesh)

  def begun():
    key = jax.random.key(5, impl="threefry2x32")
    return jax.random.split(key, 8), init(model, key)

  with jax.set_mesh(mesh):
    keys, params = jax.jit(begun, out_shardings=everywhere)()
    for name in ("own", "together"):
      asked.append(0)
      every = lambda play: play
      every.by_turn = turns
      if name == "own":
        own, hosts = sharding.turns_by_group(turns, mesh), hosts_of(mesh)
        place = sharding.shard_rows(mesh)
      else:
        own = sharding.by_group_for_all(every, mesh).by_turn
        own = own._replace(answer=together(turns.answer))
        hosts, place = by_turn.ONE, everywhere
      own = own._replace(
        begin=jax.jit(own.begin, out_shardings=place),
        go_on=jax.jit(own.go_on, out_shardings=place),
      )
      (rows,) = by_turn.play_all(
        [by_turn.playing(own, keys, params, posed, hosts=hosts)]
      )
      whole = jax.jit(lambda x: x, out_shardings=everywhere)(rows.tokens)
      found[name] = {
        "asked": asked[-1], "tokens": np.asarray(whole).tolist()
      }
  return found


def main(address, count, number):
  jax.distributed.initialize(address, num_processes=count, process_id=number)
  assert jax.device_count() == 4
  jax.config.update("jax_threefry_partitionable", True)
  mesh = sharding.make_mesh(2, 2, 1)
  print(json.dumps(judged(mesh) | {"answered": answered(mesh)}))


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
