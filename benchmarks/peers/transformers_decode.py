"""Sampling with transformers' generate, which is what TRL samples with.

On a GPU where torch finds one.

Threads, kind of cache and attention are those that were fastest when tried.
"""

import itertools
import os
import time

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.peers import protocol

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_model(sizes: dict) -> LlamaForCausalLM:
  """A Llama of these sizes, every weight random."""
  torch.manual_seed(0)
  config = LlamaConfig(
    vocab_size=sizes["vocabulary"], hidden_size=sizes["width"],
    intermediate_size=sizes["mlp"], num_hidden_layers=sizes["layers"],
    num_attention_heads=sizes["heads"], num_key_value_heads=sizes["kv_heads"],
    head_dim=sizes["head_size"], max_position_embeddings=4096,
    rms_norm_eps=1e-6, tie_word_embeddings=sizes["tied"], bos_token_id=None,
    eos_token_id=None, pad_token_id=None,
  )
  dtype = getattr(torch, sizes["dtype"])
  return LlamaForCausalLM(config).to(DEVICE, dtype).eval()


def options() -> itertools.product:
  """(threads, cache, attention) to try."""
  threads = sorted({1, max(1, (os.cpu_count() or 1) // 2), os.cpu_count() or 1})
  return itertools.product(threads, ("dynamic", "static"), ("sdpa", "eager"))


def use(model, option) -> dict:
  """Sets one of `options` up; returns what `generate` needs of it."""
  threads, cache, attention = option
  torch.set_num_threads(threads)
  model.set_attn_implementation(attention)
  return {"cache_implementation": cache} if cache == "static" else {}


def generate(model, tokens, new: int, extra: dict) -> torch.Tensor:
  with torch.inference_mode():
    rows = model.generate(
      tokens, attention_mask=torch.ones_like(tokens), do_sample=True,
      temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=new,
      min_new_tokens=None, eos_token_id=None, pad_token_id=0, **extra,
    )
    return rows.cpu()  # it waits for the device


def fastest(model, tokens, new: int):
  """The fastest of `options` by the better of two trials, and all of them."""
  found = {}
  for option in options():
    extra = use(model, option)
    generate(model, tokens, 4, extra)
    for _ in range(2):
      began = time.perf_counter()
      generate(model, tokens, new, extra)
      found[option] = min(
        found.get(option, float("inf")), time.perf_counter() - began
      )
  return min(found, key=found.get), found


def prepare(case: dict):
  """Tries all options with at most 64 new tokens, then keeps the fastest."""
  model = make_model(case["model"])
  prompts = protocol.prompts(case, case["batch"])
  tokens = torch.tensor(prompts, device=DEVICE)
  option, tried = fastest(model, tokens, min(case["new"], 64))
  extra = use(model, option)

  def run():
    rows = generate(model, tokens, case["new"], extra)
    return {"tokens": rows[:, case["prompt"]:].numel()}

  run()
  settings = (
    f"transformers {transformers.__version__}, torch {torch.__version__}, "
    f"{DEVICE}, {option[0]} threads, {option[1]} cache, {option[2]}"
  )
  tried = {" ".join(map(str, name)): value for name, value in tried.items()}
  size = sum(p.numel() for p in model.parameters())
  return run, {"parameters": size, "settings": settings, "tried": tried}


if __name__ == "__main__":
  protocol.serve(prepare)
