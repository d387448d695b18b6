"""Builds models and stages from a config, with clear errors.

Configs are not passed further: called functions get keyword arguments.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sitrain.methods.verbs import frozen_of
from sitrain.models import decoder, heads
from sitrain.models.blocks import RopeScaling
from sitrain.models.decoder import Decoder
from sitrain.models.huggingface import families, weights
from sitrain.rollout.play import columns_of
from sitrain.runtime import (
  adapters,
  batches,
  fields,
  machine,
  own,
  sources,
  stopping,
  written,
)
from sitrain.runtime import workdir as workdirs
from sitrain.runtime.agree import from_first
from sitrain.runtime.checks import (
  check_config,
  check_environment,
  check_evaluation,
  check_fused,
  check_metrics,
  check_model,
  check_stage,
  count_rows,
  optimizer_from,
  until_from,
)
from sitrain.runtime.fields import STAGE
from sitrain.runtime.host import check_rounds, on_host
from sitrain.runtime.options import (
  ConfigError,
  call,
  closest,
  find,
)
from sitrain.runtime.origins import check_role_sources
from sitrain.runtime.reading import weights_of
from sitrain.runtime.start import (
  Origin,
  Role,
  Run,
  drawn,
  order_key,
)
from sitrain.runtime.task import (
  check_context,
  check_role_tokens,
  task_from,
  task_of_stage,
)
from sitrain.runtime.watch import Watch
from sitrain.tasks.own_functions import is_own
from sitrain.types import Method, Stage, Task

# Re-exported, so that callers need only this module.
__all__ = ["STAGE", "check_evaluation", "count_rows", "task_from"]

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PARTS = ("waves", "minibatches", "epochs", "microbatches", "buckets")


def plain(config: Any) -> Any:
  """A config as dicts, with tuples for lists; the same from JSON."""
  if hasattr(config, "to_dict"):
    config = config.to_dict()
  if isinstance(config, dict):
    return {name: plain(value) for name, value in config.items()}
  if isinstance(config, (list, tuple)):
    return tuple(plain(value) for value in config)
  return config


def config_of_run(workdir: str) -> dict:
  """The config of a run, with the hub revisions that it began with.

  Raises ConfigError if the workdir has none, and for adapters whose base is
  another one by now.
  """
  workdirs.check_run(workdir)
  config = plain(workdirs.read_config(workdir))
  pins = sources.pinned(config, sources.known_of(workdir))
  sources.check_base(workdir, pins)
  return pins


def check_folders(config: dict) -> None:
  """Raises ConfigError for a model that is not there or not supported.

  Before a tokenizer or a data set is read, which takes seconds.
  """
  for field, path in sources.models_of(config).items():
    where = f"config.{field}"
    try:
      folder = weights.locate(path)
      where += f"={path}"
      weights.from_folder(folder)
      if field == "model.path":
        weights.check_writes(folder)
    except ValueError as error:
      raise ConfigError(f"{where}: {error}") from error
  adapters.check_folder(config["model"])


def model_from(config: dict, task: Task) -> Decoder:
  """The decoder that config.model describes, with the task's vocabulary."""
  check_model(config["model"])
  options = dict(config["model"])
  path = options.pop("path", "")
  options.pop("lora", ())  # `origin_from` reads it.
  options["dtype"] = DTYPES[options.get("dtype", "float32")]
  if path:
    model = weights.from_folder(weights.locate(path), **options)
    _check_vocabulary(path, model, task)
    return model
  for name in ("rope_scaling", "local_rope_scaling"):
    if name in options:
      options[name] = RopeScaling(**options[name])
  size = task.tokenizer.size
  if options.setdefault("vocabulary", size) < size:
    raise ConfigError(
      f"config.model.vocabulary={options['vocabulary']}: the tokenizer has "
      f"{size} tokens: set it to {size} or more, or leave it out"
    )
  return Decoder(**options)


def _check_vocabulary(path: str, model: Decoder, task: Task) -> None:
  if task.tokenizer.size > model.vocabulary:
    raise ConfigError(
      f"config.model.path={path!r} has {model.vocabulary} tokens, and the "
      f"tokenizer {task.tokenizer.size}: set config.tokenizer.path to its own"
    )


