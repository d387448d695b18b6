"""From a config to objects: models and stages, and clear errors on the way.

Config objects end here: below there are keyword arguments only.
"""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sitrain.evaluate.run import evaluate
from sitrain.methods.verbs import check_turns
from sitrain.models import decoder, lora
from sitrain.models.blocks import RopeScaling
from sitrain.models.decoder import Decoder
from sitrain.models.huggingface import families, weights
from sitrain.runtime import checkpoint, optimizer, stopping
from sitrain.runtime.batches import check_rows
from sitrain.runtime.host import check_host
from sitrain.runtime.options import (
  ConfigError,
  accepted,
  call,
  check_type,
  closest,
  find,
)
from sitrain.runtime.start import Origin, drawn, elsewhere
from sitrain.runtime.task import task_from
from sitrain.types import Stage, Task

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
  known = accepted(evaluate).keys() - {"tell"}
  known |= {"turns", "resamples", "seed", "task"}
  for name in options:
    if name not in known:
      raise ConfigError(
        f"config.evaluate.{name} is not an option: {closest(name, known)}"
      )
  try:
    check_turns(task, options["turns"])
  except ValueError as error:
    raise ConfigError(f"config.evaluate: {error}") from error


def stages_from(
  config: dict, task: Task, model: Decoder, mesh: Mesh
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
    if not re.fullmatch(r"\w+", name):
      raise ConfigError(f"config.stages: {name!r} is not a plain word")
    given, before = config["stage"][name], [stage.name for stage in stages]
    stages.append(_stage(name, given, task, model, mesh, before))
  return stages


STAGE = {
  "method": {}, "optimizer": {}, "steps": 0, "steps_per_call": 1,
  "until": {"name": "never"}, "start": "init", "anchor": "none",
  "restart": True, "fused": True, "delay": 0, "best": "", "waves": 1,
  "minibatches": 1, "epochs": 1, "microbatches": 1, "buckets": 1,
}


def _stage(name, given, task, model, mesh, before) -> Stage:
  field = f"stage.{name}"
  for key in given:
    if key not in STAGE:
      raise ConfigError(f"config.{field}.{key}: {closest(key, STAGE)}")
    check_type(f"{field}.{key}", given[key], type(STAGE[key]))
  options = STAGE | given
  _check_source(f"{field}.start", options["start"], STARTS, before)
  _check_source(f"{field}.anchor", options["anchor"], ANCHORS, before)
  _check_steps(field, options)
  check_rows(field, options, mesh)
  updates = options["steps"] * options["minibatches"] * options["epochs"]
  optim = call(
    optimizer.make, f"{field}.optimizer",
    {"steps": updates} | options["optimizer"],
  )
  method = dict(options["method"])
  maker = find("methods", method.pop("name", ""), f"{field}.method.name")
  until = dict(options["until"])
  span = until.get("span", 1)
  made = call(maker, f"{field}.method", method, {"policy": model}, task, optim)
  check_host(field, options, made, task)
  try:
    stop = stopping.make(until.pop("name"), **until)
  except (TypeError, ValueError) as error:
    raise ConfigError(f"config.{field}.until: {error}") from error
  return Stage(
    name=name, method=made, optimizer=optim, steps=options["steps"],
    steps_per_call=options["steps_per_call"],
    parts={part: options[part] for part in PARTS}, fused=options["fused"],
    until=stop, window=2 * span, start=options["start"], delay=options["delay"],
    anchor=options["anchor"], restart=options["restart"], best=options["best"],
    dtype=model.dtype,
  )


STARTS, ANCHORS = ("init",), ("none", "init")


def _check_source(field: str, source: str, own: tuple, before: list) -> None:
  """One of `own`, or "<stage>/best" or "/last" of a stage that ran before.

  Or of another run: "<workdir>/<stage>/best" or "/last".
  """
  if elsewhere(source):
    folder, which = source.rsplit("/", 1)
    if which not in ("best", "last") or not checkpoint.steps(folder):
      raise ConfigError(
        f"config.{field}={source!r}: there is no checkpoint: give a run's"
        " WORKDIR/STAGE/last or WORKDIR/STAGE/best"
      )
    return
  known = [*own] + [f"{s}/{w}" for s in before for w in ("best", "last")]
  if source not in known:
    raise ConfigError(f"config.{field}={source!r}: {closest(source, known)}")


def _check_steps(field: str, options: dict) -> None:
  steps, per_call = options["steps"], options["steps_per_call"]
  if options["buckets"] < 1:
    raise ConfigError(f"config.{field}.buckets must be >= 1: 1 trims nothing")
  if steps < 1 or per_call < 1:
    raise ConfigError(f"config.{field}.steps and steps_per_call must be >= 1")
  if steps % per_call:
    raise ConfigError(
      f"config.{field}.steps={steps} does not divide by "
      f"steps_per_call={per_call}: use {math.ceil(steps / per_call) * per_call}"
    )
