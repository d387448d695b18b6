"""Stand-ins for weights, tokenizers and data, which a plan does not read."""

import inspect
import json
import math
from typing import Any

from etils import epath

from sitrain.models.huggingface import download, families
from sitrain.runtime.options import ConfigError, accepted, closest, find
from sitrain.runtime.task import options_of, task_from
from sitrain.tasks import text
from sitrain.tasks.text import Row
from sitrain.types import Chat, Task, Tokenizer

ROWS = 10_000  # of a data set, whose size is not known here
PROMPT = 512  # tokens, if the config leaves it to the data
LETTERS = 4  # per token, roughly, in English


def _qwen2(width, mlp, layers, heads, kv_heads, **more):
  return {
    "architectures": ["Qwen2ForCausalLM"], "hidden_size": width,
    "intermediate_size": mlp, "num_hidden_layers": layers,
    "num_attention_heads": heads, "num_key_value_heads": kv_heads,
    "rope_theta": 1e6, "vocab_size": 151936, "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
  } | more


def _qwen3(*sizes, **more):
  kind = {"architectures": ["Qwen3ForCausalLM"], "head_dim": 128}
  return _qwen2(*sizes, max_position_embeddings=40960) | kind | more


def _llama(*sizes, **more):
  return _qwen2(*sizes) | {
    "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5,
    "rope_theta": 5e5, "vocab_size": 128256, "tie_word_embeddings": False,
    "max_position_embeddings": 8192,
  } | more


def _gemma2(*sizes, head, scalar):
  return _qwen2(*sizes) | {
    "architectures": ["Gemma2ForCausalLM"], "rope_theta": 1e4,
    "vocab_size": 256000, "head_dim": head, "query_pre_attn_scalar": scalar,
    "max_position_embeddings": 8192,
  }


def _olmo2(*sizes, **more):
  return _llama(*sizes) | {
    "architectures": ["Olmo2ForCausalLM"], "rms_norm_eps": 1e-6,
    "vocab_size": 100352, "max_position_embeddings": 4096,
  } | more


def _phi3(*sizes, **more):
  return _llama(*sizes) | {
    "architectures": ["Phi3ForCausalLM"], "rope_theta": 1e4,
    "vocab_size": 32064, "max_position_embeddings": 4096,
  } | more


def _qwen3_moe(*sizes, each, experts, taken):
  return _qwen3(*sizes, tie_word_embeddings=False) | {
    "architectures": ["Qwen3MoeForCausalLM"], "moe_intermediate_size": each,
    "num_experts": experts, "num_experts_per_tok": taken,
    "norm_topk_prob": True,
  }


# From the config.json of each on the hub.
SHAPES = {
  "qwen2.5-0.5b": _qwen2(896, 4864, 24, 14, 2),
  "qwen2.5-1.5b": _qwen2(1536, 8960, 28, 12, 2),
  "qwen2.5-3b": _qwen2(2048, 11008, 36, 16, 2),
  "qwen2.5-7b": _qwen2(
    3584, 18944, 28, 28, 4, vocab_size=152064, tie_word_embeddings=False
  ),
  "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, 8),
  "qwen3-1.7b": _qwen3(2048, 6144, 28, 16, 8),
  "qwen3-4b": _qwen3(2560, 9728, 36, 32, 8),
  "qwen3-8b": _qwen3(4096, 12288, 36, 32, 8, tie_word_embeddings=False),
  "llama-3-8b": _llama(4096, 14336, 32, 32, 8),
  "gemma-2-2b": _gemma2(2304, 9216, 26, 8, 4, head=256, scalar=256),
  "gemma-2-9b": _gemma2(3584, 14336, 42, 16, 8, head=256, scalar=256),
  "gemma-2-27b": _gemma2(4608, 36864, 46, 32, 16, head=128, scalar=144),
  "olmo-2-0425-1b": _olmo2(2048, 8192, 16, 16, 16),
  "olmo-2-1124-7b": _olmo2(4096, 11008, 32, 32, 32),
  "olmo-2-1124-13b": _olmo2(5120, 13824, 40, 40, 40),
  "olmo-2-0325-32b": _olmo2(5120, 27648, 64, 40, 8),
  "smollm3-3b": _llama(2048, 11008, 36, 16, 4) | {
    "architectures": ["SmolLM3ForCausalLM"], "rope_theta": 5e6,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    "max_position_embeddings": 65536,
  },
  "phi-3-mini-4k": _phi3(3072, 8192, 32, 32, 32, sliding_window=2047),
  "phi-4": _phi3(
    5120, 17920, 40, 40, 10, vocab_size=100352, rope_theta=250000.0,
    max_position_embeddings=16384,
  ),
  "qwen3-30b-a3b": _qwen3_moe(
    2048, 6144, 48, 32, 4, each=768, experts=128, taken=8
  ),
  "qwen3-235b-a22b": _qwen3_moe(
    4096, 12288, 94, 64, 4, each=1536, experts=128, taken=8
  ),
}
_ENDINGS = ("-instruct", "-it", "-base", "-chat", "-hf")
# Options for a config without a checkpoint that gets the shapes of one.
_EXECUTION = {
  "dtype": "bfloat16", "scan": True, "remat": "full", "attention": "auto"
}


