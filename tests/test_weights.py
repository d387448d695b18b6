"""Weights of the hub: every file form, every config form, every mistake."""

import json
import socket
import subprocess
import sys

import hub_models
import huggingface_hub
import jax
import jax.numpy as jnp
import mains
import ml_dtypes
import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from sitrain.models import decoder
from sitrain.models.huggingface import families, layout, tensorfile, weights
from sitrain.models.huggingface.describe import config_of
from sitrain.runtime import sharding

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

LLAMA, GEMMA = "LlamaForCausalLM", "Gemma3ForCausalLM"


def abstract(model, dtype=jnp.float32):
  shapes = jax.eval_shape(lambda k: decoder.init(model, k), jax.random.key(0))
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)


def read(folder, dtype=jnp.float32):
  model = weights.from_folder(folder)
  return model, weights.read(folder, model, abstract(model, dtype))


def assert_same(tree, other):
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(other)):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y), strict=True)


@pytest.fixture(scope="module")
def theirs():
  """A model in bfloat16, untied and with biases."""
  return hub_models.their_model("llama3", "bfloat16")


@pytest.fixture(scope="module")
def saved(theirs, tmp_path_factory):
  folder = tmp_path_factory.mktemp("saved")
  theirs.save_pretrained(folder)
  return folder


@pytest.fixture
def mine(saved, tmp_path):
  """A copy of the folder that a test may spoil, and its tensors."""
  (tmp_path / "config.json").write_text((saved / "config.json").read_text())
  state = safetensors_torch.load_file(saved / tensorfile.SINGLE)
  return tmp_path, state


def save(folder, state, file=tensorfile.SINGLE):
  safetensors_torch.save_file(state, folder / file, {"format": "pt"})


def test_bfloat16_stays_bit_for_bit_there_and_back(theirs, saved, tmp_path):
  model, params = read(saved, jnp.bfloat16)
  whole = hub_models.our_params(theirs)
  assert_same(params, jax.tree.map(lambda x: x.astype(jnp.bfloat16), whole))
  config = weights.read_config(saved)
  out = tmp_path / "out"
  weights.write(out, model, params, config, dtype=jnp.bfloat16)
  assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
  before = safetensors_torch.load_file(saved / tensorfile.SINGLE)
  after = safetensors_torch.load_file(out / tensorfile.SINGLE)
  assert before.keys() == after.keys()
  for name, value in before.items():
    assert value.dtype == after[name].dtype == torch.bfloat16
    assert torch.equal(value, after[name]), name


def test_numbers_are_cast_to_the_wanted_dtype(theirs, saved, tmp_path):
  model, params = read(saved, jnp.float32)
  assert_same(params, hub_models.our_params(theirs))
  # And back in float16, whose rounding is not that of bfloat16.
  config, out = weights.read_config(saved), tmp_path / "out"
  small = jax.tree.map(lambda x: x * np.float32(1 / 3), params)
  weights.write(out, model, small, config, dtype="float16")
  found = safetensors_torch.load_file(out / tensorfile.SINGLE)
  wanted = np.asarray(small["embed"]).astype(np.float16)
  np.testing.assert_array_equal(
    found["model.embed_tokens.weight"].numpy(), wanted, strict=True
  )


class Bucket(MemoryFileSystem):
  """gs:// in memory, that notes what is read."""

  protocol = ("gs", "gcs")
  store, pseudo_dirs, spans = {}, [""], []

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(path.removeprefix("gs://"))

  def cat_file(self, path, start=None, end=None, **kwargs):
    self.spans.append((path, start, end))
    return super().cat_file(path, start, end, **kwargs)


@pytest.fixture
def bucket(monkeypatch):
  for name in ("gs", "gcs"):
    monkeypatch.setitem(_registry, name, Bucket)
  forget = backend.fsspec_backend._get_filesystem.cache_clear
  forget()
  yield Bucket
  forget()
  Bucket.store.clear()
  Bucket.spans.clear()


def test_buckets_are_read_in_ranges_and_written_to(saved, bucket):
  folder = epath.Path("gs://some-bucket/model")
  folder.mkdir(parents=True)
  for path in saved.iterdir():
    (folder / path.name).write_bytes(path.read_bytes())
  assert str(weights.locate("gs://some-bucket/model")) == str(folder)
  _, params = read(folder)
  model, expected = read(saved)
  assert_same(params, expected)
  # Every byte of the file once; nothing else, and never all at a time.
  size = (saved / tensorfile.SINGLE).stat().st_size
  assert sum(end - start for _, start, end in bucket.spans) == size
  assert max(end - start for _, start, end in bucket.spans) < size / 4
  config = weights.read_config(saved)
  out = epath.Path("gs://some-bucket/out")
  weights.write(
    out, model, params, config, dtype="float32", shard_bytes=30_000
  )
  assert len(tensorfile.read_headers(out)) == 3 + 2 * 13
  assert_same(read(out)[1], expected)


