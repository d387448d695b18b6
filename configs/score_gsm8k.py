"""SCoRe on GSM8K; the paper has no numbers for it, these are MATH's.

sitrain train --config=score_gsm8k --workdir=/tmp/gsm8k

With configs/score_gsm8k.py:fused the device verifies the answers from token
ids, and sampling, verifying and learning are one program. The accuracy of this
model has not been measured here.
"""

from ml_collections import ConfigDict

from sitrain.configs import text

TURNS = (320, 320)


def get_config(argument: str = "") -> ConfigDict:
  """Stage I and stage II; `fused` verifies on the device."""
  fused = argument == "fused"
  task = {
    "name": "gsm8k", "source": "openai/gsm8k:main", "split": "train",
    "limit": 0, "verifier": "device" if fused else "strict",
    "prompt_length": 320, "long_prompts": "drop",
  }
  test = {"split": "test", "verifier": "lenient"}
  config = text.base_config(task, test=test, turns=TURNS)
  config.evaluate.problems = 1319
  text.add_score(
    config, turns=TURNS, problems=64, steps=1500, learning_rate=5e-6,
    beta2=0.1, fused=fused,
  )
  return text.finish(config, "" if fused else argument)
