"""Whether the rows of a stage can be dealt out to a mesh."""

from jax.sharding import AbstractMesh, Mesh

from sitrain.runtime.options import ConfigError, dealt
from sitrain.runtime.sharding import groups


def check_rows(field: str, options: dict, mesh: Mesh | AbstractMesh) -> None:
  """Problems and rows must divide by waves, mesh, minibatches, microbatches."""
  method, waves = options["method"], options["waves"]
  problems = method.get("problems", 0)
  name = f"config.{field}.method.problems"
  if waves < 1 or problems % waves:
    raise ConfigError(f"{name}={problems} does not divide by waves={waves}")
  each_wave = waves * groups(mesh)
  if problems % each_wave:
    below = problems // each_wave * each_wave
    fitting = f"{below} or " * (below > 0) + f"{below + each_wave}"
    by = f"waves={waves} times " * (waves > 1)
    raise ConfigError(
      f"{name}={problems} does not divide by {by}config.mesh.data * "
      f"config.mesh.fsdp = {each_wave}: set it to {fitting}"
    )
  parts = options["minibatches"] * options["microbatches"] * groups(mesh)
  if problems * (each := dealt(method)) % parts:
    raise ConfigError(
      f"{name}={problems} makes {problems * each} rows (or groups that share a "
      f"prompt), not divisible by minibatches * microbatches * mesh = {parts}"
    )
