"""From a config to objects: models and stages, and clear errors on the way.

Config objects end here: below there are keyword arguments only.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from sitrain.evaluate.run import evaluate
from sitrain.methods.verbs import check_turns, frozen_of
from sitrain.models import decoder, lora
from sitrain.models.blocks import RopeScaling
from sitrain.models.decoder import Decoder
from sitrain.models.huggingface import families, weights
from sitrain.runtime import batches, checkpoint, optimizer, stopping, written
from sitrain.runtime.fields import check_word
from sitrain.runtime.host import HostOnly, check_host, on_host
from sitrain.runtime.options import (
  ConfigError,
  accepted,
  call,
  check_type,
  closest,
  find,
)
from sitrain.runtime.start import (
  Origin,
  Role,
  Run,
  drawn,
  elsewhere,
  new_state,
  order_key,
)
from sitrain.runtime.task import check_context, task_from, task_of_stage
from sitrain.types import Episodes, Method, Stage, Task

__all__ = ["task_from"]  # one place to ask for the parts of a run

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PARTS = ("waves", "minibatches", "epochs", "microbatches", "buckets")


def plain(config: Any) -> Any:
  """A config as dicts, with tuples for lists, as JSON gives it back."""
  if hasattr(config, "to_dict"):
    config = config.to_dict()
  if isinstance(config, dict):
    return {name: plain(value) for name, value in config.items()}
  if isinstance(config, (list, tuple)):
    return tuple(plain(value) for value in config)
  return config


def model_from(config: dict, task: Task) -> Decoder:
  """The decoder that config.model describes, at the task's vocabulary."""
  options = dict(config["model"])
  path = options.pop("path", "")
  options.pop("lora", ())  # It is the origin's.
  fields = EXECUTION if path else Decoder.__dataclass_fields__
  known = [n for n in fields if n not in _LINEN]
  for name in options:
    if name not in known:
      raise ConfigError(
        f"config.model.{name} is not an option: {closest(name, known)}"
      )
  dtype = options.get("dtype", "float32")
  if dtype not in DTYPES:
    raise ConfigError(f"config.model.dtype={dtype!r}: {closest(dtype, DTYPES)}")
  options["dtype"] = DTYPES[dtype]
  if path:
    model = weights.from_folder(weights.locate(path), **options)
    _check_vocabulary(path, model, task)
    return model
  for name in ("rope_scaling", "local_rope_scaling"):
    if name in options:
      options[name] = RopeScaling(**options[name])
  options.setdefault("vocabulary", task.tokenizer.size)
  return Decoder(**options)


def _check_vocabulary(path: str, model: Decoder, task: Task) -> None:
  if task.tokenizer.size > model.vocabulary:
    raise ConfigError(
      f"config.model.path={path!r} has {model.vocabulary} tokens, and the "
      f"tokenizer {task.tokenizer.size}: set config.tokenizer.path to its own"
    )


def origin_from(config: dict, model: Decoder) -> Origin:
  """Where the parameters come from: config.model.path, or they are drawn.

  With config.model.lora.rank above 0 adapters are trained, and the checkpoint
  stays as it is, in the dtype of the model.
  """
  path = config["model"].get("path", "")
  options = {"rank": 0} | config["model"].get("lora", {})
  init = functools.partial(decoder.init, model)
  read = lambda abstract: weights.read(weights.locate(path), model, abstract)
  if not options["rank"]:
    origin = drawn(init)
    return origin._replace(first=lambda _, a: read(a)) if path else origin
  if not path:
    raise ConfigError("config.model.lora adapts a checkpoint: set model.path")
  alpha = options.pop("alpha", 2.0 * options["rank"])
  adapt = lambda key: call(
    lora.adapters, "model.lora", options, key, model
  )
  shapes = jax.eval_shape(init, jax.random.key(0))
  kept = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, model.dtype), shapes
  )
  return drawn(adapt)._replace(
    base=kept, read_base=read, scale=alpha / options["rank"]
  )


_LINEN = ("parent", "name", "vocabulary")
EXECUTION = families.EXECUTION  # what a checkpoint leaves open


def check_evaluation(config: dict, task: Task) -> None:
  """config.evaluate, checked before a stage is trained for it."""
  options = config["evaluate"]
  known = accepted(evaluate).keys() - {"on_progress"}
  known |= {"turns", "resamples", "seed", "task"}
  for name in options:
    if name not in known:
      raise ConfigError(
        f"config.evaluate.{name} is not an option: {closest(name, known)}"
      )
  try:
    check_turns(task, options["turns"], least=2)
  except ValueError as error:
    raise ConfigError(f"config.evaluate: {error}") from error
  for name, least in (("problems", 1), ("resamples", 2)):
    if options.get(name, least) < least:
      raise ConfigError(f"config.evaluate.{name} must be >= {least}")


ROLE = {"start": "policy", "head": "", "path": ""}
HEADS = ("", "scalar")


