"""Shows a model at work: type a problem, watch its attempts.

  sitrain talk /tmp/sitrain
  sitrain talk /tmp/sitrain --problems=10
  echo "Mia packs 3 boxes with 4 pens. How many pens?" | sitrain talk ...

In a terminal attempts are shown while they are written, then what the next one
has changed. An empty line asks for the next problem of the run's own task, with
verdicts. --problems=10 steps through the first ten. In a pipe every line of
the input is a problem, and the output is plain text. Rows that --config=chat
puts before questions (shots) are left out.
"""

import sitrain.runtime.early  # noqa: F401

# isort: split

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from sitrain.evaluate import player as playing
from sitrain.rollout import by_turn, contexts, stream
from sitrain.rollout.play import columns_of
from sitrain.runtime import (
  build,
  conversation,
  logs,
  machine,
  placing,
  progress,
  requested_policy,
  typed,
)
from sitrain.runtime import compile as compiling
from sitrain.runtime.errors import begun, run_main
from sitrain.runtime.host import on_host
from sitrain.runtime.options import ConfigError
from sitrain.runtime.requested_samples import config_of
from sitrain.runtime.task import context_of
from sitrain.runtime.workdir import absolute
from sitrain.types import PAD, Episodes, Problems, Task

requested_policy.define()
flags.adopt_module_key_flags(requested_policy)
flags.DEFINE_integer(
  "turns", 0, "Attempts; default: all of config.evaluate.turns.", lower_bound=0
)
flags.declare_key_flag("config")  # --help is to show it.
flags.DEFINE_bool("traceback", False, "Show where an error came from.")

TOKENS = 4  # that are written between two looks
POSED = 256  # problems of the task that can be stepped through
LONGEST = 4096  # tokens of a typed problem, where the model has no limit

Watch = Callable[[Problems, int], Iterator[Episodes]]


class Model(NamedTuple):
  """A loaded model with its task."""

  watch: Watch  # (problem [1], number of the dialogue) -> the row as it grows
  judge: Callable[[Problems, Episodes], list[bool | None]]  # of each turn
  encode: Callable[[str], Problems]  # a typed problem
  pose: Callable[[int], Problems]  # the n-th of the task
  note: Callable[[Problems], str]  # what is unusual about a typed one, or ""
  task: Task


class Plan(NamedTuple):
  """The values of the flags, with config.evaluate for those not given."""

  workdir: str  # "": a model without a run
  stage: str
  which: str
  temperature: float
  top_k: int
  top_p: float
  turns: tuple[int, ...]  # token limits
  problems: int  # to step through; 0: ask
  seed: int
  mesh: tuple[str, ...]


def plan_of(config: dict, given: Any) -> Plan:
  """Raises ConfigError for flags that do not fit each other; `given`: FLAGS."""
  limits = requested_policy.turn_limits(
    config, given.turns or len(config["evaluate"]["turns"])
  )
  temperature, seed = requested_policy.drawing(
    config, given, "temperature", "seed"
  )
  stage = requested_policy.stage_of(config, given)
  return Plan(
    absolute(given.workdir), stage, given.which, temperature, given.top_k,
    given.top_p, limits, given.problems, seed, tuple(given.mesh),
  )


def loaded(config: dict, plan: Plan, mesh: Any) -> Model:
  """Reads the task and the parameters."""
  build.check_folders(config)
  task = on_host(build.task_from(config, plan.workdir, part="evaluate"))
  build.check_evaluation(config, task)
  model = machine.suited(build.model_from(config, task), mesh)
  prompt, written = columns_of(task, plan.turns)
  requested_policy.check_size(
    config, plan, model, task, mesh, rows=1, samples=1, slots=0, prompt=prompt,
    written=written, field="evaluate.turns",
  )
  params, _ = requested_policy.load(config, plan, model, mesh)
  player = playing.make(
    model, task, turns=plan.turns, samples=1, top_k=plan.top_k,
    top_p=plan.top_p, reply=task.reply, jit=jax.jit,
  )
  posed = jax.device_get(
    player.pose(jax.random.fold_in(_key(plan), 0), plan.problems or POSED)
  )

  def judge(problems: Problems, rows: Episodes) -> list[bool | None]:
    found = jax.device_get(player.judge(problems, rows))
    return [
      bool(right) if known else None
      for right, known in zip(found.right[0], found.known[0])
    ]

  def pose(number: int) -> Problems:
    at = number % len(posed.prompt)
    return jax.tree.map(lambda x: x[at : at + 1], posed)

  encode, most = typed.encoder(config, plan.workdir, task), context_of(config)

  def read(text: str) -> Problems:
    tokens = encode(text)
    typed.check_length(tokens, int(min(most - written, LONGEST)))
    return typed.problem(task, tokens)

  def note(problems: Problems) -> str:
    lengths = {int(n) for n in (posed.prompt != PAD).sum(1)}
    given = int((problems.prompt != PAD).sum())
    if len(lengths) > 1 or given in lengths:
      return ""
    return (
      f"note: problems of this task have {lengths.pop()} tokens, this one has"
      f" {given}"
    )

  watch = watching(model, params, task, plan, player)
  return Model(watch, judge, read, pose, note, task)


