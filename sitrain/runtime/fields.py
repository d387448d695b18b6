"""The names that a config has at its top, in its run and in its mesh."""

import re

from sitrain.runtime.options import ConfigError, check_type, closest

TOP = {
  "seed": int, "task": dict, "model": dict, "mesh": dict, "stages": tuple,
  "stage": dict, "evaluate": dict, "run": dict, "roles": dict,
  "tokenizer": dict,
}
RUN = {
  "save_every": int, "keep": int, "max_sampler_gap": float,
  "compile_cache": bool, "profile_steps": tuple, "wandb": str,
}
MESH = {"data": int, "fsdp": int, "tensor": int}


def check_names(config: dict) -> None:
  """Raises ConfigError for a name that nothing reads, and for a wrong type.

  What is misspelt would be passed over in silence.
  """
  _check("config", config, TOP)
  _check("config.run", config["run"], RUN)
  _check("config.mesh", config["mesh"], MESH)
  if config["run"]["save_every"] < 1:
    raise ConfigError("config.run.save_every must be >= 1: 1 saves each call")


def check_word(field: str, name: str) -> None:
  """Raises ConfigError for a name that could not be that of a folder."""
  if not re.fullmatch(r"\w+", name):
    raise ConfigError(f"{field}: {name!r} is not a plain word")


def _check(field: str, given: dict, known: dict[str, type]) -> None:
  for name, value in given.items():
    if name not in known:
      raise ConfigError(
        f"{field}.{name} is not an option: {closest(name, known)}"
      )
    inner = f"{field}.{name}".removeprefix("config.")
    check_type(inner, value, known[name])
