"""The parameters of the decoder: their shapes, first values and layouts."""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from sitrain.types import Key, Params

# The first rule whose pattern is found in the path ("layers/query") decides.
# Parameters of the layers are stacked: their first axis is the layer.
PARTITION_RULES = (
  (r"(^|/)(embed|head)$", P("tensor", "fsdp")),
  (r"norm$", P()),
  (r"(^|/)value_head$", P()),  # see heads.py
  (r"(^|/)layers/(query|key|value)$", P(None, "fsdp", "tensor", None)),
  (r"(^|/)layers/(query|key|value)_bias$", P(None, "tensor", None)),
  (r"(^|/)layers/out$", P(None, "tensor", None, "fsdp")),
  (r"(^|/)layers/out_bias$", P()),
  (r"(^|/)layers/(gate|up)$", P(None, "fsdp", "tensor")),
  (r"(^|/)layers/down$", P(None, "tensor", "fsdp")),
  # Each expert is split as an mlp is, see experts.py.
  (r"(^|/)layers/router$", P(None, "fsdp", None)),
  (r"(^|/)layers/experts_(gate|up)$", P(None, None, "fsdp", "tensor")),
  (r"(^|/)layers/experts_down$", P(None, None, "tensor", "fsdp")),
  # Adapters, see lora.py, are split as what they adapt; their rank is not.
  (r"(^|/)layers/(query|key|value|gate|up)_a$", P(None, "fsdp", None)),
  (r"(^|/)layers/(query|key|value)_b$", P(None, None, "tensor", None)),
  (r"(^|/)layers/(gate|up)_b$", P(None, None, "tensor")),
  (r"(^|/)layers/out_a$", P(None, "tensor", None, None)),
  (r"(^|/)layers/down_a$", P(None, "tensor", None)),
  (r"(^|/)layers/(out|down)_b$", P(None, None, "fsdp")),
)

# How many leading axes of a projection are inputs; the others are outputs.
INPUTS = {"query": 1, "key": 1, "value": 1, "out": 2}
INPUTS |= {"gate": 1, "up": 1, "down": 1}
# Weights of experts have an axis of experts before that.
EXPERTS = ("experts_gate", "experts_up", "experts_down")


def layer_shapes(spec: Any) -> dict[str, tuple[int, ...]]:
  """Shapes of the parameters of one layer of the decoder `spec`."""
  width, heads, size = spec.width, spec.heads, spec.head_size
  kv_heads = spec.kv_heads
  shapes = {
    "query": (width, heads, size),
    "key": (width, kv_heads, size),
    "value": (width, kv_heads, size),
    "out": (heads, size, width),
  } | _mlp_shapes(spec)
  if spec.pre_norms:
    shapes |= {"attention_norm": (width,), "mlp_norm": (width,)}
  if spec.qkv_bias:
    shapes |= {
      "query_bias": (heads, size),
      "key_bias": (kv_heads, size),
      "value_bias": (kv_heads, size),
    }
  if spec.out_bias:
    shapes |= {"out_bias": (width,)}
  if spec.qk_norm:
    whole = spec.qk_norm_whole
    shapes |= {
      "query_norm": (heads * size if whole else size,),
      "key_norm": (kv_heads * size if whole else size,),
    }
  if spec.post_norms:
    shapes |= {"attention_post_norm": (width,), "mlp_post_norm": (width,)}
  return shapes


def _mlp_shapes(spec):
  width, size, count = spec.width, spec.mlp_size, spec.experts
  if not count:
    return {"gate": (width, size), "up": (width, size), "down": (size, width)}
  return {
    "router": (width, count),
    "experts_gate": (count, width, size),
    "experts_up": (count, width, size),
    "experts_down": (count, size, width),
  }


def active(spec: Any, params: Params) -> int:
  """How many of the parameters take part in the computation of a token.

  All but those of the experts that it does not take; `params` may be shapes.
  """
  flat = jax.tree_util.tree_flatten_with_path(params)[0]
  total = 0
  for path, x in flat:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    size = math.prod(x.shape)
    if name.endswith(EXPERTS):
      size = size // spec.experts * spec.experts_per_token
    total += size
  return total


def init_norm(key: Key, spec: Any, shape: tuple[int, ...]) -> jax.Array:
  """Norms start as the plain norm; the key is not used."""
  del key
  return (jnp.zeros if spec.norm_plus_one else jnp.ones)(shape, jnp.float32)


def init_embed(key: Key, spec: Any) -> jax.Array:
  """Embeddings, and the head: logits start with a spread of about one."""
  shape = (spec.vocabulary, spec.width)
  return jax.random.normal(key, shape, jnp.float32) / math.sqrt(spec.width)


def init_layers(key: Key, spec: Any) -> Params:
  """All layers, stacked: name -> [layers, ...], in float32.

  Projections have standard deviation fan_in ** -0.5; those that write to the
  residual stream are smaller by (2 * layers) ** -0.5, so that its size does
  not grow with depth (GPT-2, section 2.3).
  """
  shapes = layer_shapes(spec)
  tree = {}
  for name, k in zip(sorted(shapes), jax.random.split(key, len(shapes))):
    shape = (spec.layers, *shapes[name])
    if name.endswith("norm"):
      tree[name] = init_norm(k, spec, shape)
    elif name.endswith("bias"):
      tree[name] = jnp.zeros(shape, jnp.float32)
    else:
      fan_in = shapes[name][1 if name in EXPERTS else 0]
      if name == "out":
        fan_in = spec.heads * spec.head_size
      if name in ("out", "down", "experts_down"):
        fan_in *= 2 * spec.layers
      tree[name] = jax.random.normal(k, shape, jnp.float32) * fan_in**-0.5
  return tree


def unstack(params: Params) -> Params:
  """The same parameters with `layers` as a tuple of trees, one per layer."""
  layers = params["layers"]
  if isinstance(layers, tuple):
    return params
  count = jax.tree.leaves(layers)[0].shape[0]
  each = [jax.tree.map(operator.itemgetter(i), layers) for i in range(count)]
  return {**params, "layers": tuple(each)}


def computed(params: Params, dtype: Any) -> Params:
  """Parameters in the dtype of the computation, as a role is kept or gathered.

  The decoder finds the very same numbers in them as in float32 parameters, so
  that of equal parameters the KL is 0: it rounds matrices, embeddings and
  biases to `dtype` anyway, and reads norms and a scalar head in float32, which
  stay so. Adapters by themselves stay as they are, because `lora.join` scales
  them before they are rounded.
  """
  if "embed" not in params:
    return params

  def cast(path, x):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    kept = name.endswith(("norm", "value_head"))
    return x if kept else x.astype(dtype)

  return jax.tree_util.tree_map_with_path(cast, params)


def for_decoding(params: Params, dtype: Any) -> Params:
  """`unstack`, in the dtype of the computation.

  The decoder would make the same numbers of float32 weights at every token.
  """
  return unstack(computed(params, dtype))
