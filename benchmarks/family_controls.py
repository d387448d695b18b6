"""The stages that benchmarks.families compares a method with.

Each function adds them to the method's own config, from the same base model.
"""

import copy
from typing import Any

from sitrain.configs import common


def _add_variants(config: Any, of: str, variants: dict[str, dict]) -> None:
  """Adds a copy of the stage `of` for each name, with other options."""
  for name, options in variants.items():
    stage = copy.deepcopy(config.stage[of])
    stage.method.update(options)
    common.add(config, name, stage)


def continue_imitation(config: Any) -> None:
  """Adds imitation of as many solutions as SPIN, in as many gradient steps."""
  spin = config.stage.spin
  steps = spin.steps * spin.minibatches
  method = {
    "name": "imitation", "turns": spin.method.turns,
    "problems": spin.method.problems // spin.minibatches,
  }
  common.add(config, "sft", common.stage(
    method, spin.optimizer.to_dict(), steps, "base/last", {},
  ))


def add_uniform(config: Any) -> None:
  """Adds SEC's stage without the bandit, on problems drawn uniformly."""
  stage = copy.deepcopy(config.stage.sec)
  stage.method.name = "grpo"
  common.add(config, "uniform", stage)


def add_without_steps(config: Any) -> None:
  """Adds GiGPO's stage without the advantage of steps: that of episodes."""
  stage = copy.deepcopy(config.stage.gigpo)
  stage.method.weight = 0.0
  common.add(config, "episodes", stage)


def add_sum(config: Any) -> None:
  """Adds GDPO's stage with the sum of its rewards in GRPO's place."""
  stage = copy.deepcopy(config.stage.gdpo)
  stage.method.name = "grpo"
  stage.method.update({"kl": "none", "estimate": "group_normalise_sample"})
  del stage.method["weights"]
  common.add(config, "sum", stage)


def add_direct(config: Any) -> None:
  """Adds PAG's stage as direct multi-turn RL: no bonus, no normalisation.

  "direct" pays a verdict as PAG does, "named" for the whole diagnosis.
  """
  for name in ("direct", "named"):
    stage = copy.deepcopy(config.stage.pag)
    stage.method.name = "multi_turn"
    stage.method.update({
      "kl": "none", "beta1": 0.0, "beta2": 0.0, "clip": 0.2,
      "aggregate": "episode_mean", "named": name == "named",
    })
    common.add(config, name, stage)


def add_other_rewards(config: Any) -> None:
  """Adds SPOC's stage with verdicts paid for a yes or a no, or for their part.

  Whichever of both the config has not ("other"); and with the rewards of its
  ablation, "last" and "all".
  """
  stage = copy.deepcopy(config.stage.spoc)
  stage.method.named = not stage.method.get("named", True)
  common.add(config, "other", stage)
  _add_variants(config, "spoc", {x: {"rewards": x} for x in ("last", "all")})


def add_other_starts(config: Any) -> None:
  """Adds Satori's stage from problems alone, without restarts ("from_start").

  And with restarts, without the bonus, and with its sign flipped.
  """
  _add_variants(config, "satori", {
    "from_start": {"restarts": 0}, "no_bonus": {"bonus": 0.0},
    "flipped": {"bonus": -0.5},
  })


def add_messages(config: Any) -> None:
  """Adds SPOC's RLOO in the place of RAFT, with the same pay for verdicts."""
  stage = copy.deepcopy(config.stage.spoc_raft)
  stage.method.name = "spoc"
  stage.held = {"reference": "base/last"}
  common.add(config, "rloo", stage)


def add_ungated(config: Any) -> None:
  """Adds SPARK's stage with the advantage of a row at all of its steps."""
  stage = copy.deepcopy(config.stage.spark)
  stage.method.name = "grpo"
  stage.method.update({
    "beta": 0.001, "estimate": "group_normalise_sample"
  })
  common.add(config, "ungated", stage)


def add_single_turn(config: Any) -> None:
  """Adds RISE's stage on single turns, on as many samples of each problem.

  And RISE on whole trajectories: what follows a right attempt is trained, and
  so are copies.
  """
  stage = copy.deepcopy(config.stage.rise)
  stage.method.update({
    "turns": stage.method.turns[:1], "best_of": 1,
    "samples": stage.method.samples * (1 + stage.method.best_of),
  })
  common.add(config, "rwr", stage)
  whole = copy.deepcopy(config.stage.rise)
  whole.method.update({"stop": False, "repeats": True})
  common.add(config, "whole", whole)


def add_right_only(config: Any) -> None:
  """Adds imitation of the right samples alone, and the ablation of the method.

  Mistake tuning with one tag for all samples ("untagged"); chain of hindsight
  whose wrong samples are only read ("read").
  """
  (name,) = set(config.stages) - {"base"}
  right = copy.deepcopy(config.stage[name])
  right.method.name = "rest_em"
  right.method.per_problem = right.method.samples
  common.add(config, "right", right)
  other = copy.deepcopy(config.stage[name])
  if name == "mistake_tuning":
    other.method.bad = "<ok>"
    common.add(config, "untagged", other)
  else:
    other.method.train_bad = False
    common.add(config, "read", other)


