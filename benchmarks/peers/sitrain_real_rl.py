"""A step of SCoRe's stage II on a checkpoint, two attempts of equal length.

Rollout, reference, reward and update are one compiled program.
"""

import jax
import jax.numpy as jnp

from benchmarks.peers import protocol
from benchmarks.peers.sitrain_step import make_task
from sitrain.methods import score
from sitrain.models import decoder
from sitrain.models.huggingface import weights
from sitrain.runtime import machine, optimizer, sharding
from sitrain.runtime.cores import use_cores
from sitrain.train import (
  init_state,
  make_iteration,
  make_parts,
  make_train_step,
)


def make_state(case: dict, model, optim, mesh):
  """The checkpoint, twice: the policy and the frozen reference."""
  rules = decoder.PARTITION_RULES
  shapes = jax.eval_shape(
    lambda key: decoder.init(model, key), jax.random.key(0)
  )
  place = sharding.state_shardings(rules, shapes, mesh)
  wanted = sharding.abstract(shapes, place)
  read = lambda: weights.read(case["folder"], model, wanted)
  return init_state({"policy": read()}, optim, held={"reference": read()})


def prepare(case: dict):
  """Compiles the step; every run is one of them, from where the last ended."""
  mesh = sharding.make_mesh(data=1, fsdp=sharding.REST)
  model = machine.suited(weights.from_folder(
    case["folder"], scan=True, remat="auto", dtype=jnp.dtype(case["dtype"])
  ), mesh)
  case = case | {"model": {"vocabulary": model.vocabulary}}
  optim = optimizer.make(learning_rate=1e-6, steps=1000)
  method = score.stage_two(
    {"policy": model}, make_task(case), optim, problems=case["problems"],
    samples=case["samples"], turns=(case["new"] // 2,) * 2, beta1=case["beta"],
    beta2=case["beta"], kl="k3", share_prompts=True,
  )
  method = method._replace(generate=sharding.by_group(method.generate, mesh))
  key = jax.random.key(1)
  with jax.set_mesh(mesh):
    state = make_state(case, model, optim, mesh)
  place = sharding.state_shardings(decoder.PARTITION_RULES, state, mesh)
  states = [jax.device_put(state, place)]
  del state
  # Else a second step is compiled, for a state that lies otherwise.
  iteration = jax.jit(
    make_iteration(*make_parts(method, make_train_step(optim, method.loss))),
    donate_argnums=0, out_shardings=(place, sharding.replicated(mesh)),
  )
  facts = protocol.jax_facts(states[0].params, case["dtype"])

  def run():
    before = protocol.seconds_of_cores()
    state = states.pop()
    with jax.set_mesh(mesh):
      state, metrics = iteration(state, jax.random.fold_in(key, state.step))
    states.append(state)
    reward = jax.device_get(metrics["judge/reward_2"])
    jax.block_until_ready(state)
    return {"reward": float(reward.total / reward.count)} | protocol.spent(
      before
    )

  return run, facts


if __name__ == "__main__":
  use_cores()
  protocol.serve(prepare)
