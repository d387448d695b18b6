"""Adapters as folders of PEFT: by its formula, by its loader, and back."""

import json

import hub_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.models import decoder, lora
from sitrain.models.huggingface import download, peft, weights
from sitrain.runtime import adapters as options
from sitrain.runtime import sources
from sitrain.runtime.options import ConfigError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

RANK, ALPHA = 3, 5.0
LENGTH = 9


def adapters_of(model, names=lora.NAMES):
  """Adapters that have learnt."""
  first = lora.adapters(jax.random.key(1), model, rank=RANK, names=names)
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: x + 0.2 * jnp.asarray(rng.normal(size=x.shape), x.dtype), first
  )


def base_of(folder):
  """(model, parameters, config.json) of a folder of transformers."""
  model = weights.from_folder(folder)
  shapes = jax.eval_shape(lambda k: decoder.init(model, k), jax.random.key(0))
  return model, weights.read(folder, model, shapes), weights.read_config(folder)


def written(folder, family, names=lora.NAMES):
  """(their base, base_of, adapters) and a folder of PEFT with these."""
  theirs = hub_models.their_model(family)
  theirs.save_pretrained(folder / "base")
  base = base_of(folder / "base")
  given = adapters_of(base[0], names)
  peft.write(
    folder / "peft", given, base[2], base=str(folder / "base"), alpha=ALPHA,
    dtype="float32",
  )
  return theirs, base, given


def add_by_formula(theirs, folder):
  """W + lora_alpha / r * B A for all modules of a folder, in place."""
  given = json.loads((folder / peft.CONFIG).read_text())
  state = safetensors_torch.load_file(folder / peft.WEIGHTS)
  scale, count = given["lora_alpha"] / given["r"], 0
  for name, module in theirs.named_modules():
    if f"base_model.model.{name}.lora_A.weight" not in state:
      continue
    a, b = (
      state.pop(f"base_model.model.{name}.lora_{x}.weight") for x in "AB"
    )
    assert any(name.endswith(f".{x}") for x in given["target_modules"])
    with torch.no_grad():
      module.weight += scale * b @ a
    count += 1
  assert not state, list(state)
  return count


# Those that have a matrix for each projection.
FAMILIES = [n for n in hub_models.FAMILIES if n not in ("phi3", "qwen3_moe")]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_formula_of_peft_gives_the_merged_weights(family, tmp_path):
  theirs, (model, params, config), given = written(tmp_path, family)
  assert add_by_formula(theirs, tmp_path / "peft") == 7 * model.layers
  wanted = lora.merge(params, given, scale=ALPHA / RANK)
  found = hub_models.our_params(theirs)
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
    np.testing.assert_allclose(x, y, atol=2e-6)
  moved = found["layers"]["out"] - params["layers"]["out"]
  assert np.abs(moved).max() > 0.1
  # And back, to the last bit.
  names = tuple(sorted(lora.NAMES))
  folder = tmp_path / "peft"
  assert peft.form_of(folder, config) == (RANK, ALPHA, names)
  again = peft.read(folder, config, jax.eval_shape(lambda: given))
  jax.tree.map(np.testing.assert_array_equal, again, given)


def test_what_peft_loads_has_our_logits(tmp_path):
  library = pytest.importorskip(
    "peft", reason="peft is not installed: only its formula is checked"
  )
  names = ("query", "out", "down")
  _, (model, params, _), given = written(tmp_path, "qwen2", names)
  theirs = library.PeftModel.from_pretrained(
    transformers.AutoModelForCausalLM.from_pretrained(
      tmp_path / "base", attn_implementation="eager"
    ), tmp_path / "peft",
  ).eval()
  tokens = np.random.default_rng(2).integers(0, model.vocabulary, (2, LENGTH))

  @jax.jit
  def logits(params, tokens):
    turn = jnp.ones_like(tokens)
    attend = decoder.sees_rows(turn, 0 * turn)
    hidden, _ = model.apply({"params": params}, tokens, attend)
    return model.apply({"params": params}, hidden, method="logits")

  joined = lora.join(params, given, scale=ALPHA / RANK)
  with torch.no_grad():
    expected = theirs(torch.tensor(tokens)).logits.numpy()
    with theirs.disable_adapter():
      bare = theirs(torch.tensor(tokens)).logits.numpy()
  found = logits(joined, jnp.asarray(tokens, jnp.int32))
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert np.abs(expected - bare).max() > 0.1