def shapes_of(name: str) -> dict[str, Any]:
  """The config.json of a folder, or of a model in SHAPES, by its hub name too.

  Raises ConfigError for an unknown name, with the closest.
  """
  folder = epath.Path(name)
  if "://" in name or folder.exists():
    return download.read_config(folder)
  short = name.rpartition("/")[2].partition("@")[0].lower()
  for ending in _ENDINGS:
    short = short.removesuffix(ending)
  if short not in SHAPES:
    raise ConfigError(
      f"the shapes of {name} are not known here: {closest(short, SHAPES)}, or "
      "give --model a folder that holds its config.json"
    )
  return SHAPES[short]


def with_shapes(config: dict, name: str, folder: Any) -> dict:
  """The config with a model that has only shapes.

  `name` is that of --model; "": the config's own. Its config.json is written
  to `folder`. A config whose model has no checkpoint is not changed.
  """
  options = config["model"]
  name = name or options.get("path", "")
  if not name:
    return config
  (epath.Path(folder) / "config.json").write_text(json.dumps(shapes_of(name)))
  if not options.get("path"):
    options = _EXECUTION
  return config | {"model": options | {"path": str(folder)}}


def task_of(config: dict, folder: Any) -> Task:
  """The config's task, or a stand-in of the same shapes if it reads text.

  The stand-in has a table of prompts of the maximum length, and a reply of
  about as many tokens as that of the task.
  """
  if not _stands_in(config):
    return task_from(config, str(folder))
  options, path = options_of(config), config["model"]["path"]
  vocabulary = families.decoder_fields(shapes_of(path))["vocabulary"]
  again = options.get("again") or accepted(_maker(config))["again"].default
  turns = [t for n in config["stages"]
           for t in config["stage"][n]["method"].get("turns", (1,))]
  width = options.get("prompt_length") or PROMPT
  row = Row(
    "x" * LETTERS * width, (), ("x" * LETTERS * (min(turns) - 1),), "all", ""
  )
  return text.make(
    _chat(vocabulary), [row] * (options.get("limit") or ROWS), again=again,
    grade=_nothing, claim=_nothing, prompt_length=width, long_prompts="refuse",
  )


def assumptions(config: dict) -> list[str]:
  """The assumptions of a plan about a config's text, as lines."""
  if not _stands_in(config):
    return []
  options = options_of(config)
  width, rows = options.get("prompt_length"), options.get("limit")
  return [
    f"prompts of {width or PROMPT} tokens"
    + ("" if width else " (config.task.prompt_length=0 leaves it to the data)"),
    f"a table of {rows or ROWS} problems",
    f"{LETTERS} letters of the reply between turns make a token",
  ]


def _maker(config):
  return find("tasks", options_of(config).get("name", ""), "task.name")


def _stands_in(config) -> bool:
  """Whether a task needs the tokenizer of a checkpoint."""
  chats = "chat" in inspect.signature(_maker(config)).parameters
  return chats and bool(config["model"].get("path"))


def _chat(vocabulary: int) -> Chat:
  encode = lambda text: [2] * math.ceil(len(text) / LETTERS)
  return Chat(Tokenizer(encode, _nothing, vocabulary), (1,), encode, encode)


def _nothing(*args):
  raise ValueError("a plan has no texts")
