"""Tiny models of every family, as transformers saves them.

All parameters are random and perturbed, norms too, so that a mistake moves
the logits. Windows are shorter than the texts of the tests.
"""

import jax
import jax.numpy as jnp
import numpy as np

from sitrain.models import decoder
from sitrain.models.blocks import RopeScaling
from sitrain.models.huggingface import families

VOCABULARY = 61
SIZES = dict(width=32, heads=4, kv_heads=2, head_size=16, mlp_size=48)
SIZES |= dict(vocabulary=VOCABULARY, layers=2, norm_eps=1e-5)
THEIRS = dict(
  vocab_size=VOCABULARY,
  hidden_size=32,
  intermediate_size=48,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=16,
  max_position_embeddings=64,
  rms_norm_eps=1e-5,
  bos_token_id=None,
  eos_token_id=None,
  pad_token_id=None,
)
GEMMA = dict(
  norm_plus_one=True,
  post_norms=True,
  activation="gelu_tanh",
  embed_scale=32**0.5,
  attention_scalar=24.0,
  window=5,
)
KINDS = ["sliding_attention", "full_attention"]
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0)
LLAMA3 |= dict(low_freq_factor=1.0, high_freq_factor=4.0)
LLAMA3 |= dict(original_max_position_embeddings=64)

# family -> (config class, its options, fields of our decoder)
FAMILIES = {
  "llama3": (
    "LlamaConfig",
    dict(rope_parameters=LLAMA3, attention_bias=True),
    dict(
      rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 64),
      qkv_bias=True,
      out_bias=True,
      tied=False,
    ),
  ),
  "qwen2": (
    "Qwen2Config",
    dict(use_sliding_window=True, sliding_window=5, max_window_layers=1)
    | dict(tie_word_embeddings=True),
    dict(qkv_bias=True, local=(False, True), window=5),
  ),
  "qwen3": (
    "Qwen3Config",
    dict(rope_parameters=dict(rope_type="default", rope_theta=1e6)),
    dict(qk_norm=True, rope_base=1e6, tied=False),
  ),
  "gemma2": (
    "Gemma2Config",
    dict(sliding_window=5, query_pre_attn_scalar=24)
    | dict(attn_logit_softcapping=1.5, final_logit_softcapping=2.0),
    GEMMA | dict(local=(True, False), attention_cap=1.5, logit_cap=2.0),
  ),
  "gemma3": (
    "Gemma3TextConfig",
    dict(sliding_window=5, query_pre_attn_scalar=24, layer_types=KINDS)
    | dict(
      rope_parameters={
        "sliding_attention": dict(rope_type="default", rope_theta=100.0),
        "full_attention": dict(
          rope_type="linear", rope_theta=10000.0, factor=4.0
        ),
      }
    ),
    GEMMA
    | dict(
      local=(True, False),
      qk_norm=True,
      rope_scaling=RopeScaling("linear", 4.0),
      local_rope_base=100.0,
    ),
  ),
  "olmo2": (
    "Olmo2Config",
    dict(rope_parameters=dict(rope_type="default", rope_theta=5e5)),
    dict(
      pre_norms=False, post_norms=True, qk_norm=True, qk_norm_whole=True,
      rope_base=5e5, tied=False,
    ),
  ),
  "smollm3": (
    "SmolLM3Config",
    dict(no_rope_layer_interval=2),
    dict(rope=(True, False), rope_base=2e6),
  ),
  "phi3": (
    "Phi3Config",
    dict(sliding_window=5)
    | dict(rope_parameters=dict(
      rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.75
    )),
    dict(local=(True,), window=5, rope_share=0.75, tied=False),
  ),
  "qwen3_moe": (
    "Qwen3MoeConfig",
    dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24)
    | dict(norm_topk_prob=True),
    dict(
      qk_norm=True, tied=False, mlp_size=24, experts=6, experts_per_token=2
    ),
  ),
}


def perturb(model, seed=0):
  """Adds noise to every parameter, in place."""
  import torch

  torch.manual_seed(seed)
  with torch.no_grad():
    for p in model.parameters():
      p.add_(torch.randn_like(p) * (0.15 if p.ndim > 1 else 0.4))
  return model.eval()


def their_model(family, dtype="float32"):
  """The model of a family in torch."""
  import torch
  import transformers

  name, options, _ = FAMILIES[family]
  torch.manual_seed(0)
  config = getattr(transformers, name)(**THEIRS, **options)
  model = transformers.AutoModelForCausalLM.from_config(
    config, attn_implementation="eager", dtype=torch.float32
  )
  return perturb(model).to(getattr(torch, dtype))


def our_params(theirs):
  """Their state as our tree, whole tensors at a time; all of it is used.

  Slower and simpler than `weights.read`, which it is compared with.
  """
  config = theirs.config.to_dict()
  config["architectures"] = [type(theirs).__name__]
  model = decoder.Decoder(**families.decoder_fields(config))
  state = {k: v.float().numpy() for k, v in theirs.state_dict().items()}
  shapes = jax.eval_shape(lambda k: decoder.init(model, k), jax.random.key(0))
  names, layers = families.names(config), {}
  for ours, leaf in shapes["layers"].items():
    name = names[f"layers/{ours}"]
    each = [state.pop(name.format(i)) for i in range(model.layers)]
    layers[ours] = np.stack([x.T.reshape(leaf.shape[1:]) for x in each])
  params = {
    "embed": state.pop("model.embed_tokens.weight"),
    "norm": state.pop("model.norm.weight"),
    "layers": layers,
  }
  head = state.pop("lm_head.weight")
  if not model.tied:
    params["head"] = head
  assert not state, list(state)
  return jax.tree.map(jnp.asarray, params)
