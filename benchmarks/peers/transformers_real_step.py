"""A supervised step of transformers and torch on a checkpoint."""

import os

import torch
import transformers

from benchmarks.peers import protocol


def prepare(case: dict):
  """Loads the checkpoint; every run is a step from where the last ended."""
  torch.set_num_threads(os.cpu_count() or 1)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    case["folder"], dtype=torch.float32
  ).train()
  narrow = case["dtype"] == "bfloat16"
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=1e-5, weight_decay=0.0
  )
  sizes = {
    "prompt": case["columns"],
    "model": {"vocabulary": model.config.vocab_size},
  }
  tokens = torch.tensor(protocol.prompts(sizes, case["rows"]))

  def run():
    before = protocol.seconds_of_cores()
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
      loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"nll": float(loss)} | protocol.spent(before)

  return run, protocol.torch_facts(model, case["dtype"])


if __name__ == "__main__":
  protocol.serve(prepare)
