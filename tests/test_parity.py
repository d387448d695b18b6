"""The decoder against the reference implementations of each family.

Tiny random checkpoints, all parameters perturbed; logits in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.models import decoder
from sitrain.models.blocks import RopeScaling

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = dict(width=32, heads=4, kv_heads=2, head_size=16, mlp_size=48)
SIZES |= dict(vocabulary=61, layers=3)
THEIRS = dict(
  vocab_size=61,
  hidden_size=32,
  intermediate_size=48,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=16,
  max_position_embeddings=64,
  rms_norm_eps=1e-5,
)
# Our name of a parameter of a layer -> theirs.
NAMES = {
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
GEMMA_NAMES = NAMES | {
  "attention_post_norm": "post_attention_layernorm.weight",
  "mlp_norm": "pre_feedforward_layernorm.weight",
  "mlp_post_norm": "post_feedforward_layernorm.weight",
}
GEMMA = dict(
  norm_plus_one=True,
  post_norms=True,
  activation="gelu_tanh",
  embed_scale=32**0.5,
  attention_scalar=24.0,
  window=5,
)
KINDS = ["sliding_attention", "sliding_attention", "full_attention"]
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0)
LLAMA3 |= dict(low_freq_factor=1.0, high_freq_factor=4.0)
LLAMA3 |= dict(original_max_position_embeddings=64)

# family -> (config class, its options, ours)
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
    dict(qkv_bias=True, local=(False, True, True), window=5),
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
      local=(True, True, False),
      qk_norm=True,
      rope_scaling=RopeScaling("linear", 4.0),
      local_rope_base=100.0,
    ),
  ),
}


def their_model(name, options):
  torch.manual_seed(0)
  config = getattr(transformers, name)(**THEIRS, **options)
  config._attn_implementation = "eager"
  model = transformers.AutoModelForCausalLM.from_config(
    config, attn_implementation="eager", dtype=torch.float32
  ).eval()
  with torch.no_grad():
    for p in model.parameters():
      p.add_(torch.randn_like(p) * (0.15 if p.ndim > 1 else 0.4))
  return model


def our_params(model, theirs, names):
  """Their state as our tree; every one of their tensors is used."""
  state = {k: v.numpy() for k, v in theirs.state_dict().items()}
  shapes = jax.eval_shape(lambda k: decoder.init(model, k), jax.random.key(0))
  layers = {}
  for ours, leaf in shapes["layers"].items():
    each = [
      state.pop(f"model.layers.{i}.{names[ours]}") for i in range(model.layers)
    ]
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


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_reference_implementation(family):
  name, their_options, options = FAMILIES[family]
  theirs = their_model(name, their_options)
  model = decoder.Decoder(**SIZES, **options, norm_eps=1e-5)
  names = GEMMA_NAMES if family.startswith("gemma") else NAMES
  params = our_params(model, theirs, names)
  # Whole, padded left, padded right, padded on both sides.
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 61, (4, 14)).astype(np.int32)
  column = np.arange(14)
  real = column >= np.array([0, 4, 0, 2])[:, None]
  real &= column < np.array([14, 14, 8, 11])[:, None]
  with torch.no_grad():
    expected = theirs(
      torch.tensor(tokens, dtype=torch.long),
      attention_mask=torch.tensor(real, dtype=torch.long),
      position_ids=torch.tensor(np.maximum(np.cumsum(real, 1) - 1, 0)),
    ).logits.numpy()
  turn = jnp.where(real, 1, -1).astype(jnp.int32)

  @jax.jit
  def logits(params):
    attend = decoder.attend_rows(turn, jnp.zeros_like(turn))
    hidden, _ = model.apply({"params": params}, jnp.array(tokens), attend)
    return model.apply({"params": params}, hidden, method="logits")

  np.testing.assert_allclose(logits(params)[real], expected[real], atol=1e-4)
  assert np.std(expected[real]) > 0.3
