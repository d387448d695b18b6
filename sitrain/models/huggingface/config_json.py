"""Options of a config.json as fields of the decoder, whoever wrote the file.

Transformers 4 writes rope_theta, rope_scaling and patterns of layers, 5 writes
rope_parameters and layer_types.
"""

from typing import Any

from sitrain.models.blocks import RopeScaling

SLIDING, FULL = "sliding_attention", "full_attention"
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}

Given = dict[str, Any]


# Where a file says that its weights are packed: transformers, older versions
# of compressed-tensors, and MLX.
_PACKED = ("quantization_config", "compression_config", "quantization")


def check_unpacked(given: Given) -> None:
  """Raises ValueError for weights in fewer bits, such as fp8 and 4-bit."""
  for name in _PACKED:
    if not (packed := given.get(name)):
      continue
    how = dict(packed) if isinstance(packed, dict) else {"quant_method": packed}
    bits = how.get("bits") or next(
      (n for n in (4, 8) if how.get(f"load_in_{n}bit")), 0
    )
    method = how.get("quant_method") or how.get("format")
    about = [f"{method}"] * bool(method) + [f"{bits}-bit"] * bool(bits)
    raise ValueError(
      f"config.json has a {name} ({', '.join(about) or 'of no name'}), so its"
      " weights are packed: give the model that it was made from, or unpack it"
      " (dequantize() of transformers) and save it again"
    )


def needed(given: Given, name: str) -> Any:
  """An option that must be there; ValueError where it is not."""
  if given.get(name) is None:
    raise ValueError(f"config.json has no {name}: it is not complete")
  return given[name]


def activation(given: Given) -> str:
  """`activation` of the decoder; ValueError for one that it lacks."""
  name = given.get("hidden_activation") or given["hidden_act"]
  if name not in ACTIVATIONS:
    raise ValueError(
      f"config.json has activation {name}: supported are"
      f" {', '.join(ACTIVATIONS)}"
    )
  return ACTIVATIONS[name]


def local_fields(given: Given) -> dict[str, Any]:
  """`local`, as the shortest pattern that gives all layers, and `window`.

  Raises ValueError for kinds of layers that are neither local nor global.
  """
  count = given["num_hidden_layers"]
  kinds = given.get("layer_types") or _layer_types(given, count)
  if set(kinds) - {SLIDING, FULL} or len(kinds) != count:
    raise ValueError(
      f"config.json has layer_types {sorted(set(kinds))} for {len(kinds)} of"
      f" {count} layers: supported are {SLIDING} and {FULL}"
    )
  if SLIDING not in kinds:
    return {"local": (False,)}
  used = given.get("use_sliding_window", True)
  if not given.get("sliding_window") or not used:
    raise ValueError(
      f"config.json has layers with {SLIDING} but no sliding_window: set it"
    )
  local = _pattern([kind == SLIDING for kind in kinds])
  return {"local": local, "window": given["sliding_window"]}


def _pattern(values):
  """The shortest beginning that gives all values if it is repeated."""
  count = range(len(values))
  fits = lambda size: all(values[i] == values[i % size] for i in count)
  return tuple(values[: next(n for n in (*count[1:], len(values)) if fits(n))])


def rope_layers(given: Given) -> tuple[bool, ...]:
  """Which layers rotate, by no_rope_layers or no_rope_layer_interval.

  As the shortest pattern. Raises ValueError for a list that is too short.
  """
  count, each = given["num_hidden_layers"], given["no_rope_layer_interval"]
  named = given.get("no_rope_layers")
  if named is None:
    named = [(i + 1) % each for i in range(count)]
  if len(named) < count:
    raise ValueError(
      f"config.json has no_rope_layers for {len(named)} of {count} layers:"
      " complete them"
    )
  return _pattern([bool(value) for value in named[:count]])


