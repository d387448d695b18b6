"""How many rows an iteration makes, and how they are split over a mesh."""

import logging
import math
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh

from sitrain.runtime.host import shapes_only
from sitrain.runtime.options import ConfigError
from sitrain.runtime.sharding import groups
from sitrain.types import Episodes, Method, TrainState, Verdict

_LOG = logging.getLogger("sitrain")


class Counts(NamedTuple):
  """The sizes of an iteration of a method, from the shapes of its verbs."""

  problems: int
  rows: int  # episodes, of all kinds
  units: int  # leading size of the batch: rows, pairs, or groups of rows
  columns: int  # after the prompt: the most steps of the decoding loops
  kinds: tuple[str, ...] = ("",)  # names of the kinds of rows; ("",): one kind
  metrics: tuple[str, ...] = ()  # names of the metrics of an iteration


def count(
  method: Method, state: TrainState, *, learns: bool = True
) -> Counts:
  """Traces all verbs, and the loss if it `learns`; `state` may be shapes.

  Raises ValueError if a verb does, if problems have different numbers of rows,
  for rewards that are not one per row and turn, and for a `wanted` that is not
  one bool per problem.
  """
  names: dict[str, None] = {}

  def one_round(key, state):
    problems = method.pose(key, state)
    keys = jax.random.split(key, problems.prompt.shape[0])
    rows = method.generate(keys, state, problems)
    judged = method.judge(key, state, problems, rows)
    if isinstance(judged, Verdict):
      raise ValueError("judge returns a verdict: return (verdict, metrics)")
    verdicts, metrics = judged
    _check_verdicts(rows, verdicts)
    if method.wanted != ():
      _check_wanted(method.wanted(problems, rows, verdicts), keys.shape[0])
    state = method.refresh(state, problems, rows, verdicts)
    batch, more = method.curate(key, state, problems, rows, verdicts)
    names.update(dict.fromkeys((*metrics, *more)))
    if learns:
      _, more = method.loss(state.params, state, batch)
      names.update(dict.fromkeys((*more, "learn/gradient_norm")))
    return problems, rows, batch

  key = jax.random.key(0, impl="threefry2x32")
  with shapes_only():
    problems, rows, batch = jax.eval_shape(one_round, key, state)
  posed, slots = problems.prompt.shape
  kinds = jax.tree.leaves(rows, is_leaf=lambda x: isinstance(x, Episodes))
  for kind in kinds:
    if kind.problem.shape[0] % posed:
      raise ValueError(
        f"generate makes {kind.problem.shape[0]} rows of {posed} problems: make"
        " the same number for each"
      )
  return Counts(
    problems=posed,
    rows=sum(kind.problem.shape[0] for kind in kinds),
    units=jax.tree.leaves(batch)[0].shape[0],
    columns=sum(max(kind.tokens.shape[1] - slots, 0) for kind in kinds),
    kinds=tuple(rows) if isinstance(rows, dict) else ("",),
    metrics=tuple(names),
  )


def _check_verdicts(rows: Any, verdicts: Any) -> None:
  """Raises ValueError for rewards that would broadcast over rows or turns."""
  kinds = rows if isinstance(rows, dict) else {"": rows}
  judged = verdicts if isinstance(verdicts, dict) else {"": verdicts}
  if kinds.keys() != judged.keys():
    raise ValueError(
      f"judge returns verdicts of {sorted(judged)}, and generate makes rows of"
      f" {sorted(kinds)}: give both the same names"
    )
  for name, verdict in judged.items():
    count, shape = kinds[name].tokens.shape[0], verdict.known.shape
    fields = {"known": verdict.known, "reward": verdict.reward} | verdict.parts
    for field, value in fields.items():
      if value.shape != shape or len(shape) != 2 or shape[0] != count:
        raise ValueError(
          f"judge makes {field} of shape {list(value.shape)} for {count} rows:"
          " reward, known and every part are [rows, turns]"
        )


def _check_wanted(wanted: Any, problems: int) -> None:
  """Raises ValueError where rounds could not choose problems by it."""
  if wanted.shape != (problems,) or wanted.dtype != bool:
    raise ValueError(
      f"wanted returns {wanted.dtype} {list(wanted.shape)} for {problems}"
      " problems: return an array of bool [problems]"
    )


def check_problems(
  field: str, problems: int, mesh: Mesh | AbstractMesh
) -> None:
  """Raises ConfigError if problems do not divide over the device groups."""
  split = groups(mesh)
  if problems % split:
    below = problems // split * split
    fitting = f"{below} or " * (below > 0) + f"{below + split}"
    raise ConfigError(
      f"config.{field}.method.problems={problems} does not divide by "
      f"config.mesh.data * config.mesh.fsdp = {split}: set it to {fitting}"
    )


def fit(
  field: str, options: dict, counts: Counts, mesh: Mesh | AbstractMesh
) -> dict[str, int]:
  """The waves and microbatches of a stage that divide its rows and the mesh.

  At most those of `options`: fewer change the memory but not the results.
  Raises ConfigError if even one of each does not divide.
  """
  problems, split = counts.problems, groups(mesh)
  check_problems(field, problems, mesh)
  name = f"config.{field}.method.problems"
  if min(options[n] for n in ("waves", "minibatches", "microbatches")) < 1:
    raise ConfigError(
      f"config.{field}.waves, minibatches and microbatches must be >= 1"
    )
  steps = options["minibatches"] * split
  if counts.units % steps:
    raise ConfigError(
      f"{name}={problems} makes {counts.units} rows (pairs, or groups that "
      f"share a prompt), not divisible by minibatches * config.mesh.data * "
      f"config.mesh.fsdp = {options['minibatches']} * {split}: "
      + _fix(field, problems, counts, options["minibatches"], split)
    )
  return {
    "waves": _most(field, "waves", options, problems // split),
    "microbatches": _most(
      field, "microbatches", options, counts.units // steps
    ),
  }


def _fix(
  field: str, problems: int, counts: Counts, minibatches: int, split: int
) -> str:
  """The fix: minibatches that fit these problems, or problems that fit."""
  fitting = [
    n for n in range(min(minibatches, counts.units), 0, -1)
    if counts.units % (n * split) == 0
  ]
  if fitting:
    return f"set config.{field}.minibatches to {fitting[0]}"
  each = max(counts.units // problems, 1)
  unit = math.lcm(split, minibatches * split // math.gcd(
    minibatches * split, each
  ))
  more = -(-problems // unit) * unit
  return f"set config.{field}.method.problems to {more}"


def _most(field: str, name: str, options: dict[str, Any], size: int) -> int:
  """The largest divisor of `size` that is at most the option `name`."""
  wanted = options[name]
  found = next(n for n in range(min(wanted, size), 0, -1) if size % n == 0)
  if found != wanted:
    _LOG.warning(
      "config.%s.%s=%d does not divide what a group of devices has: now %d",
      field, name, wanted, found,
    )
  return found