def roles_from(config: dict, run: Run, task: Task) -> dict[str, Role]:
  """The roles of config.roles, beside the policy and its reference."""
  roles = {}
  for name, given in config.get("roles", {}).items():
    field = f"config.roles.{name}"
    if name in ("policy", "reference"):
      raise ConfigError(f"{field}: that role is always there; leave it out")
    check_word("config.roles", name)
    check_type(f"roles.{name}", given, dict)
    for key in given:
      if key not in ROLE:
        raise ConfigError(f"{field}.{key}: {closest(key, ROLE)}")
      check_type(f"roles.{name}.{key}", given[key], str)
    options = ROLE | given
    if options["head"] not in HEADS:
      raise ConfigError(
        f"{field}.head={options['head']!r}: {closest(options['head'], HEADS)}"
      )
    roles[name] = _role(config, field, options, run, task)
  return roles


def _role(config, field, options, run, task) -> Role:
  """A role with the policy's parameters at first, or those of a checkpoint."""
  start, path = options["start"], options["path"]
  if path:
    own = config | {"model": config["model"] | {"path": path}}
    # Its shapes are the checkpoint's own, and no adapters of the policy's.
    own["model"] = {
      n: v for n, v in own["model"].items() if n in ("path", *EXECUTION)
    }
    model = model_from(own, task)
    return Role(model, "init", options["head"], origin_from(own, model))
  if start not in ("policy", "init"):
    raise ConfigError(
      f"{field}.start={start!r}: set 'policy' or 'init', or give a path"
    )
  if start == "policy":
    return Role(run.model, start, options["head"], run.origin)
  init = functools.partial(decoder.init, run.model)
  return Role(run.model, start, options["head"], drawn(init))


def run_from(config: dict, task: Task, model: Decoder, mesh: Mesh) -> Run:
  """What stages share, as far as the config and the mesh decide it."""
  # Where it writes and shows is for the main to say.
  run = Run(*[()] * len(Run._fields))._replace(
    mesh=mesh, model=model, seed=config["seed"],
    origin=origin_from(config, model),
  )
  return run._replace(roles=roles_from(config, run, task))


def stages_from(
  config: dict, task: Task, run: Run, workdir: str = ""
) -> list[Stage]:
  """All stages, checked before the first of them runs."""
  stages: list[Stage] = []
  if not config["stages"]:
    raise ConfigError("config.stages is empty: name at least one stage")
  for name in config["stages"]:
    if name not in config["stage"]:
      raise ConfigError(
        f"config.stages names {name!r}: {closest(name, config['stage'])}"
      )
    check_word("config.stages", name)
    if name in [stage.name for stage in stages]:
      raise ConfigError(f"config.stages names {name!r} twice: leave one out")
    stages.append(_stage(config, name, task, run, workdir, stages))
  return stages


STAGE = {
  "method": {}, "optimizer": {}, "steps": 0, "steps_per_call": 1,
  "until": {"name": "never"}, "start": "init", "held": {},
  "trained": ("policy",), "restart": True, "fused": True, "delay": 0,
  "rounds": 1, "best": "", "waves": 1, "minibatches": 1, "epochs": 1,
  "microbatches": 1, "buckets": 1, "task": {}, "table": {}, "writes": False,
}


