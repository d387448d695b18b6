"""The exporter as its users run it, and transformers reading what it wrote."""

import json

import hub_models
import jax
import jax.numpy as jnp
import mains
import numpy as np
import pytest
import qwen
from etils import epath

from sitrain.configs import quickstart, word_problems
from sitrain.models import decoder, lora
from sitrain.models.huggingface import peft, weights
from sitrain.models.huggingface.tokenizer import train_bpe
from sitrain.runtime import build, checkpoint, task
from sitrain.types import Progress, TrainState

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


EXPORT = "sitrain.export"


def random_params(model, seed):
  shapes = jax.eval_shape(lambda k: decoder.init(model, k), jax.random.key(0))
  rng = np.random.default_rng(seed)
  draw = lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32)
  return jax.tree.map(draw, shapes)


def save(folder, params, score):
  state = TrainState(jnp.int32(1), {}, {"policy": params}, (), {}, ())
  manager = checkpoint.open_manager(folder)
  for step, (value, mark) in enumerate(zip(params, score), 1):
    state = state._replace(params={"policy": value})
    progress = Progress(folder.name, step, {}, mark, 0, False)
    checkpoint.save(manager, step, state, progress, mark)
  checkpoint.finish(manager)


def load(folder, dtype):
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation="eager"
  ).eval()
  assert model.dtype == dtype
  return model


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
  """A run of the quickstart: (workdir, model, best and last of stage1)."""
  workdir = tmp_path_factory.mktemp("scratch")
  config = build.plain(quickstart.get_config("quick"))
  # Of eight devices; who exports has one.
  config["mesh"] = {"data": 1, "fsdp": 8, "tensor": 1}
  (workdir / "config.json").write_text(json.dumps(config))
  model = build.model_from(config, build.task_from(config))
  params = [random_params(model, seed) for seed in range(3)]
  save(workdir / "base", params[2:], [0.0])
  save(workdir / "stage1", params[:2], [0.9, 0.1])
  return workdir, model, params


def test_a_model_from_nothing_is_one_of_transformers(scratch, ask, tmp_path):
  workdir, model, params = scratch
  out = tmp_path / "out"
  done = ask(f"--workdir={workdir}", f"--output={out}", module=EXPORT)
  assert done.code == 0, done.err
  line = "policy of stage1, last, step 2, as LlamaForCausalLM in float32"
  assert line in done.out
  assert "--mesh=data=1,fsdp=1,tensor=1 is used" in done.err
  theirs = load(out, torch.float32)
  tokens = np.arange(24).reshape(2, 12) % model.vocabulary
  with torch.no_grad():
    expected = theirs(torch.tensor(tokens)).logits.numpy()

  @jax.jit
  def logits(params, tokens):
    turn = jnp.ones_like(tokens)
    attend = decoder.sees_rows(turn, 0 * turn)
    hidden, _ = model.apply({"params": params}, tokens, attend)
    return model.apply({"params": params}, hidden, method="logits")

  found = logits(params[1], jnp.asarray(tokens))
  np.testing.assert_allclose(found, expected, atol=1e-4)
  mazes = build.task_from(build.plain(quickstart.get_config("quick")))
  assert theirs.config.eos_token_id == list(mazes.eos)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
  """A run that began with a checkpoint: (workdir, its folder, params)."""
  folder = tmp_path_factory.mktemp("model")
  hub_models.their_model("gemma3").save_pretrained(folder)
  texts = ["to be or not to be", "that is the question"]
  train_bpe(texts, folder, size=270)
  workdir = tmp_path_factory.mktemp("started")
  config = build.plain(quickstart.get_config("quick"))
  config["model"] = {"path": str(folder), "dtype": "bfloat16", "scan": True}
  (workdir / "config.json").write_text(json.dumps(config))
  params = random_params(weights.from_folder(folder), 5)
  save(workdir / "stage2", [params], [0.0])
  return workdir, folder, params


def test_a_model_of_the_hub_keeps_its_form(started, ask, tmp_path):
  workdir, folder, params = started
  out = tmp_path / "out"
  done = ask(
    f"--workdir={workdir}", f"--output={out}", "--which=best",
    "--stage=stage2", module=EXPORT,
  )
  assert done.code == 0, done.err
  line = "policy of stage2, best, step 1, as Gemma3ForCausalLM in bfloat16"
  assert line in done.out
  was, now = weights.read_config(folder), weights.read_config(out)
  changed = {k for k in was | now if was.get(k) != now.get(k)}
  assert changed == {"dtype", "torch_dtype"}
  theirs = load(out, torch.bfloat16)
  state = hub_models.our_params(theirs)
  wanted = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(float), params)
  for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(wanted)):
    np.testing.assert_array_equal(x, y)
  tokenizers = [
    transformers.AutoTokenizer.from_pretrained(at) for at in (folder, out)
  ]
  # Whoever waits for config.json gets a tokenizer with it.
  written = {path.stat().st_mtime_ns: path.name for path in out.iterdir()}
  assert written[max(written)] == "config.json"
  ids = [t("to be, not a question").input_ids for t in tokenizers]
  assert ids[0] == ids[1] and len(ids[0]) > 3
  assert tokenizers[0].chat_template == tokenizers[1].chat_template