def origin_from(config: dict, model: Decoder) -> Origin:
  """Where the parameters come from: config.model.path or initialization.

  With config.model.lora.rank above 0 adapters are trained, and the checkpoint
  is frozen. A folder of sequence classification has the scalar head, too.
  """
  path = config["model"].get("path", "")
  init = functools.partial(decoder.init, model)
  read = functools.partial(weights_of, path, model)
  given = adapters.settings_of(config["model"])
  if given.rank:
    return adapters.origin(path, model, given, read)
  if path and weights.is_scorer(weights.locate(path)):
    init = lambda key: heads.add(model, decoder.init(model, key))
  origin = drawn(init)
  return origin._replace(first=lambda _, a: read(a)) if path else origin


EXECUTION = families.EXECUTION  # options that a checkpoint does not decide


def roles_from(config: dict, run: Run, task: Task) -> dict[str, Role]:
  """The roles of config.roles, besides the policy and its reference."""
  roles = {}
  for name, given in config.get("roles", {}).items():
    options = fields.check_role(name, given)
    roles[name] = _role(config, options, run, task)
  return roles


def _role(config, options, run, task) -> Role:
  """A role that starts from the policy, from a checkpoint or from scratch."""
  start, path = options["start"], options["path"]
  if path:
    own = config | {"model": config["model"] | {"path": path}}
    # The checkpoint decides its shapes; the policy's adapters do not apply.
    own["model"] = {
      n: v for n, v in own["model"].items() if n in ("path", *EXECUTION)
    }
    model = model_from(own, task)
    model, head = machine.suited(model, run.mesh), options["head"]
    if weights.is_scorer(weights.locate(path)):
      head = "scalar"
    return Role(model, "init", head, origin_from(own, model))
  if start == "policy":
    return Role(run.model, start, options["head"], run.origin)
  init = functools.partial(decoder.init, run.model)
  return Role(run.model, start, options["head"], drawn(init))


def run_from(config: dict, task: Task, model: Decoder, mesh: Mesh) -> Run:
  """The Run that stages share, as far as config and mesh decide it."""
  # The main sets where it writes and shows.
  run = Run(*[()] * len(Run._fields))._replace(
    mesh=mesh, model=model, seed=config["seed"],
    origin=origin_from(config, model), watch=Watch(),
  )
  return run._replace(roles=roles_from(config, run, task))


def stages_from(
  config: dict, task: Task, run: Run, workdir: str = "",
  *, done: Sequence[str] = (),
) -> list[Stage]:
  """All stages, checked before the first of them runs.

  Stages that are `done` are traced only if others read what they wrote: it
  takes seconds, and they passed these checks when they began. Of the others
  `method` is not to be called.
  """
  check_config(config)
  traced, stages = _to_trace(config, done), []
  for name in config["stages"]:
    stages.append(_stage(
      config, name, task, run, workdir, stages, idle=name not in traced
    ))
  return stages


def _to_trace(config: dict, done: Sequence[str]) -> set[str]:
  """The stages that are left, and those whose rows they read."""
  found: set[str] = set()
  for name in reversed(config["stages"]):
    if name in found or name not in done:
      table = config["stage"][name].get("table", {})
      found |= {name, table.get("stage", name)}
  return found


class Prepared(NamedTuple):
  """All objects of a run, before anything is claimed or written."""

  task: Task
  evaluation_task: Task
  run: Run  # without a workdir and outputs
  stages: list[Stage]
  found: dict[str, Any]  # the result of sources.record


def prepare(config: dict, workdir: str, mesh: Mesh) -> Prepared:
  """Builds and checks everything that a config names; raises ConfigError.

  Models of the hub get the revisions that the workdir began with, and stages
  that are done there are not traced. Nothing is written, except a tokenizer if
  one has to be trained.
  """
  check_config(config)
  pins = sources.pinned(config, sources.known_of(workdir))
  check_folders(pins)
  task = on_host(task_from(pins, workdir))
  check_role_tokens(pins, workdir)
  evaluation_task = on_host(task_from(pins, workdir, part="evaluate"))
  check_evaluation(config, evaluation_task)
  model = machine.suited(model_from(pins, task), mesh)
  run = run_from(pins, task, model, mesh)
  done = from_first(lambda: workdirs.finished(workdir, config))
  stages = stages_from(pins, task, run, workdir, done=done)
  adapters.check_starts(pins)
  turns = config["evaluate"]["turns"]
  columns = columns_of(evaluation_task, turns)[1]
  check_context(pins, "evaluate.turns", evaluation_task, columns)
  found = {}
  if jax.process_index() == 0:
    found = sources.record(config, pins, task, evaluation_task, stages)
    sources.remark(found)
  return Prepared(task, evaluation_task, run, stages, found)


