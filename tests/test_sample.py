"""The sampler: rows by hand, files that are resumed, and the main itself."""

import functools
import json
import os
import pathlib
import shutil
from itertools import combinations
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mains
import numpy as np
import pytest

from sitrain.configs import quickstart, word_problems
from sitrain.evaluate import samples as sampling
from sitrain.evaluate.player import Judged, Played
from sitrain.models import decoder
from sitrain.models.decoder import Decoder
from sitrain.models.huggingface import describe, layout, tokenizer, weights
from sitrain.runtime import (
  build,
  checkpoint,
  memory,
  policy,
  requested_samples,
  rows_file,
  sharding,
  test_sets,
)
from sitrain.runtime.options import ConfigError
from sitrain.tasks import gsm8k, maze, mbpp, text
from sitrain.tasks import word_problems as words
from sitrain.tasks.draw import constant_reply
from sitrain.types import GIVEN, PAD, Progress, TrainState

sample = mains.imported("sitrain.sample")
DATA = os.environ.get("SITRAIN_DATA", "")
SIZE = 300  # tokens
GIVEN_FLAGS = dict(
  config=None, workdir="", stage="", which="last", output="", task="",
  source="", split=None, verifiers=[], samples=2, temperature=1.0, top_k=0,
  top_p=1.0, turns=1, problems=12, batch=12, slots=0, seed=3, ks=[], draws=50,
  mesh=[],
)


def rng(seed=0):
  return np.random.default_rng(seed)