def test_adapters_alone_are_a_folder_of_peft(ask, tmp_path):
  """Those of the checkpoint, with the scale and the base of the run."""
  folder = tmp_path / "model"
  hub_models.their_model("qwen2").save_pretrained(folder)
  train_bpe(["to be or not to be"], folder, size=270)
  config = build.plain(quickstart.get_config("quick"))
  config["model"] = {"path": str(folder), "dtype": "bfloat16", "lora": {
    "rank": 2, "alpha": 6.0, "targets": ".*(query|down)",
  }}
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.json").write_text(json.dumps(config))
  model = weights.from_folder(folder)
  first = lora.adapters(
    jax.random.key(1), model, rank=2, names=("query", "down")
  )
  learnt = jax.tree.map(lambda x: x + 0.5, first)
  save(tmp_path / "run" / "stage1", [first, learnt], [0.0, 1.0])
  out = tmp_path / "out"
  done = ask(
    f"--workdir={tmp_path}/run", f"--output={out}", "--form=peft",
    module=EXPORT,
  )
  assert done.code == 0, done.err
  line = "stage1, last, step 2, as adapters of Qwen2ForCausalLM in float32"
  assert line in done.out
  base = weights.read_config(folder)
  assert peft.form_of(out, base) == (2, 6.0, ("down", "query"))
  found = peft.read(out, base, jax.eval_shape(lambda: learnt))
  jax.tree.map(np.testing.assert_array_equal, found, learnt)
  told = json.loads((out / peft.CONFIG).read_text())
  assert told["base_model_name_or_path"] == str(folder)
  assert not (out / "config.json").exists()
  assert len(transformers.AutoTokenizer.from_pretrained(out)) > 256
  written = {path.stat().st_mtime_ns: path.name for path in out.iterdir()}
  assert written[max(written)] == peft.CONFIG


OWN = """\
{%- for message in messages -%}
{{ message.content + (eos_token if message.role == 'assistant' else ' A: ') }}
{%- endfor -%}"""


@pytest.mark.parametrize("template", ["plain", "file", ""])
def test_the_tokenizer_keeps_the_form_of_the_run(tmp_path, template):
  """The template of config.tokenizer, and the tokens that end a turn."""
  folder = qwen.folder(tmp_path / "qwen", ["to be or not to be"] * 3)
  extra = {"eos_token_id": [0], "temperature": 0.5}
  (folder / "generation_config.json").write_text(json.dumps(extra))
  if template == "file":
    (tmp_path / "own.jinja").write_text(OWN)
    template = str(tmp_path / "own.jinja")
  config = build.plain(word_problems.get_config("quick"))
  config["tokenizer"] = {"path": str(folder), "size": 0, "template": template}
  out = epath.Path(tmp_path) / "out"
  names = task.write_tokenizer(config, epath.Path(tmp_path), out)
  assert sorted(names) == sorted(path.name for path in out.iterdir())
  chat = task.chat_of(config, "")
  theirs = transformers.AutoTokenizer.from_pretrained(out)
  prompt = theirs.apply_chat_template(
    [{"role": "user", "content": "to be?"}], add_generation_prompt=True,
    tokenize=False,
  )
  assert theirs.encode(prompt) == chat.ask("to be?")
  settings = json.loads((out / "generation_config.json").read_text())
  assert set(settings["eos_token_id"]) == set(chat.eos) and len(chat.eos) > 1
  assert settings["temperature"] == 0.5
  old = json.loads((out / "tokenizer_config.json").read_text())
  assert old.get("chat_template", theirs.chat_template) == theirs.chat_template


def test_mistakes_are_named_in_one_line(scratch, ask, tmp_path):
  workdir, _, _ = scratch
  (tmp_path / "taken").mkdir()
  (tmp_path / "taken" / "config.json").write_text("{}")
  (tmp_path / "home" / "stage1").mkdir(parents=True)
  asked = {
    f"--workdir={tmp_path}": "has no config.json: give the workdir of a run",
    f"--workdir={workdir}": "--output is missing: give a new folder",
    f"--workdir={workdir} --output={tmp_path}/out --mesh=fsdp=3":
      "fsdp=3,",
    f"--workdir={workdir} --output={tmp_path}/out --form=peft":
      "--form=peft: the role 'policy' of this run has no adapters",
    f"--workdir={workdir} --output={tmp_path}/taken": "taken is taken: give a",
    f"--workdir={workdir} --output={tmp_path}/home": "home is taken: give a",
    f"--workdir={workdir} --output={tmp_path}/out --stage=stage9":
      "--stage=stage9 is not in the run: did you mean",
    f"--workdir={workdir} --output={tmp_path}/out --stage=stage2":
      "lacks a checkpoint: train it first",
    f"--workdir={workdir} --output={tmp_path}/out --stage= more":
      "unknown argument 'more'",
  }  # fmt: skip
  for words, message in asked.items():
    done = ask(*words.split(), module=EXPORT)
    assert done.code == 2, done.err
    (line,) = mains.lines(done)
    assert line.startswith("error: ") and message in line
  assert not (tmp_path / "out").exists()
