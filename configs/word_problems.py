"""SCoRe on generated word problems: tokenizer and verifier on the host.

sitrain train --config=word_problems --workdir=/tmp/words

A random model of 5 M parameters, with a BPE tokenizer trained on the texts of
the task. Seed 0, before the sampler drew by inverse CDF: base 60 and 48 %
right, stage I 60 and 60, stage II 62 and 69.
"""

from ml_collections import ConfigDict

from sitrain.configs import common, text

TURNS = (34, 34)


def get_config(argument: str = "") -> ConfigDict:
  """Base, stage I, stage II."""
  config = common.base_config()
  config.task = ConfigDict({"name": "word_problems", "count": 20000, "seed": 0})
  config.tokenizer = ConfigDict({"size": 512, "path": ""})
  config.model.update({
    "layers": 6, "width": 256, "heads": 4, "kv_heads": 4, "head_size": 64,
    "mlp_size": 768, "rope_base": 500.0,
  })
  config.evaluate.update({
    "turns": TURNS, "problems": 1024, "batch": 256, "resamples": 2,
    "task": ConfigDict({"seed": 1}),
  })
  base = {"name": "imitation", "problems": 64, "turns": TURNS}
  rate = {
    "learning_rate": 2e-3, "schedule": "cosine", "warmup": 30, "b2": 0.97
  }
  common.add(config, "base", common.stage(
    base, rate, 300, "init", {}, steps_per_call=20
  ))
  shared = {
    "problems": 16, "samples": 8, "turns": TURNS, "beta1": 0.05,
    "baseline": "same_outcome", "share_prompts": True,
  }
  more = {"best": "judge/reward_2", "fused": False, "steps_per_call": 1}
  common.add(config, "stage1", common.stage(
    shared | {"name": "score.stage_one", "beta2": 0.5},
    {"learning_rate": 2e-4}, 80, "base/last", common.BASE, **more,
  ))
  common.add(config, "stage2", common.stage(
    shared | {"name": "score.stage_two", "beta2": 0.05, "bonus": 2.0},
    {"learning_rate": 1e-4}, 40, "stage1/last", common.BASE, **more,
  ))
  config.run.save_every = 20
  return text.finish(config, argument)
