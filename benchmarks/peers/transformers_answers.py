"""Greedy answers of transformers' generate from a checkpoint, on all cores.

A run gets `prompts`, lists of tokens of several lengths, and answers with the
tokens that are written after each, the end token among them. With `drafts`, a
text for each, one forward pass over a draft tells up to where it is what greedy
decoding writes, and generate goes on from there: the same answers, up to ties
that a cache rounds otherwise, in less time where the drafts are good.
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

  def run(prompts: list[list[int]], drafts: list[str] | None = None):
    before = protocol.seconds_of_cores()
    with torch.inference_mode():
      if drafts is None:
        written = _generate(model, prompts, case["new"], case["eos"])
      else:
        written = [
          _continued(model, prompt, tokenizer.encode(
            draft, add_special_tokens=False
          )[: case["new"]], case)
          for prompt, draft in zip(prompts, drafts, strict=True)
        ]
    return {"written": written} | protocol.spent(before)

  return run, {"same": same} | protocol.torch_facts(model, case["dtype"])


def _generate(model, prompts, new, eos) -> list[list[int]]:
  """What generate writes greedily after prompts of several lengths."""
  longest = max(map(len, prompts))
  left = [[0] * (longest - len(row)) + row for row in prompts]
  mask = [[0] * (longest - len(row)) + [1] * len(row) for row in prompts]
  rows = model.generate(
    torch.tensor(left), attention_mask=torch.tensor(mask), do_sample=False,
    max_new_tokens=new, eos_token_id=eos, pad_token_id=0,
  )
  return [_until(row, eos) for row in rows[:, longest:].tolist()]


def _continued(model, prompt, draft, case) -> list[int]:
  """The draft as far as it is greedy, then what generate writes after it."""
  found = model(
    torch.tensor([prompt + draft]), logits_to_keep=len(draft) + 1
  ).logits[0].argmax(dim=-1).tolist()
  pairs = enumerate(zip(draft, found))
  same = next((i for i, (a, b) in pairs if a != b), len(draft))
  written = _until([*draft[:same], found[same]], case["eos"])[: case["new"]]
  left = case["new"] - len(written)
  if left and written[-1] not in case["eos"]:
    written += _generate(model, [prompt + written], left, case["eos"])[0]
  return written


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
