"""One method of every family on a toy task, with the control it must exceed.

  python -m benchmarks.families --only=reinforce_pp --seeds=0,1,2

Each runs its config by the main into FOLDER and compares a number of one stage
with that of another, its control, in the summary of the run. The result of a
seed is a line of benchmarks/results/families/NAME.jsonl, and a seed that has a
line is not run again. Means over all stored seeds are printed, with 95 %
t-intervals. `seconds` is wall time of all stages but the base;
`processor_seconds` is CPU time of this call: compiling, training, evaluating. A
base model that another run of the folder has trained is used again, and an
interrupted run continues.
"""

import hashlib
import importlib
import json
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import NamedTuple

from absl import app, flags

from benchmarks import family_controls as controls
from benchmarks import family_results
from sitrain.runtime.build import plain

ONLY = flags.DEFINE_string("only", "", "Names, with commas; all where empty.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "Of the runs, with commas.")
FOLDER = flags.DEFINE_string(
  "folder", "/tmp/sitrain_families", "Where the runs are kept."
)
ROOT = pathlib.Path(__file__).parent.parent


class Family(NamedTuple):
  """The config of a family, and the two numbers that are compared."""

  config: str  # module of configs/
  method: str  # file of sitrain/methods/ without .py, or "" for a config alone
  stage: str  # whose number is the result
  metric: str = "accuracy_1"  # of a stage in summary.json
  control: str = "base"  # the stage whose number it must exceed
  control_is: str = "the base model, from which it starts"
  extend: Callable = lambda config: None  # adds stages to compare with
  others: tuple[str, ...] = ()  # stages whose numbers are stored as well
  # More metrics of the result and its control; "LEVEL/METRIC": of one level.
  numbers: tuple[str, ...] = ()


# Of attempts 1 and 2, which are turns 1 and 3, and of the verdicts on them.
JUDGED = (
  "accuracy_1", "incorrect_to_correct", "correct_to_incorrect",
  "verdict_accuracy", "verdict_recall", "verdict_precision", "verdict_cleared",
)
CHANGES = (
  "accuracy_1", "gain", "incorrect_to_correct", "correct_to_incorrect",
)
CORRECTION = (*CHANGES, "cl", "cs", "cl_over_resample", "cs_over_resample")
FAMILIES = {
  "reinforce_pp": Family("reinforce_pp", "reinforce_pp", "rl"),
  "ppo": Family("ppo", "ppo", "rl"),
  "dpo": Family("dpo", "dpo", "dpo"),
  "spin": Family(
    "spin", "spin", "spin", extend=controls.continue_imitation, others=("sft",)
  ),
  "rft": Family("rft", "", "rft"),
  "mcts_dpo": Family("mcts_dpo", "mcts_dpo", "mcts_dpo"),
  "spiral": Family(
    "spiral", "spiral", "spiral", control_is="the base model, which imitates "
    "random legal games; share of games won against random legal moves",
    numbers=("malformed_5",),
  ),
  "reward_model": Family("reward_model", "reward_model", "grpo"),
  "gigpo": Family(
    "gigpo", "gigpo", "gigpo", control_is="the base model, which imitates "
    "random legal games; share of games won against random legal moves",
    extend=controls.add_without_steps, others=("episodes",),
    numbers=("malformed_5",),
  ),
  "pag": Family(
    "pag", "pag", "pag", metric="accuracy_3", extend=controls.add_direct,
    others=("direct", "named"), numbers=JUDGED,
  ),
  "spoc": Family(
    "spoc", "spoc", "spoc", metric="accuracy_3",
    extend=controls.add_other_rewards, others=("other", "last", "all"),
    numbers=JUDGED,
  ),
  "spoc_raft": Family(
    "spoc_raft", "spoc_raft", "spoc_raft", metric="accuracy_3", control="rloo",
    control_is="SPOC's other variant, RLOO, on as many samples and gradient "
    "steps", extend=controls.add_messages, others=("base",), numbers=JUDGED,
  ),
  "gdpo": Family(
    "gdpo", "gdpo", "gdpo", extend=controls.add_sum, others=("sum",)
  ),
  "spark": Family(
    "spark", "spark", "spark", extend=controls.add_ungated, others=("ungated",)
  ),
  "sec": Family(
    "sec", "sec", "sec", extend=controls.add_uniform, others=("uniform",)
  ),
  "spear": Family("spear", "spear", "spear"),
  "satori": Family(
    "satori", "satori", "satori", metric="accuracy_2",
    extend=controls.add_other_starts,
    others=("from_start", "no_bonus", "flipped"), numbers=CORRECTION,
  ),
  "mistake_tuning": Family(
    "mistake_tuning", "mistake_tuning", "mistake_tuning", control="right",
    control_is="imitation of the right samples alone",
    extend=controls.add_right_only, others=("untagged",),
  ),
  "chain_of_hindsight": Family(
    "chain_of_hindsight", "chain_of_hindsight", "chain_of_hindsight",
    control="right", control_is="imitation of the right samples alone",
    extend=controls.add_right_only, others=("read",),
  ),
  "rise": Family(
    "rise", "rise", "rise", metric="accuracy_2", control="rwr",
    control_is="reward-weighted regression of as many first attempts",
    extend=controls.add_single_turn, others=("whole",), numbers=CHANGES,
  ),
  "ssr_zero": Family(
    "ssr_zero", "ssr_zero", "ssr", control="stage1",
    control_is="SCoRe's stage I, from which it starts",
    numbers=("accuracy_2",),
  ),
  "scl": Family(
    "scl", "scl", "scl", control="independent", control_is="DPO on as many "
    "independent attempts", extend=controls.add_independent,
    others=("base", "review"), numbers=(*CORRECTION, "malformed_1"),
  ),
  "cct": Family(
    "cct", "cct", "cct", metric="accuracy_2", control="natural",
    control_is="Pair-SFT with both kinds of examples as they come",
    extend=controls.add_one_kind,
    others=("base", "cst", "clt", "answers"), numbers=CORRECTION,
  ),
  "ledex": Family(
    "ledex", "ledex", "ledex", metric="cs", control="end",
    control_is="RL on the reward of the refinement alone; share of wrong first "
    "attempts that are mended", extend=controls.add_one_reward,
    others=("star",), numbers=(*JUDGED, "verdict_named", "accuracy_3"),
  ),
  "correction_dpo": Family(
    "correction_dpo", "correction_dpo", "correction_dpo", metric="cs",
    control="steps", control_is="DPO on as many first attempts, from the first "
    "step that differs; share of wrong first attempts that are mended",
    extend=controls.add_other_pairs, others=("base", "teacher", "own"),
    numbers=("verdict_named", "accuracy_3", *JUDGED, *CORRECTION[4:]),
  ),
  "partial_masking": Family(
    "partial_masking", "partial_masking", "partial_masking",
    metric="accuracy_1", control="unmasked", control_is="the same cases with "
    "wrong attempts trained, too", extend=controls.add_masked_otherwise,
    others=("base", "good", "few", "many"),
    numbers=("accuracy_3", *JUDGED[1:], *CORRECTION[4:]),
  ),
  "rac": Family(
    "rac", "rac", "rac", metric="cs", control="pairs", control_is="Pair-SFT; "
    "share of wrong first attempts that are mended",
    extend=controls.add_corrections,
    others=("base", "wrong", "alone", "wrong_alone", "pairs_both"),
    numbers=("accuracy_2", *CORRECTION),
  ),
  "s3c": Family(
    "s3c", "s3c", "s3c", control="clean", control_is="imitation of the same "
    "right samples, without wrong steps", extend=controls.add_splices,
    others=("base", "unmasked", "random", "post_hoc"),
    numbers=(
      "slips_1", "mended_1", "doubted_1", "accuracy_2", "malformed_1", "tokens",
    ),
  ),
  "scheduled_sampling": Family(
    "scheduled_sampling", "scheduled_sampling", "scheduled_sampling",
    control="none", control_is="imitation of the same solutions in as many "
    "steps", extend=controls.add_rates,
    others=("base", "tenth", "two_fifths", "masked", "random"),
    numbers=tuple(f"{n}_operations/accuracy_1" for n in range(2, 7)),
  ),
  "subtle_errors": Family(
    "subtle_errors", "subtle_errors", "subtle_errors", control="samples",
    control_is="DPO on as many pairs of two samples",
    extend=controls.add_without_edits,
  ),
}


def config_of(family: Family, seed: int) -> dict:
  """The run of a family, with the stage of its control."""
  module = importlib.import_module(f"sitrain.configs.{family.config}")
  config = module.get_config()
  config.seed = seed
  config.evaluate.update({"problems": 1024, "resamples": 2})
  family.extend(config)
  return plain(config)


def run(name: str, family: Family, seed: int, folder: pathlib.Path) -> dict:
  """Runs the remaining stages of a family; returns its stored result."""
  config = config_of(family, seed)
  workdir = folder / f"{name}-{seed}"
  shared = folder / "bases" / base_of(config)
  take_base(shared, workdir)
  began = time.process_time()
  from sitrain import main as mains  # Its flags clash with another main's.

  summary = mains.train(config, str(workdir))
  processor = time.process_time() - began
  keep_base(workdir, shared)
  rows = {row["name"]: row for row in summary["stages"]}
  own = [
    row for row in summary["stages"]
    if row["name"] not in ("base", *family.others)
  ]
  result, control = rows[family.stage], rows[family.control]
  return {
    "name": name, "config": f"configs/{family.config}.py",
    "lines": lines_of(family.method), "seconds": sum(r["seconds"] for r in own),
    "processor_seconds": processor,
    "metric": f"{family.metric} of {family.stage}",
    "result": result[family.metric], "control": control[family.metric],
    "others": {name: rows[name][family.metric] for name in family.others},
    "result_interval": result["intervals"][family.metric],
    "control_interval": control["intervals"][family.metric],
    "numbers": {
      x: {"result": number(result, x), "control": number(control, x)}
      | {name: number(rows[name], x) for name in family.others}
      for x in family.numbers
    },
    "control_is": family.control_is, "seed": seed, "device": summary["device"],
    "cores": len(os.sched_getaffinity(0)),
  }


def number(row: dict, name: str) -> float:
  """A metric of a stage, or as "LEVEL/METRIC" that of one level."""
  level, _, metric = name.rpartition("/")
  return (row["by_level"][level] if level else row)[metric]


def lines_of(method: str) -> int:
  """Lines of a method file; 0 where there is none."""
  path = ROOT / "sitrain" / "methods" / f"{method}.py"
  return len(path.read_text().splitlines()) if method else 0


def base_of(config: dict) -> str:
  """The name of the base model: a hash of all its settings."""
  settings = [config[part] for part in ("task", "model", "seed")]
  settings.append(config["stage"].get("base", {}))
  text = json.dumps(settings, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def take_base(shared: pathlib.Path, workdir: pathlib.Path) -> None:
  """Copies an existing base model into a new run, and of what run it is."""
  if shared.exists() and not (workdir / "base").exists():
    shutil.copytree(shared, workdir, dirs_exist_ok=True)


def keep_base(workdir: pathlib.Path, shared: pathlib.Path) -> None:
  """Stores the base model of a run for later ones, and the run's config."""
  if not shared.exists() and (workdir / "base").exists():
    shutil.copytree(workdir / "base", shared / "base")
    shutil.copy(workdir / "config.json", shared)


def missing(name: str, seeds: list[int]) -> list[int]:
  """Those of the seeds that have no stored result."""
  stored = {row["seed"] for row in family_results.read(name)}
  return [seed for seed in dict.fromkeys(seeds) if seed not in stored]


def main(argv: list[str]) -> None:
  """Runs the missing seeds of the families of --only, one after the other."""
  names = ONLY.value.split(",") if ONLY.value else list(FAMILIES)
  for name in names:
    if name not in FAMILIES:
      raise app.UsageError(
        f"--only={name}: it is none of {', '.join(FAMILIES)}"
      )
  if not all(seed.isdecimal() for seed in SEEDS.value):
    raise app.UsageError(
      f"--seeds={','.join(SEEDS.value)}: give numbers, as 0,1,2"
    )
  seeds = list(map(int, SEEDS.value))
  logging.getLogger("absl").setLevel(logging.WARNING)
  for name in names:
    for seed in missing(name, seeds):
      folder = pathlib.Path(FOLDER.value)
      family_results.add(run(name, FAMILIES[name], seed, folder))
    stored = family_results.read(name)
    print(f"{name}: {family_results.sentence(stored)}", flush=True)


if __name__ == "__main__":
  app.run(main)
