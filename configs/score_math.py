"""SCoRe on MATH, with the numbers of the paper (Kumar et al. 2024, Table 5).

sitrain train --config=score_math --workdir=/tmp/score_math

Another model: --config.model.path=Qwen/Qwen2.5-7B-Instruct, a folder or gs://.
The paper's 60.0 and 64.4 % are Gemini 1.5 Flash's, from 52.6 and 41.4; the
accuracy of this model has not been measured here.
"""

from ml_collections import ConfigDict

from sitrain.configs import text

TURNS = (768, 768)


def get_config(argument: str = "") -> ConfigDict:
  """Stage I and stage II; batches of 512 episodes."""
  task = {
    "name": "math", "source": "nlile/hendrycks-MATH-benchmark",
    "split": "train", "limit": 0, "verifier": "strict", "workers": 8,
    "prompt_length": 512, "long_prompts": "drop",
  }
  test = {"split": "test", "verifier": "lenient"}
  config = text.base_config(task, test=test, turns=TURNS)
  text.add_score(
    config, turns=TURNS, problems=64, steps=3000, learning_rate=5e-6,
    beta2=0.1,
  )
  return text.finish(config, argument)
