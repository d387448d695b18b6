"""Sampling with tunix's own sampler, its cache just as long as it must be."""

import itertools
from types import SimpleNamespace

import jax
import numpy as np
import tunix
from flax import nnx
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.llama3 import model as llama

from benchmarks.peers import protocol


def make_model(sizes: dict, seed: int = 0) -> llama.Llama3:
  """A Llama of these sizes, every weight random."""
  config = llama.ModelConfig(
    num_layers=sizes["layers"], vocab_size=sizes["vocabulary"],
    embed_dim=sizes["width"], hidden_dim=sizes["mlp"],
    num_heads=sizes["heads"], head_dim=sizes["head_size"],
    num_kv_heads=sizes["kv_heads"], rope_theta=10000, norm_eps=1e-6,
    weight_tying=False,
  )
  model = llama.Llama3(config, rngs=nnx.Rngs(seed))
  keys = map(jax.random.key, itertools.count(seed))
  scaled = lambda x: jax.random.normal(next(keys), x.shape) * 0.02
  drawn = lambda x: scaled(x) if x.ndim > 1 else x
  nnx.update(model, jax.tree.map(drawn, nnx.state(model)))
  return model


def size_of(model) -> int:
  leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
  return sum(leaf.size for leaf in leaves)


def make_tokenizer(vocabulary: int) -> SimpleNamespace:
  """Texts are numbers with spaces; no end can be sampled, and none begins."""
  return SimpleNamespace(
    encode=lambda text: [int(word) for word in text.split()],
    decode=lambda ids: " ".join(str(token) for token in ids),
    bos_id=lambda: 0, eos_id=lambda: vocabulary,
    pad_id=lambda: vocabulary + 1,
  )


def texts(case: dict, rows: int) -> list[str]:
  return [" ".join(map(str, row)) for row in protocol.prompts(case, rows)]


def prepare(case: dict):
  """Temperature 1 and no filter, which is tunix's fastest way to sample."""
  sizes = case["model"]
  model, asked = make_model(sizes), texts(case, case["batch"])
  cache = CacheConfig(
    cache_size=case["prompt"] + case["new"], num_layers=sizes["layers"],
    num_kv_heads=sizes["kv_heads"], head_dim=sizes["head_size"],
  )
  sampler = Sampler(model, make_tokenizer(sizes["vocabulary"]), cache)
  seeds = itertools.count()

  def run():
    found = sampler(
      asked, max_generation_steps=case["new"],
      max_prompt_length=case["prompt"], temperature=1.0, top_p=1.0,
      seed=next(seeds),
    )
    return {"tokens": sum(len(np.asarray(row)) for row in found.tokens)}

  for _ in range(2):  # the second call compiles too
    run()
  version = getattr(tunix, "__version__", "")
  settings = f"tunix {version}, jax {jax.__version__}, exact cache"
  return run, {"parameters": size_of(model), "settings": settings}


if __name__ == "__main__":
  protocol.serve(prepare)
