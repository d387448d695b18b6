"""The adapters of config.model.lora: options, first values and base."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from etils import epath

from sitrain.models import decoder, lora
from sitrain.models.decoder import Decoder
from sitrain.models.huggingface import download, peft, weights
from sitrain.runtime import activity, sources
from sitrain.runtime import workdir as workdirs
from sitrain.runtime.options import ConfigError, call
from sitrain.runtime.start import Origin, drawn, elsewhere

_LOG = logging.getLogger("sitrain")

# What PEFT calls them, and what is said of each.
_OTHERS = {
  "r": "it is rank here", "lora_alpha": "it is alpha here",
  "target_modules": "it is targets here", "names": "it is targets now",
} | dict.fromkeys(
  ("dropout", "lora_dropout"), "adapters have no dropout here, leave it out"
)


class Settings(NamedTuple):
  """The options of config.model.lora."""

  rank: int
  alpha: float
  targets: str
  path: str


def settings(
  *, rank: int = 0, alpha: float = 0.0, targets: str = lora.ALL, path: str = ""
) -> Settings:
  """The options of adapters, which have no dropout.

  Args:
    rank: of the adapters; 0 trains all parameters, without adapters.
    alpha: what they add is scaled by alpha / rank; 0: twice the rank.
    targets: which projections have some; a regular expression of their whole
      names, those of transformers or "layers/query" and so on.
    path: a folder of PEFT, or its name on the hub, whose adapters are the first
      ones; "": they begin with no effect.

  Raises ValueError for what is no regular expression, and for adapters of no
  rank.
  """
  lora.pattern_of(targets)
  if path and not rank:
    raise ValueError(f"path={path!r} has adapters: set rank to theirs")
  return Settings(rank, float(alpha) or 2.0 * rank, targets, path)


def settings_of(model: dict) -> Settings:
  """The options in a config.model; ConfigError for what is none."""
  given = model.get("lora", {})
  for name, why in _OTHERS.items():
    if name in given:
      raise ConfigError(f"config.model.lora.{name} is not an option: {why}")
  return call(settings, "model.lora", given)


def check_folder(model: dict) -> None:
  """Raises ConfigError where config.model.lora.path has other adapters."""
  given, path = settings_of(model), model.get("path", "")
  if not given.path or not path:
    return
  where = f"config.model.lora.path={given.path}"
  try:
    config = weights.read_config(weights.locate(path))
    found = peft.form_of(download.locate_adapters(given.path), config)
  except ValueError as error:
    raise ConfigError(f"{where}: {error}") from error
  names = sorted(_names(path, given))
  targets = f"'layers/({'|'.join(found.names)})'"
  wrong = [
    f"config.model.lora.{name} to {value}" for name, value, same in (
      ("rank", found.rank, found.rank == given.rank),
      ("alpha", f"{found.alpha:g}", found.alpha == given.alpha),
      ("targets", targets, list(found.names) == names),
    ) if not same
  ]
  if wrong:
    raise ConfigError(
      f"{where} has adapters of rank {found.rank} and alpha {found.alpha:g} of"
      f" {', '.join(found.names)}: set {' and '.join(wrong)}"
    )


def check_starts(config: dict) -> None:
  """Raises ConfigError for adapters of another run that make another model.

  With another scale or another base their shapes fit all the same.
  """
  given, roles = settings_of(config["model"]), config.get("roles", {})
  for name in config["stages"] if given.rank else ():
    stage = config["stage"][name]
    found = {f"held.{n}": x for n, x in stage.get("held", {}).items()
             if not roles.get(n, {}).get("path", "")}
    for part, source in (found | {"start": stage.get("start", "")}).items():
      if elsewhere(source):
        where = f"config.stage.{name}.{part}={source}"
        _check_start(where, config["model"]["path"], given, source)


def _check_start(where: str, path: str, given: Settings, source: str) -> None:
  folder = epath.Path(source).parent.parent
  try:
    theirs = settings_of(workdirs.read_config(folder)["model"])
    was = sources.known_of(folder).get("model.path", {})
  except (OSError, ValueError, KeyError) as error:
    _LOG.warning(
      "%s: whether its adapters are of the same base and alpha is not known"
      " (%s)", where, error,
    )
    return
  if theirs.rank and theirs.alpha / theirs.rank != given.alpha / given.rank:
    raise ConfigError(
      f"{where} has adapters of rank {theirs.rank} and alpha {theirs.alpha:g}:"
      " set config.model.lora.alpha to"
      f" {theirs.alpha / theirs.rank * given.rank:g}"
    )
  if was and was["fingerprint"] != sources.model_of(path)["fingerprint"]:
    raise ConfigError(
      f"{where} has adapters of another base, {was['path']}, than"
      f" config.model.path={path}: give that one, or merge them by export"
    )


def origin(
  path: str, model: Decoder, given: Settings, read: Callable[[Any], Any]
) -> Origin:
  """Adapters that are trained on a frozen base, in the dtype of the model.

  `path` is that of the base, which `read` reads. Raises ConfigError.
  """
  if not path:
    raise ConfigError("config.model.lora adapts a checkpoint: set model.path")
  names = _names(path, given)
  found = drawn(
    lambda key: lora.adapters(key, model, rank=given.rank, names=names)
  )
  if given.path:
    found = found._replace(first=lambda _, wanted: _read(path, given, wanted))
  shapes = jax.eval_shape(partial(decoder.init, model), jax.random.key(0))
  base = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, model.dtype), shapes
  )
  scale = given.alpha / given.rank
  return found._replace(base=base, read_base=read, scale=scale)


def _names(path: str, given: Settings) -> tuple[str, ...]:
  """The projections that config.model.lora.targets chooses."""
  config = weights.read_config(weights.locate(path))
  model = weights.from_folder(weights.locate(path))
  try:
    return lora.chosen(model, given.targets, peft.modules(config))
  except ValueError as error:  # It begins with the option.
    raise ConfigError(f"config.model.lora.{error}") from error


def _read(path: str, given: Settings, abstract: Any) -> Any:
  """The first adapters, of a folder that `check_folder` has checked."""
  config = weights.read_config(weights.locate(path))
  with activity.during(f"reading adapters of {given.path}"):
    folder = download.locate_adapters(given.path)
    return peft.read(folder, config, abstract)
