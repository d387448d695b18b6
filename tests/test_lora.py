"""Adapters: nothing at first, the same as merged weights, all that learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from sitrain.models import decoder, lora
from sitrain.models.logprobs import token_scores
from sitrain.runtime import overrides, sharding
from sitrain.runtime.adapters import settings_of
from sitrain.runtime.checks import check_model
from sitrain.runtime.options import ConfigError

SCALE = 1.7
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 15, (3, 9)))


@pytest.fixture(scope="module")
def made(toy):
  """(model, base, first adapters, adapters that have learnt)."""
  model, base, _ = toy
  first = lora.adapters(jax.random.key(1), model, rank=3)
  rng = np.random.default_rng(1)
  moved = lambda x: x + 0.2 * jnp.asarray(rng.normal(size=x.shape), x.dtype)
  return model, base, first, jax.tree.map(moved, first)


@pytest.fixture(scope="module")
def logprobs(made):
  """Log-probabilities of TOKENS under a tree of parameters."""
  model = made[0]

  def score(model, params):
    turn = jnp.ones_like(TOKENS)
    return token_scores(
      model, params, TOKENS, turn, 0 * turn, inputs=TOKENS
    ).logprob

  score = jax.jit(score, static_argnums=0)
  return lambda params, **more: score(model.clone(**more), params)


def test_first_adapters_change_nothing(made, logprobs):
  _, base, first, _ = made
  joined = lora.join(base, first, scale=SCALE)
  np.testing.assert_array_equal(logprobs(joined), logprobs(base))
  for name, x in first["layers"].items():
    if name.endswith("_b"):
      assert not np.any(x)
    else:
      fan_in = x.size / x.shape[0] / x.shape[-1]
      assert 0.6 < np.std(x) * fan_in**0.5 < 1.4


def test_joined_is_merged(made, logprobs):
  _, base, _, learnt = made
  joined = lora.join(base, learnt, scale=SCALE)
  merged = lora.merge(base, learnt, scale=SCALE)
  assert jax.tree.structure(merged) == jax.tree.structure(base)
  found, expected = logprobs(joined), logprobs(merged)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert np.max(np.abs(expected - logprobs(base))) > 0.1
  other = logprobs(lora.merge(base, learnt, scale=1.0))
  assert np.max(np.abs(expected - other)) > 1e-2
  scanned = logprobs(joined, scan=True)
  np.testing.assert_allclose(scanned, expected, atol=1e-5)
  unstacked = logprobs(decoder.unstack(joined))
  np.testing.assert_allclose(unstacked, expected, atol=1e-5)


def test_experts_have_no_adapters(toy):
  model = toy[0].clone(experts=3)
  shapes = jax.eval_shape(
    lambda k: lora.adapters(k, model, rank=2), jax.random.key(0)
  )
  names = {name.removesuffix("_a") for name in shapes["layers"]}
  assert {n for n in names if "_b" not in n} == {"query", "key", "value", "out"}
  with pytest.raises(ValueError, match="adapters of up: name one or more of q"):
    lora.adapters(jax.random.key(0), model, rank=2, names=("query", "up"))


@pytest.mark.parametrize("name", lora.NAMES)
def test_each_projection_has_its_own_adapter(name, made):
  """One layer by hand: what is added is scale * x A B, and nothing else."""
  model, base, _, _ = made
  alone = lora.adapters(jax.random.key(2), model, rank=2, names=(name,))
  assert sorted(alone["layers"]) == [f"{name}_a", f"{name}_b"]
  ones = jax.tree.map(jnp.ones_like, alone)
  merged = lora.merge(base, ones, scale=0.5)
  for other, x in base["layers"].items():
    added = np.asarray(merged["layers"][other] - x)
    # Rank 2 of ones: every element grows by 0.5 * 2.
    np.testing.assert_allclose(added, float(other == name), atol=1e-6)


def test_gradients_reach_adapters_alone(made):
  model, base, first, learnt = made

  @jax.jit
  def gradients(base, adapters):
    def loss(base, adapters):
      turn = jnp.ones_like(TOKENS)
      params = lora.join(base, adapters, scale=SCALE)
      scores = token_scores(
        model, params, TOKENS, turn, 0 * turn, inputs=TOKENS
      )
      return -jnp.sum(scores.logprob)

    return jax.grad(loss, (0, 1))(base, adapters)

  frozen, early = gradients(base, first)
  assert not any(np.any(x) for x in jax.tree.leaves(frozen))
  for name, x in early["layers"].items():  # A cannot matter while B is 0.
    assert np.any(x) == name.endswith("_b"), name
  _, late = gradients(base, learnt)
  assert all(np.any(x) for x in jax.tree.leaves(late))


def test_bfloat16_weights_stay_so(made):
  _, base, _, learnt = made
  base = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)
  merged = lora.merge(base, learnt, scale=SCALE)
  assert {x.dtype for x in jax.tree.leaves(merged)} == {jnp.dtype("bfloat16")}


def test_adapters_have_partition_rules(made):
  model, base, first, _ = made
  joined = lora.join(base, first, scale=1.0)
  specs = sharding.match_rules(decoder.PARTITION_RULES, joined)["layers"]
  for name in lora.NAMES:
    whole, a, b = (specs[name + end] for end in ("", "_a", "_b"))
    cut = len(a) - 1  # axes of layers and of inputs
    assert (*a, *b[2:]) == (*whole[:cut], None, *whole[cut:]), name
    assert b[:2] == (None, None)
    assert len(a) == first["layers"][f"{name}_a"].ndim


# As peft.modules gives them.
MODULES = {
  name: f"model.layers.{{}}.{module}" for name, module in {
    "query": "self_attn.q_proj", "key": "self_attn.k_proj",
    "value": "self_attn.v_proj", "down": "mlp.down_proj",
  }.items()
}


@pytest.mark.parametrize("targets, names", [
  (lora.ALL, ("query", "key", "value", "down")),
  (r".*\.(q_proj|v_proj)", ("query", "value")),  # PEFT's
  (r"model\.layers\.\d+\.mlp\..*", ("down",)),
  (".*[qk]_proj", ("query", "key")),
  ("layers.*(query|value)", ("query", "value")),  # ours
  ("layers/down", ("down",)),
])
def test_targets_are_whole_names(targets, names, toy):
  assert lora.chosen(toy[0], targets, MODULES) == names


@pytest.mark.parametrize("targets", [
  r".*\.(q_proj|gate_proj)", "layers/(query|down)", r".*layers.*",
])
def test_targets_among_experts_are_named(targets, toy):
  attention = {n: x for n, x in MODULES.items() if n != "down"}
  model = toy[0].clone(experts=3)
  with pytest.raises(ValueError, match="and experts have no adapters: name"):
    lora.chosen(model, targets, attention)
  for fine in (lora.ALL, r".*self_attn.*", "layers/(query|key|value)"):
    assert lora.chosen(model, fine, attention) == ("query", "key", "value")


@pytest.mark.parametrize("targets, message", [
  ("quary|value", "'quary|value' matches no whole name of a projection: there"
   " are layers/query, layers/key, .*, or model.layers.0.self_attn.q_proj,"),
  ("query", "matches no whole name"),  # a part of a name is none
  ("q_proj", "matches no whole name"),
  ("", "matches no whole name"),
  ("(query", r"targets='\(query' is no regular expression \(missing \)"),
  (r"model\.layers\.0\..*q_proj", "layers.0.self_attn.q_proj and 1 of 2"),
  (r"(?!model\.layers\.1\.).*", "and 1 of 2 layers: match all layers or none"),
])
def test_targets_that_choose_nothing_are_named(targets, message, toy):
  with pytest.raises(ValueError, match=message) as error:
    lora.chosen(toy[0].clone(layers=2), targets, MODULES)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("given, message", [
  ({"rank": 8, "dropout": 0.1}, "lora.dropout is not an option: adapters have"
   " no dropout here, leave it out"),
  ({"lora_dropout": 0.0}, "lora.lora_dropout is not .* no dropout"),
  ({"r": 8}, "lora.r is not an option: it is rank here"),
  ({"target_modules": "x"}, "it is targets here"),
  ({"rnk": 8}, "lora.rnk.*did you mean 'rank'"),
  ({"rank": 8, "targets": "("}, r"lora.targets='\(' is no regular expression"),
  ({"rank": 8, "targets": ("query",)}, "lora.targets=.* is a tuple: give"),
  ({"rank": 8, "alpha": -1.0}, "lora.alpha=-1.0: set 0 or more"),
])
def test_options_of_adapters_are_checked_with_the_config(given, message):
  with pytest.raises(ConfigError, match=message):
    check_model({"path": "/some/folder", "lora": given})


def test_flags_may_set_options_that_a_config_lacks():
  known = flags.FlagValues()
  words = [
    "main", "--config=quickstart", "--config.model.path=/some/folder",
    "--config.model.lora.rank=4", "--config.model.lora.targets=.*query",
  ]
  overrides.define("", flag_values=known, sys_argv=words)
  overrides.parse(words, known)
  config = known["config"].value.to_dict()
  assert settings_of(config["model"]) == (4, 8.0, ".*query", "")


def test_alpha_is_twice_the_rank_unless_it_is_given():
  assert settings_of({"lora": {"rank": 8}}) == (8, 16.0, lora.ALL, "")
  assert settings_of({"lora": {"rank": 8, "alpha": 32.0}}).alpha == 32.0
  assert settings_of({}).rank == 0


@pytest.mark.parametrize("options, message", [
  (dict(rank=0), "rank=0 of adapters: give 1"),
  (dict(rank=2, names=("query", "norm")), "adapters of norm: name one or"),
  (dict(rank=2, names=()), "adapters of nothing"),
])  # fmt: skip
def test_wrong_options_are_named(options, message, toy):
  with pytest.raises(ValueError, match=message):
    lora.adapters(jax.random.key(0), toy[0], **options)
