"""What `pip install sitrain` alone allows: losses, a step of a foreign model.

Run as a script by test_cli.py. Packages of the extras cannot be imported here.
"""

# ruff: noqa: E402

import sys

FORBIDDEN = (
  "ml_collections", "transformers", "tokenizers", "tensorflow", "datasets",
  "matplotlib", "math_verify", "latex2sympy2_extended", "sympy", "mpmath",
  "gcsfs", "huggingface_hub", "jinja2", "tensorboardX", "wandb", "torch",
  "pyarrow", "pandas", "requests",
)


class Missing:
  """Finds nothing of what is forbidden, and absl only where we import it."""

  def find_spec(self, name, path=None, target=None):
    package = name.partition(".")[0]
    if package in FORBIDDEN or package == "absl" and self.is_ours():
      raise ModuleNotFoundError(f"No module named {name!r}", name=package)
    return None

  def is_ours(self):
    frame = sys._getframe(2)
    while frame.f_globals["__name__"].startswith("importlib"):
      frame = frame.f_back
    return frame.f_globals["__name__"].startswith("sitrain")


sys.meta_path.insert(0, Missing())

import time

import jax

began = time.process_time()
import sitrain.train

seconds = time.process_time() - began
import importlib
import json
import pkgutil

import flax.linen as nn
import jax.numpy as jnp
import optax

import sitrain
from sitrain import losses, train
from sitrain.losses import imitation, policy_gradient, preference, reduce
from sitrain.runtime import options
from sitrain.types import Batch, PolicyTargets

for module in pkgutil.iter_modules(losses.__path__):
  importlib.import_module(f"sitrain.losses.{module.name}")
for package in (
  "types", "tasks.maze", "models.decoder", "models.logprobs", "rollout.play",
  "rollout.tree", "judge.verifier", "curate.advantage", "methods.score",
  "evaluate.run",
):
  importlib.import_module(f"sitrain.{package}")


class Foreign(nn.Module):
  """A model that knows nothing of this package."""

  @nn.compact
  def __call__(self, tokens):
    return nn.Dense(7)(jnp.tanh(nn.Embed(7, 4)(tokens)))


def logprob_of(params, tokens):
  logits = Foreign().apply({"params": params}, tokens[:, :-1])
  chosen = jnp.take_along_axis(
    jax.nn.log_softmax(logits), tokens[:, 1:, None], -1
  )
  return jnp.pad(chosen[..., 0], ((0, 0), (1, 0)))


def loss(params, state, batch):
  logprob = logprob_of(params["policy"], batch.tokens)
  pairs = preference.sequence_sum(logprob, batch.mask).reshape(-1, 2)
  ratio = policy_gradient.importance_ratio(logprob, batch.targets.old_logprob)
  surrogate = policy_gradient.clipped(
    ratio, batch.targets.advantage, clip=0.2, clip_high=0.2
  )
  margin = preference.dpo_margin(pairs, jnp.zeros_like(pairs), beta=0.1)
  chosen = preference.bradley_terry(margin, jnp.ones(len(pairs)))
  nll = imitation.negative_log_likelihood(
    logprob, jnp.ones_like(logprob)
  )
  return {
    "policy": reduce.mean(surrogate, batch.mask),
    "pairs": reduce.mean(chosen, jnp.ones(len(pairs))),
    "likelihood": reduce.mean(nll, batch.mask),
  }, {}


tokens = jnp.arange(12, dtype=jnp.int32).reshape(4, 3) % 7
ones, zeros = jnp.ones((4, 3)), jnp.zeros((4, 3))
batch = Batch(
  tokens, tokens, jnp.ones_like(tokens), jnp.zeros_like(tokens),
  ones.at[:, 0].set(0.0), PolicyTargets(ones, zeros, zeros, zeros, zeros),
)
params = Foreign().init(jax.random.key(0), tokens)["params"]
optimizer = optax.sgd(0.1)
state = train.init_state({"policy": params}, optimizer)
after, metrics = jax.jit(train.make_train_step(optimizer, loss))(state, batch)
try:
  options.find("tasks", "gsm8k", "task.name")
  refused = ""
except options.ConfigError as error:
  refused = str(error)
print(json.dumps({
  "seconds": seconds, "refused": refused,
  "not_installed": options.not_installed("tasks"),
  "version": sitrain.__version__,
  "moved": float(optax.tree.norm(
    jax.tree.map(jnp.subtract, after.params, state.params)
  )),
  "likelier": bool(
    logprob_of(after.params["policy"], tokens)[:, 1:].sum()
    > logprob_of(params, tokens)[:, 1:].sum()
  ),
  "norm": float(reduce.value(metrics["learn/gradient_norm"])),
}))
