"""SCoRe on real rows, as text: a checkpoint in, both stages, a checkpoint out.

A tiny random Qwen2 with a tokenizer trained on the rows, through the mains as
their users run them.
"""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwen

from sitrain.models import decoder
from sitrain.models.huggingface import weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

DATA = os.environ.get("SITRAIN_DATA", "")
needs_data = pytest.mark.skipif(
  not DATA, reason="SITRAIN_DATA names no folder with gsm8k_train.jsonl"
)
SMALL = {
  "steps": 2, "steps_per_call": 1, "method.problems": 4, "method.samples": 2,
  "microbatches": 2, "waves": 2,
}
# Each of these takes about a minute.
NIGHTLY = ("gsm8k", "gsm8k:fused", "mbpp")
SOURCES = {
  "gsm8k": ("gsm8k_train.jsonl", "gsm8k_test.jsonl", (192, 192)),
  "gsm8k:adapters": ("gsm8k_train.jsonl", "gsm8k_test.jsonl", (192, 192)),
  "gsm8k:fused": ("gsm8k_train.jsonl", "gsm8k_test.jsonl", (192, 192)),
  "mbpp": ("mbpp.jsonl", "mbpp.jsonl", (192, 192)),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """The folder of a tiny Qwen2 that knows the words of GSM8K."""
  rows = (pathlib.Path(DATA) / "gsm8k_train.jsonl").read_text().splitlines()
  texts = [text for row in rows[:500] for text in json.loads(row).values()]
  return qwen.folder(tmp_path_factory.mktemp("qwen"), texts)


def arguments(name, model, workdir):
  train, test, turns = SOURCES[name]
  config, _, argument = name.partition(":")
  given = {
    "model.path": model, "model.dtype": "float32", "model.remat": "none",
    "task.source": pathlib.Path(DATA) / train, "evaluate.problems": 4,
    "evaluate.task.source": pathlib.Path(DATA) / test,
    "evaluate.turns": turns, "task.limit": 64,
    # All in one part: others would be of other lengths, each compiled.
    "evaluate.batch": 32,
  }
  if config == "gsm8k":
    given |= {"task.split": "", "evaluate.task.split": ""}
  for stage in ("stage1", "stage2"):
    small = SMALL | {"method.turns": turns}
    if argument == "fused":
      small |= {"waves": 1, "steps_per_call": 2}
    if argument == "adapters":
      small |= {"optimizer.learning_rate": 1e-3}
    given |= {f"stage.{stage}.{k}": v for k, v in small.items()}
  if argument == "adapters":
    argument = ""
    given |= {"model.lora.rank": 4}
  return [
    f"--config=configs/score_{config}.py" + (argument and f":{argument}"),
    f"--workdir={workdir}",
    *[f"--config.{name}={value}" for name, value in given.items()],
  ]


def logits_of(folder, tokens):
  """What transformers makes of a folder that was written."""
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation="eager"
  ).eval()
  with torch.no_grad():
    return theirs(torch.tensor(tokens.astype(np.int64))).logits.numpy()


def our_logits(folder, tokens):
  model = weights.from_folder(weights.locate(str(folder)))
  shapes = jax.eval_shape(lambda k: decoder.init(model, k), jax.random.key(0))
  params = weights.read(weights.locate(str(folder)), model, shapes)
  tokens = jnp.asarray(tokens)
  turn = jnp.ones_like(tokens)
  attend = decoder.sees_rows(turn, jnp.zeros_like(turn))
  hidden, _ = model.apply({"params": params}, tokens, attend)
  return model.apply({"params": params}, hidden, method="logits")


@needs_data
@pytest.mark.parametrize("name", [
  pytest.param(name, marks=[pytest.mark.nightly] * (name in NIGHTLY))
  for name in SOURCES
])
def test_real_rows_through_both_stages_and_out(name, model, ask, tmp_path):
  workdir, output = tmp_path / "run", tmp_path / "model"
  done = ask(*arguments(name, model, workdir))
  assert done.code == 0, done.err[-3000:]
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [r["stage"] for r in rows] == ["stage1"] * 2 + ["stage2"] * 2
  for row in rows:
    assert row["generate/sampler_gap"] < 1e-4
    assert row["judge/unknown_1"] == row["judge/unknown_2"] == 0
    assert {"judge/malformed_1", "generate/truncated_2"} <= row.keys()
    assert row["learn/gradient_norm"] >= 0
  exported = ask(
    f"--workdir={workdir}", f"--output={output}", "--dtype=float32",
    module="sitrain.export",
  )
  assert exported.code == 0, exported.err[-3000:]
  tokenizer = transformers.AutoTokenizer.from_pretrained(output)
  said = tokenizer.encode("Natalia sold 48 clips in April.")
  tokens = np.array([said], np.int32)
  theirs = logits_of(output, tokens)
  np.testing.assert_allclose(our_logits(output, tokens), theirs, atol=1e-4)
  # It is the trained policy that was written, not the model it began as.
  assert np.abs(theirs - logits_of(model, tokens)).max() > 1e-7