def test_only_the_rows_of_a_piece_are_read(saved, monkeypatch):
  """A device that holds one head of one layer reads the rows of that head."""
  model, params = read(saved)
  found, spans, rows = tensorfile.read_headers(saved), [], tensorfile.rows

  def noted(tensor, start, stop):
    spans.append((tensor.name, start, stop))
    return rows(tensor, start, stop)

  monkeypatch.setattr(tensorfile, "rows", noted)
  name = families.names(weights.read_config(saved))["layers/query"]
  sources = [found[name.format(i)] for i in range(model.layers)]
  part = ((1, 2), (8, 16), (2, 3), (0, 16))
  shape = params["layers"]["query"].shape
  pieces = layout.pieces("layers/query", sources, shape, np.float32, {part})
  assert spans == [(name.format(1), 32, 48)]
  expected = params["layers"]["query"][1:2, 8:16, 2:3]
  np.testing.assert_array_equal(pieces[part], expected, strict=True)


@pytest.mark.parametrize("family, path, part, name, rows", [
  # A head of key 1 behind 4 heads of queries, in a tensor of 8 heads.
  ("phi3", "layers/key", ((1, 2), (8, 16), (1, 2), (0, 16)),
   "model.layers.1.self_attn.qkv_proj.weight", (80, 96)),
  ("phi3", "layers/up", ((0, 1), (0, 32), (12, 24)),
   "model.layers.0.mlp.gate_up_proj.weight", (60, 72)),
  ("qwen3_moe", "layers/experts_down", ((1, 2), (4, 5), (6, 12), (0, 8)),
   "model.layers.1.mlp.experts.4.down_proj.weight", (0, 8)),
])  # fmt: skip
def test_pieces_of_tensors_that_are_fused_and_of_experts(
  family, path, part, name, rows, tmp_path, monkeypatch
):
  hub_models.their_model(family).save_pretrained(tmp_path)
  model, params = read(tmp_path)
  found, spans, fetch = tensorfile.read_headers(tmp_path), [], tensorfile.rows
  names = families.names(weights.read_config(tmp_path))
  leaf = params["layers"][path.removeprefix("layers/")]
  all_spans = weights._spans(names, weights._by_path(params))
  sources = weights._sources(
    tmp_path, found, names[path], path, leaf.shape, all_spans[path]
  )

  def noted(tensor, start, stop):
    whole = found[tensor.name]
    width = int(np.prod(whole.shape[1:])) * whole.dtype.itemsize
    first = (tensor.start - whole.start) // width
    spans.append((tensor.name, first + start, first + stop))
    return fetch(tensor, start, stop)

  monkeypatch.setattr(tensorfile, "rows", noted)
  pieces = layout.pieces(path, sources, leaf.shape, np.float32, {part})
  assert spans == [(name, *rows)]
  expected = leaf[tuple(slice(*each) for each in part)]
  np.testing.assert_array_equal(pieces[part], expected, strict=True)


@pytest.mark.parametrize("name", ["olmo_2", "smollm_3", "phi_3", "qwen_3_moe"])
def test_newer_families_are_split_over_a_mesh(name):
  """Nothing large is whole on 16 devices; sizes divide."""
  model = decoder.Decoder(**families.decoder_fields(GIVEN[name]))
  shapes, sizes = abstract(model), {"data": 1, "fsdp": 4, "tensor": 4}
  specs = sharding.match_rules(decoder.PARTITION_RULES, shapes, sizes)
  is_spec = lambda x: isinstance(x, jax.sharding.PartitionSpec)
  both = zip(
    jax.tree.leaves(shapes), jax.tree.leaves(specs, is_leaf=is_spec),
    strict=True,
  )
  for shape, spec in both:
    split = {axis for axis in spec if axis}
    small = shape.size < 1e6 or "fsdp" in split and shape.size < 2e7  # norms
    assert split == {"fsdp", "tensor"} or small, (shape.shape, spec)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
  """The folder of a model that divides by eight."""
  folder = tmp_path_factory.mktemp("wide")
  sizes = dict(
    hidden_size=64, intermediate_size=32, num_attention_heads=8, vocab_size=64,
    num_key_value_heads=2, head_dim=8, num_hidden_layers=2,
  )
  transformers.LlamaForCausalLM(
    transformers.LlamaConfig(**hub_models.THEIRS | sizes)
  ).save_pretrained(folder, max_shard_size="30KB")
  return folder