def _key(plan: Plan) -> Any:
  return jax.random.key(plan.seed, impl="threefry2x32")


def watching(
  model: Any, params: Any, task: Task, plan: Plan, player: Any
) -> Watch:
  """A row as it grows; at once where the host answers between turns."""
  temperature = jnp.float32(plan.temperature)
  key = lambda number: jax.random.fold_in(_key(plan), 1 + number)[None]

  def whole(problems: Problems, number: int) -> Iterator[Episodes]:
    yield player.play(key(number), (params, temperature), problems)

  if by_turn.on_host(task.reply) and len(plan.turns) > 1:
    return whole
  programs = stream.make(
    model, reply=task.reply, turns=plan.turns, eos=task.eos, tokens=TOKENS,
    top_k=plan.top_k, top_p=plan.top_p,
  )
  begin, go_on = jax.jit(programs.begin), jax.jit(programs.go_on)
  left = jax.jit(contexts.align_left)

  def grows(problems: Problems, number: int) -> Iterator[Episodes]:
    given = (key(number), params, temperature, problems)
    written = begin(*given)
    while not written.over:
      written = go_on(*given, written)
      yield left(written.rows)

  return grows


def talk(model: Model, screen: conversation.Screen, plan: Plan) -> None:
  """Asks for problems and shows what becomes of them, until the input ends.

  Raises ConfigError at the end for those that the model cannot read, where
  nobody has seen it.
  """
  asked, failed, counts = 0, 0, np.zeros((2, len(plan.turns)), int)
  for number, text in enumerate(screen.lines(plan.problems)):
    own = not text
    try:
      problems = model.pose(asked) if own else model.encode(text)
    except ValueError as error:  # A symbol that the task lacks, or too long.
      screen.say(f"error: {error}")
      failed += 1
      continue
    asked += own
    if not own and (note := model.note(problems)):
      screen.say(note)
    for rows in model.watch(problems, number):
      screen.grow(model.task, jax.device_get(rows))
    verdicts = model.judge(problems, rows) if own else []
    screen.end(model.task, jax.device_get(rows), verdicts)
    for k, right in enumerate(verdicts):
      counts[:, k] += (bool(right), right is not None)
  if counts[1].any():
    screen.say(conversation.score(counts))
  if failed and not screen.asks:
    raise ConfigError(f"{failed} of the problems above could not be read")


def main(argv: list[str]) -> None:
  """Checks the flags, loads the model, and talks."""
  if len(argv) > 1:
    raise ConfigError(f"unknown argument {argv[1]!r}; see --help")
  config = config_of(flags.FLAGS)
  logs.quiet_libraries()
  plan = plan_of(config, flags.FLAGS)
  jax.config.update("jax_threefry_partitionable", True)
  if config["run"]["compile_cache"]:
    compiling.use_cache()
  mesh, display = placing.mesh_of(config, plan.mesh), progress.display()
  with jax.set_mesh(mesh):
    try:
      model = loaded(config, plan, mesh)
    finally:
      display.close()
    begun()
    with contextlib.suppress(BrokenPipeError):  # sitrain talk ... | head
      talk(model, conversation.screen(config, sys.stdin, sys.stdout), plan)


if __name__ == "__main__":
  run_main(main, argument="workdir")
