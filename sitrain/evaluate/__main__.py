"""Evaluates the stages of a run: correction, control, turns, scaling.

  sitrain evaluate /tmp/sitrain

Measures attempts and corrections, the same number of independent attempts as a
control, up to ten turns, and many samples against many turns. Writes
evaluation.json and pictures into the workdir, and shows tables.
"""

import sitrain.runtime.early  # noqa: F401

# isort: split

import io
import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from etils import epath
from rich.console import Console

from sitrain.evaluate import judgement, pictures, player, run, studies, tables
from sitrain.judge.roles import roles
from sitrain.rollout.play import columns_of
from sitrain.runtime import (
  activity,
  build,
  distributed,
  logs,
  machine,
  memory,
  placing,
  policy,
  progress,
  sharding,
)
from sitrain.runtime import compile as compiling
from sitrain.runtime import workdir as workdirs
from sitrain.runtime.errors import begun, run_main
from sitrain.runtime.host import on_host
from sitrain.runtime.options import ConfigError, closest
from sitrain.runtime.page.one_run import write_report
from sitrain.runtime.storage import check_writable, write_whole
from sitrain.strategies.strategy import repeat_last
from sitrain.types import PAD, Task

WORKDIR = flags.DEFINE_string(
  "workdir", "", "Workdir of the run; also given without the flag's name, as an"
  " argument."
)
STAGE = flags.DEFINE_list("stage", [], "Stages to evaluate; default: all.")
WHICH = flags.DEFINE_enum(
  "which", "last", ["last", "best"], "Checkpoint of a stage."
)
ROLE = flags.DEFINE_string("role", "policy", "The role that answers.")
PROBLEMS = flags.DEFINE_integer(
  "problems", None, "Number of problems; default: config.evaluate.problems.",
  lower_bound=1,
)
TEMPERATURE = flags.DEFINE_float(
  "temperature", None, "Of sampled attempts, above 0; default:"
  " config.evaluate.temperature."
)
GREEDY = flags.DEFINE_bool(
  "greedy", False, "Greedy attempts; votes and resamples are still sampled."
)
TOP_K = flags.DEFINE_integer(
  "top_k", 0, "Sample from this many most likely tokens; 0: all.", lower_bound=0
)
TOP_P = flags.DEFINE_float(
  "top_p", 1.0, "Sample from the most likely tokens of this probability; 1:"
  " all.",
  lower_bound=1e-6, upper_bound=1.0,
)
RESAMPLES = flags.DEFINE_integer(
  "resamples", 8, "Independent first attempts of a problem, to compare"
  " with.", lower_bound=2,
)
MAX_TURNS = flags.DEFINE_integer(
  "max_turns", 10, "Turns of the study of many turns; 0: leave it out.",
  lower_bound=0,
)
WINDOW = flags.DEFINE_integer(
  "window", 0, "Turns that each of them sees, itself among them; 0: all.",
  lower_bound=0,
)
BUDGETS = flags.DEFINE_list(
  "budgets", ["2", "4", "8", "16", "32"], "Samples of a problem in the study"
  " of parallel against sequential sampling, even numbers; empty: leave it out."
)
SELF_REFINE = flags.DEFINE_bool(
  "self_refine", False, "Also evaluate Self-Refine: attempt, own feedback,"
  " attempt."
)
REPLIES = flags.DEFINE_list(
  "replies", [], "What --self_refine reads before the feedback and before"
  " the second attempt, two texts; default: the task's own reply."
)
LABELS = flags.DEFINE_list(
  "labels", [], "Also evaluate how sure the policy is of its attempts, by the"
  " probability of a token that calls them right, as <ok>; and of one that"
  " calls them wrong, if there is one.",
)
QUESTION = flags.DEFINE_string(
  "question", "", "What the policy reads after an attempt, before --labels;"
  " empty in tasks whose second turn is a critique."
)
BATCH = flags.DEFINE_integer(
  "batch", 512, "Rows on the device at once.", lower_bound=1
)
SLOTS = flags.DEFINE_integer(
  "slots", 0, "Rows of --batch decoded at a time, on each group of devices: one"
  " that ends makes room for the next; 0: all.", lower_bound=0,
)
DRAWS = flags.DEFINE_integer(
  "draws", 1000, "Bootstrap draws of an interval.", lower_bound=1
)
OUTPUT = flags.DEFINE_string(
  "output", "", "JSON file, with pictures beside it; default:"
  " evaluation.json in the workdir."
)
MESH = placing.define()
flags.declare_key_flag("mesh")
flags.adopt_module_key_flags(distributed)
flags.DEFINE_bool("traceback", False, "Show where an error came from.")

Study = Callable[..., dict[str, Any]]  # (params, *, key, on_progress)
# Players of each study, which are compiled one by one.
PROGRAMS = {
  "summary": 2, "many_turns": 2, "scaling": 1, "self_refine": 2, "p_true": 2,
}