def start(script, arguments, devices, cache):
  """A script of this folder with that many fake devices, running."""
  flags = f"--xla_force_host_platform_device_count={devices}"
  return subprocess.Popen(
    [sys.executable, str(mains.ROOT / "tests" / script), *arguments], text=True,
    env=mains.environment(cache, XLA_FLAGS=f"{mains.ONE_THREAD} {flags}"),
    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )


def report_of(process):
  return mains.json_of(mains.finish(process, 200))


@pytest.fixture(scope="module")
def on_eight(wide, cache):
  """What a process of 8 fake devices says, see eight_devices_weights.py."""
  return report_of(start("eight_devices_weights.py", [str(wide)], 8, cache))


@pytest.mark.parametrize("mesh", ["fsdp", "all"])
def test_arrays_arrive_sharded_and_rows_are_read_once(mesh, on_eight):
  found = on_eight[mesh]
  assert found["same"] and found["placed"]
  assert found["least"] == {"fsdp": 1 / 8, "all": 1 / 4}[mesh]
  assert found["read"] == on_eight["rows"] and found["twice"] == 0


def test_two_processes_read_and_write_one_model(wide, cache, tmp_path):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  out = tmp_path / "out"
  processes = [
    start("two_processes_weights.py",
          [address, str(i), str(wide), str(out)], 4, cache)
    for i in range(2)
  ]
  found = [report_of(process) for process in processes]
  assert found[0] == found[1] and found[0]["spans"] == found[0]["different"]
  was, now = tensorfile.read_headers(wide), tensorfile.read_headers(out)
  assert was.keys() == now.keys() and len(list(out.iterdir())) > 4
  for name, tensor in was.items():
    every = [tensorfile.rows(t, 0, t.shape[0]) for t in (tensor, now[name])]
    np.testing.assert_array_equal(*every, strict=True)


def test_a_tied_head_is_not_written_and_a_stored_one_must_be_equal(tmp_path):
  theirs = hub_models.their_model("qwen2")
  theirs.save_pretrained(tmp_path)
  state = safetensors_torch.load_file(tmp_path / tensorfile.SINGLE)
  assert "lm_head.weight" not in state
  model, expected = read(tmp_path)
  out = tmp_path / "out"
  config = weights.read_config(tmp_path)
  weights.write(out, model, expected, config, dtype="float32")
  assert "lm_head.weight" not in tensorfile.read_headers(out)
  head = state["model.embed_tokens.weight"].clone()
  save(tmp_path, state | {"lm_head.weight": head})
  assert_same(read(tmp_path)[1], expected)
  head[7, 3] += 1
  save(tmp_path, state | {"lm_head.weight": head})
  with pytest.raises(ValueError, match="lm_head.weight unlike its embedding"):
    read(tmp_path)


def test_the_text_part_of_a_vision_model(tmp_path):
  vision = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1,
    num_attention_heads=2, image_size=28, patch_size=14,
  )
  config = transformers.Gemma3Config(
    text_config=hub_models.THEIRS, vision_config=vision, mm_tokens_per_image=4
  )
  seeing = transformers.Gemma3ForConditionalGeneration(config)
  seeing.save_pretrained(tmp_path)
  model, params = read(tmp_path)
  text = transformers.Gemma3ForCausalLM(seeing.config.text_config)
  text.model.load_state_dict(seeing.model.language_model.state_dict())
  assert_same(params, hub_models.our_params(text))
  out = tmp_path / "out"
  config = weights.read_config(tmp_path)
  weights.write(out, model, params, config, dtype="float32")
  again = transformers.AutoModelForCausalLM.from_pretrained(out)
  assert isinstance(again, transformers.Gemma3ForCausalLM)
  for name, value in text.state_dict().items():
    assert torch.equal(value, again.state_dict()[name]), name


def drop(state):
  del state["model.layers.1.mlp.up_proj.weight"]


def add(state):
  state["model.layers.1.mlp.up_proj.lora_A"] = torch.ones(2, 2)


def reshape(state):
  name = "model.layers.1.self_attn.q_proj.weight"
  state[name] = state[name][:, :16].contiguous()


def quantize(state):
  state["model.norm.weight"] = torch.ones(32, dtype=torch.int8)


