"""Attention kernels of accelerators, with the arguments of attention.py.

`cudnn` takes bfloat16 without a soft cap, on GPUs; `triton` takes everything,
on GPUs, with the extra `kernels`; `splash` takes models without local layers,
on TPUs, and rows that begin at column 0 and have one path.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Bool, Float

LANES = 128  # of a TPU: blocks of its kernel are multiples of it


def cudnn(
  query: Float[Array, "B T M H"],
  key: Float[Array, "B N T H"],
  value: Float[Array, "B N T H"],
  visible: Bool[Array, "B T T"],
  scale: float,
  cap: float,
) -> Float[Array, "B T M H"]:
  """The kernel of cuDNN; `cap` must be 0."""
  del cap  # attention.py refuses one.
  return jax.nn.dot_product_attention(
    query, key.swapaxes(1, 2), value.swapaxes(1, 2), mask=visible[:, None],
    scale=scale, implementation="cudnn",
  )


def triton(
  query: Float[Array, "B T M H"],
  key: Float[Array, "B N T H"],
  value: Float[Array, "B N T H"],
  visible: Bool[Array, "B T T"],
  scale: float,
  cap: float,
) -> Float[Array, "B T M H"]:
  """The kernel of tokamax in Triton; ImportError where it is missing."""
  heads = query.swapaxes(1, 2), key, value, visible[:, None]
  kernel = functools.partial(_tokamax, scale, cap, "triton")
  return _on_each_device(kernel, *heads).swapaxes(1, 2)


def _tokamax(scale, cap, implementation, query, key, value, visible):
  try:
    import tokamax
  except ImportError as error:
    raise ImportError("pip install 'sitrain[kernels]'") from error
  mixed = tokamax.dot_product_attention(
    *(x.swapaxes(1, 2) for x in (query, key, value)), mask=visible,
    scale=scale, logits_soft_cap=cap or None, implementation=implementation,
  )
  return mixed.swapaxes(1, 2)


def splash(
  query: Float[Array, "B T M H"],
  key: Float[Array, "B N T H"],
  value: Float[Array, "B N T H"],
  visible: Bool[Array, "B T T"],
  scale: float,
  cap: float,
) -> Float[Array, "B T M H"]:
  """The kernel of jax for TPUs, on each device for its rows and heads.

  Its mask is causal and nothing else, so a row with another mask comes back as
  NaN.
  """
  t = query.shape[1]
  count = jnp.sum(visible, axis=-1)
  simple = (count == jnp.arange(1, t + 1)) | (count == 0)
  simple = jnp.all(simple, axis=1)[:, None, None, None]
  pad = [(0, 0), (0, 0), (0, -t % LANES), (0, 0)]
  heads = [jnp.pad(x, pad) for x in (query.swapaxes(1, 2) * scale, key, value)]
  mixed = _on_each_device(functools.partial(_splash_rows, cap), *heads)
  return jnp.where(simple, mixed[:, :, :t].swapaxes(1, 2), jnp.nan)


def _splash_rows(cap, query, key, value):
  from jax.experimental.pallas.ops.tpu import splash_attention

  heads, length = query.shape[1:3]
  causal = splash_attention.CausalMask((length, length))
  mask = splash_attention.MultiHeadMask([causal] * heads)
  block = next(n for n in (512, 384, 256, LANES) if length % n == 0)
  sizes = dict.fromkeys((
    "block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv",
    "block_kv_dkv_compute", "block_q_dq", "block_kv_dq",
  ), block)
  kernel = splash_attention.make_splash_mha(
    mask, head_shards=1, q_seq_shards=1, attn_logits_soft_cap=cap or None,
    block_sizes=splash_attention.BlockSizes(**sizes),
  )
  return jax.vmap(kernel)(query, key, value)


def _on_each_device(kernel, query, key, *rest):
  """Runs kernel(query [B M T H], key [B N T H], ...) on each device.

  Rows are split over all axes of the mesh but "tensor". That splits the heads
  if they divide by it, of arrays that have more than one.
  """
  mesh = jax.sharding.get_abstract_mesh()
  types = zip(mesh.axis_names, mesh.axis_types)
  free = [name for name, kind in types if kind == AxisType.Auto]
  if math.prod(mesh.shape[name] for name in free) == 1:
    return kernel(query, key, *rest)
  tensor = mesh.shape["tensor"] if "tensor" in free else 1
  by_head = "tensor" if tensor > 1 and key.shape[1] % tensor == 0 else None
  by_row = tuple(name for name in free if name != "tensor")
  spec = lambda x: PartitionSpec(by_row, by_head if x.shape[1] > 1 else None)
  arrays = query, key, *rest
  return jax.shard_map(
    kernel, mesh=mesh, in_specs=tuple(map(spec, arrays)),
    out_specs=spec(query), axis_names=set(free), check_vma=False,
  )(*arrays)