def _layer_types(given, count):
  """What transformers makes of a config.json without layer_types."""
  pattern = given.get("_sliding_window_pattern")
  pattern = pattern or given.get("sliding_window_pattern")
  if pattern:
    return [FULL if (i + 1) % pattern == 0 else SLIDING for i in range(count)]
  if given.get("use_sliding_window") and given.get("sliding_window"):
    if "no_rope_layer_interval" in given:
      rope = rope_layers(given)
      kinds = (FULL if rope[i % len(rope)] else SLIDING for i in range(count))
      return list(kinds)
    first = given["max_window_layers"]
    return [SLIDING if i >= first else FULL for i in range(count)]
  return [FULL] * count


def rope_fields(
  given: Given, *, own_local: bool, partial: bool
) -> dict[str, Any]:
  """Rotary fields of global and of local layers.

  `own_local`: local layers have a base of their own, rope_local_base_freq, and
  no scaling. `partial`: a share of a head may be rotated. Where a file has both
  rope_scaling and rope_parameters, it is read as transformers reads it. Raises
  ValueError for types that the decoder lacks, and for files that transformers
  reads in another way than they look.
  """
  if own_local:
    far, near = _rope_per_kind(given)
    length = None
  else:
    far = near = _rope_of_all_layers(given)
    # transformers lets it win over the one beside the other parameters.
    length = given.get("original_max_position_embeddings")
  share = _share(given, far)
  if not partial and share != 1:
    raise ValueError(
      f"config.json has rotary positions on a share {share} of a head: this"
      " architecture is supported with whole heads only"
    )
  return {
    "rope_share": share,
    "rope_base": float(needed(far, "rope_theta")),
    "rope_scaling": _scaling(given, far, length),
    "local_rope_base": float(needed(near, "rope_theta")),
    "local_rope_scaling": _scaling(given, near, length),
  }


def _rope_of_all_layers(given):
  """rope_scaling, or else rope_parameters: never a mixture of the two."""
  scaling = given.get("rope_scaling") or {}
  found = given.get("rope_parameters") or {}
  if FULL in found or SLIDING in found:
    raise ValueError(
      f"config.json has rope_parameters for {FULL} and {SLIDING}, which this"
      " architecture does not tell apart: give one for all layers"
    )
  rope = {"rope_theta": given["rope_theta"]} | (scaling or found)
  base = found.get("rope_theta", rope["rope_theta"])
  if scaling and base != rope["rope_theta"]:
    raise ValueError(
      "config.json has rope_parameters and rope_scaling, and transformers"
      f" reads the second alone, with rope_theta {rope['rope_theta']:g} and not"
      f" {base:g}: move the scaling into rope_parameters"
    )
  return rope


def _rope_per_kind(given):
  """Parameters of global and of local layers; rope_scaling is global."""
  scaling = given.get("rope_scaling") or {}
  found = given.get("rope_parameters") or {}
  if found and FULL not in found and SLIDING not in found:
    raise ValueError(
      f"config.json has rope_parameters without {FULL} and {SLIDING}, which"
      " this architecture needs: give both"
    )
  if "type" in scaling and "rope_type" not in scaling:
    raise ValueError(
      "config.json has rope_scaling with a type, which transformers 5 ignores"
      " in this architecture: call it rope_type"
    )
  far = {"rope_theta": given["rope_theta"]} | (found.get(FULL) or {}) | scaling
  near = {"rope_theta": given["rope_local_base_freq"]}
  return far, near | (found.get(SLIDING) or {})


def _share(given, rope) -> float:
  name = "partial_rotary_factor"
  share = rope.get(name, given.get(name))
  return 1.0 if share is None else float(share)


def _scaling(given, rope, length) -> RopeScaling:
  kind = rope.get("rope_type") or rope.get("type") or "default"
  if kind not in ("default", "linear", "llama3"):
    raise ValueError(
      f"config.json has rope type {kind}: supported are default, linear and"
      " llama3; give a model whose context was not stretched by it"
    )
  if kind == "default":
    return RopeScaling()
  number = lambda name: float(needed(rope, name))
  if kind == "linear":
    return RopeScaling("linear", number("factor"))
  length = length or rope.get("original_max_position_embeddings")
  return RopeScaling(
    "llama3",
    number("factor"),
    number("low_freq_factor"),
    number("high_freq_factor"),
    int(length or needed(given, "max_position_embeddings")),
  )