class Plan(NamedTuple):
  """The settings of all studies, from flags and the config of the run."""

  turns: tuple[int, ...]  # token limits
  problems: int
  temperature: float
  seed: int
  budgets: tuple[int, ...]


def plan_from(config: dict) -> Plan:
  """Flags where they are given, else config.evaluate."""
  options = config["evaluate"]
  temperature = TEMPERATURE.value
  if temperature is None:
    temperature = options["temperature"]
  if temperature <= 0:
    raise ConfigError(
      f"temperature={temperature}: give one above 0, and --greedy for greedy "
      "attempts"
    )
  words = [word for word in BUDGETS.value if word]
  even = [word for word in words if word.isdigit() and int(word) % 2 == 0]
  if words != even or "0" in words:
    raise ConfigError(
      f"--budgets={','.join(words)}: give even numbers above 0, as 2,4,8"
    )
  budgets = tuple(map(int, words))
  most = max(RESAMPLES.value, *budgets, 0)
  if BATCH.value < most:
    raise ConfigError(
      f"--batch={BATCH.value} rows do not hold the {most} samples of one"
      f" problem: set it to {most} or more, or lower --resamples and --budgets"
    )
  if WINDOW.value == 1:
    raise ConfigError("--window=1: give 2 or more, or 0 for all turns")
  if len(REPLIES.value) not in (0, 2):
    raise ConfigError(
      f"--replies={','.join(REPLIES.value)}: give two texts, or none for the "
      "task's own"
    )
  return Plan(
    turns=options["turns"],
    problems=PROBLEMS.value or options["problems"],
    temperature=temperature,
    seed=options["seed"],
    budgets=budgets,
  )


def make_studies(
  model: Any, task: Task, plan: Plan, spread: Callable
) -> dict[str, Study]:
  """The studies of every stage; each compiles once for all stages."""
  play = dict(
    top_k=TOP_K.value, top_p=TOP_P.value, slots=SLOTS.value, spread=spread,
    jit=jax.jit,
  )
  sizes = dict(problems=plan.problems, batch=BATCH.value, draws=DRAWS.value)
  sampled = sizes | {"temperature": plan.temperature}
  chosen = sizes | {"temperature": 0.0 if GREEDY.value else plan.temperature}
  both = play | {"resamples": RESAMPLES.value}
  players = run.make_player(model, task, turns=plan.turns, **both)
  found = {"summary": partial(run.evaluate, players, task=task, **chosen)}
  make = partial(player.make, model, task, reply=task.reply, **play)
  back = roles(task)
  if MAX_TURNS.value:
    long = make(
      turns=repeat_last(plan.turns, MAX_TURNS.value), samples=1,
      window=WINDOW.value,
    )
    found["many_turns"] = partial(
      studies.many_turns, long, fresh=players.fresh, back=back, **chosen
    )
  if plan.budgets:
    two = repeat_last(plan.turns, 1 + back)
    pairs = make(turns=two, samples=max(plan.budgets))
    options = sampled | {"budgets": plan.budgets, "back": back}
    found["scaling"] = partial(studies.scaling, pairs, **options)
  if SELF_REFINE.value:
    texts = [task.tokenizer.encode(text) for text in REPLIES.value]
    refiners = run.make_refiner(
      model, task, turns=repeat_last(plan.turns, 3), texts=texts, **both
    )
    found["self_refine"] = partial(run.self_refine, refiners, **chosen)
  if LABELS.value:
    what = judgement.asked(task, QUESTION.value, LABELS.value)
    found["p_true"] = partial(
      judgement.study, make(turns=plan.turns[:1], samples=1),
      jax.jit(judgement.make(model, what, temperature=plan.temperature)),
      **chosen
    )
  return found


def plays(plan: Plan, task: Task) -> list[tuple[tuple[int, ...], int]]:
  """The turns and samples of what `make_studies` plays."""
  found = [(plan.turns, 1), (plan.turns[:1], RESAMPLES.value)]
  if MAX_TURNS.value:
    found.append((repeat_last(plan.turns, MAX_TURNS.value), 1))
  if plan.budgets:
    two = repeat_last(plan.turns, 1 + roles(task))
    found.append((two, max(plan.budgets)))
  if SELF_REFINE.value:
    found.append((repeat_last(plan.turns, 3), 1))
  if LABELS.value:
    found.append((plan.turns[:1], 1))
  return found


def check_size(
  config: dict, plan: Plan, model: Any, task: Task, mesh: Any,
  folder: epath.Path,
) -> None:
  """Raises ConfigError where memory holds a stage's parameters or rows not."""
  shapes = policy.shapes_of_stage(
    config, model, mesh, folder, WHICH.value, role=ROLE.value
  )
  count, prompt, free = plan.problems, 0, memory.free()
  if task.table:
    posed = np.asarray(task.table.prompt)[:count]
    count, prompt = len(posed), int(np.sum(posed != PAD, axis=1).max())
  for turns, samples in plays(plan, task):
    memory.check(
      model, shapes, mesh, memory.Sampled(
        samples * player.part_size(samples, BATCH.value, count), samples,
        prompt, columns_of(task, turns)[1], SLOTS.value,
      ), what=f"the {WHICH.value} checkpoint of {folder}", memory=free,
    )  # fmt: skip