def add_independent(config: Any) -> None:
  """Adds DPO on as many attempts, two independent ones of each problem.

  And SCL's pairs behind the first attempt and the instruction ("review").
  """
  review = copy.deepcopy(config.stage.scl)
  review.method.scope = "review"
  common.add(config, "review", review)
  independent = copy.deepcopy(config.stage.scl)
  method = independent.method
  method.update({
    "name": "dpo", "rule": "right_and_wrong", "turns": method.turns[:1],
    "problems": 2 * method.problems,
  })
  independent.best = "judge/reward_1"
  common.add(config, "independent", independent)


def add_one_kind(config: Any) -> None:
  """Adds Pair-SFT as it comes, and CCT's examples of one kind alone.

  Those after wrong attempts ("cst"), and after right ones ("clt"); and CCT with
  right first attempts trained, too ("answers").
  """
  natural = copy.deepcopy(config.stage.cct)
  natural.method.update({"name": "pair_sft", "also_correct": True})
  common.add(config, "natural", natural)
  _add_variants(config, "cct", {
    "cst": {"confident": 0.0}, "clt": {"confident": 1.0},
    "answers": {"answers": True},
  })


def add_one_reward(config: Any) -> None:
  """Adds LeDex's stage with the reward of the refinement alone, at its end."""
  stage = copy.deepcopy(config.stage.ledex)
  stage.method.update({"explain": 0.0, "discount": 0.99})
  common.add(config, "end", stage)


def add_without_edits(config: Any) -> None:
  """Adds DPO on as many pairs, all of two samples, and so of twice as many."""
  stage = copy.deepcopy(config.stage.subtle_errors)
  for name in ("values", "ends"):
    del stage.method[name]
  stage.method.update({
    "name": "dpo", "rule": "right_and_wrong", "beta": 0.4, "anchor": 0.05,
    "problems": 2 * stage.method.problems,
  })
  common.add(config, "samples", stage)


def add_corrections(config: Any) -> None:
  """Adds RAC's stage without right answers, and without plain solutions.

  And without both; and Pair-SFT, alone and with right first attempts ("both").
  """
  _add_variants(config, "rac", {
    "wrong": {"also_correct": False}, "alone": {"share": 1.0},
    "wrong_alone": {"also_correct": False, "share": 1.0},
    "pairs": {"name": "pair_sft"},
    "pairs_both": {"name": "pair_sft", "also_correct": True},
  })


def add_splices(config: Any) -> None:
  """Adds S3c's stage without splices, and with wrong steps that are trained.

  And with random values for own wrong steps, and CCT with first attempts
  trained, too, whose corrections come after an attempt.
  """
  _add_variants(config, "s3c", {
    "clean": {"share": 0.0}, "unmasked": {"wrong": 1.0},
    "random": {"values": "01234"},
  })
  post_hoc = copy.deepcopy(config.stage.s3c)
  post_hoc.method.update(
    {"name": "cct", "answers": True, "turns": config.evaluate.turns}
  )
  common.add(config, "post_hoc", post_hoc)


def add_rates(config: Any) -> None:
  """Adds BASH's stage with other shares of own tokens, none among them.

  And Masked Thought at the same share, with one mask token, `?`, or random
  tokens in their place.
  """
  _add_variants(config, "scheduled_sampling", {
    "none": {"rate": 0.0}, "tenth": {"rate": 0.1}, "two_fifths": {"rate": 0.4},
    "masked": {"name": "sft", "mask_token": 15}, "random": {"name": "sft"},
  })


def add_masked_otherwise(config: Any) -> None:
  """Adds partial answer masking's stage with wrong attempts trained, too.

  And with good cases alone, and with few and with many bad ones.
  """
  _add_variants(config, "partial_masking", {
    "unmasked": {"wrong": 1.0}, "good": {"bad": 0.0}, "few": {"bad": 0.1},
    "many": {"bad": 0.7},
  })


def add_other_pairs(config: Any) -> None:
  """Adds correction DPO on own samples alone, and DPO on first attempts.

  The latter from the first step in which they differ, with as many rows.
  """
  own = copy.deepcopy(config.stage.correction_dpo)
  own.method.teacher = "policy"
  common.add(config, "own", own)
  steps = copy.deepcopy(config.stage.correction_dpo)
  del steps.method.ends
  steps.held, steps.best = {"reference": "base/last"}, "judge/reward_1"
  steps.method.update({
    "name": "dpo", "rule": "right_and_wrong", "after_prefix": True,
    "turns": steps.method.turns[:1], "samples": 8,
  })
  common.add(config, "steps", steps)
