"""Your own rows and rewards, with a model of the hub; see docs/own.md.

sitrain train --config=chat --workdir=/tmp/sitrain_chat \\
  --config.task.source=my.jsonl --config.task.reward=file:rewards.py:right

GRPO of one answer. chat:score has SCoRe's two stages of an answer
and its correction, :sft imitates the answers, and :dpo learns from rows with
chosen and rejected. With :quick (also :score,quick) it takes two steps of a
tiny random model. A fifth of the rows is held out for the evaluation.
"""

from ml_collections import ConfigDict

from sitrain.configs import common, text

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
KINDS = ("grpo", "score", "sft", "dpo")
TURNS = (128, 128)
RATE = {"learning_rate": 1e-5}
START = {"reference": "init"}


def get_config(argument: str = "") -> ConfigDict:
  """One of KINDS, and after a comma what `text.finish` takes."""
  kind, rest = common.kind_of(argument, KINDS, "grpo")
  task = {
    "name": "chat", "source": "", "split": "", "limit": 0, "reward": "",
    "system": "", "held_out": 0.2, "part": "train",
    "prompt_length": 512, "long_prompts": "drop",
  }
  config = text.base_config(task, test={"part": "test"}, turns=TURNS)
  config.model.path = MODEL
  config.evaluate.update({"problems": 128, "batch": 64})
  config.run.save_every = 10
  _add(config, kind)
  return text.finish(config, rest)


def _add(config: ConfigDict, kind: str) -> None:
  """The stages of a kind."""
  if kind == "score":
    text.add_score(
      config, turns=TURNS, problems=8, steps=200, learning_rate=1e-5, beta2=0.1
    )
    return
  if kind == "sft":
    # Limits of given turns: a longer answer is refused.
    method = {"name": "sft", "problems": 8, "turns": (512,)}
    more = {"microbatches": 2}
  elif kind == "dpo":
    method = {"name": "given_pairs", "problems": 8, "turns": (512,)}
    more = {"held": START, "microbatches": 4}
  else:
    method = {
      "name": "grpo", "problems": 8, "samples": 8, "turns": TURNS[:1],
      "beta": 0.01,
    }
    more = {
      "held": START, "fused": False, "best": "judge/reward_1",
      "microbatches": 8,
    }
  common.add(config, kind, common.stage(
    method, RATE, 100, "init", more.pop("held", {}), steps_per_call=1, **more
  ))
