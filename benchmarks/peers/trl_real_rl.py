"""One step of TRL's GRPOTrainer on a checkpoint, driven by its own loop."""

import json
import os
import pathlib
import tempfile

import torch
import trl

from benchmarks.peers import protocol
from benchmarks.peers.trl_step import make_step


def endless(folder: pathlib.Path) -> str:
  """A folder with the files of a checkpoint in which no token ends a text."""
  made = pathlib.Path(tempfile.mkdtemp())
  for path in folder.iterdir():
    (made / path.name).symlink_to(path)
  ends = made / "generation_config.json"
  ends.unlink(missing_ok=True)
  ends.write_text(json.dumps({"eos_token_id": None}))
  return str(made)


def prepare(case: dict):
  """Loads the checkpoint; every run is a step from where the last ended."""
  folder, threads = pathlib.Path(case["folder"]), os.cpu_count() or 1
  sizes = json.loads((folder / "config.json").read_text())
  case = case | {"model": {"vocabulary": sizes["vocab_size"]}}
  step, trainer = make_step(
    case, endless(folder), "sdpa", "dynamic", {"count": threads}
  )

  def run():
    before = protocol.seconds_of_cores()
    step()
    return {"step": trainer.state.global_step} | protocol.spent(before)

  size = sum(p.numel() for p in trainer.model.parameters())
  return run, {"parameters": size, "settings": (
    f"trl {trl.__version__}, torch {torch.__version__}, {threads} threads,"
    f" {case['dtype']}"
  )}


if __name__ == "__main__":
  protocol.serve(prepare)
