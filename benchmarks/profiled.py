"""Which stages `benchmarks.step_profile` can profile."""

from etils import epath

from sitrain.runtime import build, policy, workdir
from sitrain.runtime.options import ConfigError


def read_config(folder: str, name: str) -> dict:
  """The config of a run whose stage can be profiled; else ConfigError."""
  path = epath.Path(folder) / "config.json"
  if not path.exists():
    raise ConfigError(
      f"--workdir={folder} holds no config.json: give that of a run"
    )
  config = build.plain(workdir.read_json(path))
  policy.stage_of(config, epath.Path(folder), name)  # It is there and trained.
  stage = build.STAGE | config["stage"][name]
  if not stage["fused"] or stage["writes"]:
    raise ConfigError(
      f"--stage={name} is staged: its verifier runs on the host and is no part"
      " of a compiled step; see run/seconds and run/host_seconds in"
      " metrics.jsonl, or set --config.run.profile_steps of the run"
    )
  if "reference" not in stage["held"]:
    raise ConfigError(f"--stage={name} holds no reference: give one that does")
  return config
