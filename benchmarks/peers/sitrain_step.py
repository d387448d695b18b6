"""One step of RL with sitrain: REINFORCE with leave-one-out, k3 KL, AdamW.

Rollout, reference, reward and update are one compiled program.
"""

import jax
import jax.numpy as jnp
import optax

from benchmarks.peers import protocol
from benchmarks.peers.sitrain_decode import make_model, problems_of, size_of
from sitrain.losses.reduce import value
from sitrain.methods import reinforce
from sitrain.models import decoder
from sitrain.runtime import sharding
from sitrain.runtime.cores import use_cores
from sitrain.tasks.draw import constant_reply
from sitrain.train import (
  init_state,
  make_iteration,
  make_parts,
  make_train_step,
)
from sitrain.types import Task, Verdict


def make_task(case: dict) -> Task:
  """Poses the prompts of the benchmark and rewards even tokens."""

  def verify(answer, episodes, turns):
    own = episodes.turn[:, None] == 1 + jnp.arange(turns)[:, None]  # [B K T]
    even = jnp.sum(own & (episodes.tokens % 2 == 0)[:, None], axis=2)
    reward = even / jnp.maximum(jnp.sum(own, axis=2), 1)
    return Verdict(reward, jnp.ones_like(reward))

  return Task(
    problems=lambda key, count: problems_of(case, count), verify=verify,
    reply=constant_reply([]),
    final=lambda rows, turns: jnp.zeros((*rows.problem.shape, turns), int),
    level=lambda problems: jnp.zeros(len(problems.prompt), jnp.int32),
    levels=("all",), eos=(), turn_length=1, tokenizer=(), table=(),
    on_host=False,
  )


def prepare(case: dict):
  """Compiles the step; every run is one of them, from where the last ended."""
  model = make_model(case["model"])
  init = jax.jit(lambda key: decoder.init(model, key))
  optimizer = optax.adamw(1e-6)
  method = reinforce.make(
    {"policy": model}, make_task(case), optimizer, problems=case["problems"],
    samples=case["samples"], turns=(case["new"],), shape=lambda reward: reward,
    kl_weights=(case["beta"],), kl="k3", share_prompts=True,
  )
  mesh = sharding.make_mesh()
  method = method._replace(generate=sharding.by_group(method.generate, mesh))
  train_step = make_train_step(optimizer, method.loss)
  iteration = jax.jit(
    make_iteration(*make_parts(method, train_step)), donate_argnums=0
  )
  params, reference = (init(jax.random.key(0)) for _ in range(2))
  states = [jax.device_put(
    init_state({"policy": params}, optimizer, held={"reference": reference}),
    sharding.replicated(mesh),
  )]
  size, key = size_of(params), jax.random.key(1)

  def run():
    state = states.pop()
    state, metrics = iteration(state, jax.random.fold_in(key, state.step))
    states.append(state)
    metrics = jax.device_get(metrics)
    jax.block_until_ready(state)
    return {"reward": float(value(metrics["judge/reward_1"]))}

  for _ in range(2):
    run()
  settings = f"jax {jax.__version__}, {jax.device_count()} devices"
  return run, {"parameters": size, "settings": settings}


if __name__ == "__main__":
  use_cores()
  protocol.serve(prepare)