@pytest.mark.parametrize("spoil, message", [
  (drop, r"no tensor model\.layers\.1\.mlp\.up_proj\.weight, which its conf"),
  (add, r"tensor model\.layers\.1\.mlp\.up_proj\.lora_A of .* no place"),
  (reshape, r"layers\.1\.self_attn\.q_proj\.weight of .* is \[64, 16\], its "
            r"config.json calls for \[64, 32\]"),
  (quantize, r"tensor model\.norm\.weight of .* is of I8: supported are F64"),
])  # fmt: skip
def test_tensors_that_do_not_fit_are_named(spoil, message, mine):
  folder, state = mine
  spoil(state)
  save(folder, state)
  with pytest.raises(ValueError, match=message) as error:
    read(folder)
  assert "\n" not in str(error.value)


def test_tables_of_old_files_are_left_out(mine):
  folder, state = mine
  save(folder, state)
  expected = read(folder)[1]
  for i in range(2):
    state[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
  save(folder, state)
  assert_same(read(folder)[1], expected)


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_files_that_were_cut_off_are_named(size, mine, saved):
  folder, _ = mine
  whole = (saved / tensorfile.SINGLE).read_bytes()
  (folder / tensorfile.SINGLE).write_bytes(whole[:size])
  with pytest.raises(ValueError, match="model.safetensors .*cut off"):
    read(folder)


def test_files_that_are_damaged_are_named(mine, saved):
  folder, _ = mine
  whole = bytearray((saved / tensorfile.SINGLE).read_bytes())
  whole[9] = 0
  (folder / tensorfile.SINGLE).write_bytes(whole)
  with pytest.raises(ValueError, match="damaged header"):
    read(folder)
  header = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}
  text = json.dumps(header).encode()
  data = len(text).to_bytes(8, "little") + text + bytes(4)
  (folder / tensorfile.SINGLE).write_bytes(data)
  with pytest.raises(ValueError, match=r"tensor x .* has 4 bytes for F32\[2\]"):
    read(folder)


def test_files_that_are_missing_are_named(theirs, tmp_path):
  with pytest.raises(ValueError, match="there is no .*config.json"):
    weights.read_config(tmp_path)
  theirs.save_pretrained(tmp_path, max_shard_size="20KB")
  gone = sorted(tmp_path.glob("*.safetensors"))[2]
  gone.unlink()
  with pytest.raises(ValueError, match=f"lacks {gone.name}, which model.safe"):
    read(tmp_path)
  (tmp_path / tensorfile.INDEX).unlink()
  with pytest.raises(ValueError, match="holds neither model.safetensors nor"):
    read(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match="config.json is not JSON"):
    read(tmp_path)


def test_a_model_must_be_that_of_its_folder(saved, tmp_path):
  model = weights.from_folder(saved, scan=True, dtype=jnp.bfloat16)
  assert model.scan and model.dtype == jnp.bfloat16
  other = model.clone(rope_base=5.0, heads=2)
  for call in (
    lambda: weights.read(saved, other, abstract(other)),
    lambda: weights.write(
      tmp_path / "out", other, (), weights.read_config(saved), dtype="float32"
    ),
  ):
    with pytest.raises(ValueError, match="config.json in heads, rope_base"):
      call()
  with pytest.raises(ValueError, match="heads of .* decided by its config"):
    weights.from_folder(saved, heads=2)
  with pytest.raises(ValueError, match="differ from the model of .* in head"):
    weights.read(saved, model, abstract(model.clone(tied=True)))


def test_a_write_that_fails_leaves_no_model(saved, tmp_path, monkeypatch):
  model, params = read(saved)
  config, host, calls = weights.read_config(saved), layout.host_slice, []

  def failing(*args):
    calls.append(args)
    if len(calls) == 20:
      raise OSError("no space left on device")
    return host(*args)

  write = lambda: weights.write(
    tmp_path, model, params, config, dtype="float32", shard_bytes=30_000
  )
  monkeypatch.setattr(layout, "host_slice", failing)
  with pytest.raises(OSError, match="no space"):
    write()
  left = [p.name for p in tmp_path.iterdir()]
  assert any(name.endswith(".new") for name in left) and len(left) > 1
  assert not {"config.json", tensorfile.INDEX} & set(left)
  for path in tmp_path.glob("*.safetensors"):
    assert tensorfile.read_header(epath.Path(path)), "half of a file"
  write()  # The same once more, and all is well.
  assert_same(read(tmp_path)[1], params)
  assert not list(tmp_path.glob("*.new"))
  with pytest.raises(ValueError, match="holds a model already: give another"):
    write()


