"""SCoRe on MBPP, with the numbers of the paper (Kumar et al. 2024, Table 5).

sitrain train --config=score_mbpp --workdir=/tmp/score_mbpp

Programs run in bubblewrap; without it the run is refused at the start. The
evaluation is on the test split of MBPP; `sitrain sample` evaluates
HumanEval. The accuracy of this model has not been measured here.
"""

from ml_collections import ConfigDict

from sitrain.configs import text

TURNS = (512, 512)


def get_config(argument: str = "") -> ConfigDict:
  """Stage I and stage II; batches of 128 episodes."""
  task = {
    "name": "mbpp", "source": "google-research-datasets/mbpp:full",
    "split": "train", "limit": 0, "verifier": "strict", "workers": 8,
    "run_programs_without_sandbox": False, "prompt_length": 1536,
    "long_prompts": "drop",
  }
  test = {"split": "test", "verifier": "lenient"}
  config = text.base_config(task, test=test, turns=TURNS)
  text.add_score(
    config, turns=TURNS, problems=16, steps=1500, learning_rate=1e-5,
    beta2=0.25,
  )
  return text.finish(config, argument)
