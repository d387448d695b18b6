"""The mesh, the partition rules of parameters, and rows split over the mesh.

Axes: `data` splits rows, `fsdp` splits rows and parameters, `tensor` splits
the width of layers.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)
from jaxtyping import Array

from sitrain.models.axes import ROWS
from sitrain.rollout.by_turn import Turns
from sitrain.types import Episodes, Problems, Rows, TrainState

AXES = ("data", "fsdp", "tensor")
REST = -1  # the size of an axis that gets the remaining devices
_AUTO = (AxisType.Auto,) * len(AXES)

Rules = Sequence[tuple[str, PartitionSpec]]

# A method's memory and tables have no rules of their own: they are replicated.
_MEMORY = (
  (r"^(memory|frozen/(table|order|scale|first))(/|$)", PartitionSpec()),
)


def make_mesh(
  data: int = REST, fsdp: int = 1, tensor: int = 1, *,
  devices: Sequence[Any] = (),
) -> Mesh:
  """Devices as a mesh [data, fsdp, tensor]; -1 on one axis: the rest.

  `devices` may come from a topology without hardware; empty: all of this
  machine. Raises ValueError if the sizes do not multiply to the number of
  devices or do not divide over their slices.
  """
  devices = list(devices) or jax.devices()
  sizes = mesh_sizes(len(devices), data, fsdp, tensor)
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if slices == 1:
    return jax.make_mesh(sizes, AXES, axis_types=_AUTO, devices=devices)
  outer = over_slices(slices, *sizes)
  inner = tuple(size // out for size, out in zip(sizes, outer))
  placed = mesh_utils.create_hybrid_device_mesh(
    inner, outer, devices, allow_split_physical_axes=True
  )
  return Mesh(placed, AXES, axis_types=_AUTO)


def over_slices(
  slices: int, data: int, fsdp: int, tensor: int
) -> tuple[int, ...]:
  """How many slices each axis of a mesh spans: data first, then fsdp.

  The network between slices is slow: `data` crosses it once per step, `fsdp` in
  every layer, `tensor` never. Raises ValueError if the sizes do not divide.
  """
  by_data = math.gcd(slices, data)
  by_fsdp = slices // by_data
  if fsdp % by_fsdp:
    raise ValueError(
      f"config.mesh.data={data} * config.mesh.fsdp={fsdp} does not divide by"
      f" the {slices} slices of TPUs or nodes of GPUs: set config.mesh.data to"
      f" a multiple of {slices}"
    )
  return by_data, by_fsdp, 1


def mesh_sizes(
  count: int, data: int = REST, fsdp: int = 1, tensor: int = 1, *,
  field: str = "config.mesh.", separator: str = " * config.mesh.",
) -> tuple[int, ...]:
  """The sizes of the axes of a mesh of `count` devices.

  Raises ValueError if they do not multiply to `count`; its message names the
  sizes after `field`, with `separator` between them.
  """
  sizes = [data, fsdp, tensor]
  named = field + separator.join(f"{n}={s}" for n, s in zip(AXES, sizes))
  if sizes.count(REST) > 1 or any(s < 1 and s != REST for s in sizes):
    raise ValueError(
      f"{named}: sizes are >= 1, and only one of them may be -1 (the rest)"
    )
  known = math.prod(s for s in sizes if s != REST)
  if REST in sizes:
    fits = count % known == 0
    sizes[sizes.index(REST)] = count // known
  else:
    fits = known == count
  if not fits:
    raise ValueError(
      f"{named} does not fit the {count} device(s) found: set sizes that"
      f" multiply to {count}, or {field}data=-1 and fsdp * tensor to a"
      f" divisor of {count}"
    )
  return tuple(sizes)


def sizes_that_fit(
  count: int, data: int = REST, fsdp: int = 1, tensor: int = 1
) -> tuple[int, ...]:
  """The sizes, or smaller ones if they do not fit `count` devices.

  Then tensor and fsdp become divisors of the old sizes, so that whatever
  divided by those still divides, and data gets the rest.
  """
  try:
    return mesh_sizes(count, data, fsdp, tensor)
  except ValueError:
    tensor = math.gcd(count, max(tensor, 1))
    fsdp = math.gcd(count // tensor, max(fsdp, 1))
    return mesh_sizes(count, REST, fsdp, tensor)


def path_name(path: Any) -> str:
  """The path of a leaf, joined by "/"."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _axes(entry: Any) -> tuple[str, ...]:
  """The mesh axes in one entry of a PartitionSpec."""
  if entry is None:
    return ()
  return (entry,) if isinstance(entry, str) else tuple(entry)