def test_places_of_models(saved, tmp_path, monkeypatch):
  assert str(weights.locate(str(saved))) == str(saved)
  for path in ("/no/such/folder", "./nothing/here", "nothing"):
    with pytest.raises(ValueError, match=f"there is no folder {path}"):
      weights.locate(path)
  with pytest.raises(ValueError, match="holds no config.json"):
    weights.locate(str(tmp_path))
  asked = []

  def download(name, **options):
    asked.append((name, options["revision"]))
    if name == "owner/gone":
      raise huggingface_hub.errors.LocalEntryNotFoundError("no\nnetwork")
    return str(saved)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  assert str(weights.locate("owner/name-1.5B")) == str(saved)
  weights.locate("owner/name@v1/2")
  assert asked == [("owner/name-1.5B", None), ("owner/name", "v1/2")]
  message = "owner/gone is no folder .*LocalEntryNotFound.*copy the model here"
  with pytest.raises(ValueError, match=message) as error:
    weights.locate("owner/gone")
  assert "\n" not in str(error.value)


# What transformers 4 writes, and config.json of models on the hub, shortened.
LLAMA_3_2 = dict(
  architectures=[LLAMA], attention_bias=False, head_dim=64, hidden_act="silu",
  hidden_size=2048, intermediate_size=8192, max_position_embeddings=131072,
  mlp_bias=False, model_type="llama", num_attention_heads=32,
  num_hidden_layers=16, num_key_value_heads=8, pretraining_tp=1,
  rms_norm_eps=1e-05, rope_theta=500000.0, tie_word_embeddings=True,
  vocab_size=128256, torch_dtype="bfloat16",
  rope_scaling=dict(
    factor=32.0, high_freq_factor=4.0, low_freq_factor=1.0,
    original_max_position_embeddings=8192, rope_type="llama3",
  ),
)
LLAMA_2 = dict(
  architectures=[LLAMA], hidden_act="silu", hidden_size=4096,
  intermediate_size=11008, max_position_embeddings=4096, model_type="llama",
  num_attention_heads=32, num_hidden_layers=3, rms_norm_eps=1e-05,
  rope_scaling=dict(type="linear", factor=2.0), vocab_size=32000,
)
QWEN_2_5 = dict(
  architectures=["Qwen2ForCausalLM"], hidden_act="silu", hidden_size=896,
  intermediate_size=4864, max_position_embeddings=32768, max_window_layers=21,
  model_type="qwen2", num_attention_heads=14, num_hidden_layers=24,
  num_key_value_heads=2, rms_norm_eps=1e-06, rope_theta=1000000.0,
  sliding_window=32768, tie_word_embeddings=True, use_sliding_window=False,
  vocab_size=151936,
)
QWEN_3 = dict(
  architectures=["Qwen3ForCausalLM"], attention_bias=False, head_dim=128,
  hidden_act="silu", hidden_size=1024, intermediate_size=3072,
  max_position_embeddings=40960, max_window_layers=28, model_type="qwen3",
  num_attention_heads=16, num_hidden_layers=28, num_key_value_heads=8,
  rms_norm_eps=1e-06, rope_scaling=None, rope_theta=1000000,
  sliding_window=None, tie_word_embeddings=True, use_sliding_window=False,
  vocab_size=151936,
)
GEMMA_2 = dict(
  architectures=["Gemma2ForCausalLM"], attn_logit_softcapping=50.0,
  final_logit_softcapping=30.0, head_dim=256, hidden_size=2304,
  hidden_act="gelu_pytorch_tanh", intermediate_size=9216,
  hidden_activation="gelu_pytorch_tanh", model_type="gemma2",
  num_attention_heads=8, num_hidden_layers=26,
  num_key_value_heads=4, query_pre_attn_scalar=256, rms_norm_eps=1e-06,
  rope_theta=10000.0, sliding_window=4096, vocab_size=256000,
)
GEMMA_3 = dict(
  architectures=[GEMMA], head_dim=256, hidden_size=1152, num_hidden_layers=26,
  hidden_activation="gelu_pytorch_tanh", intermediate_size=6912,
  model_type="gemma3_text", num_attention_heads=4, num_key_value_heads=1,
  query_pre_attn_scalar=256, rms_norm_eps=1e-06, rope_local_base_freq=10000,
  rope_scaling=None, rope_theta=1000000, sliding_window=512,
  sliding_window_pattern=6, vocab_size=262144,
)
GEMMA_3_SEES = dict(
  architectures=["Gemma3ForConditionalGeneration"], model_type="gemma3",
  text_config=dict(
    hidden_size=2560, intermediate_size=10240, model_type="gemma3_text",
    num_hidden_layers=34, sliding_window=1024,
    rope_scaling=dict(factor=8.0, rope_type="linear"),
  ),
  vision_config=dict(hidden_size=1152),
)
OLMO_2 = dict(
  architectures=["Olmo2ForCausalLM"], attention_bias=False, hidden_act="silu",
  hidden_size=4096, intermediate_size=11008, max_position_embeddings=4096,
  model_type="olmo2", num_attention_heads=32, num_hidden_layers=32,
  num_key_value_heads=32, rms_norm_eps=1e-06, rope_scaling=None,
  rope_theta=500000, tie_word_embeddings=False, vocab_size=100352,
)
SMOLLM_3 = dict(
  architectures=["SmolLM3ForCausalLM"], attention_bias=False, hidden_act="silu",
  hidden_size=2048, intermediate_size=11008, max_position_embeddings=65536,
  max_window_layers=28, mlp_bias=False, model_type="smollm3",
  no_rope_layer_interval=4, num_attention_heads=16, num_hidden_layers=36,
  num_key_value_heads=4, rms_norm_eps=1e-06, rope_scaling=None,
  layer_types=["full_attention"] * 36, no_rope_layers=[1, 1, 1, 0] * 9,
  rope_theta=5000000.0, sliding_window=None, use_sliding_window=False,
  vocab_size=128256,
)
SMOLLM_SLIDES = {k: v for k, v in SMOLLM_3.items() if k != "layer_types"}
SMOLLM_SLIDES |= dict(use_sliding_window=True, sliding_window=512)
PHI_3 = dict(
  architectures=["Phi3ForCausalLM"], attention_bias=False, embd_pdrop=0.0,
  hidden_act="silu", hidden_size=3072, intermediate_size=8192,
  max_position_embeddings=4096, model_type="phi3", num_attention_heads=32,
  num_hidden_layers=32, num_key_value_heads=32, resid_pdrop=0.0,
  original_max_position_embeddings=4096, rms_norm_eps=1e-05, rope_scaling=None,
  rope_theta=10000.0, sliding_window=2047, tie_word_embeddings=False,
  vocab_size=32064, bos_token_id=1, eos_token_id=32000, pad_token_id=32000,
)
# Phi 4 mini, but for its rope_scaling.
PHI_4 = PHI_3 | dict(
  intermediate_size=8192, num_attention_heads=24, num_key_value_heads=8,
  partial_rotary_factor=0.75, sliding_window=None, tie_word_embeddings=True,
)
QWEN_3_MOE = QWEN_3 | dict(
  architectures=["Qwen3MoeForCausalLM"], decoder_sparse_step=1,
  hidden_size=2048, intermediate_size=6144, max_window_layers=48,
  mlp_only_layers=[], model_type="qwen3_moe", moe_intermediate_size=768,
  norm_topk_prob=True, num_attention_heads=32, num_experts=128,
  num_experts_per_tok=8, num_hidden_layers=48, num_key_value_heads=4,
  router_aux_loss_coef=0.001, tie_word_embeddings=False,
)
WINDOWED = QWEN_2_5 | dict(use_sliding_window=True, sliding_window=8)
GIVEN = dict(
  llama_3_2=LLAMA_3_2, llama_2=LLAMA_2, qwen_2_5=QWEN_2_5, windowed=WINDOWED,
  qwen_3=QWEN_3, gemma_2=GEMMA_2, gemma_3=GEMMA_3, seeing=GEMMA_3_SEES,
  olmo_2=OLMO_2, smollm_3=SMOLLM_3, smollm_slides=SMOLLM_SLIDES, phi_3=PHI_3,
  phi_4=PHI_4, qwen_3_moe=QWEN_3_MOE,
)