def test_modules_of_a_model_that_sees_have_its_text_model_inside():
  config = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {
      "hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 2,
    },
  }
  found = peft.modules(config)["down"]
  assert found == "model.language_model.layers.{}.mlp.down_proj"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
  """A folder with a base and with adapters of two projections, and its run."""
  folder = tmp_path_factory.mktemp("kept")
  written(folder, "qwen2", ("query", "value"))
  lora_options = {
    "rank": RANK, "alpha": ALPHA, "targets": ".*(query|value)",
    "path": str(folder / "peft"),
  }
  return folder, {"path": str(folder / "base"), "lora": lora_options}


def test_a_run_begins_with_the_adapters_of_a_folder(kept):
  folder, given = kept
  options.check_folder(given)
  model, params, _ = base_of(folder / "base")
  found = options.origin(
    given["path"], model, options.settings_of(given), lambda _: params
  )
  assert found.scale == ALPHA / RANK
  key = jax.random.key(0)
  first = found.first(key, jax.eval_shape(found.init, key))
  wanted = adapters_of(model, ("query", "value"))
  jax.tree.map(np.testing.assert_array_equal, first, wanted)


def test_other_adapters_at_the_same_path_have_another_fingerprint(
  kept, tmp_path
):
  folder, _ = kept
  for name in download.ADAPTER_FILES:
    (tmp_path / name).write_bytes((folder / "peft" / name).read_bytes())
  config = {"model": {"lora": {"path": str(tmp_path)}}}
  (first,) = sources.adapters_of(config).values()
  assert sources.adapters_of(config)["model.lora.path"] == first
  tensors = bytearray((tmp_path / peft.WEIGHTS).read_bytes())
  tensors[-1] ^= 1
  (tmp_path / peft.WEIGHTS).write_bytes(tensors)
  (other,) = sources.adapters_of(config).values()
  assert other["fingerprint"] != first["fingerprint"]
  assert sources.adapters_of({"model": {}}) == {}


@pytest.mark.parametrize("change, message", [
  ({"rank": 4}, "of rank 3 and alpha 5 of query, value: set config.model.lora."
                "rank to 3$"),
  ({"alpha": 0.0}, "lora.alpha to 5$"),  # twice the rank
  ({"targets": ".*"}, r"lora.targets to 'layers/\(query\|value\)'$"),
  ({"rank": 4, "alpha": 1.0}, "lora.rank to 3 and config.model.lora.alpha to"),
  ({"path": "/no/such/folder"}, "there is no folder /no/such/folder"),
  ({"rank": 0}, "has adapters: set rank to theirs"),
])  # fmt: skip
def test_a_run_with_other_adapters_is_refused(change, message, kept):
  _, given = kept
  with pytest.raises(ConfigError, match=message) as error:
    options.check_folder(given | {"lora": given["lora"] | change})
  assert str(error.value).startswith("config.model.lora")


def test_adapters_of_another_run_fit_its_alpha_and_base(
  kept, tmp_path, monkeypatch, caplog
):
  folder, given = kept
  monkeypatch.setattr(options.workdirs, "read_config", lambda workdir: {
    "model": given
  })
  known = {"model.path": sources.model_of(given["path"]) | {"path": "theirs"}}
  (tmp_path / sources.FILE).write_text(json.dumps(known))
  path = f"{tmp_path}/first/best"
  config = lambda **change: {
    "stages": ("a",), "stage": {"a": {"start": path, "held": {"judge": path}}},
    "model": given | {"lora": given["lora"] | change},
    "roles": {"judge": {"path": "one of its own"}},
  }
  options.check_starts(config())
  options.check_starts(config(rank=0, path=""))
  with pytest.raises(ConfigError, match=r"a.start=.*first/best has adapters of "
                                        "rank 3 and alpha 5: set .* to 5$"):
    options.check_starts(config(alpha=0.0))
  known["model.path"]["fingerprint"] = "another"
  (tmp_path / sources.FILE).write_text(json.dumps(known))
  with pytest.raises(ConfigError, match="of another base, theirs, than"):
    options.check_starts(config())
  assert not caplog.text


