"""The decoder against the reference implementations of each family.

Checkpoints are saved by transformers and read as users' are; logits in
float32, greedy generation token for token, and the way back.
"""

import copy
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hub_models import FAMILIES, SIZES, VOCABULARY, their_model

from sitrain.models import decoder
from sitrain.models.huggingface import families, weights
from sitrain.rollout.play import play
from sitrain.tasks.draw import constant_reply
from sitrain.types import PAD, Problems

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTH, NEW = 14, 8
FAST = {"xla_backend_optimization_level": 0}  # to compile, not to run
# Whole, padded left, padded right, padded on both sides.
FIRST, LAST = np.array([[0, 4, 0, 2], [14, 14, 8, 11]])


@pytest.fixture(scope="module")
def texts():
  """(tokens, which of them are real), [4, LENGTH]."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, VOCABULARY, (4, LENGTH)).astype(np.int32)
  column = np.arange(LENGTH)
  return tokens, (column >= FIRST[:, None]) & (column < LAST[:, None])


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tmp_path_factory):
  """(family, their model, its folder, our model, our parameters)."""
  theirs = their_model(request.param)
  folder = tmp_path_factory.mktemp(request.param)
  # Several files, as those of large models.
  theirs.save_pretrained(folder, max_shard_size="20KB")
  assert len(list(folder.glob("*.safetensors"))) > 2
  model = weights.from_folder(folder)
  shapes = jax.eval_shape(lambda k: decoder.init(model, k), jax.random.key(0))
  return request.param, theirs, folder, model, weights.read(
    folder, model, shapes
  )


def their_logits(theirs, tokens, real):
  with torch.no_grad():
    return theirs(
      torch.tensor(tokens, dtype=torch.long),
      attention_mask=torch.tensor(real, dtype=torch.long),
      position_ids=torch.tensor(np.maximum(np.cumsum(real, 1) - 1, 0)),
    ).logits.numpy()


@functools.partial(
  jax.jit, static_argnames="model", compiler_options=FAST
)
def our_logits(model, params, tokens, real):
  turn = jnp.where(real, 1, PAD).astype(jnp.int32)
  attend = decoder.sees_rows(turn, jnp.zeros_like(turn))
  hidden, _ = model.apply({"params": params}, tokens, attend)
  return model.apply({"params": params}, hidden, method="logits")


def test_the_config_gives_the_fields_of_the_family(both):
  family, _, folder, model, _ = both
  assert families.differences(model, SIZES | FAMILIES[family][2]) == []
  changed = SIZES | FAMILIES[family][2] | {"qkv_bias": not model.qkv_bias}
  assert families.differences(model, changed) == ["qkv_bias"]


def test_logits_are_those_of_the_reference_implementation(both, texts):
  _, theirs, _, model, params = both
  tokens, real = texts
  expected = their_logits(theirs, tokens, real)[real]
  found = our_logits(model, params, tokens, real)[real]
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert np.std(expected) > 0.3


@functools.partial(
  jax.jit, static_argnames=("model", "eos"),
  compiler_options=FAST,
)
def greedy(keys, model, params, problems, eos):
  return play(
    keys, model, params, problems, samples=1, reply=constant_reply([]),
    turns=(NEW,), eos=eos, temperature=0.0,
  )


def test_greedy_generation_is_theirs_token_for_token(both, texts):
  _, theirs, _, model, params = both
  real = np.arange(LENGTH) >= np.array([0, 4, 9, 12])[:, None]
  prompt = np.where(real, texts[0], PAD)
  ask = functools.partial(
    theirs.generate, torch.tensor(np.maximum(prompt, 0)).long(),
    attention_mask=torch.tensor(real).long(), max_new_tokens=NEW,
    do_sample=False, pad_token_id=0,
  )
  # What the first row writes third ends a turn, so that rows differ in length.
  eos = (int(ask()[0, LENGTH + 2]),)
  expected = ask(eos_token_id=list(eos))[:, LENGTH:].tolist()
  blank = jnp.zeros((4, 1), jnp.int32)
  problems = Problems(jnp.asarray(prompt, jnp.int32), blank, blank)
  keys = jax.random.split(jax.random.key(0), 4)
  episodes = greedy(keys, model, params, problems, eos)
  lengths = []
  for row, turn, theirs_row in zip(episodes.tokens, episodes.turn, expected):
    own = np.asarray(row)[np.asarray(turn) == 1].tolist()
    assert theirs_row[: len(own)] == own
    assert set(theirs_row[len(own) :]) <= {0}
    assert len(own) == NEW or own[-1] in eos
    lengths.append(len(own))
  assert min(lengths) <= 3, "no row ended early"


def test_the_way_back_is_exact(both, texts, tmp_path):
  _, theirs, folder, model, params = both
  config = weights.read_config(folder)
  out = tmp_path / "out"
  weights.write(
    out, model, params, config, dtype="float32", shard_bytes=20_000
  )
  assert len(list(out.glob("*.safetensors"))) > 2
  again = transformers.AutoModelForCausalLM.from_pretrained(
    out, attn_implementation="eager"
  ).eval()
  assert type(again) is type(theirs) and again.dtype == torch.float32
  state = again.state_dict()
  assert state.keys() == theirs.state_dict().keys()
  for name, value in theirs.state_dict().items():
    assert torch.equal(value, state[name]), name
  tokens, real = texts
  expected = their_logits(theirs, tokens, real)[real]
  found = their_logits(again, tokens, real)[real]
  np.testing.assert_array_equal(found, expected)


def test_gradients_of_experts_are_theirs(texts, tmp_path):
  """Layers as a scan. Their gradients are saved as if they were weights."""
  theirs, tokens = their_model("qwen3_moe"), jnp.asarray(texts[0])
  given = torch.tensor(texts[0], dtype=torch.long)
  scores = theirs(given).logits[:, :-1].log_softmax(-1)
  scores.gather(2, given[:, 1:, None]).sum().backward()
  slopes = copy.deepcopy(theirs)
  with torch.no_grad():
    for x, y in zip(slopes.parameters(), theirs.parameters(), strict=True):
      x.copy_(y.grad)
  folders = tmp_path / "weights", tmp_path / "gradients"
  theirs.save_pretrained(folders[0])
  slopes.save_pretrained(folders[1])
  model = weights.from_folder(folders[0], scan=True)
  shapes = jax.eval_shape(lambda k: decoder.init(model, k), jax.random.key(0))
  params, expected = (weights.read(x, model, shapes) for x in folders)

  def loss(params):
    real = jnp.ones_like(tokens)
    logits = our_logits.__wrapped__(model, params, tokens, real)
    scores = jax.nn.log_softmax(logits[:, :-1])
    return jnp.sum(jnp.take_along_axis(scores, tokens[:, 1:, None], axis=2))

  found = jax.jit(jax.grad(loss), compiler_options=FAST)(params)
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    np.testing.assert_allclose(x, y, atol=1e-4 * np.abs(y).max())
    assert np.any(y)


def by_hand(**options):
  """Options that a user has added to the config.json of a tiny Llama."""
  llama3 = dict(FAMILIES["llama3"][1]["rope_parameters"])
  return dict(rope_parameters=llama3) | options


LINEAR = dict(rope_type="linear", factor=8.0)
ADDED = {
  # transformers 5 reads rope_scaling, where there is one, and nothing else.
  "scaling beside llama3": by_hand(rope_scaling=LINEAR),
  "scaling beside default": by_hand(
    rope_parameters=dict(rope_type="default", rope_theta=1e4),
    rope_scaling=LINEAR,
  ),
  # And the length at the top level, although its config shows another.
  "length at the top": by_hand(original_max_position_embeddings=8),
  "scaling and length at the top": by_hand(
    rope_scaling=dict(
      FAMILIES["llama3"][1]["rope_parameters"], factor=16.0,
      original_max_position_embeddings=32,
    ),
    original_max_position_embeddings=8,
  ),
}


@pytest.mark.parametrize("name", ADDED)
def test_rotary_options_added_by_hand_are_read_as_theirs(
  name, tmp_path, texts
):
  their_model("llama3").save_pretrained(tmp_path)
  path = tmp_path / "config.json"
  before = weights.from_folder(tmp_path)
  path.write_text(json.dumps(json.loads(path.read_text()) | ADDED[name]))
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, attn_implementation="eager"
  ).eval()
  model = weights.from_folder(tmp_path)
  assert model.rope_scaling != before.rope_scaling
  shapes = jax.eval_shape(lambda k: decoder.init(model, k), jax.random.key(0))
  params = weights.read(tmp_path, model, shapes)
  tokens, real = texts
  expected = their_logits(theirs, tokens, real)[real]
  found = our_logits(model, params, tokens, real)[real]
  np.testing.assert_allclose(found, expected, atol=1e-4)
  other = our_logits(before, params, tokens, real)[real]
  assert np.abs(other - expected).max() > 1e-2