def random_params(model, seed):
  shapes = jax.eval_shape(lambda k: decoder.init(model, k), jax.random.key(0))
  draw = rng(seed)
  fill = lambda x: jnp.asarray(0.3 * draw.normal(size=x.shape), jnp.float32)
  return jax.tree.map(fill, shapes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A tiny random model with a tokenizer of the word problems."""
  path = tmp_path_factory.mktemp("model")
  rows = words.rows(count=64)
  texts = [t for row in rows for t in (row.message, *row.solutions)]
  tokenizer.train_bpe([*texts, words.AGAIN, gsm8k.ASK], path, size=SIZE)
  model = Decoder(
    vocabulary=SIZE, layers=1, width=16, heads=2, kv_heads=1, head_size=8,
    mlp_size=16, tied=True,
  )
  config = describe.config_of(model)
  params = random_params(model, 0)
  weights.write(path, model, params, config, dtype=jnp.float32)
  return path


@pytest.fixture(scope="module")
def chat(folder):
  return tokenizer.load(folder)


def config_of(folder):
  config = build.plain(word_problems.get_config("quick"))
  config["model"] = {"path": str(folder), "dtype": "float32"}
  config["tokenizer"] = {"path": ""}
  config["task"]["count"] = 24
  config["evaluate"]["turns"] = (36, 36)
  config["run"]["compile_cache"] = False
  # Of another machine: here there may be one device.
  config["mesh"] = {"data": 1, "fsdp": 8, "tensor": 1}
  return config


def plan_of(config, output, **given):
  flags = SimpleNamespace(**GIVEN_FLAGS | {"output": str(output)} | given)
  return requested_samples.plan_from(config, flags)


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def played(task, attempts, *, cut=()):
  """Episodes of one turn that say `attempts`; numbers in `cut` do not end."""
  rows = [
    task.tokenizer.encode(said) + [task.eos[0]] * (i not in cut)
    for i, said in enumerate(attempts)
  ]
  tokens = text.padded([[5, *row] for row in rows], left=False, width=1)
  turn = np.where(tokens == PAD, PAD, 1)
  turn[:, 0] = GIVEN
  return Played(tokens, turn, ())


def both(make, chat, **options):
  return {v: make(chat, verifier=v, **options) for v in ("lenient", "strict")}


def test_a_row_says_what_each_verifier_said(chat, tmp_path):
  source = tmp_path / "rows.jsonl"
  rows = [("1+1?", "2\n#### 2"), ("x" * 500, "#### 7"), ("2+2?", "#### 4")]
  source.write_text("\n".join(
    json.dumps({"question": q, "answer": a}) for q, a in rows
  ))
  tasks = both(
    gsm8k.make, chat, source=str(source), split="", ask="{problem}",
    prompt_length=60, long_prompts="drop",
  )
  task = tasks["lenient"]
  said = ["#### 2", "It is 2.", "so #### 4", "#### 4kg"]
  found = sampling.records(
    tasks, task.table, np.array([0, 1]), played(task, said, cut=[2]),
    samples=2, turns=1,
  )
  one, two = found
  assert one == {
    "row": 0, "id": "0", "level": "all", "problem": "1+1?", "gold": "2",
    "texts": ["#### 2", "It is 2."], "statuses": ["right", "right"],
    "right": [1, 1], "known": [1, 1], "finals": ["2", "2"],
    "truncated": [0, 0],
    "also": {"strict": {
      "statuses": ["right", "none"], "right": [1, 0], "known": [1, 1],
      "finals": ["2", ""],
    }},
  }  # fmt: skip
  # Row 1 was dropped, so the second problem is row 2.
  assert two["row"] == 2 and two["problem"] == "2+2?" and two["gold"] == "4"
  assert two["texts"] == ["so #### 4", "#### 4kg"]
  assert two["statuses"] == ["cut", "right"] and two["truncated"] == [1, 0]
  assert two["right"] == [0, 1] and two["finals"] == ["", "4"]
  assert two["also"]["strict"]["statuses"] == ["cut", "wrong"]
  assert two["also"]["strict"]["finals"] == ["", ""]


def test_rows_of_programs_carry_their_numbers(tmp_path, chat):
  if not DATA:
    pytest.skip("SITRAIN_DATA names no folder with mbpp.jsonl")
  task = mbpp.make(
    chat, source=f"{DATA}/mbpp.jsonl", split="test", limit=1,
    run_programs_without_sandbox=True,
  )
  graded = lambda texts, rows: [text.Grade(0.0, 0.0, "sandbox")] * len(texts)
  task = task._replace(texts=task.texts._replace(grade=graded))
  (row,) = sampling.records(
    {"strict": task}, task.table, np.array([0]),
    played(task, ["[BEGIN]x=1[DONE]"]), samples=1, turns=1,
  )
  assert row["id"] == "11" and row["gold"].startswith("def remove_Occ")
  assert row["statuses"] == ["sandbox"] and row["known"] == [0]
  assert row["right"] == [0] and row["finals"] == ["x=1"]


def test_a_task_on_the_device_says_what_it_knows():
  task = maze.make(doors=2, rooms=2)
  posed = jax.jit(task.problems, static_argnums=1)(jax.random.key(0), 2)
  tokens = np.full((3, 4), PAD)
  tokens[:, 0], tokens[:, 1] = 1, task.eos[0]
  judged = Judged(
    np.array([[1], [0], [0]]), np.array([[1], [1], [0]]),
    np.array([[4], [-1], [2]]), np.array([[0], [0], [0]]),
    np.array([[1.0], [0.3], [0.0]]),
  )  # fmt: skip
  (row,) = sampling.records(
    {"maze": task}, posed, np.array([1]),
    Played(tokens, np.where(tokens == PAD, PAD, 1), judged), samples=3, turns=1,
  )
  assert row["statuses"] == ["right", "none", "unknown"]
  assert row["finals"] == ["4", "", "2"] and row["row"] == 1
  assert row["right"] == [1, 0, 0] and row["rewards"] == [1.0, 0.3, 0.0]
  assert row["level"] in task.levels and row["problem"] and row["gold"]


def record(
  number, right, finals, *, level="a", known=None, strict=None, **more
):
  n = len(right)
  known = known or [1] * n
  mark = dict(
    texts=finals, right=right, known=known, finals=finals, truncated=[0] * n
  )
  strict = right if strict is None else strict
  also = {"strict": dict(right=strict, known=known, finals=finals)}
  return dict(row=number, level=level, also=also, **mark, **more)


def test_partial_rewards_are_no_accuracy():
  found = [
    record(i, [0, 1], ["1", "2"]) | {"rewards": [0.3, 1.0]} for i in range(2)
  ]
  rng = np.random.default_rng(0)
  options = dict(verifiers=["a"], turns=(1,), ks=[1], draws=5)
  (row,) = sampling.summarize(rng, found, **options)["verifiers"]["a"][
    "attempts"
  ]
  assert row["accuracy"] == 0.5 and row["mean_reward"] == pytest.approx(0.65)
  # A grade of a text that is paid in part.
  task = SimpleNamespace(texts=SimpleNamespace(
    kept=[0], claim=lambda text: text,
    grade=lambda texts, rows: [
      text.Grade(0.3, 1.0, "near"), text.Grade(1.0, 1.0, "ok")
    ],
  ))
  marks = sampling._marks(task, [0, 0], None, ["a", "b"], [True, True], 0)
  assert marks.right == [0, 1] and marks.rewards == [0.3, 1.0]


def test_the_numbers_are_those_of_all_subsets():
  """Against every choice of k samples; ties are broken uniformly."""
  found = [
    record(0, [1, 0, 0, 1], ["5", "7", "7", "5"]),
    record(1, [0, 0, 1, 0], ["1", "", "3", "1"], level="b"),
    record(2, [0, 0, 0, 0], ["", "", "", ""], level="b"),
    record(3, [1, 1, 1, 1], ["9"] * 4, known=[1, 1, 0, 1]),
  ]  # fmt: skip
  row = sampling.summarize(
    rng(), found, verifiers=("lenient", "strict"), turns=(1,), ks=(1, 2, 3),
    draws=200,
  )["verifiers"]["lenient"]
  (numbers,) = row["attempts"]
  assert numbers["judged"] == 3, "problem 3 was not judged whole"
  assert numbers["accuracy"] == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
  for k in (1, 2, 3):
    passed, voted = [], []
    for one in found[:3]:
      for chosen in combinations(range(4), k):
        right = [one["right"][i] for i in chosen]
        final = [one["finals"][i] for i in chosen]
        votes = [final.count(x) if x else 0 for x in final]
        top = [r for r, v in zip(right, votes) if v == max(votes)]
        passed.append(max(right))
        voted.append(np.mean(top))
    assert numbers[f"pass@{k}"] == pytest.approx(np.mean(passed))
    assert numbers[f"maj@{k}"] == pytest.approx(np.mean(voted))
  assert numbers["malformed"] == pytest.approx((1 / 4 + 1) / 4)
  assert numbers["unknown"] == pytest.approx(1 / 16)
  assert row["by_level"]["b"][0]["accuracy"] == pytest.approx(1 / 8)
  for name, (low, high) in numbers["intervals"].items():
    assert 0 <= low <= numbers[name] <= high <= 1
  low, high = numbers["intervals"]["accuracy"]
  assert low < high


def test_corrections_and_disagreement():
  first = dict(
    texts=["1", "2"], right=[1, 0], known=[1, 1], finals=["1", "2"],
    truncated=[0, 1],
  )
  later = first | {"right": [0, 1]}
  found = [
    record(0, [0, 0], ["1", "2"], strict=[1, 0], attempts_2=later | {
      "also": {"strict": first}
    }),
    record(1, [1, 1], ["1", "1"], attempts_2=later | {
      "also": {"strict": later}
    }),
  ]  # fmt: skip
  told = sampling.summarize(
    rng(), found, verifiers=("lenient", "strict"), turns=(1, 2), ks=(1,),
    draws=50
  )
  one, two = told["verifiers"]["lenient"]["attempts"]
  assert one["accuracy"] == two["accuracy"] == 1 / 2
  assert two["incorrect_to_correct"] == 1 / 4 == two["correct_to_incorrect"]
  assert two["gain"] == 0 and "gain" not in one and two["truncated"] == 1 / 2
  differ = told["disagreement"]["lenient, strict"]
  assert differ["attempt_1"] == 1 / 4 and differ["attempt_2"] == 1 / 2


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
  """(file, its summary) of a sampler run without interruption."""
  output = tmp_path_factory.mktemp("whole") / "rows.jsonl"
  config = config_of(folder)
  return output, sample.sample(config, plan_of(config, output))


def test_a_row_for_each_problem(whole, folder):
  output, summary = whole
  rows = lines(output)
  assert [row["row"] for row in rows] == list(range(12))
  expected = words.rows(count=24, seed=1)
  assert [row["problem"] for row in rows] == [r.message for r in expected[:12]]
  assert [row["gold"] for row in rows] == [r.answer for r in expected[:12]]
  assert all(len(row["texts"]) == 2 for row in rows)
  assert len({t for row in rows for t in row["texts"]}) > 12, "not sampled"
  assert not rows_file.folder_of(output).exists()
  header = json.loads(rows_file.header_of(output).read_text())
  assert header["summary"]["problems"] == 12 == summary["new"]
  assert header["options"]["temperature"] == 1.0
  numbers = summary["verifiers"]["word_problems"]["attempts"][0]
  assert {"accuracy", "pass@1", "pass@2", "maj@2", "truncated"} <= set(numbers)
  statuses = [s for row in rows for s in row["statuses"]]
  assert numbers["truncated"] == pytest.approx(np.mean(
    [s == "cut" for s in statuses]
  ))


def first_of(row):
  """A row as it would be of one sample."""
  return {k: v[:1] if isinstance(v, list) else v for k, v in row.items()}


def killed(monkeypatch, config, plan):
  """A command that is killed at its third write; the rows of each before it."""
  add, count = rows_file.add, []

  def write(path, rows):
    if len(count) == 2:
      raise KeyboardInterrupt
    count.append(len(rows))
    add(path, rows)

  with monkeypatch.context() as patch:
    patch.setattr(rows_file, "add", write)
    with pytest.raises(KeyboardInterrupt):
      sample.sample(config, plan)
  return count


def test_batch_and_kills_and_more_samples_change_nothing(
  whole, folder, tmp_path, monkeypatch
):
  config, output = config_of(folder), tmp_path / "rows.jsonl"
  plan = plan_of(config, output, samples=1, batch=4)
  count = killed(monkeypatch, config, plan)
  assert not output.exists() and len(rows_file.read(output)) == sum(count) == 8
  # The unfinished third part of the killed writer has no rows.
  (rows_file.folder_of(output) / "00003.jsonl.new").write_text('{"row": 7, "te')
  assert sample.sample(config, plan)["new"] == 4
  assert lines(output) == [first_of(row) for row in lines(whole[0])]


def test_a_kill_loses_no_problem_that_has_ended(
  whole, folder, tmp_path, monkeypatch
):
  """In slots problems are written as they end, in one part."""
  config, output = config_of(folder), tmp_path / "rows.jsonl"
  shown = []
  display = sample.progress.Display(
    lambda *given: shown.append(given), print, lambda: None
  )
  monkeypatch.setattr(sample.progress, "display", lambda: display)

  plan = plan_of(config, output, slots=5, batch=24)
  count = killed(monkeypatch, config, plan)
  assert 0 < sum(count) < 12 and len(rows_file.read(output)) == sum(count)
  done = [given[1] for given in shown]
  assert done == sorted(done) and done[-1] == sum(count)
  assert all(given[0] == "problems" and given[2] == 12 for given in shown)
  # Time counts from when all is compiled, and so do the tokens.
  assert np.isnan(shown[0][4]) and all(given[4] > 0 for given in shown[1:])
  del shown[:]
  assert sample.sample(config, plan)["new"] == 12 - sum(count)
  assert lines(output) == lines(whole[0])
  assert shown[0][1] >= sum(count) and shown[-1][1] == 12


def test_what_is_done_is_not_done_again(whole, folder):
  config, before = config_of(folder), whole[0].read_bytes()
  again = sample.sample(config, plan_of(config, whole[0], ks=["1"], batch=4))
  assert again["new"] == 0 and whole[0].read_bytes() == before
  numbers = again["verifiers"]["word_problems"]["attempts"][0]
  assert "pass@1" in numbers and "pass@2" not in numbers


def test_a_line_is_a_row_whatever_a_model_says(tmp_path):
  path = tmp_path / "rows.jsonl"
  rows = [{"row": i, "texts": ["a\x85b\u2028\u2029\n\x1c", "\ud800"]}
          for i in (1, 0)]
  rows_file.add(path, rows)
  found = rows_file.finish(path)
  assert found == lines(path) and [row["row"] for row in found] == [0, 1]
  assert found[0]["texts"] == ["a\x85b\u2028\u2029\n\x1c", "?"]
  path.write_text("{")
  with pytest.raises(ValueError, match="rows.jsonl is damaged .*: delete it"):
    rows_file.read(path)


def test_samples_of_other_options_are_refused(whole, folder, tmp_path):
  config = config_of(folder)
  for change, message in (
    ({"samples": 1}, "with samples=2, and this command asks for 1: give"),
    ({"temperature": 0.5}, "with temperature=1.0, and"),
    ({"seed": 4}, "with seed=3, and"),
  ):
    with pytest.raises(ConfigError, match=message):
      sample.sample(config, plan_of(config, whole[0], **change))
  config["task"]["trials"] = 0.5
  with pytest.raises(ConfigError, match=r"task\.trials=\(not set\)"):
    sample.sample(config, plan_of(config, whole[0]))
  foreign = tmp_path / "mine.jsonl"
  foreign.write_text("{}\n")
  with pytest.raises(ConfigError, match="mine.jsonl is taken"):
    sample.sample(config, plan_of(config, foreign))
  assert foreign.read_text() == "{}\n"


def test_a_stage_of_a_run_in_two_turns(tmp_path, monkeypatch, capsys):
  config = build.plain(quickstart.get_config("quick"))
  config["run"]["compile_cache"] = False
  workdir = tmp_path / "run"
  workdir.mkdir()
  model = build.model_from(config, build.task_from(config))
  manager = checkpoint.open_manager(workdir / "stage1")
  state = TrainState(
    jnp.int32(7), {}, {"policy": random_params(model, 1)}, (), {}, ()
  )
  progress = Progress("stage1", 7, {}, 0.5, 0, False)
  checkpoint.save(manager, 7, state, progress, 0.5)
  checkpoint.finish(manager)
  output = tmp_path / "maze.jsonl"
  plan = plan_of(
    config, output, workdir=str(workdir), turns=2, samples=1, temperature=0.0,
    problems=4, batch=4,
  )
  assert plan.stage == "stage1" and plan.turns == config["evaluate"]["turns"]
  with monkeypatch.context() as patch:
    patch.setattr(memory, "free", lambda: 1000)
    with pytest.raises(ConfigError, match="checkpoint of .*stage1: its pa"):
      sample.sample(config, plan)
  assert not output.exists() and not rows_file.header_of(output).exists()
  summary = sample.sample(config, plan)
  first, second = summary["verifiers"]["maze"]["attempts"]
  moved = second["incorrect_to_correct"] - second["correct_to_incorrect"]
  assert second["accuracy"] - first["accuracy"] == pytest.approx(moved)
  assert summary["of"] == "policy of stage1, last, step 7"
  sample.show(summary, plan)
  sample.show(sample.sample(config, plan), plan)  # All are there already.
  told = capsys.readouterr().out
  assert told.count(f"written: {output}: policy of stage1, last, step 7\n") == 2
  row = lines(output)[0]
  assert row["problem"] and len(row["attempts_2"]["texts"]) == 1
  (workdir / "stage1" / "8").mkdir()
  with pytest.raises(ConfigError, match=r"checkpoints=\[7\], .* for \[7, 8\]"):
    sample.sample(config, plan)


def test_what_does_not_fit_is_said_before_weights_are_read(
  folder, tmp_path, monkeypatch
):
  """Packed weights, another tokenizer, the context, and the memory."""
  monkeypatch.setattr(policy, "of_model", pytest.fail)
  path, output = tmp_path / "model", tmp_path / "rows.jsonl"
  shutil.copytree(folder, path)
  known = json.loads((path / "config.json").read_text())
  config = config_of(path)

  def refused(message, **given):
    with pytest.raises(ConfigError, match=message):
      sample.sample(config, plan_of(config, output, **given))
    assert not output.exists()

  def describe(**changed):
    (path / "config.json").write_text(json.dumps(known | changed))

  describe(max_position_embeddings=60)
  refused(r"evaluate\.turns and prompts of up to \d+ .* reads 60: lower turns")
  describe(vocab_size=SIZE - 1)
  refused("has 299 tokens, and the tokenizer 300: set config.tokenizer.path")
  describe()
  monkeypatch.setattr(memory, "free", lambda: 60_000)
  refused("are free: set --batch=6 or less")
  monkeypatch.setattr(memory, "free", lambda: 5_000)
  refused("take a smaller model, or a machine with")
  # Nothing else is read for this.
  monkeypatch.setattr(sample, "tasks_of", pytest.fail)
  describe(quantization_config={"quant_method": "awq", "bits": 4})
  refused(r"model\.path=.*quantization_config \(awq, 4-bit\).*unpack it")


def test_memory_is_that_of_all_copies():
  model = Decoder(
    vocabulary=1000, layers=2, width=64, heads=4, kv_heads=2, head_size=16,
    mlp_size=128, dtype=jnp.bfloat16,
  )
  assert memory.of_row(model, 10) == 2 * 2 * 2 * 16 * 10 * 2
  size = sum(x.size for x in jax.tree.leaves(jax.eval_shape(
    lambda key: decoder.init(model, key), jax.random.key(0)
  )))
  devices = len(jax.devices())
  # They are read in the dtype of the computation, norms but in float32.
  for mesh, held in (
    (sharding.make_mesh(devices, 1, 1), 2 * size),
    (sharding.make_mesh(1, devices, 1), (2 + 2 / devices) * size),
  ):
    shapes = policy.shapes_of(model, mesh)
    found = memory.of_parameters(shapes, mesh, model.dtype)
    assert 0.99 * held <= found <= 1.01 * held or devices == 1
  assert memory.free() > 2**20
  # Of a prompt's 400 tokens each of two samples has a half.
  sampled = memory.Sampled(8, 2, prompt=400, written=800, slots=0)
  mesh = sharding.make_mesh(devices, 1, 1)
  shapes = policy.shapes_of(model, mesh)
  check = lambda room, sampled=sampled: memory.check(
    model, shapes, mesh, sampled, what="m", memory=room
  )
  alone = memory.of_parameters(
    policy.shapes_of(model, mesh), mesh, model.dtype
  )
  assert alone < 2.01 * size
  # CPUs share them.
  weights, row = alone, memory.of_row(model, 1000)
  check(weights + 8 * row)
  with pytest.raises(ConfigError, match="m: .*set --batch=6 or less"):
    check(weights + 7.5 * row)
  with pytest.raises(ConfigError, match="or a machine with"):
    check(alone + row)
  # Slots do not share prompts, and fewer rows are there at a time.
  waiting = sampled._replace(rows=8 * devices, slots=4)
  check(weights + 4 * devices * memory.of_row(model, 1200), waiting)
  with pytest.raises(ConfigError, match="are free"):
    check(weights + 3.9 * devices * memory.of_row(model, 1200), waiting)
  # Of float32 parameters each device makes its copy in the model's dtype.
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, jnp.float32, sharding=x.sharding
    ), shapes,
  )
  held = 4 * size
  assert memory.together(shapes, mesh, model.dtype, devices) == pytest.approx(
    held + devices * 2 * size, rel=0.01
  )
  if devices > 1:
    with pytest.raises(ConfigError, match="JAX_NUM_CPU_DEVICES=1"):
      check(held + 2 * size + 3 * row)


def test_devices_of_a_cpu_share_the_layers_of_parameters():
  """They are those of `unstack`, and nothing is copied."""
  model = Decoder(
    vocabulary=50, layers=3, width=64, heads=2, kv_heads=1, head_size=32,
    mlp_size=128,
  )
  shapes = policy.shapes_of(model, sharding.make_mesh(-1, 1, 1))
  rng = np.random.default_rng(0)

  def fill(x):
    numbers = layout._empty(x.shape, x.dtype)
    numbers[...] = rng.random(x.shape)
    place = numbers.__getitem__
    return jax.make_array_from_callback(x.shape, x.sharding, place)

  params = jax.tree.map(fill, shapes)
  found, wanted = policy.unstacked(params), decoder.unstack(params)
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
    np.testing.assert_array_equal(own, other)
  place = lambda x: [
    shard.data.unsafe_buffer_pointer() for shard in x.addressable_shards
  ]
  (first, *rest) = place(params["layers"]["up"])
  assert set(rest) <= {first}
  size = params["layers"]["up"][0].nbytes
  for i, layer in enumerate(found["layers"]):
    assert set(place(layer["up"])) == {first + i * size}
  jax.jit(lambda tree: tree).lower(found)  # Their layouts have no axis more.
  assert policy.unstacked(found) is found
  # Those that are split stay as they are.
  if len(jax.devices()) > 1:
    split = policy.shapes_of(model, sharding.make_mesh(1, -1, 1))
    params = jax.tree.map(fill, split)
    assert policy.unstacked(params) is params


def test_a_stage_that_no_memory_holds_is_refused(tmp_path):
  config = build.plain(quickstart.get_config("quick"))
  config["mesh"] = {"data": -1, "fsdp": 1, "tensor": 1}
  mesh = sharding.make_mesh(**config["mesh"])
  made = build.prepare(config, str(tmp_path), mesh)
  size = sum(x.size for x in jax.tree.leaves(jax.eval_shape(
    lambda key: decoder.init(made.run.model, key), jax.random.key(0)
  )))
  # Parameters, gradients, two moments, and the reference of stage I.
  stage, least = made.stages[1], 4 * 5 * size
  check = functools.partial(memory.check_stage, made.run, stage)
  check(2 * least * mesh.size)
  for room in (0, least - 1):
    with pytest.raises(ConfigError, match="stage1: .*are free: .*lora.rank=16"):
      check(room)


def test_another_task_keeps_how_answers_are_verified():
  config = {
    "task": {"name": "mbpp", "limit": 3, "seconds": 2.0, "verifier": "strict"},
    "evaluate": {"task": {"verifier": "lenient", "split": "test"}, "turns": ()},
  }
  found = test_sets.retasked(
    config, name="humaneval", source="a.jsonl", split=""
  )
  assert found["evaluate"]["task"] == {} and found["task"] == {
    "name": "humaneval", "seconds": 2.0, "verifier": "lenient",
    "source": "a.jsonl", "split": "",
  }  # fmt: skip
  same = test_sets.retasked(config, source="b.jsonl")["task"]
  assert same["limit"] == 3 and same["split"] == "test"
  assert same["source"] == "b.jsonl"


SAMPLE = "sitrain.sample"


@pytest.mark.skipif(
  not DATA, reason="SITRAIN_DATA names no folder with gsm8k_test.jsonl"
)
def test_real_rows_as_a_user_samples_them(folder, ask, tmp_path):
  output = tmp_path / "gsm8k.jsonl"
  done = ask(
    "--config=configs/score_gsm8k.py", f"--config.model.path={folder}",
    "--config.model.dtype=float32", "--config.evaluate.turns=(240, 240)",
    "--config.task.prompt_length=0", "--config.task.limit=8",
    f"--source={pathlib.Path(DATA) / 'gsm8k_test.jsonl'}", "--split=",
    "--samples=2", "--turns=2", "--batch=16", f"--output={output}",
    module=SAMPLE,
  )  # fmt: skip
  assert done.code == 0, done.err[-3000:]
  rows = lines(output)
  assert [row["gold"] for row in rows[:3]] == ["18", "3", "70000"]
  for row in rows:
    assert len(row["texts"]) == len(row["attempts_2"]["texts"]) == 2
    assert set(row["also"]) == {"strict"}
  for word in (
    "gsm8k: 8 problems, Avg@2", "lenient@1", "strict@2", "i->c", "maj@2",
    "judged differently",
  ):  # fmt: skip
    assert word in done.out


def test_mistakes_are_named_in_one_line(folder, ask, tmp_path):
  words = "--config=configs/word_problems.py:quick"
  score = f"--config=configs/score_gsm8k.py --config.model.path={folder}"
  asked_for = {
    f"--output={tmp_path}/x.jsonl": "--config is missing: say which, as",
    f"--workdir={tmp_path}": "has no config.json: give the workdir of a run",
    words: "--config.model.path is missing: give it, or --workdir",
    f"{words} --workdir={tmp_path}": "leave out --config",
    f"{score} --stage=stage1": "--stage=stage1 belongs to a run: give its --w",
    score: "--output is missing: give a file, as --output=samples.jsonl",
    f"{score} --output=x.txt": "--output=x.txt: give a file whose name ends in",
    f"{score} --output={tmp_path}/x.jsonl --task=gsm9k":
      "--task=gsm9k is not in sitrain/tasks: did you mean 'gsm8k'",
    f"{score} --output={tmp_path}/x.jsonl --turns=0": "--turns=0",
    f"{score} more": "--workdir=more has a config of its own: leave out --c",
    f"{score} more words": "unknown argument 'words'",
  }  # fmt: skip
  for given, message in asked_for.items():
    done = ask(*given.split(), module=SAMPLE)
    assert done.code == 2, done.err
    (line,) = [x for x in done.err.splitlines() if x.startswith("error: ")]
    assert message in line
  assert list(tmp_path.iterdir()) == []


def test_flags_that_do_not_fit(folder, tmp_path):
  config = config_of(folder)
  for given, message in (
    ({"turns": 3}, "--turns=3: config.evaluate.turns"),
    ({"temperature": 0.0}, "--samples=2 of --temperature=0 would be equal"),
    ({"ks": ["3"]}, "--ks=3: give numbers from 1 to --samples=2"),
    ({"ks": ["x"]}, "--ks=x: give numbers"),
  ):
    with pytest.raises(ConfigError, match=message):
      plan_of(config, tmp_path / "x.jsonl", **given)
  output = tmp_path / "x.jsonl"
  with pytest.raises(ValueError, match="at least one problem with all its"):
    sample.sample(config, plan_of(config, output, batch=1))
  with pytest.raises(ConfigError, match="has only one: leave it out"):
    sample.sample(config, plan_of(config, output, verifiers=["strict"]))
  config["task"] = {"name": "gsm8k", "source": "no.jsonl", "split": ""}
  config["evaluate"]["task"] = {}
  with pytest.raises(ConfigError, match="strct: did you mean 'strict'"):
    sample.sample(config, plan_of(config, output, verifiers=["strct"]))
  with pytest.raises(ConfigError, match="there is no file no.jsonl"):
    sample.sample(config, plan_of(config, output))
  assert not rows_file.header_of(output).exists()


def test_texts_on_a_cpu_are_decoded_in_slots(tmp_path):
  config = build.plain(quickstart.get_config())
  plan = lambda slots: plan_of(config, tmp_path / "a.jsonl", slots=slots)
  texts = SimpleNamespace(texts=("a text",), reply=constant_reply([]))
  found = sample.with_slots(plan(-1), texts, 10**4)
  assert (found.slots, found.batch) == (sample.SLOTS, 12 * sample.PART)
  tokens = SimpleNamespace(texts=(), reply=constant_reply([]))
  for task, problems in ((tokens, 10**4), (texts, sample.SLOTS // 2)):
    found = sample.with_slots(plan(-1), task, problems)
    assert (found.slots, found.batch) == (0, 12)
  found = sample.with_slots(plan(7), texts, 10**4)
  assert (found.slots, found.batch) == (7, 12)
