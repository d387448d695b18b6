"""A config.json for a decoder that came from no checkpoint."""

import math
from typing import Any

from sitrain.models.decoder import Decoder
from sitrain.models.huggingface.config_json import ACTIVATIONS, FULL, SLIDING
from sitrain.models.huggingface.families import (
  FAMILIES,
  decoder_fields,
  differences,
)

POSITIONS = 32768  # the length that others may reserve; no number depends on it


def config_of(model: Decoder) -> dict[str, Any]:
  """The config.json of the first family that can describe all of `model`.

  Options have the names of transformers 4, which 5 reads as well. Raises
  ValueError, naming the fields in the way, where there is no such family.
  """
  missed = {}
  for architecture in FAMILIES:
    config = _config_as(model, architecture)
    missed[architecture] = differences(model, decoder_fields(config))
    if model.width % model.heads and not architecture.startswith("Qwen"):
      missed[architecture].append("heads (they divide the width there)")
    if not missed[architecture]:
      return config
  best = min(missed, key=lambda name: len(missed[name]))
  raise ValueError(
    "no supported architecture of transformers is this model: of"
    f" {best} it differs in {', '.join(missed[best])}"
  )


def _config_as(model: Decoder, architecture: str) -> dict[str, Any]:
  """A config.json with what the architecture can describe of `model`."""
  act = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
  act = act.get(model.activation, model.activation)
  kinds = [model.local[i % len(model.local)] for i in range(model.layers)]
  config = {
    "architectures": [architecture],
    "model_type": FAMILIES[architecture].model_type,
    "vocab_size": model.vocabulary,
    "hidden_size": model.width,
    "intermediate_size": model.mlp_size,
    "num_hidden_layers": model.layers,
    "num_attention_heads": model.heads,
    "num_key_value_heads": model.kv_heads,
    "head_dim": model.head_size,
    "rms_norm_eps": model.norm_eps,
    "hidden_act": act,
    "tie_word_embeddings": model.tied,
    "max_position_embeddings": POSITIONS,
    "rope_theta": float(model.rope_base),
    "attention_bias": model.out_bias,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
  }
  windows = FAMILIES[architecture].windows
  if windows == "all" and all(kinds):
    config["sliding_window"] = model.window
  gemma = config["model_type"].startswith("gemma")
  if windows == "layers" and (any(kinds) or gemma):
    config |= {
      "layer_types": [SLIDING if kind else FULL for kind in kinds],
      "sliding_window": model.window,
      "use_sliding_window": True,
    }
  if gemma:
    config |= _gemma_options(model, act)
  if config["model_type"] == "gemma2":
    config["attn_logit_softcapping"] = model.attention_cap or None
  if config["model_type"] == "smollm3":
    rope = [model.rope[i % len(model.rope)] for i in range(model.layers)]
    config["no_rope_layers"] = [int(rotates) for rotates in rope]
  if config["model_type"] == "phi3":
    config["partial_rotary_factor"] = model.rope_share
  if config["model_type"] == "qwen3_moe":
    config |= _expert_options(model)
  return config | _scaling_options(model)


def _expert_options(model: Decoder) -> dict[str, Any]:
  return {
    "num_experts": model.experts,
    "num_experts_per_tok": model.experts_per_token,
    "moe_intermediate_size": model.mlp_size,
    "norm_topk_prob": model.experts_sum_to_one,
  }


def _gemma_options(model: Decoder, act: str) -> dict[str, Any]:
  return {
    "hidden_activation": act,
    "query_pre_attn_scalar": round(model.attention_scalar or model.head_size),
    "final_logit_softcapping": model.logit_cap or None,
    "rope_local_base_freq": float(model.local_rope_base),
  }


def _scaling_options(model: Decoder) -> dict[str, Any]:
  scaling = model.rope_scaling
  if scaling.kind == "linear" and math.isclose(scaling.factor, 1):
    return {}
  options = {"rope_type": scaling.kind, "factor": scaling.factor}
  if scaling.kind == "llama3":
    options |= {
      "low_freq_factor": scaling.low,
      "high_freq_factor": scaling.high,
      "original_max_position_embeddings": scaling.length,
    }
  return {"rope_scaling": options}