def _check_divides(
  name: str, shape: tuple[int, ...], spec: PartitionSpec, sizes: dict[str, int]
) -> None:
  for dim, entry in enumerate(spec):
    for_dim = math.prod(sizes[axis] for axis in _axes(entry))
    if shape[dim] % for_dim:
      axes = " * ".join(f"config.mesh.{axis}" for axis in _axes(entry))
      raise ValueError(
        f"{name} {shape}: dimension {dim} does not divide by"
        f" {axes}={for_dim}: choose a divisor of {shape[dim]}"
      )


def _match(rules: Rules, name: str, shape: tuple[int, ...]) -> PartitionSpec:
  """The spec of the first rule whose regex matches in `name`."""
  if math.prod(shape) == 1:
    return PartitionSpec()
  for pattern, spec in rules:
    if re.search(pattern, name):
      # Factored statistics of an optimizer carry the parameter's path but
      # fewer dimensions; they are small, so every device keeps them whole.
      return spec if len(spec) <= len(shape) else PartitionSpec()
  raise ValueError(
    f"no partition rule matches {name} {shape}: add (regex, PartitionSpec) to"
    " PARTITION_RULES beside its model"
  )


def match_rules(
  rules: Rules, tree: Any, sizes: dict[str, int] | None = None
) -> Any:
  """The PartitionSpec of every array of `tree`, by its path.

  The first (regex, spec) whose regex matches anywhere in the path (re.search)
  wins. Paths of optimizer state end like those of the parameters, so it is
  split the same way. Arrays of one element are replicated.

  Args:
    rules: pairs (regex, PartitionSpec).
    tree: arrays or ShapeDtypeStructs.
    sizes: sizes of the mesh axes to check divisibility against.

  Raises ValueError for an array without a rule, naming it, and where a
  dimension does not divide by its axes.
  """

  def spec_of(path, leaf):
    name, shape = path_name(path), tuple(jnp.shape(leaf))
    spec = _match(rules, name, shape)
    _check_divides(name, shape, spec, sizes or {a: 1 for a in AXES})
    return spec

  return jax.tree_util.tree_map_with_path(spec_of, tree)


def state_shardings(rules: Rules, abstract_state: Any, mesh: Mesh) -> Any:
  """NamedShardings of a TrainState, or of any tree, from partition rules."""
  specs = match_rules((*_MEMORY, *rules), abstract_state, dict(mesh.shape))
  return jax.tree.map(
    lambda spec: NamedSharding(mesh, spec),
    specs,
    is_leaf=lambda x: isinstance(x, PartitionSpec),
  )


