"""A tiny random Qwen2 folder with a tokenizer trained on given texts."""

import pytest

TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def folder(path, texts, *, size=400):
  """Saves model and tokenizer with transformers; returns the path."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

  backend = Tokenizer(models.BPE())
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=size, show_progress=False,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
  )
  backend.train_from_iterator(texts, trainer)
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, eos_token="<|im_end|>",
    pad_token="<|endoftext|>", chat_template=TEMPLATE,
  )
  tokenizer.save_pretrained(path)
  torch.manual_seed(0)
  config = transformers.Qwen2Config(
    vocab_size=len(tokenizer) + 8, hidden_size=16, intermediate_size=24,
    num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    max_position_embeddings=4096, tie_word_embeddings=True,
  )
  model = transformers.AutoModelForCausalLM.from_config(config)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  model.save_pretrained(path)
  return path
