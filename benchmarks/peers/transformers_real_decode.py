"""Sampling of transformers' generate from a checkpoint, on all cores."""

import os

import torch
import transformers

from benchmarks.peers import protocol
from benchmarks.peers.transformers_decode import generate


def prepare(case: dict):
  """Loads the checkpoint; every run samples all rows."""
  torch.set_num_threads(os.cpu_count() or 1)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    case["folder"], dtype=getattr(torch, case["dtype"])
  ).eval()
  # Else generate asks for the end token of the checkpoint.
  model.generation_config = transformers.GenerationConfig()
  sizes = case | {"model": {"vocabulary": model.config.vocab_size}}
  tokens = torch.tensor(protocol.prompts(sizes, case["batch"]))

  def run():
    before = protocol.seconds_of_cores()
    rows = generate(model, tokens, case["new"], {})
    written = rows[:, case["prompt"]:].numel()
    return {"tokens": written} | protocol.spent(before)

  return run, protocol.torch_facts(model, case["dtype"])


if __name__ == "__main__":
  protocol.serve(prepare)