def abstract(tree: Any, shardings: Any) -> Any:
  """ShapeDtypeStructs of `tree` with the given shardings."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    shardings,
  )


def groups(mesh: Mesh | AbstractMesh) -> int:
  """The number of device groups that rows are split over."""
  return math.prod(mesh.shape[axis] for axis in ROWS)


def shard_rows(mesh: Mesh) -> NamedSharding:
  """Rows split over data and fsdp, other dimensions not split."""
  return NamedSharding(mesh, PartitionSpec(ROWS))


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def _shift(rows: Any, problems: int, index: Array) -> Any:
  """Turns row numbers of group `index` into global row numbers."""

  def one(kind: Episodes) -> Episodes:
    count, parent = kind.parent.shape[0], kind.parent
    return kind._replace(
      problem=kind.problem + index * problems,
      parent=jnp.where(parent >= 0, parent + index * count, parent),
    )

  return jax.tree.map(one, rows, is_leaf=lambda x: isinstance(x, Episodes))


def unchanged(state: Any) -> Any:
  """The default of `prepare`: the state itself."""
  return state


def by_group(
  generate: Callable[..., Rows], mesh: Mesh, *,
  prepare: Callable[[Any], Any] = unchanged,
) -> Callable[..., Rows]:
  """Runs `generate` on each group of devices separately, on its rows.

  The program is manual over data and fsdp: no collective in the decoding loop
  crosses groups, not even for the stop flag, and weights are gathered once,
  before the loop. `tensor` is left to the compiler. A group gets
  `prepare(state)`, which reduces what is gathered. `problem` counts the
  problems, and `parent` the rows, of all groups together. Problems that do not
  divide over the groups are padded with copies of the last one, whose rows are
  removed from the result. Call it under jit.
  """
  if mesh.size == 1:
    return generate
  by_row, whole = PartitionSpec(ROWS), PartitionSpec()

  def one_group(
    index: Array, keys: Array, state: TrainState, problems: Problems
  ) -> Rows:
    rows = generate(keys, state, problems)
    return _shift(rows, keys.shape[0], index[0])

  mapped = jax.shard_map(
    one_group,
    mesh=mesh,
    in_specs=(by_row, by_row, whole, by_row),
    out_specs=by_row,
    axis_names=set(ROWS),
    check_vma=False,
  )

  def generate_by_group(
    keys: Array, state: TrainState, problems: Problems
  ) -> Rows:
    count, state = keys.shape[0], prepare(state)
    # The number of a group arrives as an argument: axis_index cannot be
    # lowered on every backend while another axis is automatic.
    index = jnp.arange(groups(mesh), dtype=jnp.int32)
    if count % len(index) == 0:
      return mapped(index, keys, state, problems)
    total = -(-count // len(index)) * len(index)
    which = jnp.minimum(jnp.arange(total), count - 1)
    filled = jax.tree.map(lambda x: x[which], (keys, problems))
    return _first(mapped(index, filled[0], state, filled[1]), count, total)

  if hasattr(generate, "by_turn"):
    generate_by_group.by_turn = turns_by_group(
      generate.by_turn, mesh, prepare=prepare
    )
  return generate_by_group


def turns_by_group(
  turns: Turns, mesh: Mesh, *, prepare: Callable[[Any], Any] = unchanged
) -> Turns:
  """`by_group` of both programs of a rollout with replies from the host.

  Problems must divide over the groups.
  """
  by_row, whole = PartitionSpec(ROWS), PartitionSpec()
  spread = functools.partial(
    jax.shard_map, mesh=mesh, out_specs=by_row, axis_names=set(ROWS),
    check_vma=False,
  )

  def one_group(index, keys, state, problems):
    playing = turns.begin(keys, state, problems)
    return playing._replace(
      rows=_shift(playing.rows, keys.shape[0], index[0])
    )

  begin = spread(one_group, in_specs=(by_row, by_row, whole, by_row))
  go_on = spread(turns.go_on, in_specs=(whole, by_row, by_row, whole))
  index = np.arange(groups(mesh), dtype=np.int32)
  return turns._replace(
    begin=lambda keys, state, problems: begin(
      index, keys, prepare(state), problems
    ),
    go_on=lambda state, *given: go_on(prepare(state), *given),
  )


def _first(rows: Any, count: int, total: int) -> Any:
  """The rows of the first `count` of `total` problems, in their order."""

  def one(kind: Episodes) -> Episodes:
    # The same number of rows for every problem, wherever they are.
    order = jnp.argsort(kind.problem >= count, stable=True)
    kept = order[: kind.problem.shape[0] // total * count]
    kind, place = jax.tree.map(lambda x: x[kept], kind), jnp.argsort(order)
    parent = jnp.where(kind.parent >= 0, place[kind.parent], kind.parent)
    return kind._replace(parent=parent.astype(kind.parent.dtype))

  return jax.tree.map(one, rows, is_leaf=lambda x: isinstance(x, Episodes))


def by_group_for_all(
  generate: Callable[..., Rows], mesh: Mesh, *,
  prepare: Callable[[Any], Any] = unchanged,
) -> Callable[..., Rows]:
  """Like `by_group`, with the result replicated, so that a host can read it."""
  if mesh.size == 1:
    return generate
  play, whole = by_group(generate, mesh, prepare=prepare), replicated(mesh)
  for_all = lambda play: lambda *given: jax.lax.with_sharding_constraint(
    play(*given), whole
  )
  found = for_all(play)
  if hasattr(generate, "by_turn"):  # On all devices together.
    turns = generate.by_turn
    found.by_turn = turns._replace(
      begin=for_all(turns.begin), go_on=for_all(turns.go_on)
    )
  return found
