"""One step of TRL's GRPOTrainer, driven by its own loop.

Threads, cache and attention of the sampler are those that were fastest for
transformers' generate; the number of threads is tried for the whole step.
"""

import os
import tempfile
import time

import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback

from benchmarks.peers import protocol
from benchmarks.peers.transformers_decode import fastest, make_model


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
  """Words are numbers. The end token has an id that no model can sample."""
  words = {str(number): number for number in range(vocabulary)}
  words["<end>"] = vocabulary
  words["<unknown>"] = vocabulary + 1
  words = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
  words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  return PreTrainedTokenizerFast(
    tokenizer_object=words, eos_token="<end>", pad_token="<end>",
    unk_token="<unknown>", padding_side="left",
  )


def reward(completion_ids, **_):
  """One number for each completion."""
  return [protocol.share_of_even(tokens) for tokens in completion_ids]


def make_config(case: dict, folder: str, attention: str, cache: str):
  return trl.GRPOConfig(
    output_dir=folder, use_cpu=True, fp16=False, tf32=False,
    bf16=case.get("dtype") == "bfloat16",
    gradient_checkpointing=False, report_to="none", save_strategy="no",
    logging_strategy="no", disable_tqdm=True, learning_rate=1e-6,
    lr_scheduler_type="constant", max_steps=2**20, beta=case["beta"],
    num_generations=case["samples"], max_completion_length=case["new"],
    per_device_train_batch_size=case["problems"] * case["samples"],
    gradient_accumulation_steps=1, temperature=1.0, shuffle_dataset=False,
    cache_implementation="static" if cache == "static" else None,
    model_init_kwargs={"dtype": "float32", "attn_implementation": attention},
  )


def make_step(case: dict, model: str, attention: str, cache: str, threads):
  """(one step a call, the trainer), of the folder of a model."""
  sizes, rows = case["model"], protocol.prompts(case, case["problems"])
  folder = tempfile.mkdtemp()
  asked = [" ".join(map(str, row)) for row in rows]

  class Hold(TrainerCallback):
    """Waits before every step."""

    def __init__(self, gate):
      self.gate = gate

    def on_step_begin(self, *_, **__):
      self.gate()
      torch.set_num_threads(threads["count"])  # counts for this thread alone

  trainer = trl.GRPOTrainer(
    model=model, reward_funcs=reward,
    args=make_config(case, folder, attention, cache),
    train_dataset=Dataset.from_dict({"prompt": asked}),
    processing_class=make_tokenizer(sizes["vocabulary"]),
  )

  def loop(gate):
    trainer.add_callback(Hold(gate))
    trainer.train()

  return protocol.step_by_step(loop), trainer


def prepare(case: dict):
  """Compares one and all threads on two steps each and keeps the faster."""
  model = make_model(case["model"])
  rows = case["problems"] * case["samples"]
  tokens = torch.tensor(protocol.prompts(case, rows))
  (_, cache, attention), _ = fastest(model, tokens, min(case["new"], 32))
  folder, threads = tempfile.mkdtemp(), {"count": 1}
  model.save_pretrained(folder)
  step, trainer = make_step(case, folder, attention, cache, threads)
  step()
  tried = {}
  for count in sorted({1, os.cpu_count() or 1}):
    threads["count"] = count
    for _ in range(2):
      began = time.perf_counter()
      step()
      seconds = time.perf_counter() - began
      tried[count] = min(seconds, tried.get(count, seconds))
  threads["count"] = min(tried, key=tried.get)

  def run():
    step()
    return {"step": trainer.state.global_step}

  settings = (
    f"trl {trl.__version__}, torch {torch.__version__}, "
    f"{threads['count']} threads, {cache} cache, {attention}"
  )
  size = sum(p.numel() for p in model.parameters())
  return run, {"parameters": size, "settings": settings, "tried": tried}


if __name__ == "__main__":
  protocol.serve(prepare)