@pytest.mark.parametrize("name", GIVEN)
def test_config_files_of_both_versions_agree(name):
  """What transformers 5 makes of an older file is what we make of it."""
  given = GIVEN[name]
  older = {k: v for k, v in given.items() if k != "architectures"}
  newer = transformers.AutoConfig.for_model(**older).to_dict()
  newer = json.loads(json.dumps(newer))
  newer["architectures"] = given["architectures"]
  assert "rope_parameters" in newer.get("text_config", newer)
  fields = families.decoder_fields(given)
  assert fields == families.decoder_fields(newer)
  sparse = {k: v for k, v in newer.items() if v is not None}
  assert fields == families.decoder_fields(sparse)
  assert families.names(given) == families.names(newer)


def test_config_files_have_the_known_fields_of_the_models():
  fields = {name: families.decoder_fields(c) for name, c in GIVEN.items()}
  assert fields["llama_3_2"]["rope_scaling"] == (
    "llama3", 32.0, 1.0, 4.0, 8192
  )
  assert fields["llama_2"]["rope_scaling"] == ("linear", 2.0, 1.0, 4.0, 8192)
  assert fields["llama_2"]["kv_heads"] == 32 and not fields["llama_2"]["tied"]
  assert fields["llama_2"]["head_size"] == 128
  assert fields["qwen_2_5"]["local"] == (False,)
  assert fields["windowed"]["local"] == (False,) * 21 + (True,) * 3
  assert fields["qwen_3"]["head_size"] == 128 and fields["qwen_3"]["qk_norm"]
  assert fields["olmo_2"]["qk_norm_whole"] and not fields["olmo_2"]["pre_norms"]
  assert fields["smollm_3"]["rope"] == (True, True, True, False)
  assert fields["smollm_3"]["tied"] and fields["smollm_3"]["local"] == (False,)
  assert fields["smollm_slides"]["local"] == (False, False, False, True)
  assert fields["phi_3"]["local"] == (True,)
  assert fields["phi_3"]["window"] == 2047
  assert fields["phi_4"]["rope_share"] == 0.75 and fields["phi_4"]["tied"]
  assert decoder.Decoder(**fields["phi_4"]).local == (False,)
  moe = fields["qwen_3_moe"]
  assert (moe["experts"], moe["experts_per_token"], moe["mlp_size"]) == (
    128, 8, 768
  )
  assert moe["experts_sum_to_one"] and moe["qk_norm"]
  assert fields["gemma_2"]["local"] == (True, False)
  assert fields["gemma_3"]["local"] == (True,) * 5 + (False,)
  seeing = fields["seeing"]
  assert seeing["rope_base"] == 1e6 and seeing["local_rope_base"] == 1e4
  assert seeing["rope_scaling"].factor == 8
  assert seeing["local_rope_scaling"].factor == 1
  assert seeing["heads"] == 8 and seeing["vocabulary"] == 262208


