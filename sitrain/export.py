"""Exports the policy of a stage as a model that transformers can load.

  sitrain export /tmp/sitrain --output=/tmp/sitrain_model

Writes weights, config.json and the tokenizer. A run that began with a
checkpoint keeps its architecture; other models get the matching architecture of
transformers. Adapters are merged into their base, or with --form=peft written
alone, as a folder that PEFT loads.
"""

import sitrain.runtime.early  # noqa: F401

# isort: split

from typing import Any

import jax
from absl import flags
from etils import epath

from sitrain.models.huggingface import describe, peft, weights
from sitrain.runtime import (
  adapters,
  build,
  distributed,
  logs,
  placing,
  policy,
)
from sitrain.runtime import workdir as workdirs
from sitrain.runtime.errors import begun, run_main
from sitrain.runtime.options import ConfigError
from sitrain.runtime.storage import check_writable, explaining
from sitrain.runtime.task import write_tokenizer

WORKDIR = flags.DEFINE_string(
  "workdir", "", "Workdir of the run; also given without the flag's name, as an"
  " argument."
)
STAGE = flags.DEFINE_string("stage", "", "Stage; default: the last trained.")
WHICH = flags.DEFINE_enum("which", "last", ["last", "best"], "Checkpoint.")
ROLE = flags.DEFINE_string("role", "policy", "The role to write.")
OUTPUT = flags.DEFINE_string("output", "", "A new folder, also on gs://.")
DTYPE = flags.DEFINE_enum(
  "dtype", None, ["bfloat16", "float16", "float32"],
  "Dtype of the weights; default: that of the run's model, and of adapters "
  "float32.",
)
FORM = flags.DEFINE_enum(
  "form", "merged", ["merged", "peft"],
  "A whole model, adapters merged into it; or adapters alone, as PEFT's.",
)
MESH = placing.define()
flags.declare_key_flag("mesh")
flags.adopt_module_key_flags(distributed)
flags.DEFINE_bool("traceback", False, "Show where an error came from.")


def described(config: dict, folder: epath.Path) -> tuple[Any, dict]:
  """The model of a run, and its config.json."""
  if path := config["model"].get("path", ""):
    source = weights.locate(path)
    return weights.from_folder(source), weights.read_config(source)
  task = build.task_from(config, str(folder))
  model = build.model_from(config, task)
  return model, describe.config_of(model) | {"eos_token_id": list(task.eos)}


def export(workdir: epath.Path, output: epath.Path) -> str:
  """Restores and writes the model; returns a line about it."""
  config = build.config_of_run(str(workdir))
  config = policy.of_role(config, ROLE.value)
  stage = policy.stage_of(config, workdir, STAGE.value)
  merged = FORM.value == "merged"
  if not merged and not adapters.settings_of(config["model"]).rank:
    raise ConfigError(
      f"--form=peft: the role {ROLE.value!r} of this run has no adapters"
      " (its config.model.lora.rank is 0): leave --form out"
    )
  model, theirs = described(config, workdir)
  own = config["model"].get("dtype", "float32") if merged else "float32"
  dtype = DTYPE.value or own
  mesh = placing.mesh_of(config, MESH.value)
  read = policy.restored if merged else policy.restored_adapters
  with jax.set_mesh(mesh):
    params, line = read(
      config, model, mesh, workdir / stage, WHICH.value, role=ROLE.value
    )
    begun()
    files = []
    with explaining(output):
      if jax.process_index() == 0:
        files = write_tokenizer(config, workdir, output)
      # The JSON is written last: a folder that has it is complete.
      if merged:
        weights.write(output, model, params, theirs, dtype=dtype)
      else:
        _write_adapters(output, params, config["model"], theirs, dtype)
  count = f"tokenizer ({len(files)} files)" if files else "no tokenizer"
  kind = "" if merged else "adapters of "
  return (
    f"written: {output}: {line}, as {kind}"
    f"{theirs['architectures'][0]} in {dtype}, {count}"
  )


def _write_adapters(
  output: epath.Path, params: Any, given: dict, theirs: dict, dtype: str
) -> None:
  alpha = adapters.settings_of(given).alpha
  peft.write(
    output, params, theirs, base=given["path"], alpha=alpha, dtype=dtype
  )


def _is_taken(folder: epath.Path) -> bool:
  """Whether it is more than what a cut off export leaves, which are files."""
  inside = folder.iterdir() if folder.exists() else ()
  whole = "config.json", peft.CONFIG
  return any(path.name in whole or path.is_dir() for path in inside)


def main(argv: list[str]) -> None:
  """Checks the flags and exports; all processes take part."""
  distributed.start(by_core=False)
  folder, output = (
    epath.Path(workdirs.absolute(flag.value, f"--{flag.name}"))
    for flag in (WORKDIR, OUTPUT)
  )
  build.config_of_run(workdirs.absolute(WORKDIR.value))
  if not OUTPUT.value:
    raise ConfigError("--output is missing: give a new folder")
  workdirs.check_is_folder(output, f"--output={output}")
  check_writable(output)
  if _is_taken(output):
    raise ConfigError(f"--output={output} is taken: give a new folder")
  workdirs.check_folder(str(output), f"--output={output}")
  logs.quiet_libraries()
  flag_values = flags.FLAGS.flag_values_dict() | {"process": 0}
  distributed.check_agreement(flag_values)
  written = export(folder, output)
  if jax.process_index() == 0:
    print(written)


if __name__ == "__main__":
  run_main(main, argument="workdir")
