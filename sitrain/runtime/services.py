"""Services that get the records too, each by its project in config.run.

They are imported only where a config names them.
"""

import json
import os
import secrets
import tempfile
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from sitrain.runtime.metrics import Record
from sitrain.runtime.options import ConfigError
from sitrain.runtime.sinks import (
  COLUMNS,
  Sink,
  iteration,
  join,
  jsonl,
  numbers,
  optional,
  samples_to,
  silent,
  table_of,
  tensorboard,
  text_of,
  title,
)
from sitrain.runtime.storage import is_remote, write_object


def wandb(folder: Any, *, project: str, config: Record) -> Sink:
  """Scalars "<stage>/<name>" by iteration of the run to Weights & Biases.

  A workdir is one run of wandb and stores its id. A resumed run does not log
  iterations again that an earlier process has logged. Raises ConfigError if
  wandb is not installed or cannot start.
  """
  if jax.process_index() != 0:
    return silent()
  module, folder = _service("wandb"), epath.Path(folder)
  local = folder
  if is_remote(folder):  # wandb writes to disks only.
    local = epath.Path(tempfile.mkdtemp(prefix="sitrain_wandb_"))
  try:
    logged = module.init(
      project=project, id=_id(folder / "wandb_id"), name=folder.name,
      dir=str(local), config=config, resume="allow",
    )
  except Exception as error:  # noqa: BLE001  It raises many types.
    raise ConfigError(
      f"config.run.wandb={project!r}: Weights & Biases says: {error}: run"
      " `wandb login`, or set WANDB_MODE=offline, or leave it out"
    ) from error

  def close() -> None:
    logged.finish()
    # What an offline run has written is there for `wandb sync`.
    if local != folder and not logged.offline:
      local.rmtree()

  # Its step is the first iteration that is not logged yet.
  return _logging(module, logged, logged.step, close)


def _logging(
  module: Any, run: Any, first: int, close: Callable[[], None]
) -> Sink:
  """Logs to a run of wandb, or of what has its functions, from `first` on."""

  def write(record: Record) -> None:
    if (step := iteration(record)) >= first:
      run.log(numbers(record), step=step)

  def write_samples(samples: list[Record]) -> None:
    if (step := iteration(samples[0])) >= first:
      table = module.Table(columns=list(COLUMNS), data=table_of(samples))
      run.log({title(samples): table}, step=step)

  return Sink(write, close, samples=write_samples)


def trackio(folder: Any, *, project: str, config: Record) -> Sink:
  """As `wandb`, to trackio: on this machine, or the Space of TRACKIO_SPACE_ID.

  Raises ConfigError if trackio is not installed or cannot start.
  """
  if jax.process_index() != 0:
    return silent()
  module, folder = _service("trackio"), epath.Path(folder)
  try:
    run = module.init(
      project=project, name=f"{folder.name}-{_id(folder / 'trackio_id')}",
      config=config, resume="allow", embed=False,
    )
  except Exception as error:  # noqa: BLE001  It raises many types.
    raise ConfigError(
      f"config.run.trackio={project!r}: trackio says: {error}: mend that, or"
      " leave it out"
    ) from error
  # It logs steps again; the public part of a run does not say how far it is.
  first = getattr(run, "_next_step", 0)
  return _logging(module, run, first, run.finish)


def mlflow(folder: Any, *, project: str, config: Record) -> Sink:
  """As `wandb`, to a run of the experiment `project` of MLflow.

  It goes to MLFLOW_TRACKING_URI, or to mlflow.db of a workdir on a disk. Raises
  ConfigError if MLflow is not installed or cannot start.
  """
  if jax.process_index() != 0:
    return silent()
  module, folder = _service("mlflow"), epath.Path(folder)
  known = folder / "mlflow_id"
  try:
    if not os.environ.get("MLFLOW_TRACKING_URI") and not is_remote(folder):
      module.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
      if module.get_experiment_by_name(project) is None:
        files = (folder / "mlflow").as_posix()  # else where it was started
        module.create_experiment(project, artifact_location=files)
    module.set_experiment(project)
    own = known.read_text().strip() if known.exists() else None
    run = module.start_run(run_id=own, run_name=folder.name)
    first = run.data.metrics.get("iteration", -1) + 1 if own else 0
  except Exception as error:  # noqa: BLE001  It raises many types.
    raise ConfigError(
      f"config.run.mlflow={project!r}: MLflow says: {error}: set"
      " MLFLOW_TRACKING_URI to a server that answers, or leave it out"
    ) from error
  if own is None:
    write_object(known, run.info.run_id)
    module.log_text(json.dumps(config, indent=2, default=str), "config.json")

  def write(record: Record) -> None:
    if (step := iteration(record)) >= first:
      module.log_metrics(numbers(record) | {"iteration": step}, step=step)

  def write_samples(samples: list[Record]) -> None:
    if (step := iteration(samples[0])) >= first:
      module.log_text(text_of(samples), f"{title(samples)}/{step:08d}.md")

  return Sink(write, module.end_run, samples=write_samples)


# Those that config.run names by its project; the name is the module's, too.
SERVICES: dict[str, Callable[..., Sink]] = {  # (folder, *, project, config)
  "wandb": wandb, "trackio": trackio, "mlflow": mlflow,
}


def _service(name: str) -> Any:
  return optional(name, f"config.run.{name}")


def check_installed(options: dict[str, Any]) -> None:
  """Raises ConfigError early if a service of config.run is not installed."""
  for name in SERVICES:
    if options.get(name, ""):
      _service(name)


def open_all(folder: Any, options: dict[str, Any], config: Record) -> Sink:
  """All sinks of a run: files of the workdir, and what config.run names."""
  folder = epath.Path(folder)
  services = [
    begin(folder, project=options[name], config=config)
    for name, begin in SERVICES.items() if options.get(name, "")
  ]
  return join([
    jsonl(folder / "metrics.jsonl"),
    samples_to(jsonl(folder / "samples.jsonl")),
    tensorboard(folder / "tensorboard"), *services,
  ])


def _id(path: epath.Path) -> str:
  """A random id, drawn once per workdir: folder names are not unique."""
  if path.exists() and (known := path.read_text().strip()):
    return known
  write_object(path, drawn := secrets.token_hex(8))
  return drawn