@pytest.mark.parametrize("change, message", [
  (dict(architectures=["MambaForCausalLM"]), "MambaForCausalLM .* use one of"),
  (dict(architectures=None), r"architecture \(none\) of config.json"),
  (dict(mlp_bias=True), "mlp_bias=True"),
  (dict(quantization_config={"bits": 4}), r"quantization_config \(4-bit\), so"),
  (dict(quantization_config={"quant_method": "fp8", "fmt": "e4m3"}),
   r"quantization_config \(fp8\), so its weights are packed: give"),
  (dict(quantization_config={
    "quant_method": "bitsandbytes", "load_in_4bit": True,
  }), r"\(bitsandbytes, 4-bit\)"),
  (dict(quantization_config={"quant_method": "gptq", "bits": 4}),
   r"\(gptq, 4-bit\)"),
  (dict(quantization_config={"quant_method": "mxfp4"}), r"\(mxfp4\)"),
  (dict(compression_config={"format": "float-quantized"}),
   r"compression_config \(float-quantized\)"),
  (dict(quantization={"group_size": 64, "bits": 4}), r"quantization \(4-bit\)"),
  (dict(rope_scaling={"rope_type": "longrope", "short_factor": [1.0] * 32,
                      "long_factor": [4.0] * 32}), "rope type longrope"),
  (dict(rope_parameters={"rope_type": "yarn", "rope_theta": 1e6,
                         "factor": 4.0}, rope_scaling=None), "rope type yarn"),
  (dict(rope_scaling={"type": "yarn", "factor": 4.0}), "rope type yarn"),
  (dict(rope_scaling={"rope_type": "linear"}), "no factor"),
  (dict(rope_parameters={"rope_type": "dynamic"}, rope_scaling=None),
   "rope type dynamic"),
  (dict(partial_rotary_factor=0.5), "share 0.5 of a head"),
  (dict(hidden_act="relu"), "activation relu: supported are silu, gelu"),
  (dict(hidden_size=None), "no hidden_size"),
  (dict(layer_types=["linear_attention"] * 16), "linear_attention"),
  (dict(layer_types=["full_attention"] * 3), "3 of 16 layers"),
  (dict(layer_types=["sliding_attention"] * 16), "no sliding_window"),
])  # fmt: skip
def test_what_is_not_supported_is_named(change, message):
  families.decoder_fields(LLAMA_3_2)
  with pytest.raises(ValueError, match=message) as error:
    families.decoder_fields(LLAMA_3_2 | change)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("change, message", [
  (dict(attn_logit_softcapping=5.0), "attn_logit_softcapping=5.0"),
  (dict(use_bidirectional_attention=True), "use_bidirectional_attention"),
  (dict(rope_parameters={"rope_theta": 1.0}), "rope_parameters without full"),
])  # fmt: skip
def test_what_gemma_3_does_not_support_is_named(change, message):
  with pytest.raises(ValueError, match=message):
    families.decoder_fields(GEMMA_3 | change)


