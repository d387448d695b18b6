"""One step of tunix's GRPO, as its GRPOLearner runs it; nothing is left out.

Each mini-batch and micro-batch is the whole batch, and actor and sampler share
their weights, which is what a single machine is fastest with.
"""

import itertools

import jax
import numpy as np
import optax
import tunix
from flax import nnx
from tunix.rl import rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rl_cluster import Role
from tunix.rl.rollout.base_rollout import RolloutConfig

from benchmarks.peers import protocol
from benchmarks.peers.tunix_decode import (
  make_model,
  make_tokenizer,
  size_of,
  texts,
)


def make_cluster(case: dict, actor, reference, steps: int):
  mesh = jax.sharding.Mesh(
    np.asarray(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp")
  )
  roles = (Role.ACTOR, Role.REFERENCE, Role.ROLLOUT)
  rollout = RolloutConfig(
    max_tokens_to_generate=case["new"], max_prompt_length=case["prompt"],
    kv_cache_size=case["prompt"] + case["new"], temperature=1.0, top_p=1.0,
  )
  training = rl_cluster.RLTrainingConfig(
    actor_optimizer=optax.adamw(1e-6), max_steps=steps,
    eval_every_n_steps=10 * steps, mini_batch_size=case["problems"],
    train_micro_batch_size=case["problems"],
  )
  return rl_cluster.RLCluster(
    actor=actor, reference=reference,
    tokenizer=make_tokenizer(case["model"]["vocabulary"]),
    cluster_config=rl_cluster.ClusterConfig(
      role_to_mesh={role: mesh for role in roles}, rollout_engine="vanilla",
      training_config=training, rollout_config=rollout,
    ),
  )


def reward(prompts, completions, **_):
  """One number for each completion, from its text."""
  return [
    protocol.share_of_even([int(word) for word in text.split()])
    for text in completions
  ]


def prepare(case: dict):
  """The learner's own loop, which waits before each batch."""
  steps = 2**20
  actor, reference = make_model(case["model"]), make_model(case["model"])
  cluster = make_cluster(case, actor, reference, steps)
  config = GRPOConfig(
    num_generations=case["samples"], num_iterations=1, beta=case["beta"]
  )
  learner = GRPOLearner(cluster, config, reward_fns=reward)
  asked = np.array(texts(case, case["problems"]))

  def loop(gate):
    def batches():
      for _ in itertools.repeat(()):
        # The last update may still be under way.
        jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
        gate()
        yield {"prompts": asked}

    learner.train(batches())

  step = protocol.step_by_step(loop)

  def run():
    step()
    return {"step": cluster.actor_trainer.train_steps}

  for _ in range(3):
    run()
  version = getattr(tunix, "__version__", "")
  settings = f"tunix {version}, jax {jax.__version__}, shared weights"
  return run, {"parameters": size_of(actor), "settings": settings}


if __name__ == "__main__":
  protocol.serve(prepare)