def stage_names(config: dict, folder: epath.Path) -> list[str]:
  """The stages that --stage names, else all that have been trained."""
  for name in STAGE.value:
    if name not in config["stages"]:
      known = closest(name, config["stages"])
      raise ConfigError(f"--stage={name} is not in the run: {known}")
  names = STAGE.value or [
    name for name in config["stages"]
    if policy.has_role(folder / name, ROLE.value)
  ]
  if not names:
    policy.check_lost(folder, config["stages"])
    raise ConfigError(f"no stage has been trained in {folder} yet")
  return names


def show(console: Console, stages: dict[str, dict[str, Any]]) -> None:
  """Prints the tables of all results."""
  for title in ("summary", "self_refine"):
    rows = {n: found[title] for n, found in stages.items() if title in found}
    if rows:
      console.print(f"[bold]{title.replace('_', ' ')}[/bold]")
      console.print(tables.correction_table(rows))
      if any("reward_1" in row for row in rows.values()):
        console.print(tables.rewards_table(rows))
      console.print(tables.control_table(rows))
      console.print(tables.attempts_table(rows))
  for title, table in (
    ("many_turns", tables.turns_table),
    ("scaling", tables.scaling_table),
    ("p_true", tables.calibration_table),
  ):
    rows = {n: found[title] for n, found in stages.items() if title in found}
    if rows:
      console.print(table(rows))


def save_pictures(stages: dict[str, dict[str, Any]], output: epath.Path):
  """PNG files beside the JSON file: <its name>_<picture>.png."""
  for name, figure in pictures.pictures(stages).items():
    file = io.BytesIO()
    figure.savefig(file, format="png")
    path = output.parent / f"{output.stem}_{name}.png"
    write_whole(path, file.getvalue())


def evaluate_all(
  config: dict, folder: epath.Path, output: epath.Path,
  show: Callable[..., None],
) -> dict:
  """Every study of every stage; the JSON file grows with each stage.

  `show` is the update of a display.
  """
  plan, names = plan_from(config), stage_names(config, folder)
  mesh = placing.mesh_of(config, MESH.value)
  task = build.task_from(config, str(folder), part="evaluate")
  task = on_host(task)
  model = machine.suited(build.model_from(config, task), mesh)
  spread = partial(sharding.by_group_for_all, mesh=mesh)
  found = {
    "which": WHICH.value, "greedy": GREEDY.value, **plan._asdict(),
    "stages": {}, "of": {},
  }
  check_size(config, plan, model, task, mesh, folder / names[0])
  wanted = make_studies(model, task, plan, spread)
  tell = {title: progress.of_problems(PROGRAMS[title]) for title in wanted}
  key = jax.random.key(plan.seed, impl="threefry2x32")
  with jax.set_mesh(mesh):
    for name in names:
      params, found["of"][name] = policy.restored(
        config, model, mesh, folder / name, WHICH.value, role=ROLE.value
      )
      begun()
      results = {}
      for title, study in wanted.items():
        what = f"{name}: {title.replace('_', ' ')}"
        with activity.during(what, seldom=True) as say:
          on_progress = partial(_update, show, what, tell[title], say)
          results[title] = study(params, key=key, on_progress=on_progress)
      found["stages"][name] = results
      if jax.process_index() == 0:
        workdirs.write_json(output, found)
  return found


def _update(show, what, tell, say, done, total):
  tell(say, done, total)
  show(what, done, total, {}, math.nan)


def main(argv: list[str]) -> None:
  """Checks the flags and runs."""
  distributed.start()
  folder = epath.Path(workdirs.absolute(WORKDIR.value))
  config = build.config_of_run(workdirs.absolute(WORKDIR.value))
  logs.quiet_libraries()
  jax.config.update("jax_threefry_partitionable", True)
  config = policy.of_role(config, ROLE.value)
  if config["run"]["compile_cache"]:
    compiling.use_cache()
  output = workdirs.absolute(OUTPUT.value, "--output")
  output = epath.Path(output or folder / "evaluation.json")
  check_writable(output.parent)
  workdirs.check_file(output, f"--output={output}")
  flag_values = flags.FLAGS.flag_values_dict() | {"process": 0}
  distributed.check_agreement([config, flag_values])
  display = progress.display()
  try:
    found = evaluate_all(config, folder, output, display.update)
  finally:
    display.close()
  if jax.process_index() != 0:
    return
  save_pictures(found["stages"], output)
  console = Console(width=None if sys.stdout.isatty() else 120)
  show(console, found["stages"])
  console.print(
    f"written: {output}: {'; '.join(found['of'].values())}", soft_wrap=True,
    highlight=False,
  )
  if output == folder / "evaluation.json":  # The report has it, too.
    console.print(f"report: {write_report(folder)}")


if __name__ == "__main__":
  run_main(main, argument="workdir")
