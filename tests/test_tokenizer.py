"""Chat templates as token ids, tokenizers trained and read, tokens as bytes."""

import itertools
import json
import pathlib
import shutil

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers
from transformers import (
  AutoTokenizer,
  GenerationConfig,
  PreTrainedTokenizerFast,
)

from sitrain.models.huggingface import download, tokenizer
from sitrain.types import PAD

TEXTS = [
  "What is 6 * 7? The answer is 42.", "Name a colour, please. Blue.",
  "There might be an error above. Answer again.", "1 + 2 = 3\n\nSo: 3\n",
  "def f(x):\n  return x + 1\n", "Größe 5 µm, naïve café \U0001f600 ▁",
] * 3

# The forms of known families, in our own words; (template, special tokens).
CHATML_TURNS = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
QWEN25 = """\
{%- if messages[0].role != 'system' %}
{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{%- endif %}
""" + CHATML_TURNS
# Reasoning only stays in answers after the last message of the user.
QWEN3 = """\
{%- set last = namespace(user=0) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{%- set last.user = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- set content = message.content %}
{%- set thought = '' %}
{%- if message.role == 'assistant' and '</think>' in content %}
{%- set thought = content.split('</think>')[0].split('<think>')[-1] %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and loop.index0 > last.user %}
{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
{%- endif %}
{{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}"""
LLAMA3 = """\
{% for message in messages %}{% set content = '<|start_header_id|>' + \
message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + \
'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}\
{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ \
'<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
# Llama 3.2 writes the day of today into its system message.
DATED = "{{ strftime_now('%d %b %Y') + '\\n' }}" + LLAMA3
GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}\
{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Roles must alternate') }}{% endif %}\
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}\
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + \
'<end_of_turn>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
# Llama 2: a space before the answer and one before its end token.
LLAMA2 = """\
{% for message in messages %}{% if message.role == 'user' %}\
{{ bos_token + '[INST] ' + message.content | trim + ' [/INST]' }}{% else %}\
{{ ' ' + message.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"""
# DeepSeek-R1 opens the reasoning in the prompt, and drops all of it later.
R1 = """\
{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}\
{{ '<|User|>' + message.content }}{% else %}\
{{ '<|Assistant|>' + message.content.split('</think>')[-1] + eos_token }}\
{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"""

CHATML = {"eos": "<|endoftext|>", "more": ["<|im_start|>", "<|im_end|>"]}
FORMS = {
  "qwen25": (QWEN25, CHATML),
  "qwen3": (QWEN3, CHATML),
  "llama3": (LLAMA3, {
    "bos": "<|begin_of_text|>", "eos": "<|end_of_text|>",
    "more": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
  }),
  "gemma": (GEMMA, {
    "bos": "<bos>", "eos": "<eos>",
    "more": ["<start_of_turn>", "<end_of_turn>"],
  }),
  "llama2": (LLAMA2, {"bos": "<s>", "eos": "</s>", "more": []}),
  "r1": (R1, {"bos": "<s>", "eos": "</s>", "more": ["<|User|>",
                                                  "<|Assistant|>"]}),
}
OPTIONS = {"qwen3": {"reasoning": "keep"}, "r1": {"reasoning": "keep"}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A folder with a small byte-level tokenizer that `train_bpe` made."""
  folder = tmp_path_factory.mktemp("trained")
  tokenizer.train_bpe(TEXTS, folder, size=330)
  return folder


def saved(folder, backend, template, *, eos="", bos="", more=(), begins=False):
  """A folder of transformers around a tokenizer of `tokenizers`."""
  backend = tokenizers.Tokenizer.from_str(backend.to_str())
  names = {"bos_token": bos, "eos_token": eos}
  backend.add_special_tokens([x for x in (bos, eos, *more) if x])
  if begins:
    backend.post_processor = tokenizers.processors.TemplateProcessing(
      single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
    )
  source = PreTrainedTokenizerFast(
    tokenizer_object=backend, **{k: v for k, v in names.items() if v}
  )
  if template:
    source.chat_template = template
  source.save_pretrained(folder)
  return folder


@pytest.fixture(scope="module")
def byte_level(trained):
  """A tokenizer of `tokenizers`, without special tokens of its own."""
  return tokenizers.Tokenizer.from_file(str(trained / "tokenizer.json"))


@pytest.fixture(scope="module")
def folders(byte_level, tmp_path_factory):
  """By family, a folder with its form of dialogue."""
  root = tmp_path_factory.mktemp("forms")
  return {
    name: saved(root / name, byte_level, template, **tokens)
    for name, (template, tokens) in FORMS.items()
  }


EXPECTED = {
  "qwen25": (
    "<|im_start|>system\nYou help.<|im_end|>\n"
    "<|im_start|>user\nHow? <|im_end|>\n<|im_start|>assistant\n",
    "\n<|im_start|>user\n Again.<|im_end|>\n<|im_start|>assistant\n",
    ("<|im_end|>", "<|endoftext|>"),
  ),
  "qwen3": (
    "<|im_start|>user\nHow? <|im_end|>\n<|im_start|>assistant\n",
    "\n<|im_start|>user\n Again.<|im_end|>\n<|im_start|>assistant\n",
    ("<|im_end|>", "<|endoftext|>"),
  ),
  "llama3": (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHow?"
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "<|start_header_id|>user<|end_header_id|>\n\nAgain."
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ("<|eot_id|>", "<|end_of_text|>"),
  ),
  "gemma": (
    "<bos><start_of_turn>user\nHow?<end_of_turn>\n<start_of_turn>model\n",
    "\n<start_of_turn>user\nAgain.<end_of_turn>\n<start_of_turn>model\n",
    ("<end_of_turn>", "<eos>"),
  ),
  "llama2": (
    "<s>[INST] How? [/INST]", "<s>[INST] Again. [/INST]", ("</s>",)
  ),
  "r1": (
    "<s><|User|>How? <|Assistant|><think>\n",
    "<|User|> Again.<|Assistant|><think>\n",
    ("</s>",),
  ),
}


@pytest.mark.parametrize("name", FORMS)
def test_prompts_of_known_families(folders, name):
  source = AutoTokenizer.from_pretrained(folders[name])
  chat = tokenizer.load(folders[name], **OPTIONS.get(name, {}))
  first, later, ends = EXPECTED[name]
  assert source.decode(chat.ask("How? ")) == first
  assert source.decode(chat.again(" Again.")) == later
  assert chat.eos == tuple(source.convert_tokens_to_ids(list(ends)))
  bos = source.bos_token_id
  assert bos is None or chat.ask("How?")[:2].count(bos) == 1


@pytest.mark.parametrize("name", [n for n in FORMS if n != "r1"])
def test_spliced_turns_are_the_dialogue_of_the_template(folders, name):
  """transformers' own ids of a dialogue of three turns are the oracle."""
  source = AutoTokenizer.from_pretrained(folders[name])
  chat = tokenizer.load(folders[name], **OPTIONS.get(name, {}))
  says = ["What is 6 * 7?", "Blue.\n\n42", "Wrong: again.", "Yes", "And now?"]
  if name == "llama2":  # its policy writes the spaces around its answers
    says[1], says[3] = " Blue.\n\n42 ", " Yes "
  messages = [
    {"role": ("user", "assistant")[i % 2], "content": text}
    for i, text in enumerate(says)
  ]
  whole = source.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True
  )["input_ids"]
  turns = [chat.tokenizer.encode(says[i]) + [chat.eos[0]] for i in (1, 3)]
  spliced = [chat.ask(says[0]), turns[0], chat.again(says[2]), turns[1],
             chat.again(says[4])]
  assert list(itertools.chain(*spliced)) == whole


@pytest.mark.parametrize("name", ["qwen3", "r1"])
def test_templates_that_drop_reasoning_have_to_be_allowed(folders, name):
  with pytest.raises(ValueError, match="reasoning='keep'") as error:
    tokenizer.load(folders[name])
  assert "second turn reads all of the first" in str(error.value)
  assert "\n" not in str(error.value)


def test_a_prompt_that_closes_the_reasoning_is_allowed_too(
  folders, byte_level, tmp_path
):
  silent = "{%- set enable_thinking = false %}" + QWEN3
  folder = saved(tmp_path / "silent", byte_level, silent, **CHATML)
  with pytest.raises(ValueError, match="reasoning='keep'"):
    tokenizer.load(folder)
  chat = tokenizer.load(folder, reasoning="keep")
  end = chat.tokenizer.encode("<think>\n\n</think>\n\n")
  assert chat.ask("How?")[-len(end):] == end
  assert chat.again("How?")[-len(end):] == end


@pytest.mark.parametrize("thinking", ["on", "off", "default"])
def test_thinking_is_enable_thinking_of_transformers(
  folders, thinking, tmp_path
):
  """In the run's prompts, and as the default of an exported tokenizer."""
  source = AutoTokenizer.from_pretrained(folders["qwen3"])
  chat = tokenizer.load(
    folders["qwen3"], reasoning="keep", thinking=thinking
  )
  own = {} if thinking == "default" else {"enable_thinking": thinking == "on"}
  messages = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 6 * 7?"},
  ]
  prompt = lambda of, given, **more: of.apply_chat_template(
    given, add_generation_prompt=True, tokenize=True, **more
  )["input_ids"]
  assert chat.ask(messages[1]["content"]) == prompt(source, messages[1:], **own)
  assert chat.dialogue(messages) == prompt(source, messages, **own)
  empty = chat.tokenizer.encode("<think>\n\n</think>\n\n")
  closed = thinking == "off"  # That of Qwen3 thinks by default.
  assert (chat.ask("How?")[-len(empty):] == empty) == closed
  assert (chat.again("How?")[-len(empty):] == empty) == closed
  tokenizer.copy(folders["qwen3"], tmp_path, thinking=thinking)
  copied = AutoTokenizer.from_pretrained(tmp_path)
  assert prompt(copied, messages) == chat.dialogue(messages)
  other = {"enable_thinking": thinking == "off"}  # Callers may still choose.
  assert prompt(copied, messages, **other) == prompt(source, messages, **other)


@pytest.mark.parametrize("name, thinking, message", [
  ("qwen25", "off", "thinking='off': the prompts of this chat template do not"),
  ("llama3", "on", "do not depend on enable_thinking: leave thinking out"),
  ("qwen3", "of", "thinking='of': choose one of default, on, off"),
  ("qwen3", "off", "reasoning='keep'"),  # Its later turns still drop it.
])
def test_thinking_that_cannot_be_switched_is_named(
  folders, name, thinking, message
):
  with pytest.raises(ValueError, match=message) as error:
    tokenizer.load(folders[name], thinking=thinking)
  assert "\n" not in str(error.value)


def test_tokens_that_another_tokenizer_lacks(folders, byte_level, tmp_path):
  """A reward model's may have more, such as one to pad with."""
  own, more = folders["qwen25"], CHATML["more"]
  for name, known, token in (
    ("same", more, ""), ("larger", [*more, "<|pad|>"], ""),
    ("smaller", more[:1], more[1]), ("turned", more[::-1], more[0]),
  ):
    other = saved(
      tmp_path / name, byte_level, "", eos=CHATML["eos"], more=known
    )
    assert tokenizer.other_token(own, other) == token, name


OWN_REASONING = {
  # The prompt opens the reasoning, and answers stand without that opening.
  "opened": CHATML_TURNS + "{%- if add_generation_prompt %}"
            "{{- '<think>\n' }}{%- endif %}",
  # Answers without reasoning get an empty one.
  "empty": CHATML_TURNS.replace("message.content", """(\
('' if message.role == 'user' or '<think>' in message.content \
else '<think>\\n\\n</think>\\n\\n') + message.content)"""),
}


@pytest.mark.parametrize("name", OWN_REASONING)
def test_reasoning_of_the_template_itself_has_to_be_allowed(
  byte_level, tmp_path, name
):
  folder = saved(tmp_path, byte_level, OWN_REASONING[name], **CHATML)
  with pytest.raises(ValueError, match="reasoning='keep'"):
    tokenizer.load(folder)
  source = AutoTokenizer.from_pretrained(folder)
  later = source.decode(tokenizer.load(folder, reasoning="keep").again("Why?"))
  opened = "<think>\n" * (name == "opened")
  start = "\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
  assert later == start + opened


def test_a_template_that_keeps_reasoning_needs_no_option(folders):
  chat = tokenizer.load(folders["qwen25"])
  kept = tokenizer.load(folders["qwen25"], reasoning="keep")
  assert kept.ask("a") == chat.ask("a") and kept.again("a") == chat.again("a")
  with pytest.raises(ValueError, match="reasoning='drop': set 'refuse'"):
    tokenizer.load(folders["qwen25"], reasoning="drop")


def test_the_day_in_a_prompt_is_always_the_same(byte_level, tmp_path):
  folder = saved(tmp_path, byte_level, DATED, **FORMS["llama3"][1])
  chat = tokenizer.load(folder)
  assert chat.tokenizer.decode(chat.ask("How?")).startswith("26 Jul 2024\n")


BROKEN = {
  # The first message changes once it is not the last.
  "another way than alone.*'Now: How' became|another way than alone": (
    "{% for m in messages %}{{ 'Now: ' if loop.last }}{{ m.content }}<|x|>"
    "{% endfor %}"
  ),
  "depends on the answer": (
    "{% for m in messages %}{{ m.content }}<|x|>{{ m.content | length }}"
    "{% endfor %}"
  ),
  "begins with no special token": (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{{ 'assistant: ' }}"
  ),
  "writes the answer 'Forty-two.' as 'FORTY-TWO.": (
    "{% for m in messages %}{{ m.content | upper if m.role == 'assistant' "
    "else m.content }}<|x|>{% endfor %}"
  ),
  "makes one token with the answer": (
    "{% for m in messages %}{{ m.content }}<|x|>A:{{ ' ' }}{% endfor %}"
  ),
  "token twice": (
    "{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m.content }}<|x|>"
    "{% endfor %}"
  ),
  "fails for 1 message": "{% for m in messages %}",
  r"fails for 1 message\(s\).*modulo by zero": (
    "{% for m in messages %}{{ m.content }}<|x|>{{ 1 // (2 - 2) }}{% endfor %}"
  ),
  r"fails for 1 message\(s\).*(unpack|iterable)": (
    "{% for a, b in [1] %}{% endfor %}"
  ),
  # What the policy reads between two attempts is another one from turn 3 on.
  "writes turn 2 of 3 in another way": (
    "{% for m in messages %}{{ m.content }}<|x|>"
    "{% if loop.index == 4 %}{{ 'Last chance.' }}{% endif %}{% endfor %}"
  ),
  "writes turn 1 of 3 in another way": (
    "{% for m in messages[-3:] %}{{ m.content }}<|x|>{% endfor %}"
  ),
  "writes turn 4 of 5 in another way": (
    "{% for m in messages %}{{ m.content if loop.index < 9 else '...' }}<|x|>"
    "{% endfor %}"
  ),
  r"fails for 1 message\(s\).*No assistant": (
    "{{ raise_exception('No assistant\nhere') }}"
  ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_templates_that_cannot_be_spliced_are_refused(
  byte_level, tmp_path, message
):
  saved(
    tmp_path / "t", byte_level, BROKEN[message], eos="</s>", bos="<s>",
    more=["<|x|>"],
  )
  with pytest.raises(ValueError, match=message) as error:
    tokenizer.load(tmp_path / "t")
  assert str(tmp_path / "t") in str(error.value)
  assert "\n" not in str(error.value)
  assert "template" in str(error.value)


def test_end_tokens_that_depend_on_the_answer_are_refused(
  byte_level, tmp_path
):
  """Such a token is one only between words."""
  made = tokenizers.Tokenizer.from_str(byte_level.to_str())
  made.add_tokens([tokenizers.AddedToken("STOP", single_word=True)])
  template = "{% for m in messages %}{{ m.content }}STOP{{ '\n' }}{% endfor %}"
  folder = saved(tmp_path, made, template, eos="</s>")
  with pytest.raises(ValueError, match="becomes other tokens after the answer"):
    tokenizer.load(folder)


def test_a_template_can_come_from_a_file(folders, tmp_path):
  file = tmp_path / "form.jinja"
  file.write_text(CHATML_TURNS)
  chat = tokenizer.load(folders["qwen25"], template=str(file))
  source = AutoTokenizer.from_pretrained(folders["qwen25"])
  start = "<|im_start|>user\nHow?<|im_end|>\n<|im_start|>assistant\n"
  assert source.decode(chat.ask("How?")) == start
  with pytest.raises(ValueError, match="there is no such file"):
    tokenizer.load(folders["qwen25"], template=str(tmp_path / "none.jinja"))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_is_no_part_of_a_template(
  byte_level, folders, tmp_path, mark
):
  """Some editors write one, in a file as in the tokenizer's own template."""
  file = tmp_path / "form.jinja"
  file.write_bytes((mark + CHATML_TURNS).encode())
  plain = tokenizer.load(folders["qwen3"], reasoning="keep").ask("How?")
  own = saved(tmp_path / "own", byte_level, mark + CHATML_TURNS, **CHATML)
  given = tokenizer.load(folders["qwen25"], template=str(file))
  assert given.ask("How?") == tokenizer.load(own).ask("How?") == plain
  file.write_bytes(CHATML_TURNS.encode("utf-16"))
  with pytest.raises(ValueError, match="form.jinja is no UTF-8 .*save it as"):
    tokenizer.load(folders["qwen25"], template=str(file))


# Ends of turns.

FAMILIES_ENDS = {
  "qwen25": ["<|im_end|>", "<|endoftext|>"],
  "llama3": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
  "gemma": ["<eos>", "<end_of_turn>"],
  "llama2": ["</s>"],
}


@pytest.mark.parametrize("name", FAMILIES_ENDS)
def test_every_end_token_of_a_model_ends_a_turn(byte_level, tmp_path, name):
  template, tokens = FORMS[name]
  tokens = {**tokens, "more": [*tokens["more"], "<|eom_id|>"]}
  folder = saved(tmp_path / "t", byte_level, template, **tokens)
  source = AutoTokenizer.from_pretrained(folder)
  ids = source.convert_tokens_to_ids(FAMILIES_ENDS[name])
  before = tokenizer.load(folder).eos
  GenerationConfig(eos_token_id=ids).save_pretrained(folder)
  theirs = GenerationConfig.from_pretrained(folder).eos_token_id
  chat = tokenizer.load(folder)
  assert set(theirs) <= set(chat.eos) and len(set(chat.eos)) == len(chat.eos)
  assert chat.eos[0] == before[0]  # what the template writes comes first
  GenerationConfig(eos_token_id=ids[0]).save_pretrained(folder)
  assert set(tokenizer.load(folder).eos) == {*before, ids[0]}


def test_ends_of_config_json_count_where_there_is_no_other_file(
  byte_level, tmp_path
):
  folder = saved(tmp_path / "t", byte_level, QWEN25, **CHATML)
  ends = lambda: tokenizer.load(folder).eos
  before = ends()
  extra = tokenizer.load(folder).tokenizer.encode("<|im_start|>")
  for settings, found in (
    ({}, ()), ({"eos_token_id": None}, ()), ({"eos_token_id": []}, ()),
    ({"eos_token_id": extra[0]}, extra), ({"eos_token_id": extra * 2}, extra),
    ({"text_config": {"eos_token_id": extra}}, extra),
  ):
    (folder / "config.json").write_text(
      json.dumps({"model_type": "qwen2", **settings})
    )
    assert ends() == (*before, *found)
  GenerationConfig(eos_token_id=before[1]).save_pretrained(folder)
  assert ends() == before


def test_ends_of_a_model_that_lies_elsewhere(folders, tmp_path):
  chat = tokenizer.load(folders["qwen25"])
  extra = chat.tokenizer.encode("<|im_start|>")
  GenerationConfig(eos_token_id=extra).save_pretrained(tmp_path)
  assert tokenizer.load(folders["qwen25"], tmp_path).eos == (*chat.eos, *extra)


def test_ends_of_a_model_on_the_hub(folders, tmp_path, monkeypatch):
  """One small file is asked for, not the model; a stand-in answers."""
  import huggingface_hub
  from huggingface_hub.errors import EntryNotFoundError

  asked = []
  path = tmp_path / "config.json"
  path.write_text(json.dumps({"eos_token_id": [7, 5]}))

  def hf_hub_download(name, file, *, revision):
    asked.append((name, file, revision))
    if name == "owner/gone":
      raise OSError("no such model\nanywhere")
    if file != "config.json":
      raise EntryNotFoundError(file)
    return str(path)

  monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
  chat = tokenizer.load(folders["qwen25"], "owner/name@main")
  assert chat.eos[-2:] == (7, 5)
  assert asked == [
    ("owner/name", "generation_config.json", "main"),
    ("owner/name", "config.json", "main"),
  ]
  with pytest.raises(ValueError, match="owner/gone cannot be had .*such model"):
    tokenizer.load(folders["qwen25"], "owner/gone")


def test_a_name_with_a_revision_is_one_model_everywhere(
  folders, tmp_path, monkeypatch
):
  """Weights, tokenizer and end tokens of one commit; a stand-in answers."""
  import huggingface_hub

  asked = []
  shutil.copytree(folders["qwen25"], tmp_path, dirs_exist_ok=True)
  (tmp_path / "config.json").write_text("{}")

  def snapshot_download(name, *, revision, allow_patterns, ignore_patterns):
    asked.append((name, revision, "*.safetensors" in allow_patterns))
    return str(tmp_path)

  def hf_hub_download(name, file, *, revision):
    asked.append((name, revision, file))
    return str(tmp_path / "config.json")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
  monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
  name = "Qwen/Qwen3-0.6B@main"
  expected = tokenizer.load(folders["qwen25"]).ask("x")
  assert tokenizer.load(name).ask("x") == expected
  assert len(tokenizer.vocabulary(name)) > 256
  assert str(download.locate(name)) == str(tmp_path)
  at = ("Qwen/Qwen3-0.6B", "main")
  assert {each[:2] for each in asked} == {at}
  assert [e[2] for e in asked if isinstance(e[2], bool)] == [
    False, False, True
  ]
  assert download.hub_name("gpt2") == ("gpt2", None)
  assert download.hub_name("a/b@v1/2") == ("a/b", "v1/2")
  for path in ("./a/b", "a/b/c", "a/b@", "gs://a/b", "/a/b"):
    assert download.hub_name(path).name == ""


@pytest.mark.parametrize("value", [-1, "</s>", True, [2, -1], [2.0], {"a": 1}])
def test_ends_that_are_no_token_ids_are_refused(byte_level, tmp_path, value):
  folder = saved(tmp_path / "t", byte_level, QWEN25, **CHATML)
  path = folder / "generation_config.json"
  path.write_text(json.dumps({"eos_token_id": value}))
  match = "eos_token_id=.* of .*generation_config.json is no token id"
  with pytest.raises(ValueError, match=match):
    tokenizer.load(folder)


def test_an_end_that_is_ordinary_text_is_warned_of(
  byte_level, tmp_path, caplog
):
  folder = saved(tmp_path / "t", byte_level, QWEN25, **CHATML)
  letter = tokenizer.load(folder).tokenizer.encode("7")
  assert not caplog.records
  GenerationConfig(eos_token_id=letter).save_pretrained(folder)
  assert tokenizer.load(folder).eos[-1:] == tuple(letter)
  assert "reads as '7': every turn ends where that is written" in caplog.text


def test_special_tokens_are_read_as_they_are_spelled(byte_level, tmp_path):
  """A verifier would take 7<|im_start|>2 for 72, and see no mark at all."""
  mark = {**CHATML, "more": [*CHATML["more"], "####"]}
  chat = tokenizer.load(saved(tmp_path, byte_level, QWEN25, **mark))
  for text in ("7<|im_start|>2", "It is so.\n#### 42", "####"):
    ids = chat.tokenizer.encode(text)
    assert chat.tokenizer.decode(ids) == text
  one = [chat.tokenizer.encode(x)[0] for x in ("7", "<|im_start|>", "2")]
  assert chat.tokenizer.decode([*one, PAD]) == "7<|im_start|>2"


def test_what_a_tokenizer_lacks_is_named(byte_level, tmp_path):
  bare = tokenizers.Tokenizer.from_str(byte_level.to_str())
  saved(tmp_path / "endless", bare, QWEN25, more=CHATML["more"])
  with pytest.raises(ValueError, match="no end-of-sequence token.*set eos_to"):
    tokenizer.load(tmp_path / "endless")
  saved(tmp_path / "formless", bare, "", eos="</s>")
  with pytest.raises(ValueError, match="no chat template: use template='pla"):
    tokenizer.load(tmp_path / "formless")
  assert tokenizer.load(tmp_path / "formless", template="plain").ask("a")


def test_what_is_no_tokenizer_is_named(tmp_path):
  with pytest.raises(ValueError, match="there is no folder .*nothing"):
    tokenizer.load(tmp_path / "nothing")
  (tmp_path / "tokenizer.json").write_text("{broken")
  with pytest.raises(ValueError, match="no tokenizer could be read") as error:
    tokenizer.load(tmp_path)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("begins", [False, True])
def test_the_plain_form(byte_level, tmp_path, begins):
  folder = saved(
    tmp_path, byte_level, "", eos="</s>", bos="<s>", begins=begins
  )
  chat = tokenizer.load(folder, template="plain")
  source = AutoTokenizer.from_pretrained(folder)
  encode, start = chat.tokenizer.encode, [source.bos_token_id] * begins
  assert chat.ask(" Why? ") == start + encode(" Why? \n")
  assert chat.again("No.") == encode("\nNo.\n")
  assert chat.eos == (source.eos_token_id,)


def test_decode_leaves_out_what_is_no_text(folders):
  chat = tokenizer.load(folders["qwen25"])
  ids = chat.tokenizer.encode("Blue, 42.")
  row = np.array([PAD, PAD, *ids, PAD], np.int32)
  assert chat.tokenizer.decode(row) == "Blue, 42."
  assert chat.tokenizer.decode([]) == ""
  beyond = [*ids, chat.tokenizer.size, chat.tokenizer.size + 9, *ids]
  assert chat.tokenizer.decode(beyond) == "Blue, 42.\ufffd\ufffdBlue, 42."
  source = AutoTokenizer.from_pretrained(folders["qwen25"])
  assert chat.tokenizer.size == len(source) == max(chat.eos[0] + 1, len(source))


def test_decode_does_not_tidy_up(byte_level, tmp_path):
  folder = saved(tmp_path, byte_level, QWEN25, **CHATML)
  settings = json.loads((folder / "tokenizer_config.json").read_text())
  settings["clean_up_tokenization_spaces"] = True
  for_bpe = "_for_bpe_even_though_it_will_corrupt_output"
  settings["clean_up_tokenization_spaces" + for_bpe] = True
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  text = "x , y . do n't  !"
  chat = tokenizer.load(folder)
  assert chat.tokenizer.decode(chat.tokenizer.encode(text)) == text


def test_long_texts_pass_without_a_warning(byte_level, tmp_path, caplog):
  folder = saved(tmp_path, byte_level, QWEN25, **CHATML)
  settings = json.loads((folder / "tokenizer_config.json").read_text())
  settings["model_max_length"] = 8
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  assert len(tokenizer.load(folder).ask("word " * 99)) > 99
  assert not caplog.records


# Training.


def test_a_trained_tokenizer_reads_in_both_forms(trained):
  own = tokenizer.load(trained)
  plain = tokenizer.load(trained, template="plain")
  for text in TEXTS:
    assert own.tokenizer.decode(own.tokenizer.encode(text)) == text
    assert own.ask(text) == plain.ask(text)
    assert own.again(text) == plain.again(text)
  assert own.eos == plain.eos and len(own.eos) == 1
  assert own.tokenizer.size == 330
  source = AutoTokenizer.from_pretrained(trained)
  assert source.decode(own.eos) == tokenizer.END


def test_digits_stay_single_and_every_byte_has_a_token(trained, tmp_path):
  encode = tokenizer.load(trained).tokenizer.encode
  tokenizer.train_bpe(["in 2024 and 2024"] * 9, tmp_path, size=300)
  assert len(tokenizer.load(tmp_path).tokenizer.encode("2024")) == 4
  assert len(encode("The answer")) < len("The answer")
  unseen = "".join(map(chr, range(1, 300))) + "\U0001f9ea"
  assert tokenizer.load(trained).tokenizer.decode(encode(unseen)) == unseen


def test_equal_texts_train_equal_tokenizers(trained, tmp_path):
  tokenizer.train_bpe(iter(TEXTS), tmp_path, size=330)
  files = sorted(file.name for file in trained.iterdir())
  assert "tokenizer.json" in files
  for name in files:
    assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_tokenizers_cannot_be_trained_on_nothing(tmp_path):
  with pytest.raises(ValueError, match="no texts to train"):
    tokenizer.train_bpe(["", ""], tmp_path / "t", size=300)
  with pytest.raises(ValueError, match="size=256 has no room.*use 257"):
    tokenizer.train_bpe(TEXTS, tmp_path / "t", size=256)
  assert not (tmp_path / "t").exists()
  tokenizer.train_bpe(TEXTS, tmp_path / "t", size=257)
  assert tokenizer.load(tmp_path / "t").tokenizer.size == 257


def test_folders_may_lie_on_gs(trained, monkeypatch):
  """A file system in memory stands for Google's."""
  from etils.epath import backend
  from fsspec.implementations.local import LocalFileSystem
  from fsspec.implementations.memory import MemoryFileSystem

  def files_of(self, path):
    remote = str(path).startswith("gs://")
    return MemoryFileSystem() if remote else LocalFileSystem()

  kind = type(backend.fsspec_backend)
  monkeypatch.setattr(kind, "fs", files_of)
  tokenizer.train_bpe(TEXTS, "gs://bucket/tokenizer", size=330)
  weights = "gs://bucket/tokenizer/model.safetensors"
  (memory := MemoryFileSystem()).pipe(weights, b"1")
  copied = []
  copy = kind.copy

  def copying(self, path, *rest, **options):
    copied.append(str(path))
    return copy(self, path, *rest, **options)

  monkeypatch.setattr(kind, "copy", copying)
  read = tokenizer.load("gs://bucket/tokenizer")
  assert read.ask("How?") == tokenizer.load(trained).ask("How?")
  with pytest.raises(ValueError, match="there is no folder gs://bucket/none"):
    tokenizer.load("gs://bucket/none")
  assert any(path.endswith("/tokenizer.json") for path in copied)
  assert weights not in copied
  memory.store.clear()


# Bytes of tokens.


def sentencepiece_like(*, prefix=False, first=False):
  """A BPE with byte fallback, as Gemma has it.

  prefix: each part between special tokens begins with a space, as in Llama 2.
  first: only the first part of a text does, as in later models.
  """
  tokens = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581"]
  tokens += sorted(set("Theanswri42.") | {"Th", "The", "\u2581a"})
  vocab = {token: i for i, token in enumerate(tokens)}
  merges = [("T", "h"), ("Th", "e"), ("\u2581", "a")]
  made = tokenizers.Tokenizer(tokenizers.models.BPE(
    vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
  ))
  steps = [normalizers.Prepend("\u2581")] if prefix else []
  made.normalizer = normalizers.Sequence(
    [*steps, normalizers.Replace(" ", "\u2581")]
  )
  if first:
    made.pre_tokenizer = pre_tokenizers.Metaspace(
      prepend_scheme="first", split=False
    )
  joins = [decoders.Replace("\u2581", " "), decoders.ByteFallback()]
  joins += [decoders.Fuse()]
  joins += [decoders.Strip(" ", 1, 0)] if prefix else []
  made.decoder = decoders.Sequence(joins)
  return made


WORDS = "The answer is 42.\n  Größe\t\U0001f600 a a"


def spelled(folder, text):
  found = tokenizer.vocabulary(folder)
  source = AutoTokenizer.from_pretrained(folder)
  ids = source.encode(text, add_special_tokens=False)
  assert len(found) == len(source)
  return b"".join(found[i] for i in ids)


def test_bytes_of_byte_level_tokens(folders):
  for text in [WORDS, *TEXTS, "".join(map(chr, range(1, 400)))]:
    assert spelled(folders["llama3"], text) == text.encode()
  found = tokenizer.vocabulary(folders["llama3"])
  chat = tokenizer.load(folders["llama3"])
  assert all(found[i] == b"" for i in chat.eos)
  # Every single byte has one token, and together they are all the bytes.
  assert {bytes([i]) for i in range(256)} <= set(found)


def test_bytes_of_byte_level_tokens_use_the_alphabet_of_the_library(folders):
  letters = set(pre_tokenizers.ByteLevel.alphabet())
  vocab = json.loads(
    (pathlib.Path(folders["gemma"]) / "tokenizer.json").read_text()
  )["model"]["vocab"]
  assert letters <= set(vocab)
  found = tokenizer.vocabulary(folders["gemma"])
  for i in range(0, len(letters), 5):
    letter = sorted(letters)[i]
    assert len(found[vocab[letter]]) == 1


def test_bytes_of_sentencepiece_tokens(tmp_path):
  gemma = saved(
    tmp_path / "gemma", sentencepiece_like(), GEMMA,
    **FORMS["gemma"][1],
  )
  assert spelled(gemma, WORDS) == WORDS.encode()
  assert spelled(gemma, "<bos>The<eos>") == b"The"
  llama = saved(
    tmp_path / "llama", sentencepiece_like(prefix=True), LLAMA2,
    **FORMS["llama2"][1],
  )
  assert spelled(llama, WORDS) == b" " + WORDS.encode()


@pytest.mark.parametrize("template", ["", "plain"])
@pytest.mark.parametrize("first", [False, True])
def test_the_space_before_a_text_is_not_before_later_messages(
  tmp_path, first, template
):
  made = sentencepiece_like(first=first)
  folder = saved(tmp_path, made, GEMMA, **FORMS["gemma"][1])
  chat = tokenizer.load(folder, template=template)
  found = tokenizer.vocabulary(folder)
  later = b"".join(found[i] for i in chat.again("Then."))
  assert later == (b"\nThen.\n" if template else b"\nuser\nThen.\nmodel\n")
  space = found[chat.tokenizer.encode("Then.")[0]]
  assert space == (b" " if first else b"The")


def test_bytes_of_tokens_that_are_added_but_no_control(byte_level, tmp_path):
  backend = tokenizers.Tokenizer.from_str(byte_level.to_str())
  backend.add_tokens(["<think>"])
  folder = saved(tmp_path, backend, QWEN25, **CHATML)
  assert spelled(folder, "a<think>b<|im_end|>") == b"a<think>b"


def test_bytes_of_other_kinds_are_unknown(tmp_path):
  kind = tokenizers.models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")
  made = tokenizers.Tokenizer(kind)
  made.decoder = decoders.WordPiece()
  saved(tmp_path, made, "", eos="</s>")
  with pytest.raises(ValueError, match="neither byte-level nor SentencePiece"):
    tokenizer.vocabulary(tmp_path)