LONG = dict(type="longrope", long_factor=[1.0], short_factor=[1.0])


@pytest.mark.parametrize("given, change, message", [
  (PHI_4, dict(rope_scaling=LONG), "rope type longrope: supported are default"),
  (PHI_4, dict(partial_rotary_factor=0.15), "rope_share=0.15 of a head of"),
  (SMOLLM_3, dict(no_rope_layers=[1]), "no_rope_layers for 1 of 36 layers"),
  (OLMO_2, dict(clip_qkv=8.0), "clip_qkv=8.0"),
  (OLMO_2, dict(layer_types=["sliding_attention"] * 32, sliding_window=9),
   "sliding_attention, which transformers ignores in olmo2"),
  (QWEN_3_MOE, dict(decoder_sparse_step=2), "decoder_sparse_step=2: only mo"),
  (QWEN_3_MOE, dict(mlp_only_layers=[3]), r"mlp_only_layers=\[3\]"),
  (QWEN_3_MOE, dict(use_sliding_window=True), "use_sliding_window=True"),
  (QWEN_3_MOE, dict(architectures=["MixtralForCausalLM"]), "MixtralFor.* use"),
])  # fmt: skip
def test_what_newer_families_do_not_support_is_named(given, change, message):
  families.decoder_fields(given)
  with pytest.raises(ValueError, match=message) as error:
    families.decoder_fields(given | change)
  assert "\n" not in str(error.value)


LINEAR = dict(rope_type="linear", factor=4.0)


@pytest.mark.parametrize("change, message", [
  (dict(rope_scaling={"type": "yarn", "rope_theta": 5e5}), "rope type yarn"),
  (dict(rope_scaling=LINEAR), "rope_theta 10000 and not 500000: move"),
  (dict(rope_parameters={"full_attention": LINEAR}), "give one for all layers"),
  (dict(rope_parameters=None, rope_theta=None), "no rope_theta"),
])  # fmt: skip
def test_ambiguous_rotary_options_are_refused(change, message):
  default = dict(rope_type="default", rope_theta=500000.0)
  given = {k: v for k, v in LLAMA_3_2.items() if not k.startswith("rope")}
  given |= dict(rope_parameters=default)
  assert families.decoder_fields(given)["rope_base"] == 500000
  with pytest.raises(ValueError, match=message):
    families.decoder_fields(given | change)


def test_gemma_3_refuses_a_scaling_whose_type_transformers_ignores():
  old = dict(rope_scaling={"type": "linear", "factor": 8.0})
  with pytest.raises(ValueError, match="call it rope_type"):
    families.decoder_fields(GEMMA_3 | old)


@pytest.mark.parametrize("name", GIVEN)
def test_a_decoder_is_described_by_a_config_that_gives_it_back(name):
  fields = families.decoder_fields(GIVEN[name])
  model = decoder.Decoder(**fields)
  config = json.loads(json.dumps(config_of(model)))
  assert families.differences(model, families.decoder_fields(config)) == []
  # And transformers reads in it what we do.
  plain = {k: v for k, v in config.items() if k != "architectures"}
  newer = transformers.AutoConfig.for_model(**plain).to_dict()
  newer["architectures"] = config["architectures"]
  again = families.decoder_fields(json.loads(json.dumps(newer)))
  assert families.differences(model, again) == []


def test_a_decoder_that_no_family_can_express_is_refused(toy):
  model, _, _ = toy
  assert config_of(model)["architectures"] == [LLAMA]
  base = model.clone(window=4, local_rope_base=model.rope_base)
  # transformers has no windows in Llama, whatever config.json says.
  for local in ((True,), (True, False)):
    windowed = config_of(base.clone(local=local))
    assert windowed["architectures"] == ["SmolLM3ForCausalLM"]
  for odd, named in (
    (dict(qk_norm=True, qkv_bias=True, attention_cap=3.0), "attention_cap"),
    (dict(embed_scale=3.0), "LlamaForCausalLM it differs in embed_scale"),
    (dict(heads=3), "qkv_bias"),  # Only Qwen's width may be 16 for 3 heads.
  ):
    with pytest.raises(ValueError, match=f"no supported .*{named}"):
      config_of(model.clone(**odd))


def test_ml_dtypes_are_those_of_jax():
  assert tensorfile.DTYPES["BF16"] == np.dtype(ml_dtypes.bfloat16)
  assert tensorfile.CODES[np.dtype(jnp.bfloat16)] == "BF16"
