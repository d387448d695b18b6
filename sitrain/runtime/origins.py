"""Where the parameters of a stage come from: checks of `start` and `held`."""

from collections.abc import Sequence

import jax

from sitrain.models import heads
from sitrain.runtime import checkpoint
from sitrain.runtime.options import ConfigError, closest
from sitrain.runtime.start import Run, elsewhere, role_of
from sitrain.types import Stage


def check_sources(field: str, options: dict, saved: Sequence[str]) -> None:
  """Checks the sources of trained and held parameters, and their roles."""
  check_source(f"{field}.start", options["start"], saved)
  for name, source in options["held"].items():
    check_source(f"{field}.held.{name}", source, saved)
    if name in options["trained"]:
      raise ConfigError(
        f"config.{field}: the role {name!r} is in trained and in held: leave "
        "one of them out"
      )
  if not options["trained"]:
    raise ConfigError(f"config.{field}.trained is empty: name a role")


def check_source(field: str, source: str, saved: Sequence[str]) -> None:
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
      why = checkpoint.lost(folder) if which in ("best", "last") else ""
      raise ConfigError(
        f"config.{field}={source!r}: there is no checkpoint: {why}".rstrip(": ")
        + ": give a run's WORKDIR/STAGE/last or WORKDIR/STAGE/best"
      )
    return
  known = ["init"] + [f"{s}/{w}" for s in saved for w in ("best", "last")]
  if source not in known:
    stage, _, which = source.partition("/")
    fix = f"config.stages has no {stage!r} before it: add it, or "
    fix *= which in ("best", "last") and stage not in saved
    raise ConfigError(
      f"config.{field}={source!r}: {fix}{closest(source, known)}"
    )


def check_role_sources(
  field: str, run: Run, stage: Stage, before: Sequence[Stage]
) -> None:
  """Raises ConfigError where a stage before does not save a role's parameters.

  A role that starts from the policy takes those of the policy then.
  """
  trained = {one.name: one.trained for one in before}
  sources = [(f"held.{n}", n, source) for n, source in stage.held.items()]
  sources += [("start", n, stage.start) for n in stage.trained]
  for option, name, source in sources:
    saved = trained.get(source.rpartition("/")[0], (name,))
    from_policy = role_of(run, name).start == "policy"
    if option != "start":
      check_head(field, run, name, source, saved)
    if name in saved or from_policy and "policy" in saved:
      continue
    raise ConfigError(
      f"config.{field}.{option}={source!r}: that stage trains no {name!r}: name"
      " one that does" + (
        "" if from_policy or name not in run.roles
        else f", or set config.roles.{name}.start to 'policy'"
      )
    )


def check_head(
  field: str, run: Run, name: str, source: str, saved: Sequence[str]
) -> None:
  """Raises ConfigError for a held role whose scalar head nobody has trained.

  It would score every text 0. `saved` are the roles that `source` has.
  """
  role = role_of(run, name)
  if not role.head or source != "init" and name in saved:
    return
  first = jax.eval_shape(role.origin.init, jax.random.key(0))
  if source != "init" or heads.NAME not in first:
    raise ConfigError(
      f"config.{field}.held.{name}={source!r}: its scalar head is new there and"
      " scores every text 0: name a stage that trains it, or set config.roles."
      f"{name}.path to a model of sequence classification"
    )
