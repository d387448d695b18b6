"""A decoder for the families of Llama, Qwen, Gemma, OLMo, SmolLM and Phi.

Parameters are one tree: {"embed", "layers": name -> [layers, ...], "norm"} and
"head" unless tied. Whether the layers are scanned or unrolled is an option of
the execution and changes no parameter. `unstack` slices the layers once, before
a decoding loop. A module that attends gets the mask and the positions as an
`Attend`, from `sees_rows` or `sees_cache`; attention.py computes with them.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from sitrain.models import (
  attention,
  axes,
  blocks,
  experts,
  parameters,
  products,
)
from sitrain.models.blocks import RopeScaling
from sitrain.types import PAD, Key, Params

PARTITION_RULES = parameters.PARTITION_RULES
unstack = parameters.unstack
LOGITS = "logits"  # what they are called by policies of jax.checkpoint
Cache = tuple  # (), or per layer (keys [B N T H], values [B N T H])


class Attend(NamedTuple):
  """Which keys each query sees, and the positions of both."""

  position: Int[Array, "B Q"]
  key_position: Int[Array, "B T"]
  visible: Bool[Array, "B Q T"]


def sees_rows(turn: Int[Array, "B T"], path: Int[Array, "B T"]) -> Attend:
  """What tokens of rows see: token i sees j <= i of its own path or trunk.

  Trunk is path 0; it is seen by all paths and sees all. Pads neither see nor
  are seen. The position of a token is the number of earlier tokens it sees.
  """
  real = turn != PAD
  same = path[:, :, None] == path[:, None]
  trunk = (path[:, :, None] == 0) | (path[:, None] == 0)
  visible = jnp.tril((same | trunk) & real[:, :, None] & real[:, None])
  position = jnp.maximum(jnp.sum(visible, axis=-1, dtype=jnp.int32) - 1, 0)
  return Attend(position, position, visible)


def sees_cache(
  start: Int[Array, " B"], column: Any, width: int, length: int
) -> Attend:
  """What columns column..column+width-1 see of a cache of `length` columns.

  `start` is the column of the first token of each row (left padding before);
  a query sees start <= key <= itself. `column` may be traced.
  """
  query = column + jnp.arange(width, dtype=jnp.int32)
  key = jnp.arange(length, dtype=jnp.int32)
  visible = (key <= query[:, None]) & (key >= start[:, None, None])
  position = jnp.maximum(query - start[:, None], 0)
  return Attend(position, jnp.maximum(key - start[:, None], 0), visible)


class Decoder(nn.Module, kw_only=True):
  """Maps tokens to hidden states, and hidden states to logits."""

  vocabulary: int
  layers: int
  width: int
  heads: int
  kv_heads: int
  head_size: int
  mlp_size: int
  norm_eps: float = 1e-6
  norm_plus_one: bool = False  # norms scale by 1 + w (Gemma)
  pre_norms: bool = True  # norms before attention and mlp (not OLMo 2)
  post_norms: bool = False  # norms after them (Gemma 2 and 3, OLMo 2)
  qkv_bias: bool = False
  out_bias: bool = False
  qk_norm: bool = False
  qk_norm_whole: bool = False  # over all heads together (OLMo 2)
  rope_base: float = 10000.0
  rope_scaling: RopeScaling = RopeScaling()
  rope_share: float = 1.0  # of a head that is rotated, its first part (Phi 4)
  rope: tuple[bool, ...] = (True,)  # which layers rotate (SmolLM3); cycled
  local: tuple[bool, ...] = (False,)  # which layers are local; cycled
  window: int = 4096  # tokens that a local layer sees, itself included
  local_rope_base: float = 10000.0
  local_rope_scaling: RopeScaling = RopeScaling()
  attention_scalar: float = 0.0  # scores / its root; 0: head_size
  attention_cap: float = 0.0  # 0: none
  logit_cap: float = 0.0  # 0: none
  activation: str = "silu"  # or "gelu_tanh"
  experts: int = 0  # mlps of a layer, each of mlp_size; 0: one, for all tokens
  experts_per_token: int = 1
  experts_sum_to_one: bool = True  # the weights of a token's experts do
  tied: bool = True
  embed_scale: float = 1.0
  pad_token: int = PAD  # `heads.score` reads the last other token
  dtype: Any = jnp.float32  # of the computation; norms, softmax, logits: f32
  scan: bool = False  # layers as a scan, where there is no cache
  remat: str = "none"  # or "full", "dots", "auto": what is recomputed
  residual: str = "whole"  # or "split" between layers: over `tensor` too
  attention: str = "auto"  # of rows without a cache; see attention.KINDS
  wide: bool = False  # bfloat16 products as products.py has them, for CPUs
  fork: tuple = ()  # an attention.Fork where rows without a cache are forked

  @nn.compact
  def __call__(
    self,
    tokens: Int[Array, "B Q"],
    attend: Attend,
    cache: Cache = (),
    column: Any = 0,
  ) -> tuple[Float[Array, "B Q D"], Cache]:
    """Hidden states after the last norm, and the cache with the new keys.

    Without a cache (`()`) the keys are the tokens themselves. With one, new
    keys are written at columns column..column+Q-1 and all of it is read under
    `attend.visible`. A layer's cache may have more after its own keys and
    values: a prefix cache [P N S H], each row of which B / P rows share. It is
    read first and not returned. PAD is read as token 0.
    """
    embed = self._read("embed", parameters.init_embed, self)
    layers = self._read("layers", parameters.init_layers, self)
    norm = self._read("norm", parameters.init_norm, self, (self.width,))
    if self.is_initializing() and not self.tied:
      self.param("head", parameters.init_embed, self)
    x = axes.look_up(embed, jnp.maximum(tokens, 0), self.dtype)
    # As [B Q, D] the residual stream is twice as fast by XLA on CPU.
    x = (x * jnp.asarray(self.embed_scale, self.dtype)).reshape(-1, self.width)
    tables = self._tables(attend)
    if self.scan and cache == () and isinstance(layers, dict):
      x = self._scanned(layers, x, tables)
    else:
      x, cache = self._unrolled(layers, x, tables, cache, column)
    return self._norm(x, norm).reshape(*tokens.shape, self.width), cache

  def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Logits of the next token, in float32, with the cap applied."""
    table = self.get_variable("params", "embed" if self.tied else "head")
    rows, table = hidden.reshape(-1, self.width), table.astype(self.dtype)
    logits = products.wide(rows, table, True) if self.wide else (
      jax.lax.dot_general(
        rows, table, (((1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
      )
    )
    logits = checkpoint_name(logits, LOGITS)
    logits = logits.reshape(*hidden.shape[:-1], self.vocabulary)
    return blocks.soft_cap(logits, self.logit_cap)

  @nn.nowrap
  def make_cache(self, batch: int, length: int) -> Cache:
    """An empty cache: per layer (keys [B N T H], values [B N T H])."""
    shape = (batch, self.kv_heads, length, self.head_size)
    empty = lambda: jnp.zeros(shape, self.dtype)
    return tuple((empty(), empty()) for _ in range(self.layers))

  @nn.nowrap
  def for_decoding(self, params: Params) -> Params:
    """Unstacked, in the dtype of the computation."""
    return parameters.for_decoding(params, self.dtype)

  @nn.nowrap
  def logit_tables(self, params: Params) -> dict[str, Array]:
    """The matrices that `logits` reads: those outside the layers."""
    rest = {name: x for name, x in params.items() if name != "layers"}
    return {name: x for name, x in rest.items() if x.ndim == 2}

  def _read(self, name, init_fn, *args):
    # `self.param` would compare shapes with the stacked tree, and refuse the
    # unstacked one.
    if self.is_initializing():
      return self.param(name, init_fn, *args)
    return self.get_variable("params", name)

  @nn.nowrap
  def _norm(self, x, weight):
    plus_one = self.norm_plus_one
    return blocks.rms_norm(x, weight, eps=self.norm_eps, plus_one=plus_one)

  @nn.nowrap
  def _kinds(self):
    """Per layer: whether it is local, and whether it rotates."""
    local, rope = self.local, self.rope
    return [
      (bool(local[i % len(local)]), bool(rope[i % len(rope)]))
      for i in range(self.layers)
    ]

  @nn.nowrap
  def _tables(self, attend):
    """(cos, sin, visible) of each kind of layer that there is."""
    return {
      kind: self._table(attend, *kind) for kind in sorted(set(self._kinds()))
    }

  @nn.nowrap
  def _table(self, attend, local, rotates):
    position, visible = attend.position, attend.visible
    base, scaling = self.rope_base, self.rope_scaling
    if local:
      base, scaling = self.local_rope_base, self.local_rope_scaling
      distance = position[:, :, None] - attend.key_position[:, None]
      visible = visible & (distance < self.window)
    size = blocks.rotary_size(self.head_size, self.rope_share)
    cos, sin = blocks.rope_table(position, size, base, scaling)
    if not rotates:
      cos, sin = jnp.ones_like(cos), jnp.zeros_like(sin)
    return cos, sin, visible

  @nn.nowrap
  def _scanned(self, layers, x, tables):
    order, each = list(tables), tuple(tables.values())
    kinds = [order.index(kind) for kind in self._kinds()]
    mixed = len(each) > 1
    stacked = jax.tree.map(lambda *t: jnp.stack(t), *each) if mixed else ()

    def step(x, layer):
      params, kind = layer
      pick = lambda t: t[kind]
      table = jax.tree.map(pick, stacked) if mixed else each[0]
      return self._block(params, x, table, (), 0)[0], ()

    step = blocks.remat(step, self.remat, scanned=True)
    return jax.lax.scan(step, x, (layers, jnp.array(kinds, jnp.int32)))[0]

  @nn.nowrap
  def _unrolled(self, layers, x, tables, cache, column):
    if isinstance(layers, dict):
      layers = unstack({"layers": layers})["layers"]
    block = blocks.remat(self._block, self.remat, scanned=False)
    after = []
    for i, kind in enumerate(self._kinds()):
      layer_cache = cache[i] if cache else ()
      x, layer_cache = block(layers[i], x, tables[kind], layer_cache, column)
      after.append(layer_cache)
    return x, tuple(after) if cache else ()

  @nn.nowrap
  def _block(self, params, x, table, cache, column):
    """One layer: attention and mlp, each added to the residual stream."""
    p = {
      k: v if k.endswith("norm") else v.astype(self.dtype)
      for k, v in params.items()
    }
    y = self._norm(x, p["attention_norm"]) if self.pre_norms else x
    y, cache = self._attention(p, y, table, cache, column)
    x = x + (self._norm(y, p["attention_post_norm"]) if self.post_norms else y)
    y = self._mlp(p, self._norm(x, p["mlp_norm"]) if self.pre_norms else x)
    x = x + (self._norm(y, p["mlp_post_norm"]) if self.post_norms else y)
    return (x if cache else axes.between_layers(x, self.residual)), cache

  @nn.nowrap
  def _mlp(self, p, x):
    if not self.experts:
      return blocks.gated_mlp(x, p, activation=self.activation, wide=self.wide)
    return experts.mixture(
      x, p, per_token=self.experts_per_token, activation=self.activation,
      sum_to_one=self.experts_sum_to_one,
    )

  @nn.nowrap
  def _qk_norm(self, x, weight):
    """The norm of queries or keys [B Q N H], of each head or of all."""
    shape = (*x.shape[:2], -1) if self.qk_norm_whole else x.shape
    return self._norm(x.reshape(shape), weight).reshape(x.shape)

  @nn.nowrap
  def _attention(self, p, x, table, cache, column):
    (cos, sin, visible), heads, lead = table, {}, table[2].shape[:2]
    for name in ("query", "key", "value"):
      y = blocks.project(x, p, name, wide=self.wide)
      heads[name] = y.reshape(*lead, -1, self.head_size)
      if self.qkv_bias:
        heads[name] += p[name + "_bias"]
      if self.qk_norm and name != "value":
        heads[name] = self._qk_norm(heads[name], p[name + "_norm"])
    query = blocks.rotate(heads["query"], cos, sin)
    key = blocks.rotate(heads["key"], cos, sin).swapaxes(1, 2)
    value = heads["value"].swapaxes(1, 2)
    if cache:
      write = jax.lax.dynamic_update_slice_in_dim
      key = write(cache[0], key.astype(cache[0].dtype), column, 2)
      value = write(cache[1], value.astype(cache[1].dtype), column, 2)
      cache, prefix_cache = (key, value), cache[2:]
    scale = (self.attention_scalar or self.head_size) ** -0.5
    options = dict(scale=scale, cap=self.attention_cap)
    if cache and lead[1] == 1:
      cached = prefix_cache + cache
      mixed = attention.attend_one(query, cached, visible, **options)
    elif self.fork and not cache:
      mixed = attention.attend_forked(
        query, key, value, visible, fork=self.fork, **options
      )
    else:
      # Kernels refuse the left pads of prompts, which are read with a cache.
      options |= dict(kind="auto" if cache else self.attention)
      mixed = attention.attend(
        query, key, value, visible, local=any(self.local), **options
      )
    mixed = mixed.reshape(x.shape[0], -1)
    y = blocks.project(mixed, p, "out", wide=self.wide)
    return (y + p["out_bias"] if self.out_bias else y), cache


def init(model: Decoder, key: Key) -> Params:
  """First parameters of `model`, in float32; may be jitted or eval_shaped."""
  tokens = jnp.zeros((1, 1), jnp.int32)
  return model.init(key, tokens, sees_rows(tokens, tokens))["params"]
