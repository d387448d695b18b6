"""Greedy answers of transformers' generate from a checkpoint, on all cores.

A run gets `prompts`, lists of tokens of several lengths, and answers with the
tokens that are written after each, the end token among them.
"""

import os

import torch
import transformers

from benchmarks.peers import protocol


def prepare(case: dict):
  """Loads the checkpoint; counts the prompts that its template gives, too."""
  torch.set_num_threads(os.cpu_count() or 1)
  tokenizer = transformers.AutoTokenizer.from_pretrained(case["folder"])
  model = transformers.AutoModelForCausalLM.from_pretrained(
    case["folder"], dtype=getattr(torch, case["dtype"])
  ).eval()
  # Else a checkpoint may ask for samples, or for a penalty.
  model.generation_config = transformers.GenerationConfig()
  rendered = [_rendered(tokenizer, text) for text in case["messages"]]
  same = sum(a == b for a, b in zip(rendered, case["prompts"], strict=True))

  def run(prompts: list[list[int]]):
    before = protocol.seconds_of_cores()
    longest = max(map(len, prompts))
    left = [[0] * (longest - len(row)) + row for row in prompts]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in prompts]
    with torch.inference_mode():
      rows = model.generate(
        torch.tensor(left), attention_mask=torch.tensor(mask), do_sample=False,
        max_new_tokens=case["new"], eos_token_id=case["eos"], pad_token_id=0,
      )
    written = [_until(row, case["eos"]) for row in rows[:, longest:].tolist()]
    return {"written": written} | protocol.spent(before)

  return run, {"same": same} | protocol.torch_facts(model, case["dtype"])


def _rendered(tokenizer, message) -> list[int]:
  """What transformers' own template makes of a question."""
  if not tokenizer.chat_template:
    return tokenizer(message)["input_ids"]
  return tokenizer.apply_chat_template(
    [{"role": "user", "content": message}], add_generation_prompt=True,
    return_dict=True,
  )["input_ids"]


def _until(row, ends) -> list[int]:
  """The row up to its first end token."""
  first = next((i for i, token in enumerate(row) if token in ends), len(row))
  return row[: first + 1]


if __name__ == "__main__":
  protocol.serve(prepare)
