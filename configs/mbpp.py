"""MBPP's test split with a model as it is (Austin et al. 2021): 500 programs.

sitrain sample --config=mbpp \\
  --config.model.path=FOLDER_OR_HUB_ID --output=mbpp.jsonl

Greedy, after three examples; for pass@k add --samples=8 --temperature=0.8, for
a correction --turns=2. Programs run in bubblewrap. Without the hub:
--config.task.source=mbpp.jsonl; on a CPU --config.model.dtype=float32 is
faster.
"""

from ml_collections import ConfigDict

from sitrain.configs import text


def get_config(argument: str = "") -> ConfigDict:
  """The test set alone; it has no other argument than ""."""
  task = {
    "name": "mbpp", "source": "google-research-datasets/mbpp:full",
    "split": "test", "limit": 0, "verifier": "lenient",
    "run_programs_without_sandbox": False,
  }
  return text.test_set(task, turns=(512, 512), argument=argument)
