"""Reward models of sequence classification: transformers' own scores."""

import functools
import json

import hub_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sitrain.configs import reward_model
from sitrain.models import heads
from sitrain.models.huggingface import families, tokenizer, weights
from sitrain.runtime import build, policy, sharding, start, task
from sitrain.runtime.options import ConfigError
from sitrain.types import PAD

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FAMILIES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama3": "Llama",
            "gemma2": "Gemma2"}  # fmt: skip
TOKEN = 3  # pads rows, and ends the text of the last one
LENGTHS = np.array([12, 7, 1, 9])


def their_scorer(family, labels=1, **more):
  """A random ...ForSequenceClassification."""
  name, options, _ = hub_models.FAMILIES[family]
  given = hub_models.THEIRS | options | {"pad_token_id": TOKEN} | more
  config = getattr(transformers, name)(**given, num_labels=labels)
  torch.manual_seed(0)
  return hub_models.perturb(
    transformers.AutoModelForSequenceClassification.from_config(
      config, attn_implementation="eager", dtype=torch.float32
    )
  )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("scorer")
  their_scorer("qwen2").save_pretrained(path)
  return path


def texts():
  """(tokens, turn) of rows of different lengths."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(4, hub_models.VOCABULARY, (4, 12)).astype(np.int32)
  real = np.arange(12) < LENGTHS[:, None]
  tokens[3, LENGTHS[3] - 1] = TOKEN
  tokens[0, 5] = TOKEN  # Inside of a text it is a token as any other.
  return np.where(real, tokens, PAD), np.where(real, 1, PAD).astype(np.int32)


def read(path):
  model = weights.from_folder(path)
  shapes = jax.eval_shape(
    build.origin_from({"model": {"path": str(path)}}, model).init,
    jax.random.key(0),
  )
  return model, weights.read(path, model, shapes)


@functools.partial(
  jax.jit, static_argnums=0,
  compiler_options={"xla_backend_optimization_level": 0},
)
def score(model, params, tokens, turn):
  return heads.score(model, params, tokens, turn, 0 * turn)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_transformers(family, tmp_path):
  theirs = their_scorer(family)
  theirs.save_pretrained(tmp_path)
  config = weights.read_config(tmp_path)
  assert config["architectures"][0] == (
    f"{FAMILIES[family]}ForSequenceClassification"
  )
  model, params = read(tmp_path)
  assert params.keys() == {"embed", "layers", "norm", heads.NAME}
  tokens, turn = texts()
  with torch.no_grad():
    expected = theirs(
      torch.tensor(np.where(turn == PAD, TOKEN, tokens)).long(),
      attention_mask=torch.tensor(turn != PAD).long(),
    ).logits[:, 0].numpy()
  found = score(model, params, tokens, turn)
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert np.std(expected) > 0.3


def test_a_text_that_ends_with_its_padding_is_read_before_it(folder):
  """As transformers reads it, which counts no such token as text."""
  model, params = read(folder)
  tokens, turn = texts()
  found = score(model, params, tokens, turn)
  whole = score(model.clone(pad_token=PAD), params, tokens, turn)
  np.testing.assert_array_equal(found[:3], whole[:3])
  assert abs(found[3] - whole[3]) > 1e-2
  short = np.where(np.arange(12) < LENGTHS[3] - 1, turn, PAD)
  np.testing.assert_allclose(
    found[3], score(model, params, tokens, short)[3], atol=1e-5
  )


def run_of(folder, **model):
  """(config, task, run) of GRPO whose reward is the score of a folder."""
  config = build.plain(reward_model.get_config("quick"))
  config["model"] |= model
  config["stages"] = ("base", "grpo")
  config["roles"] = {"judge": {"path": str(folder)}}
  stage = config["stage"]["grpo"]
  stage["held"] = {"reference": "base/last", "judge": "init"}
  stage["method"]["reward_role"] = "judge"
  mazes = build.task_from(config)
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1)
  run = build.run_from(config, mazes, build.model_from(config, mazes), mesh)
  return config, mazes, run


def test_a_held_role_pays_the_policy_with_its_score(folder):
  """The stage is traced with it, and it is read in the dtype of the run."""
  config, mazes, run = run_of(folder, dtype="bfloat16")
  role = run.roles["judge"]
  assert role.head == "scalar" and role.model.pad_token == TOKEN
  assert role.model.vocabulary == hub_models.VOCABULARY
  (stage,) = build.stages_from(config, mazes, run, done=("base",))[1:]
  assert stage.held["judge"] == "init" and stage.method.wanted == ()
  wanted = start.layout(run, stage).held["judge"]
  held = start._held(run, "judge", "init", wanted)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), held) == (
    jax.tree.map(lambda x: (x.shape, x.dtype), wanted)
  )
  assert held["layers"]["query"].dtype == jnp.bfloat16
  assert held[heads.NAME].dtype == jnp.float32
  _, params = read(folder)
  np.testing.assert_array_equal(held[heads.NAME], params[heads.NAME])
  assert np.abs(held[heads.NAME]).max() > 0.1
  with pytest.raises(ConfigError, match="--role=judge has a scalar head"):
    policy.of_role(config, "judge")


@pytest.mark.parametrize("source", ["init", "base/last"])
def test_a_head_that_nobody_has_trained_is_no_reward(source, folder):
  """It scored every text 0, and the policy learnt nothing, in silence."""
  config, mazes, run = run_of(folder)
  config["roles"] = {"judge": {"start": "policy", "head": "scalar"}}
  config["stage"]["grpo"]["held"]["judge"] = source
  run = run._replace(roles=build.roles_from(config, run, mazes))
  message = f"grpo.held.judge='{source}': its scalar head is new there"
  with pytest.raises(ConfigError, match=message):
    build.stages_from(config, mazes, run, done=("base",))


def changed(folder, to, **change):
  """A copy of the folder whose config.json is another."""
  for path in folder.iterdir():
    (to / path.name).write_bytes(path.read_bytes())
  text = json.loads((to / "config.json").read_text()) | change
  (to / "config.json").write_text(json.dumps(text))
  return str(to)


@pytest.mark.parametrize("change, message", [
  ({"id2label": {"0": "bad", "1": "so", "2": "good"}}, "num_labels=3, which"),
  ({"id2label": None, "num_labels": 5}, "num_labels=5"),
  ({"id2label": None}, "num_labels=2"),  # What transformers takes it to be.
  ({"architectures": ["MistralForSequenceClassification"]},
   "MistralForSequenceClassification .* or for a reward model Qwen2ForSeq"),
])  # fmt: skip
def test_other_folders_are_refused_by_name(change, message, folder, tmp_path):
  config = {"model": {}, "roles": {"judge": {
    "path": changed(folder, tmp_path, **change)
  }}}
  with pytest.raises(ConfigError, match=message) as error:
    build.check_folders(config)
  assert str(error.value).startswith(f"config.roles.judge.path={tmp_path}: ")


def test_a_role_of_other_tokens_is_refused(tmp_path, caplog):
  """It would score other texts than the policy writes."""
  for name, text in (("own", "a cat sat"), ("other", "to be or not")):
    tokenizer.train_bpe([text] * 3, tmp_path / name, size=262)
    (tmp_path / name / "config.json").write_text("{}")
  (tmp_path / "bare").mkdir()
  (tmp_path / "bare" / "config.json").write_text("{}")
  config = lambda name: {
    "task": {"name": "word_problems"}, "model": {"path": str(tmp_path / "own")},
    "roles": {"critic": {"head": "scalar"}, "judge": {
      "path": str(tmp_path / name)
    }},
  }
  with pytest.raises(ConfigError, match="judge.path=.*other has another token"):
    task.check_role_tokens(config("other"))
  task.check_role_tokens(config("own"))
  assert not caplog.text
  task.check_role_tokens(config("bare"))
  assert "bare has no tokenizer: it reads that of the run" in caplog.text
  trained = config("other") | {"model": {}}
  tokenizer.train_bpe(["a cat sat"] * 3, tmp_path / "tokenizer", size=262)
  with pytest.raises(ConfigError, match="judge.path=.*other has another token"):
    task.check_role_tokens(trained, str(tmp_path))
  task.check_role_tokens(config("own") | {"model": {}}, str(tmp_path))
  maze = config("other") | {"task": {"name": "maze"}}
  task.check_role_tokens(maze)  # No text, and so no tokenizer.


def test_labels_of_the_tensor_are_checked_too(tmp_path):
  their_scorer("qwen2", labels=3).save_pretrained(tmp_path)
  changed(tmp_path, tmp_path, id2label={"0": "LABEL_0"})
  with pytest.raises(ValueError, match=r"score.weight .* is \[3, 32\], its"):
    read(tmp_path)


def test_a_model_that_scores_is_no_policy(folder):
  with pytest.raises(ConfigError, match="config.model.path=.*: it is a Qwen2For"
                                        "SequenceClassification, which scores"):
    build.check_folders({"model": {"path": str(folder)}})
  assert families.is_scorer(weights.read_config(folder))
  assert not families.is_scorer({"architectures": None})
