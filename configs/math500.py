"""MATH500 with a model as it is (Lightman et al. 2023): 500 problems of MATH.

sitrain sample --config=math500 \\
  --config.model.path=FOLDER_OR_HUB_ID --output=math500.jsonl

Greedy; for pass@k and maj@k add --samples=8 --temperature=0.8, for a correction
--turns=2. Without the hub: --config.task.source=math500.jsonl; on a CPU
--config.model.dtype=float32 is faster.
"""

from ml_collections import ConfigDict

from sitrain.configs import text


def get_config(argument: str = "") -> ConfigDict:
  """The test set alone; it has no other argument than ""."""
  task = {
    "name": "math", "source": "nlile/hendrycks-MATH-benchmark",
    "split": "test", "limit": 0, "verifier": "lenient",
  }
  return text.test_set(task, turns=(1024, 1024), argument=argument)