@pytest.mark.parametrize("change, message", [
  ({"use_dora": True}, "use_dora=True: only plain LoRA"),
  ({"use_rslora": True}, "use_rslora=True"),
  ({"bias": "all"}, "bias='all'"),
  ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]"),
  ({"rank_pattern": {"q_proj": 4}}, "rank_pattern="),
  ({"peft_type": "IA3"}, "peft_type='IA3'"),
  ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
  ({"some_day_new": 3}, "some_day_new=3"),
  ({"r": None}, "has no r: it is not complete"),
])  # fmt: skip
def test_adapters_that_are_not_plain_are_named(change, message, kept, tmp_path):
  folder, given = kept
  for name in download.ADAPTER_FILES:
    (tmp_path / name).write_bytes((folder / "peft" / name).read_bytes())
  path = tmp_path / peft.CONFIG
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  own = given["lora"] | {"path": str(tmp_path)}
  with pytest.raises(ConfigError, match=message) as error:
    options.check_folder(given | {"lora": own})
  assert "\n" not in str(error.value)


def test_tensors_that_do_not_fit_are_named(kept, tmp_path):
  folder, _ = kept
  config = weights.read_config(folder / "base")
  state = safetensors_torch.load_file(folder / "peft" / peft.WEIGHTS)
  text = (folder / "peft" / peft.CONFIG).read_text()
  (tmp_path / peft.CONFIG).write_text(text)
  put = lambda state: safetensors_torch.save_file(
    state, tmp_path / peft.WEIGHTS
  )
  form = lambda: peft.form_of(tmp_path, config)
  put(state | {"base_model.model.lm_head.lora_A.weight": torch.zeros(3, 32)})
  with pytest.raises(ValueError, match="lm_head.lora_A.weight .* no adapter"):
    form()
  gone = next(name for name in state if ".layers.1." in name)
  put({name: x for name, x in state.items() if name != gone})
  with pytest.raises(ValueError, match=f"no {gone}: give adapters of all 2"):
    form()
  put({})
  with pytest.raises(ValueError, match="has no adapters: give"):
    form()
  put(state | {gone: torch.zeros(3, 31)})
  model = weights.from_folder(folder / "base")
  wanted = jax.eval_shape(lambda: adapters_of(model, ("query", "value")))
  with pytest.raises(ValueError, match=r"is \[3, 31\], and that of this model"):
    peft.read(tmp_path, config, wanted)


def test_projections_of_one_matrix_are_named(kept, monkeypatch, tmp_path):
  folder, _ = kept
  model, _, config = base_of(folder / "base")
  known = peft.modules(config)
  one = "model.layers.{}.self_attn.qkv_proj"
  fused = known | dict.fromkeys(("query", "key", "value"), one)
  monkeypatch.setattr(peft, "modules", lambda config: fused)
  write = lambda names, to: peft.write(
    to, adapters_of(model, names), config, base="a/b", alpha=1.0,
    dtype="float32",
  )
  with pytest.raises(ValueError, match="0.self_attn.qkv_proj of Qwen2ForCausal"
                                       "LM is one matrix of several"):
    write(("query", "out"), tmp_path / "a")
  assert not (tmp_path / "a").exists()
  write(("out", "down"), tmp_path / "b")
  assert peft.form_of(tmp_path / "b", config).names == ("down", "out")


def test_what_has_no_place_in_a_folder_of_peft_is_named(kept, tmp_path):
  folder, _ = kept
  model, _, config = base_of(folder / "base")
  given = adapters_of(model, ("query",))
  write = lambda tree, to: peft.write(
    to, tree, config, base="owner/name@v1", alpha=1.5, dtype="bfloat16"
  )
  with pytest.raises(ValueError, match="^value_head of these parameters"):
    write(given | {"value_head": jnp.zeros(32)}, tmp_path / "a")
  write(given, tmp_path / "b")
  found = json.loads((tmp_path / "b" / peft.CONFIG).read_text())
  assert found["base_model_name_or_path"] == "owner/name"
  assert found["revision"] == "v1" and found["lora_alpha"] == 1.5
  assert found["target_modules"] == ["q_proj"]
  state = safetensors_torch.load_file(tmp_path / "b" / peft.WEIGHTS)
  assert {x.dtype for x in state.values()} == {torch.bfloat16}
  with pytest.raises(ValueError, match="b holds adapters already"):
    write(given, tmp_path / "b")
