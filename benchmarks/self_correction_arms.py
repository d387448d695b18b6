"""The tasks of benchmarks.self_correction, and the systems that it compares."""

import math
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.score_table import tasks as larger
from sitrain.configs import common, countdown

PROBLEMS, SAMPLES = 16, 8  # of a step: episodes of two attempts
BETA = 0.02  # the KL of a turn, where a method has one


def sampled(steps: int) -> int:
  """Attempts that an arm samples in these steps."""
  return 2 * steps * PROBLEMS * SAMPLES


class Sizes(NamedTuple):
  """A task with and without verdicts of the policy, and its base."""

  name: str  # `name.critic` is the same with verdicts
  options: dict
  length: int  # tokens of a turn
  base_steps: int
  steps: int  # gradient steps of every arm
  model: dict = {}  # fields of config.model, where not the quickstart's
  base_rate: float = 4e-3
  rates: tuple[float, ...] = (2.5e-4, 5e-4, 1e-3)  # of the arms

  @property
  def attempts(self) -> int:
    """Attempts that every arm samples at most."""
    return sampled(self.steps)


_LARGE = larger.SIZES["countdown_4"]
TASKS = {
  "countdown": Sizes(
    "countdown", {"numbers": 3, "largest": 9}, countdown.TURNS[0],
    countdown.BASE_STEPS, 384,
  ),
  "chain": Sizes(
    "chain", {"operations": (2, 3), "modulus": 5, "mistake": 0.25}, 4, 600, 48
  ),
  "stack_machine": Sizes("stack_machine", {"mistake": 0.3}, 4, 1000, 96),
  "countdown_4": Sizes(
    "countdown", {k: v for k, v in _LARGE.task.items() if k != "name"},
    _LARGE.turns[0], _LARGE.base_steps, 384, _LARGE.model, _LARGE.base_rate,
    (2.5e-5, 5e-5, 1e-4),
  ),
}
# Those that a CPU trains in hours.
SMALL = [name for name, sizes in TASKS.items() if not sizes.model]


class Arm(NamedTuple):
  """A row of the table."""

  description: str
  stages: Callable  # (learning rate, base, steps) -> {name: config.stage}
  judged: bool = False  # whether a verdict stands between two attempts


def _gradient(name: str, rows: int = 1, **options):
  """A policy gradient of `rows` times PROBLEMS * SAMPLES episodes a step."""

  def stages(rate, base, steps):
    given = {
      "name": name, "problems": rows * PROBLEMS, "samples": SAMPLES,
      "share_prompts": True,
    } | options
    held = {} if given.get("kl") == "none" else {"reference": base}
    return {"arm": common.stage(
      given, {"learning_rate": rate}, steps, base, held,
      steps_per_call=math.gcd(16, steps), microbatches=4,
    )}

  return stages


def _score(rate, base, steps):
  """SCoRe: half of the steps for each of its stages."""
  one = _gradient("score.stage_one", beta1=BETA, beta2=1.0, **SAME)
  two = _gradient("score.stage_two", beta1=BETA, beta2=BETA, bonus=2.0, **SAME)
  first, last = (each(rate, base, steps // 2)["arm"] for each in (one, two))
  last.start = "stage1/last"
  return {"stage1": first, "arm": last}


def _imitation(
  name: str, rounds: int, attempts: int, held: bool = True, **options
) -> Callable:
  """Rounds of sampling `attempts` attempts a problem, and of imitation.

  rounds: 0: one for each step.
  held: whether the method needs the base beside the policy.
  """

  def stages(rate, base, steps):
    times = rounds or steps
    problems = sampled(steps) // attempts // times
    given = {"name": name, "problems": problems} | options
    return {"arm": common.stage(
      given, {"learning_rate": rate}, times, base,
      {"reference": base} if held else {},
      steps_per_call=1 if rounds else 16,
      waves=max(problems // 256, 1), minibatches=steps // times,
      microbatches=1,
    )}

  return stages


SAME = {"baseline": "same_outcome"}
UNNAMED = {"kl": "none", "clip": 0.2, "aggregate": "episode_mean"}
ARMS = {
  "base": Arm("imitation of the corpus: two attempts", None),
  "single_turn": Arm(
    "RL on the first attempt alone",
    _gradient("single_turn", 2, beta1=BETA, **SAME),
  ),
  "multi_turn": Arm(
    "direct RL on both attempts",
    _gradient("multi_turn", beta1=BETA, beta2=BETA, **SAME),
  ),
  "score": Arm("SCoRe, stages I and II", _score),
  "rise": Arm(
    "RISE, two rounds, of the second attempt the best of 7",
    _imitation("rise", 2, 16, samples=2, best_of=7),
  ),
  "pair_sft": Arm(
    "SFT on corrections: own wrong attempts with own right ones",
    _imitation("pair_sft", 1, 8, samples=8),
  ),
  "cct": Arm(
    "CCT: the same, and right attempts with other right ones, 60 to 40",
    _imitation("cct", 1, 8, samples=8),
  ),
  "scl": Arm(
    "SCL: DPO on own two attempts, under the question",
    _imitation("scl", 48, 4, samples=2, beta=0.1, anchor=0.2),
  ),
  "base_judged": Arm(
    "imitation: attempt, true verdict, attempt", None, judged=True
  ),
  "direct_judged": Arm(
    "direct RL on attempts and verdicts",
    _gradient(
      "multi_turn", named=False, beta1=0.0, beta2=0.0, **SAME, **UNNAMED
    ), judged=True,
  ),
  "pag": Arm("PAG", _gradient("pag", kl="none", **SAME), judged=True),
  "spoc": Arm(
    "SPOC, its RLOO",
    _gradient("spoc", named=False, beta=BETA, beta_verdict=BETA), judged=True,
  ),
  "spoc_raft": Arm(
    "SPOC, its RAFT: the best sample's right messages", _imitation(
      "spoc_raft", 0, 2 * SAMPLES, held=False, samples=SAMPLES, named=False
    ), judged=True,
  ),
  "partial_masking": Arm(
    "ISC: own true verdicts, and repairs behind masked wrong attempts",
    _imitation("partial_masking", 1, 8, samples=8), judged=True,
  ),
  "ledex": Arm(
    "LeDex's RL: diagnoses and refinements, first attempts are not trained",
    _gradient("ledex", beta=BETA), judged=True,
  ),
}
