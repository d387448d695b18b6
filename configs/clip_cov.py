"""Clip-Cov: GRPO that spares the tokens which would cost the most entropy.

sitrain train --config=clip_cov --workdir=/tmp/sitrain_cov

One turn of the hinted maze. A round has some 2,500 tokens, of which 1 % are
chosen; the paper chooses 0.02 % of many more.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then Clip-Cov."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_policy_gradient(
    config, "clip_cov", held={}, share=0.01, share_prompts=False
  )
  return common.finish(config, argument)
