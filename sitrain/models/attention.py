"""Attention of whole rows, for the update and for scoring.

Scores of a row are [heads, T, T]; here are ways to never hold them. What each
of them takes: `plain` and `chunked` everything; `triton` everything, on GPUs,
with the extra `kernels`; `cudnn` bfloat16 without a soft cap, on GPUs;
`splash` models without local layers, on TPUs, on rows that begin at column 0
and have one path.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Bool, Float

from sitrain.models import forks
from sitrain.models.blocks import attend

KINDS = ("auto", "plain", "chunked", "cudnn", "triton", "splash")
SHORT = 512  # the longest row of which "auto" holds all scores
CHUNK = 128  # queries of a row whose scores are held at a time
BANDS = 8  # parts of a row that are compiled apart, each with its own keys
LANES = 128  # of a TPU: blocks of the kernel are multiples of it


def rows(
  query: Float[Array, "B Q M H"],
  key: Float[Array, "B N T H"],
  value: Float[Array, "B N T H"],
  visible: Bool[Array, "B Q T"],
  *,
  kind: str,
  scale: float,
  cap: float,
  local: bool = False,
  fork: tuple = (),
) -> Float[Array, "B Q M H"]:
  """Grouped-query attention of rows to themselves, with a float32 softmax.

  Heads are grouped M = N x G around the N key heads by a reshape, so keys are
  never repeated (Ainslie et al. 2023). `visible` must be lower triangular;
  a part of the queries is `plain`. "auto" is that up to SHORT columns and
  `chunked` from there on. What a query that sees nothing returns is read by
  nobody. `local` says whether the model has local layers, of which `visible`
  may be one. Of rows with a `fork` no branch sees another one; they are
  `plain`, and only scores that some query sees are made. Raises ValueError for
  a kind that is not known or does not fit.
  """
  _check(kind, cap, query.dtype, local)
  if fork:
    query = _grouped(query, key, scale)
    return _apart(forks.attend(query, key, value, visible, cap, fork))
  whole = query.shape[1] == key.shape[2]
  way = _WAYS[settled(kind, query.shape[1]) if whole else "plain"]
  try:
    return way(query, key, value, visible, scale, cap)
  except (ImportError, NotImplementedError, RuntimeError) as error:
    raise ValueError(f"config.model.attention={kind!r}: {error}") from error


def settled(kind: str, length: int) -> str:
  """What is done with rows of a length: "auto" decides by it."""
  if length == 1:  # The first call, for parameters, which kernels may refuse.
    return "plain"
  return kind if kind != "auto" else "plain" if length <= SHORT else "chunked"


def queries_held(kind: str, length: int) -> int:
  """Queries of a row whose scores are held at the same time."""
  return length if settled(kind, length) == "plain" else min(CHUNK, length)


def _check(kind, cap, dtype, local):
  name = f"config.model.attention={kind!r}"
  if kind not in KINDS:
    raise ValueError(f"{name}: choose one of {', '.join(KINDS)}")
  if kind == "cudnn" and cap:
    raise ValueError(f"{name} has no soft cap ({cap}): choose triton, chunked")
  if kind == "cudnn" and jnp.dtype(dtype).itemsize != 2:
    raise ValueError(f"{name} needs config.model.dtype='bfloat16'")
  if kind == "splash" and local:
    raise ValueError(f"{name} has no local layers: choose chunked")


def _grouped(query, key, scale):
  """Queries [B N G T H]: in this order XLA on CPU takes four fifths of the
  time for short rows."""
  b, t, m, h = query.shape
  n = key.shape[1]
  return (query * scale).reshape(b, t, n, m // n, h).transpose(0, 2, 3, 1, 4)


def _apart(mixed):
  """[B N G T H] -> [B T M H]."""
  b, n, g, t, h = mixed.shape
  return mixed.transpose(0, 3, 1, 2, 4).reshape(b, t, n * g, h)


def _plain(query, key, value, visible, scale, cap):
  query = _grouped(query, key, scale)
  return _apart(attend(query, key, value, visible, cap))


def _chunked(query, key, value, visible, scale, cap):
  """CHUNK queries at a time, made again for the gradient.

  A band of chunks reads the keys up to its end, so that of the scores that no
  query sees 7 in 8 are not made.
  """
  length, query = query.shape[1], _grouped(query, key, scale)
  count = math.ceil(length / CHUNK)  # chunks of a band
  count = math.ceil(count / BANDS)
  width = min(CHUNK * count, length)
  again = jax.checkpoint(functools.partial(attend, cap=cap))

  def band(start):
    end = min(start + width, length)
    mine, seen = query[:, :, :, start:end], visible[:, start:end, :end]
    if count == 1:
      return again(mine, key, value, seen)
    fill = CHUNK * count - (end - start)
    mine = jnp.pad(mine, [(0, 0)] * 3 + [(0, fill), (0, 0)])
    seen = jnp.pad(seen, [(0, 0), (0, fill), (0, 0)])
    split = (_split(mine, 3, count), _split(seen, 1, count))
    found = jax.lax.map(lambda x: again(x[0], key, value, x[1]), split)
    found = jnp.moveaxis(found, 0, 3)
    return found.reshape(*mine.shape)[:, :, :, : end - start]

  bands = [band(start) for start in range(0, length, width)]
  return _apart(jnp.concatenate(bands, axis=3))


def _split(x, axis, count):
  """Axis `axis` as `count` parts, which come first."""
  shape = x.shape[:axis] + (count, -1) + x.shape[axis + 1 :]
  return jnp.moveaxis(x.reshape(shape), axis, 0)


def _cudnn(query, key, value, visible, scale, cap):
  del cap  # `check` has refused one.
  return jax.nn.dot_product_attention(
    query, key.swapaxes(1, 2), value.swapaxes(1, 2), mask=visible[:, None],
    scale=scale, implementation="cudnn",
  )


def _triton(query, key, value, visible, scale, cap):
  heads = query.swapaxes(1, 2), key, value, visible[:, None]
  kernel = functools.partial(_tokamax, scale, cap, "triton")
  return _on_each_device(kernel, *heads).swapaxes(1, 2)


def _tokamax(scale, cap, way, query, key, value, visible):
  try:
    import tokamax
  except ImportError as error:
    raise ImportError("pip install 'sitrain[kernels]'") from error
  mixed = tokamax.dot_product_attention(
    *(x.swapaxes(1, 2) for x in (query, key, value)), mask=visible,
    scale=scale, logits_soft_cap=cap or None, implementation=way,
  )
  return mixed.swapaxes(1, 2)


def _splash(query, key, value, visible, scale, cap):
  """The kernel of jax for TPUs, on each device for its rows and heads.

  It knows that a column sees those before it and nothing else of the mask, so
  a row of which that is not true comes back as NaN.
  """
  t = query.shape[1]
  count = jnp.sum(visible, axis=-1)
  simple = (count == jnp.arange(1, t + 1)) | (count == 0)
  simple = jnp.all(simple, axis=1)[:, None, None, None]
  pad = [(0, 0), (0, 0), (0, -t % LANES), (0, 0)]
  heads = [jnp.pad(x, pad) for x in (query.swapaxes(1, 2) * scale, key, value)]
  mixed = _on_each_device(functools.partial(_kernel, cap), *heads)
  return jnp.where(simple, mixed[:, :, :t].swapaxes(1, 2), jnp.nan)


def _kernel(cap, query, key, value):
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  heads, length = query.shape[1:3]
  mask = splash.MultiHeadMask([splash.CausalMask((length, length))] * heads)
  block = next(n for n in (512, 384, 256, LANES) if length % n == 0)
  sizes = dict.fromkeys((
    "block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv",
    "block_kv_dkv_compute", "block_q_dq", "block_kv_dq",
  ), block)
  kernel = splash.make_splash_mha(
    mask, head_shards=1, q_seq_shards=1, attn_logits_soft_cap=cap or None,
    block_sizes=splash.BlockSizes(**sizes),
  )
  return jax.vmap(kernel)(query, key, value)


def _on_each_device(kernel, query, key, *given):
  """kernel(query [B M T H], key [B N T H], ...), rows and heads apart.

  Rows are split over all axes of the mesh but "tensor", which splits heads,
  where they divide by it; an axis of one holds for all heads.
  """
  mesh = jax.sharding.get_abstract_mesh()
  types = zip(mesh.axis_names, mesh.axis_types)
  free = [name for name, kind in types if kind == AxisType.Auto]
  if math.prod(mesh.shape[name] for name in free) == 1:
    return kernel(query, key, *given)
  tensor = mesh.shape["tensor"] if "tensor" in free else 1
  apart = "tensor" if tensor > 1 and key.shape[1] % tensor == 0 else None
  lead = tuple(name for name in free if name != "tensor")
  spec = lambda x: PartitionSpec(lead, apart if x.shape[1] > 1 else None)
  given = query, key, *given
  return jax.shard_map(
    kernel, mesh=mesh, in_specs=tuple(map(spec, given)),
    out_specs=spec(query), axis_names=set(free), check_vma=False,
  )(*given)


_WAYS = {
  "plain": _plain, "chunked": _chunked, "cudnn": _cudnn, "triton": _triton,
  "splash": _splash,
}