def _stage(config, name, task, run, workdir, before, *, idle) -> Stage:
  field, given = f"stage.{name}", config["stage"][name]
  saved = [stage.name for stage in before if not stage.writes]
  options = check_stage(field, given, saved)
  stage = _untraced(config, name, options, task, run, workdir)
  if idle:
    return stage
  task, frozen, lazy = _rows_of_stage(
    config, stage, options, run, workdir, before
  )
  method = dict(options["method"])
  maker = find("methods", method.pop("name"), f"{field}.method.name")
  models = {"policy": run.model} | {n: r.model for n, r in run.roles.items()}
  made = call(maker, f"{field}.method", method, models, task, stage.optimizer)
  if not isinstance(made, Method):
    raise ConfigError(
      f"config.{field}.method.name: {maker.__name__} makes a "
      f"{type(made).__name__}: return a sitrain.types.Method"
    )
  check_rounds(field, options["rounds"], made)
  if is_own(maker):
    made = own.own_method(made, f"{field}.method")
  stage = stage._replace(method=made, task=task, frozen=frozen)
  check_environment(field, stage, options["method"].get("turns", ()))
  counts = count_rows(field, run, stage)
  check_role_sources(field, run, stage, before)
  check_context(config, f"{field}.method.turns", task, counts.columns)
  if options["fused"] and task.on_host and not options["writes"]:
    check_fused(field, run, stage)
  check_metrics(field, options, stage, counts, config["evaluate"])
  parts = stage.parts | batches.fit(field, options, counts, run.mesh)
  return stage._replace(parts=parts, frozen=lazy or frozen)


def _unused(*_: Any) -> Any:
  raise RuntimeError("the method of a stage that is done is not made")


def _untraced(config, name, options, task, run, workdir) -> Stage:
  """The stage without its method and its rows."""
  field = f"stage.{name}"
  span = max(options["until"].get("span", 1), stopping.BEST_SPAN // 2)
  return Stage(
    name=name, method=Method(*[_unused] * len(Method._fields)),
    optimizer=optimizer_from(field, options), steps=options["steps"],
    steps_per_call=options["steps_per_call"],
    parts={part: options[part] for part in PARTS}, fused=options["fused"],
    until=until_from(field, options), window=2 * span, start=options["start"],
    held=dict(options["held"]), restart=options["restart"],
    best=options["best"], trained=tuple(options["trained"]),
    delay=options["delay"], rounds=options["rounds"],
    writes=options["writes"], dtype=run.model.dtype,
    task=_task_of_stage(config, field, options, task, run, workdir),
  )


def _task_of_stage(config, field, options, task, run, workdir) -> Task:
  """The stage's own task, or that of the run."""
  if options["task"]:
    task = on_host(task_of_stage(config, field, options["task"], workdir))
    if (size := task.tokenizer.size) > run.model.vocabulary:
      raise ConfigError(
        f"config.{field}.task has {size} tokens, and the model"
        f" {run.model.vocabulary}: take a task of the same tokens"
      )
  return task


def _rows_of_stage(config, stage, options, run, workdir, before):
  """(task, its table in `frozen`, a function to read a written table later).

  A stage may have the rows that an earlier stage wrote.
  """
  field, task = f"stage.{stage.name}", stage.task
  order = order_key(config["seed"], len(before))
  if not options["table"]:
    return task, frozen_of(task, order), None
  selection = call(written.table_of, f"{field}.table", options["table"])
  writers = {stage.name: stage for stage in before if stage.writes}
  if selection.stage not in writers:
    raise ConfigError(
      f"config.{field}.table.stage={selection.stage!r}: name a stage before it "
      f"that writes rows: {closest(selection.stage, writers)}"
    )
  writer = writers[selection.stage]
  kinds = count_rows(f"stage.{writer.name}", run, writer).kinds
  if selection.kind not in kinds:
    named = kinds != ("",)
    raise ConfigError(
      f"config.{field}.table.kind={selection.kind!r}: "
      + (closest(selection.kind, kinds) if named
         else f"the rows of {selection.stage} have no kinds, leave it out")
    )
  shape = written.shape_of(writer)
  task = task._replace(table=shape)
  lazy = functools.cache(lambda: frozen_of(
    task._replace(table=written.read_table(workdir, selection)), order
  ))
  return task, frozen_of(task, order), lazy
