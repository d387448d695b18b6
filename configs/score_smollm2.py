"""SCoRe on a pretrained model of 135 M parameters, on two cores.

sitrain train --config=score_smollm2 --workdir=/tmp/smollm2

SmolLM2-135M-Instruct and generated word problems with trials: a few supervised
steps teach it the form, stage I and stage II follow, and direct RL on both
attempts from the same base at as many samples. All parameters are trained.
`--config.stages="('base','stage1','stage2')"` leaves the comparison out.
"""

from ml_collections import ConfigDict

from sitrain.configs import common, text

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
TURNS = (36, 36)
STEPS = 30  # of a stage of SCoRe; direct RL takes twice as many


def get_config(argument: str = "") -> ConfigDict:
  """Base, stage I, stage II, direct RL."""
  task = {"name": "word_problems", "count": 20000, "seed": 0}
  config = text.base_config(task, test={"seed": 1}, turns=TURNS)
  config.model.path = MODEL
  # Each device keeps its part of the state: on two cores 2 GiB less.
  config.mesh.update({"data": 1, "fsdp": -1})
  config.evaluate.update({"problems": 512, "batch": 128})
  base = {"name": "imitation", "problems": 16, "turns": TURNS}
  rate = {"learning_rate": 1e-4, "schedule": "cosine", "warmup": 4}
  common.add(config, "base", common.stage(
    base, rate, 40, "init", {}, steps_per_call=10
  ))
  shared = {
    "problems": 8, "samples": 8, "turns": TURNS, "beta1": 0.05,
    "baseline": "same_outcome", "share_prompts": True,
  }
  more = {"best": "judge/reward_2", "fused": False, "steps_per_call": 1}
  for name, method, steps, start in (
    ("stage1", {"name": "score.stage_one", "beta2": 0.5}, STEPS, "base/last"),
    ("stage2", {"name": "score.stage_two", "beta2": 0.05, "bonus": 2.0}, STEPS,
     "stage1/last"),
    ("direct", {"name": "multi_turn", "beta2": 0.05}, 2 * STEPS, "base/last"),
  ):
    common.add(config, name, common.stage(
      shared | method, {"learning_rate": 2e-5}, steps, start, common.BASE,
      **more,
    ))
  config.run.save_every = 5
  return text.finish(config, argument)