def _stage(config, name, task, run, workdir, before) -> Stage:
  field, given = f"stage.{name}", config["stage"][name]
  options = STAGE | _checked(field, given)
  _check_sources(field, options, before)
  _check_steps(field, options)
  task, frozen, lazy = _rows_of_stage(
    config, field, options, task, run, workdir, before
  )
  updates = options["steps"] * options["minibatches"] * options["epochs"]
  optim = optax.set_to_zero() if options["writes"] else call(
    optimizer.make, f"{field}.optimizer",
    {"steps": updates} | options["optimizer"],
  )
  method = dict(options["method"])
  maker_name = method.pop("name", "")
  check_type(f"{field}.method.name", maker_name, str)
  maker = find("methods", maker_name, f"{field}.method.name")
  models = {"policy": run.model} | {n: r.model for n, r in run.roles.items()}
  check_host(field, options)
  until = dict(options["until"])
  span = max(until.get("span", 1), stopping.BEST_SPAN // 2)
  try:
    stop = stopping.make(until.pop("name", ""), **until)
  except (TypeError, ValueError) as error:
    raise ConfigError(f"config.{field}.until: {error}") from error
  made = call(maker, f"{field}.method", method, models, task, optim)
  if not isinstance(made, Method):
    raise ConfigError(
      f"config.{field}.method.name: {maker.__name__} makes a "
      f"{type(made).__name__}: return a sitrain.types.Method"
    )
  stage = Stage(
    name=name,
    method=made, optimizer=optim, steps=options["steps"],
    steps_per_call=options["steps_per_call"],
    parts={part: options[part] for part in PARTS}, fused=options["fused"],
    until=stop, window=2 * span, start=options["start"],
    held=dict(options["held"]), restart=options["restart"],
    best=options["best"], trained=tuple(options["trained"]), frozen=frozen,
    delay=options["delay"], rounds=options["rounds"],
    writes=options["writes"], task=task, dtype=run.model.dtype,
  )
  counts = count_rows(field, run, stage)
  check_context(config, f"{field}.method.turns", task, counts.columns)
  if options["fused"] and task.on_host and not options["writes"]:
    _check_fused(field, run, stage)
  parts = stage.parts | batches.fit(field, options, counts, run.mesh)
  return stage._replace(parts=parts, frozen=lazy or frozen)


def _checked(field: str, given: dict) -> dict:
  """The settings of a stage, each of a known name and the right type."""
  for key in given:
    if key == "anchor":
      raise ConfigError(
        f"config.{field}.anchor is config.{field}.held.reference now"
      )
    if key not in STAGE:
      raise ConfigError(f"config.{field}.{key}: {closest(key, STAGE)}")
    check_type(f"{field}.{key}", given[key], type(STAGE[key]))
  return given


def _rows_of_stage(config, field, options, task, run, workdir, before):
  """(task, its table in `frozen`, what reads a written one when it is there).

  A stage may have a task of its own, and rows that a stage before it wrote.
  """
  if options["task"]:
    task = on_host(task_of_stage(config, field, options["task"], workdir))
    if (size := task.tokenizer.size) > run.model.vocabulary:
      raise ConfigError(
        f"config.{field}.task has {size} tokens, and the model"
        f" {run.model.vocabulary}: take a task of the same tokens"
      )
  order = order_key(config["seed"], len(before))
  if not options["table"]:
    return task, frozen_of(task, order), None
  asked = call(written.table_of, f"{field}.table", options["table"])
  writers = {stage.name: stage for stage in before if stage.writes}
  if asked.stage not in writers:
    raise ConfigError(
      f"config.{field}.table.stage={asked.stage!r}: name a stage before it "
      f"that writes rows: {closest(asked.stage, writers)}"
    )
  shape = written.shape_of(writers[asked.stage])
  task = task._replace(table=shape)
  lazy = functools.cache(lambda: frozen_of(
    task._replace(table=written.read_table(workdir, asked)), order
  ))
  return task, frozen_of(task, order), lazy


def count_rows(field: str, run: Run, stage: Stage) -> batches.Counts:
  """What an iteration of a stage makes; ConfigError where a verb fails."""
  try:
    key = jax.random.key(0)
    state = jax.eval_shape(lambda key: new_state(run, stage, key), key)
    return batches.count(stage.method, state)
  except ValueError as error:
    raise ConfigError(f"config.{field}: {error}") from error


def _check_fused(field: str, run: Run, stage: Stage) -> None:
  """Raises ConfigError where the judge of a fused stage is on the host."""
  state = jax.eval_shape(
    lambda key: new_state(run, stage, key), jax.random.key(0)
  )
  row = jnp.zeros((1, 8), jnp.int32)
  rows = Episodes(row, row, row * 0.0, row, row[0, :1], row[0, :1])
  one = jax.tree.map(lambda x: x[:1], stage.task.table)
  try:
    jax.eval_shape(stage.method.judge, jax.random.key(0), state, one, rows)
  except HostOnly as error:
    raise ConfigError(f"config.{field}.fused=True: {error}") from error


def _check_sources(field: str, options: dict, before: list[Stage]) -> None:
  """Where trained and held parameters come from, and who they are."""
  _check_source(f"{field}.start", options["start"], before)
  for name, source in options["held"].items():
    _check_source(f"{field}.held.{name}", source, before)
    if name in options["trained"]:
      raise ConfigError(
        f"config.{field}: the role {name!r} is in trained and in held: leave "
        "one of them out"
      )
  if not options["trained"]:
    raise ConfigError(f"config.{field}.trained is empty: name a role")


def _check_source(field: str, source: str, before: list[Stage]) -> None:
  """"init", or "<stage>/best" or "/last" of a stage that ran before.

  Or of another run: "<workdir>/<stage>/best" or "/last".
  """
  if not isinstance(source, str) or not source:
    raise ConfigError(
      f"config.{field}={source!r}: say where it comes from: 'init', "
      "'<stage>/last' or '<stage>/best'"
    )
  if elsewhere(source):
    folder, which = source.rsplit("/", 1)
    if which not in ("best", "last") or not checkpoint.steps(folder):
      raise ConfigError(
        f"config.{field}={source!r}: there is no checkpoint: give a run's"
        " WORKDIR/STAGE/last or WORKDIR/STAGE/best"
      )
    return
  saved = [stage.name for stage in before if not stage.writes]
  known = ["init"] + [f"{s}/{w}" for s in saved for w in ("best", "last")]
  if source not in known:
    raise ConfigError(f"config.{field}={source!r}: {closest(source, known)}")


def _check_steps(field: str, options: dict) -> None:
  steps, per_call = options["steps"], options["steps_per_call"]
  if options["buckets"] < 1:
    raise ConfigError(f"config.{field}.buckets must be >= 1: 1 trims nothing")
  if options["epochs"] < 1:
    raise ConfigError(f"config.{field}.epochs must be >= 1: 0 trains nothing")
  if steps < 1 or per_call < 1:
    raise ConfigError(f"config.{field}.steps and steps_per_call must be >= 1")
  if steps % per_call:
    raise ConfigError(
      f"config.{field}.steps={steps} does not divide by "
      f"steps_per_call={per_call}: use {math.ceil(steps / per_call) * per_call}"
    )
