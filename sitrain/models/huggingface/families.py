"""Families of models on the Hugging Face hub: names of tensors, config.json.

Adding a family is one row of FAMILIES and, if its tensors are called something
else, one table of names. config.json is read as transformers 4 and 5 write it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from sitrain.models import heads
from sitrain.models.blocks import rotary_size
from sitrain.models.decoder import Decoder
from sitrain.models.huggingface import config_json
from sitrain.models.parameters import layer_shapes
from sitrain.types import PAD

# Fields that no checkpoint decides.
EXECUTION = ("dtype", "scan", "remat", "residual", "attention")


def _no_own_fields(kind, given):
  return {}


class Family(NamedTuple):
  """One architecture; options of config.json are called theirs.

  Their names of tensors hold {} for the number of an expert. Parameters that
  have the same name are its rows, one after the other in the order of `names`.
  """

  model_type: str
  names: dict[str, str]  # our name of a parameter of a layer -> theirs
  fixed: dict[str, Any]  # fields of Decoder that no option changes
  defaults: dict[str, Any]  # theirs, for a config.json that leaves them out
  prefix: str = ""  # of all tensors
  others: tuple[str, ...] = ()  # beginnings of tensors that are no text model
  # (family, options) -> fields that only options of this family decide
  own: Callable[["Family", dict[str, Any]], dict[str, Any]] = _no_own_fields
  windows: str = "layers"  # what may be local: single layers, "all", "none"


def _gemma_fields(kind, given):
  cap = given.get("attn_logit_softcapping")
  if cap and kind.model_type != "gemma2":
    raise ValueError(
      f"config.json has attn_logit_softcapping={cap}: only Gemma 2 has one"
    )
  return {
    "embed_scale": given["hidden_size"] ** 0.5,
    "attention_scalar": float(given["query_pre_attn_scalar"]),
    "attention_cap": float(cap or 0),
    "logit_cap": float(given.get("final_logit_softcapping") or 0),
  }


def _smollm3_fields(kind, given):
  return {"rope": config_json.rope_layers(given)}


def _qwen3_moe_fields(kind, given):
  for name, plain in (
    ("decoder_sparse_step", 1), ("mlp_only_layers", []),
    ("use_sliding_window", False),
  ):
    if (given[name] or plain) != plain:
      raise ValueError(
        f"config.json has {name}={given[name]}: only models without windows,"
        " all of whose layers have experts, are supported"
      )
  count = given.get("num_experts") or given.get("num_local_experts") or 128
  return {
    "mlp_size": given["moe_intermediate_size"],
    "experts": count,
    "experts_per_token": given["num_experts_per_tok"],
    "experts_sum_to_one": bool(given["norm_topk_prob"]),
  }


_PLAIN = {
  "attention_norm": "input_layernorm.weight",
  "query": "self_attn.q_proj.weight",
  "key": "self_attn.k_proj.weight",
  "value": "self_attn.v_proj.weight",
  "out": "self_attn.o_proj.weight",
  "query_bias": "self_attn.q_proj.bias",
  "key_bias": "self_attn.k_proj.bias",
  "value_bias": "self_attn.v_proj.bias",
  "out_bias": "self_attn.o_proj.bias",
  "query_norm": "self_attn.q_norm.weight",
  "key_norm": "self_attn.k_norm.weight",
  "mlp_norm": "post_attention_layernorm.weight",
  "gate": "mlp.gate_proj.weight",
  "up": "mlp.up_proj.weight",
  "down": "mlp.down_proj.weight",
}
_GEMMA = _PLAIN | {
  "attention_post_norm": "post_attention_layernorm.weight",
  "mlp_norm": "pre_feedforward_layernorm.weight",
  "mlp_post_norm": "post_feedforward_layernorm.weight",
}
_PHI3 = _PLAIN | dict.fromkeys(
  ("query", "key", "value"), "self_attn.qkv_proj.weight"
) | dict.fromkeys(("gate", "up"), "mlp.gate_up_proj.weight")
_QWEN3_MOE = _PLAIN | {
  "router": "mlp.gate.weight",
  "experts_gate": "mlp.experts.{}.gate_proj.weight",
  "experts_up": "mlp.experts.{}.up_proj.weight",
  "experts_down": "mlp.experts.{}.down_proj.weight",
}
_ALL = {
  "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
  "attention_bias": False, "tie_word_embeddings": False,
}  # fmt: skip
_QWEN = _ALL | {"use_sliding_window": False, "max_window_layers": 28}
_GEMMA_ALL = _ALL | {
  "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True,
  "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
}  # fmt: skip
_GEMMA2 = _GEMMA_ALL | {
  "sliding_window_pattern": 2, "attn_logit_softcapping": 50.0,
  "final_logit_softcapping": 30.0,
}  # fmt: skip
# Files of Gemma 3 on the hub name little more than their sizes.
_GEMMA3 = _GEMMA_ALL | {
  "sliding_window_pattern": 6, "rope_theta": 1e6, "vocab_size": 262208,
  "rope_local_base_freq": 10000.0, "num_attention_heads": 8,
  "num_key_value_heads": 4,
}  # fmt: skip
_SMOLLM3 = _ALL | {
  "rope_theta": 2e6, "tie_word_embeddings": True, "num_key_value_heads": 4,
  "no_rope_layer_interval": 4, "use_sliding_window": False,
}  # fmt: skip
_QWEN3_MOE_ALL = _ALL | {
  "num_key_value_heads": 4, "moe_intermediate_size": 768,
  "num_experts_per_tok": 8, "norm_topk_prob": False, "decoder_sparse_step": 1,
  "mlp_only_layers": [], "use_sliding_window": False,
}  # fmt: skip
_SCALED = {"norm_plus_one": True, "post_norms": True}
_LOOKING = ("vision_tower.", "multi_modal_projector.")

FAMILIES = {
  "Qwen3ForCausalLM": Family(
    "qwen3", _PLAIN, {"qk_norm": True}, _QWEN | {"head_dim": 128}
  ),
  "Qwen2ForCausalLM": Family(
    "qwen2", _PLAIN, {"qkv_bias": True, "out_bias": False}, _QWEN
  ),
  "LlamaForCausalLM": Family("llama", _PLAIN, {}, _ALL, windows="none"),
  "Gemma2ForCausalLM": Family(
    "gemma2", _GEMMA, _SCALED, _GEMMA2, own=_gemma_fields
  ),
  "Gemma3ForCausalLM": Family(
    "gemma3_text", _GEMMA, _SCALED | {"qk_norm": True}, _GEMMA3,
    own=_gemma_fields,
  ),
  "Gemma3ForConditionalGeneration": Family(
    "gemma3_text", _GEMMA, _SCALED | {"qk_norm": True}, _GEMMA3,
    "language_model.", _LOOKING, _gemma_fields,
  ),
  "Olmo2ForCausalLM": Family(
    "olmo2", _GEMMA,
    {"pre_norms": False, "post_norms": True, "qk_norm": True,
     "qk_norm_whole": True},
    _ALL | {"rms_norm_eps": 1e-5}, windows="none",
  ),
  "SmolLM3ForCausalLM": Family(
    "smollm3", _PLAIN, {}, _SMOLLM3, own=_smollm3_fields
  ),
  "Phi3ForCausalLM": Family(
    "phi3", _PHI3, {"qkv_bias": False, "out_bias": False},
    _ALL | {"rms_norm_eps": 1e-5}, windows="all",
  ),
  "Qwen3MoeForCausalLM": Family(
    "qwen3_moe", _QWEN3_MOE, {"qk_norm": True}, _QWEN3_MOE_ALL,
    own=_qwen3_moe_fields, windows="none",
  ),
}  # fmt: skip
# Their tensors are those of the model that writes, with a head "score" in the
# place of the logits.
SCORERS = {
  f"{name}ForSequenceClassification": f"{name}ForCausalLM"
  for name in ("Qwen2", "Qwen3", "Llama", "Gemma2")
}
_REFUSED = ("mlp_bias", "use_bidirectional_attention", "clip_qkv")


def family(config: dict[str, Any]) -> Family:
  """The family of a config.json; ValueError where it is not supported."""
  named = (config.get("architectures") or ["(none)"])[0]
  if is_scorer(config):
    # transformers ignores logits that were saved with it.
    return FAMILIES[SCORERS[named]]._replace(others=("lm_head.",))
  if named not in FAMILIES:
    raise ValueError(
      f"architecture {named} of config.json is not supported: use one of"
      f" {', '.join(FAMILIES)}, or for a reward model {', '.join(SCORERS)}"
    )
  return FAMILIES[named]


def is_scorer(config: dict[str, Any]) -> bool:
  """Whether a config.json is that of a model that scores texts."""
  return (config.get("architectures") or [""])[0] in SCORERS


def text_config(config: dict[str, Any]) -> dict[str, Any]:
  """The config.json of the text model alone, where there is more to it."""
  family(config)
  if "text_config" not in config:
    return config
  mine = {**config, **config["text_config"]}
  for name in ("text_config", "vision_config"):
    mine.pop(name, None)
  return mine | {"architectures": ["Gemma3ForCausalLM"]}


def decoder_fields(config: dict[str, Any]) -> dict[str, Any]:
  """Keyword fields of `Decoder` for the dict of a config.json.

  Raises ValueError for what the decoder cannot do, naming it.
  """
  kind = family(config)
  given = kind.defaults | text_config(config)
  _check_supported(given)
  heads = config_json.needed(given, "num_attention_heads")
  width = config_json.needed(given, "hidden_size")
  biased = bool(given["attention_bias"])
  fields = {
    "vocabulary": config_json.needed(given, "vocab_size"),
    "layers": config_json.needed(given, "num_hidden_layers"),
    "width": width,
    "heads": heads,
    "kv_heads": given.get("num_key_value_heads") or heads,
    "head_size": given.get("head_dim") or width // heads,
    "mlp_size": config_json.needed(given, "intermediate_size"),
    "norm_eps": given["rms_norm_eps"],
    "qkv_bias": biased,
    "out_bias": biased,
    "tied": bool(given["tie_word_embeddings"]),
    "activation": config_json.activation(given),
  }
  fields |= kind.own(kind, given)
  fields |= config_json.rope_fields(
    given, own_local=kind.model_type == "gemma3_text",
    partial=kind.model_type == "phi3",
  )
  rotary_size(fields["head_size"], fields["rope_share"])
  fields |= _local_fields(kind, given) | kind.fixed
  return fields | _scorer_fields(given) if is_scorer(config) else fields


def _local_fields(kind, given):
  """As transformers has them, where a file says more than it reads."""
  if kind.windows == "all":
    window = given.get("sliding_window")
    return {"local": (True,), "window": window} if window else {}
  if kind.windows == "none" and not given.get("layer_types"):
    return {}
  fields = config_json.local_fields(given)
  if kind.windows == "none" and True in fields["local"]:
    raise ValueError(
      f"config.json has layer_types with {config_json.SLIDING}, which"
      f" transformers ignores in {kind.model_type}: take them out"
    )
  return fields


def names(config: dict[str, Any]) -> dict[str, str]:
  """Path of every parameter ("layers/query") -> their name of the tensor.

  Names of layers hold {} for the number of the layer, those of experts another
  one. Parts of one tensor are in their order.
  """
  kind, model = family(config), Decoder(**decoder_fields(config))
  layer = kind.prefix + "model.layers.{}."
  found = {"embed": kind.prefix + "model.embed_tokens.weight"}
  shapes = layer_shapes(model)
  for name in (name for name in kind.names if name in shapes):
    found[f"layers/{name}"] = layer + kind.names[name]
  found["norm"] = kind.prefix + "model.norm.weight"
  if is_scorer(config):
    found[heads.NAME] = "score.weight"
  elif not model.tied:
    found["head"] = kind.prefix + "lm_head.weight"
  return found


def differences(model: Decoder, fields: dict[str, Any]) -> list[str]:
  """Names of the fields in which a model is not what a config.json says.

  Fields of EXECUTION, and those that change nothing in both, do not count.
  """
  other = _settled(Decoder(**fields))
  return [n for n, v in _settled(model).items() if v != other[n]]


def check_fits(model: Decoder, config: dict[str, Any]) -> None:
  """Raises ValueError where a model is not what a config.json describes."""
  wrong = differences(model, decoder_fields(config))
  if wrong:
    raise ValueError(
      f"the model differs from its config.json in {', '.join(wrong)}: make it"
      " with weights.from_folder"
    )


def _settled(model: Decoder) -> dict[str, Any]:
  skipped = ("parent", "name", "wide", *EXECUTION)
  known = [n for n in Decoder.__dataclass_fields__ if n not in skipped]
  found = {name: getattr(model, name) for name in known}
  kinds = [model.local[i % len(model.local)] for i in range(model.layers)]
  found["local"] = kinds
  found["rope"] = [model.rope[i % len(model.rope)] for i in range(model.layers)]
  found["rope_share"] = rotary_size(model.head_size, model.rope_share)
  found["attention_scalar"] = model.attention_scalar or model.head_size
  for name in ("rope_scaling", "local_rope_scaling"):
    if found[name].kind == "linear":
      found[name] = ("linear", found[name].factor)
  absent = [] if True in kinds else ["window"]
  absent += [] if True in kinds else ["local_rope_base", "local_rope_scaling"]
  absent += [] if False in kinds else ["rope_base", "rope_scaling"]
  absent += [] if model.qk_norm else ["qk_norm_whole"]
  if not model.experts:
    absent += ["experts_per_token", "experts_sum_to_one"]
  return found | dict.fromkeys(absent)


def _check_supported(given):
  config_json.check_unpacked(given)
  for name in _REFUSED:
    if given.get(name):
      raise ValueError(
        f"config.json has {name}={given[name]}: only models without it are"
        " supported"
      )


def _scorer_fields(given):
  """What makes a decoder one that scores texts, by one number each.

  The number of labels is counted as transformers counts it.
  """
  labels = len(given.get("id2label") or ()) or given.get("num_labels") or 2
  if labels != 1:
    raise ValueError(
      f"config.json has num_labels={labels}, which is a classifier: a reward"
      " model has num_labels=1, one score a text"
    )
  pad = given.get("pad_token_id")
  return {"tied": True, "pad_token": PAD if pad is None else pad}
