"""One step of TRL's GRPOTrainer on a checkpoint, driven by its own loop."""

import json
import os
import pathlib

import torch
import trl

from benchmarks.peers import protocol
from benchmarks.peers.trl_step import make_step


def prepare(case: dict):
  """Loads the checkpoint; every run is a step from where the last ended."""
  text = (pathlib.Path(case["folder"]) / "config.json").read_text()
  case = case | {"model": {"vocabulary": json.loads(text)["vocab_size"]}}
  threads = {"count": os.cpu_count() or 1}
  step, trainer = make_step(case, case["folder"], "sdpa", "dynamic", threads)

  def run():
    before = protocol.seconds_of_cores()
    step()
    return {"step": trainer.state.global_step} | protocol.spent(before)

  size = sum(p.numel() for p in trainer.model.parameters())
  return run, {"parameters": size, "settings": (
    f"trl {trl.__version__}, torch {torch.__version__}, {threads['count']}"
    f" threads, {case['dtype']}"
  )}


if __name__ == "__main__":
  protocol.serve(prepare)
