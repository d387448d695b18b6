"""Low-rank adapters: the few parameters that are trained beside frozen ones.

Hu et al. 2021 (LoRA), eq. 3: W + scale * A B. Adapters are leaves of the
layers: `<name>_a` [layers, in..., rank] and `<name>_b` [layers, rank, out...],
which `Decoder` applies where it finds them.
"""

import math
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sitrain.models.decoder import Decoder
from sitrain.models.parameters import INPUTS, layer_shapes
from sitrain.types import Key, Params

NAMES = tuple(INPUTS)  # all projections
ALL = ".*"  # of `targets`


def pattern_of(targets: str) -> re.Pattern:
  """The regular expression of `chosen`; ValueError for one that is none."""
  try:
    return re.compile(targets)
  except re.error as error:
    raise ValueError(
      f"targets={targets!r} is no regular expression ({error}): write one, such"
      " as '.*(query|value)'"
    ) from error


def chosen(
  model: Decoder, targets: str, modules: Mapping[str, str]
) -> tuple[str, ...]:
  """The projections whose whole names match a regular expression.

  Args:
    model: the decoder that is adapted.
    targets: a pattern of names of transformers, as the `target_modules` of
      PEFT, or else of ours, which are "layers/query" and so on.
    modules: of each projection its name in transformers, with {} in the place
      of the layer's number.

  Raises ValueError for a pattern that matches nothing, for one that matches a
  projection in some layers alone, as every layer has adapters of the same
  projections, for one but ALL that matches experts, which have none, and for
  what is no regular expression.
  """
  pattern, found = pattern_of(targets), []
  for name, module in modules.items():
    layers = [
      i for i in range(model.layers) if pattern.fullmatch(module.format(i))
    ]
    if layers and len(layers) < model.layers:
      raise ValueError(
        f"targets={targets!r} matches {module.format(layers[0])} and"
        f" {len(layers)} of {model.layers} layers: match all layers or none, as"
        " all have the same adapters"
      )
    found += [name] * bool(layers)
  if model.experts and targets != ALL:
    _check_no_experts(pattern)
  found = found or [x for x in modules if pattern.fullmatch(f"layers/{x}")]
  if not found:
    theirs = [module.format(0) for module in modules.values()]
    ours = [f"layers/{name}" for name in modules]
    raise ValueError(
      f"targets={targets!r} matches no whole name of a projection: there are"
      f" {', '.join(ours)}, or {', '.join(theirs)} and so on"
    )
  return tuple(found)


def _check_no_experts(pattern: re.Pattern) -> None:
  """Raises ValueError for a pattern that asks for adapters of experts."""
  for name in ("gate", "up", "down"):
    theirs = f"model.layers.0.mlp.experts.0.{name}_proj"
    for one in (theirs, f"layers/{name}"):
      if pattern.fullmatch(one):
        raise ValueError(
          f"targets={pattern.pattern!r} matches {one}, and experts have no"
          " adapters: name projections of attention alone, such as"
          r" '.*\.self_attn\..*'"
        )


def adapters(
  key: Key, model: Decoder, *, rank: int, names: tuple[str, ...] = NAMES
) -> Params:
  """First adapters, in float32: A of variance 1 / inputs, B of zeros.

  So `join` of them changes no number of the model. The tree is {"layers":
  ...}, for the partition rules of the decoder. Experts have no adapters, so
  that all projections are those of attention in a model with experts. Raises
  ValueError for a rank below 1, for no names, and for names that are no
  projections of the model.
  """
  own = tuple(name for name in NAMES if name in layer_shapes(model))
  names = own if tuple(names) == NAMES else names
  wrong = [name for name in names if name not in own]
  if wrong or not names:
    raise ValueError(
      f"adapters of {', '.join(wrong) or 'nothing'}: name one or more of"
      f" {', '.join(own)}"
    )
  if rank < 1:
    raise ValueError(f"rank={rank} of adapters: give 1 or more")
  shapes, tree = layer_shapes(model), {}
  for name, k in zip(sorted(names), jax.random.split(key, len(names))):
    cut = INPUTS[name]
    inputs, outputs = shapes[name][:cut], shapes[name][cut:]
    shape = (model.layers, *inputs, rank)
    spread = math.prod(inputs) ** -0.5
    tree[f"{name}_a"] = jax.random.normal(k, shape, jnp.float32) * spread
    shape = (model.layers, rank, *outputs)
    tree[f"{name}_b"] = jnp.zeros(shape, jnp.float32)
  return {"layers": tree}


def join(
  base: Params, adapters: Params, *, scale: float | Float[Array, ""]
) -> Params:
  """One tree for the decoder; no gradient reaches `base`.

  `scale` (alpha / rank in the paper) multiplies what adapters add. What is
  trained beside the adapters, such as a scalar head, stands in for the base's.
  """
  scaled = {
    name: x * scale if name.endswith("_b") else x
    for name, x in adapters["layers"].items()
  }
  base = jax.lax.stop_gradient(base)
  return {**base, **adapters, "layers": {**base["layers"], **scaled}}


def merge(
  base: Params, adapters: Params, *, scale: float | Float[Array, ""]
) -> Params:
  """Parameters without adapters that give the same model, for export.

  W + scale * A B in float32, rounded to the dtype of W.
  """
  layers = dict(base["layers"])
  for name in NAMES:
    if f"{name}_a" not in adapters["layers"]:
      continue
    a, b = (adapters["layers"][f"{name}_{part}"] for part in "ab")
    weight, count, rank = layers[name], a.shape[0], a.shape[-1]
    added = a.reshape(count, -1, rank) @ b.reshape(count, rank, -1)
    merged = weight.astype(jnp.float32) + scale * added.reshape(weight.shape)
    layers[name] = merged.astype(weight.dtype)
  return {**base, **adapters, "layers": layers}
