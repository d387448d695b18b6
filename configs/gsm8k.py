"""GSM8K's test split with a model as it is (Cobbe et al. 2021): 1,319 problems.

sitrain sample --config=gsm8k \\
  --config.model.path=FOLDER_OR_HUB_ID --output=gsm8k.jsonl

Greedy; for pass@k and maj@k add --samples=8 --temperature=0.8, for a correction
--turns=2. The last number of a text counts, and beside it the number after
####. Without the hub: --config.task.source=gsm8k_test.jsonl; on a CPU
--config.model.dtype=float32 is faster.
"""

from ml_collections import ConfigDict

from sitrain.configs import text


def get_config(argument: str = "") -> ConfigDict:
  """The test set alone; it has no other argument than ""."""
  task = {
    "name": "gsm8k", "source": "openai/gsm8k:main", "split": "test",
    "limit": 0, "verifier": "lenient",
  }
  return text.test_set(task, turns=(512, 512), argument=argument)
