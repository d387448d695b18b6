"""What a run may go on with: other fields, other data, another place."""

import json
import pathlib
import shutil

import jax
import loops
import numpy as np
import pytest
from etils import epath
from test_contracts import MODEL
from test_stages import pretended, stage_of

from sitrain.configs import quickstart
from sitrain.runtime import (
  build,
  checkpoint,
  fields,
  identity,
  sources,
  stopping,
  workdir,
)
from sitrain.runtime.options import ConfigError
from sitrain.runtime.stage import run_stage
from sitrain.types import Stage


def config_of(**fields_):
  """The quickstart; `stage__base__steps=3` sets a field of it."""
  config = build.plain(quickstart.get_config("quick"))
  for name, value in fields_.items():
    *parents, last = name.split("__")
    at = config
    for parent in parents:
      at[parent] = dict(at[parent])
      at = at[parent]
    at[last] = value
  return config


def begin(folder, *stages):
  """What stages that write rows leave as soon as they have begun."""
  for name in stages:
    (folder / name).mkdir(parents=True)
    (folder / name / "rows.jsonl").write_text("")


@pytest.fixture
def begun(tmp_path):
  """The workdir of a run whose first two stages have begun."""
  workdir.claim(tmp_path, config_of())
  begin(tmp_path, "base", "stage1")
  return tmp_path


@pytest.mark.parametrize("change", [
  {"mesh__data": 8},
  {"evaluate__problems": 32},
  {"evaluate__task": {"hinted": 0.0}},
  {"run__keep": 7},
  {"task__workers": 3},
  {"model__remat": "full"},
  {"stage__stage1__microbatches": 2},
  {"stage__stage1__method__slots": 4},
  {"stage__stage1__steps": 9},  # the last one that has begun
  {"stage__stage2__method__bonus": 3.0},  # not begun
  {"stage__stage2__steps": 1},
  {"stages": ("base", "stage1")},
  {"roles": {"critic": {"start": "policy"}}},  # of no stage that has begun
])
def test_a_run_goes_on_with_what_changes_nothing_that_has_begun(
  change, begun, caplog
):
  again = config_of(**change)
  workdir.claim(begun, again)
  assert workdir.read_json(begun / "config.json") == json.loads(
    json.dumps(again)
  )
  assert ("goes on with config." in caplog.text) != ("run__keep" in change)


@pytest.mark.parametrize("change, words", [
  ({"seed": 1}, "config.seed=0, this one has 1.*--config.seed=0"),
  ({"task__hinted": 0.25}, "config.task.hinted=0.5, this one has 0.25"),
  ({"model__width": 32}, "config.model.width=16"),
  ({"model__dtype": "bfloat16"}, "config.model.dtype"),
  ({"stage__base__optimizer__learning_rate": 1e-3}, "base.optimizer.learning"),
  ({"stage__stage1__method__beta2": 2.0}, "stage1.method.beta2"),
  ({"stage__stage1__held__reference": "init"}, "stage1.held.reference"),
  ({"stage__stage1__steps": 1}, "may get more steps, not fewer.*steps=2"),
  ({"stage__base__steps": 9}, "stage1 has begun after it"),
  ({"stages": ("stage1", "base")}, "has begun the stages base, stage1"),
  ({"stages": ("base",)}, "does not begin with them"),
])
def test_a_run_does_not_go_on_with_what_has_begun_otherwise(
  change, words, begun
):
  before = (begun / "config.json").read_bytes()
  with pytest.raises(ConfigError, match=words) as info:
    workdir.claim(begun, config_of(**change))
  assert "--workdir" in str(info.value) and "\n" not in str(info.value)
  assert (begun / "config.json").read_bytes() == before


def test_checkpoints_without_a_config_are_nobodys(begun):
  """Another seed would go on from them, and be named for what it is not."""
  (begun / "config.json").unlink()
  with pytest.raises(ConfigError, match="of base, stage1, but no config.json"):
    workdir.claim(begun, config_of(seed=1))
  assert not (begun / "config.json").exists()


def test_more_steps_bend_a_schedule(tmp_path, caplog):
  cosine = {"stage__base__optimizer__schedule": "cosine"}
  workdir.claim(tmp_path, config_of(**cosine))
  begin(tmp_path, "base")
  workdir.claim(tmp_path, config_of(**cosine, stage__base__steps=9))
  assert "schedule=cosine, which ends at the new last step" in caplog.text


def test_a_workdir_where_nothing_has_begun_is_anybodys(tmp_path, caplog):
  """A command that failed does not lock it."""
  workdir.claim(tmp_path, config_of())
  other = config_of(seed=1, stage__base__steps=1, stages=("base",))
  workdir.claim(tmp_path, other)
  assert workdir.read_config(tmp_path)["seed"] == 1
  assert "goes on with" not in caplog.text


def test_numbers_of_another_evaluation_are_named(begun, caplog):
  rows = [{"name": "base", "end": 2}]
  workdir.write_json(begun / "summary.json", {"seed": 0, "stages": rows})
  workdir.claim(begun, config_of(evaluate__problems=32))
  assert "the old evaluation's numbers of base" in caplog.text


@pytest.mark.parametrize("ranked", ["eval/accuracy_2", "judge/reward_2"])
def test_a_stage_that_evaluations_rank_is_named_where_they_change(
  tmp_path, caplog, ranked
):
  own = {"stage__stage1__best": ranked}
  workdir.claim(tmp_path, config_of(**own))
  begin(tmp_path, "base", "stage1")
  workdir.claim(tmp_path, config_of(evaluate__problems=32, **own))
  told = "goes on with stage stage1, which is ranked or ended by" in caplog.text
  assert told == ranked.startswith("eval/")
  assert "stage base, which" not in caplog.text


@pytest.mark.parametrize(("name", "read", "fix"), [
  ("config.json", workdir.read_json, "put back what was there"),
  ("sources.json", lambda path: sources.known_of(path.parent), "put back"),
  ("summary.json", workdir.read_json, "delete it, and the stages are eval"),
])
def test_a_half_written_file_is_deleted_only_where_it_is_made_again(
  tmp_path, name, read, fix
):
  (tmp_path / name).write_text('{"half": ')
  with pytest.raises(ValueError, match=f"{name} is not JSON .*{fix}"):
    read(tmp_path / name)


def test_a_stage_with_more_steps_is_taken_out_of_the_summary(begun):
  rows = [{"name": "base", "end": 2}, {"name": "stage1", "end": 4}]
  workdir.write_json(begun / "summary.json", {"seed": 0, "stages": rows})
  workdir.claim(begun, config_of(stage__stage1__steps=9))
  found = workdir.read_json(begun / "summary.json")
  assert found == {"seed": 0, "stages": rows[:1]}


def test_a_stage_that_was_removed_is_trained_anew_with_what_it_now_is(begun):
  """Else its old numbers would stand beside its new options."""
  rows = [{"name": "base"}, {"name": "stage1"}]
  summary = lambda: [
    row["name"] for row in workdir.read_json(begun / "summary.json")["stages"]
  ]
  rate = {"learning_rate": 5e-4}
  changed = config_of(stage__stage1__optimizer=rate)
  workdir.write_json(begun / "summary.json", {"stages": rows})
  with pytest.raises(ConfigError, match=f"or remove {begun}/stage1 to train"):
    workdir.claim(begun, changed)
  with pytest.raises(ConfigError) as found:  # stage1 depends on it.
    workdir.claim(begun, config_of(stage__base__optimizer=rate))
  assert "or remove" not in str(found.value)
  shutil.rmtree(begun / "stage1")
  # Removed to save space: nothing else has changed.
  workdir.claim(begun, config_of(evaluate__problems=32, mesh__data=4))
  assert summary() == ["base", "stage1"]
  workdir.claim(begun, changed)
  assert summary() == ["base"]
  # All of it.
  shutil.rmtree(begun / "base")
  workdir.claim(begun, config_of(seed=5))
  assert summary() == []


def test_a_stage_that_was_done_goes_on_where_it_has_more_steps(tmp_path):
  """Its parameters are those of a run that had them from the start."""
  norms = [1.0, 1.0, 1.0, 1.0]
  ends = []
  for folder, parts in (("grown", (2, 4)), ("once", (4,))):
    run, done = loops.run_of(MODEL, tmp_path / folder), 0
    for steps in parts:
      params, progress = run_stage(
        run, stage_of(steps=steps), pretended(*norms[done:steps])
      )
      assert progress.done and progress.step == steps
      done = steps
    ends.append(loops.bits(params))
  assert ends[0] == ends[1]
  # What `until` has ended has ended.
  early = stage_of(steps=9, until=lambda window: True)
  _, progress = run_stage(
    loops.run_of(MODEL, tmp_path / "once"), early, pretended()
  )
  assert progress.done and progress.step == 4
  assert checkpoint.steps(tmp_path / "once" / "one")[-1] == 4


def test_a_stage_is_done_unless_it_is_reopened(begun):
  """One that is done is not traced, which takes seconds at every start."""
  finished = lambda **changes: workdir.finished(begun, config_of(**changes))
  assert workdir.finished(begun / "none", config_of()) == finished() == []
  assert workdir.finished("", config_of()) == []
  rows = [{"name": "base"}, {"name": "stage1"}]
  workdir.write_json(begun / "summary.json", {"stages": rows})
  assert finished() == finished(evaluate__problems=32) == ["base", "stage1"]
  assert finished(stage__stage1__microbatches=2) == ["base", "stage1"]
  assert finished(stage__stage2__steps=9) == ["base", "stage1"]
  # As `claim` takes them out of the summary.
  changes = {"stage__stage1__steps": 9}
  assert finished(**changes) == ["base"]
  shutil.rmtree(begun / "stage1")
  assert finished() == ["base", "stage1"]
  changes = {"stage__stage1__method__beta2": 2.0}
  assert finished(**changes) == ["base"]
  workdir.claim(begun, config_of(**changes))
  (row,) = workdir.read_json(begun / "summary.json")["stages"]
  assert row["name"] == "base"


def test_stages_that_are_done_are_not_traced(begun, monkeypatch):
  config = config_of()
  rows = [{"name": name} for name in config["stages"]]
  workdir.write_json(begun / "summary.json", {"stages": rows})
  monkeypatch.setattr(build, "count_rows", pytest.fail)
  monkeypatch.setattr(build, "call", pytest.fail)  # No method is made.
  ready = build.prepare(config, str(begun), loops.mesh_of(1))
  assert [stage.name for stage in ready.stages] == list(config["stages"])
  assert [stage.steps for stage in ready.stages] == [2, 2, 2]
  with pytest.raises(RuntimeError, match="is done is not made"):
    ready.stages[0].method.pose(0, 0)
  # What the config alone decides is checked for all of them.
  config["stage"]["base"]["method"]["problms"] = 3
  with pytest.raises(ConfigError, match="base.method.problms is not an option"):
    build.prepare(config, str(begun), loops.mesh_of(1))


def test_who_wrote_the_rows_of_a_stage_that_is_left_is_traced():
  table = lambda name: {"table": {"stage": name}}
  config = {
    "stages": ("a", "b", "c", "d", "e"),
    "stage": {"a": {}, "b": {}, "c": table("b"), "d": table("c"), "e": {}},
  }
  traced = lambda *done: "".join(sorted(build._to_trace(config, done)))
  assert traced() == "abcde" and traced(*"abcde") == ""
  assert traced(*"abcd") == "e" and traced(*"abce") == "bcd"
  assert traced(*"bde") == "abc"


def test_a_stage_that_learned_nothing_is_remarked_on():
  window = {"learn/gradient_norm": [0.0] * 20, "learn/nll": [2.708] * 20}
  assert "the gradient was 0 in the last 20 steps" in stopping.remark(window)
  assert "learn/nll is 2.71" in stopping.remark(window)
  window["learn/gradient_norm"][3] = 1e-9
  assert stopping.remark(window) == "" and stopping.remark({}) == ""


def model_at(folder, seed, size=5000):
  """Files as of a model; what is in them matters to nobody here."""
  folder.mkdir(exist_ok=True)
  (folder / "config.json").write_text("{}")
  noise = np.random.default_rng(seed).bytes(size)
  (folder / "model.safetensors").write_bytes(noise)
  return str(folder)


def test_another_model_at_the_same_path_is_refused(begun):
  path = model_at(begun / "model", 1)
  config = config_of(model={"path": path, "lora": {"rank": 4}})
  workdir.write_json(begun / "config.json", config)
  found = lambda: {"model.path": sources.model_of(path) | {"path": path}}
  workdir.claim(begun, config, found())
  workdir.claim(begun, config, found())  # The same again.
  model_at(begun / "model", 2)
  with pytest.raises(ConfigError, match="other content of config.model.path"):
    workdir.claim(begun, config, found())
  # Nothing has begun in another one.
  workdir.claim(begun / "new", config, found())
  model_at(begun / "model", 1)
  workdir.claim(begun / "new", config, found())


def test_a_large_file_is_told_by_a_part_of_it(tmp_path, monkeypatch):
  monkeypatch.setattr(sources, "_BLOCK", 10)
  monkeypatch.setattr(sources, "_BLOCKS", 4)
  path = pathlib.Path(model_at(tmp_path / "model", 1)) / "model.safetensors"
  whole, first = path.read_bytes(), sources.model_of(str(path.parent))
  for place in (0, len(whole) - 1):  # its head and its end at least
    path.write_bytes(whole[:place] + b"?" + whole[place + 1:])
    assert sources.model_of(str(path.parent)) != first
  path.write_bytes(whole)
  assert sources.model_of(str(path.parent)) == first
  path.write_bytes(whole[:-1])
  assert sources.model_of(str(path.parent)) != first


ROWS = [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(12)]


def rows_at(path, rows=ROWS):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


def text_config(source, **more):
  """Text of the user's on the tokenizer and the model of `quick`."""
  task = {"name": "gsm8k", "source": source, "split": ""}
  config = config_of(task=task, **more)
  model = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1,
           "head_size": 8, "mlp_size": 16}
  method = {"name": "star", "problems": 8, "samples": 2, "turns": (32, 32)}
  stage = {"method": method, "optimizer": {"learning_rate": 1e-3}, "steps": 2,
           "held": {"reference": "init"}, "fused": False}
  return config | {
    "tokenizer": {"size": 257}, "model": model, "stages": ("one",),
    "stage": {"one": stage},
    "evaluate": config["evaluate"] | {"turns": (32, 32), "batch": 64},
  }


def test_other_rows_at_the_same_path_are_refused(tmp_path, caplog):
  config = text_config(rows_at(tmp_path / "rows.jsonl"))
  folder = tmp_path / "run"
  mesh = loops.mesh_of(1)
  ready = build.prepare(config, str(folder), mesh)
  # Nothing says that the test set is another one, and it is not.
  assert "poses the rows that are trained on" in caplog.text
  assert ready.found["task"]["what"] == "12 rows"
  workdir.claim(folder, config, ready.found)
  begin(folder, "one")
  record = lambda: sources.record(
    config, config, build.task_from(config, str(folder)),
    ready.evaluation_task, [],
  )
  workdir.claim(folder, config, record())
  other = [row | {"answer": "#### 7"} for row in ROWS]
  rows_at(tmp_path / "rows.jsonl", other)
  with pytest.raises(ConfigError, match="other content of config.task: "):
    workdir.claim(folder, config, record())
  # Of another test set it is told.
  caplog.clear()
  known = sources.known_of(folder)
  changed = known | {"evaluate.task": known["task"] | {"fingerprint": "0"}}
  workdir.claim(folder, config, changed)
  assert "goes on with config.evaluate.task" in caplog.text


def own_files(folder):
  """A method, a reward and an environment of the user's, and their imports."""
  texts = {
    "method.py": "from helpers import curve\n",
    "reward.py": "import helpers.text as text\nimport json\n",
    "reply.py": "def reply(dialogue):\n  import phrases\n",
    "phrases.py": "", "unused.py": "",
    "helpers/__init__.py": "", "helpers/text.py": "from . import words\n",
    "helpers/words.py": "", "helpers/curve.py": "from ..ring import x\n",
    "ring.py": "import method, helpers.words\n",
    "prompt.txt": "Think first.", "form.jinja": "{{ bos_token }}",
  }
  for name, text in texts.items():
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
  return texts


USES = {  # field -> the files that it depends on
  "stage.base.method.name": "method.py helpers/__init__.py helpers/curve.py"
    " helpers/words.py ring.py",
  "task.reward": "reward.py helpers/__init__.py helpers/text.py"
    " helpers/words.py",
  "evaluate.task.reward": "reward.py helpers/__init__.py helpers/text.py"
    " helpers/words.py",
  "stage.stage1.task.reward": "method.py helpers/__init__.py helpers/curve.py"
    " helpers/words.py ring.py",
  "task.environment": "reply.py phrases.py",
  "evaluate.task.environment": "reply.py phrases.py",
  "stage.stage1.task.environment": "reply.py phrases.py",
  "task.environment_options.form": "prompt.txt",
  "evaluate.task.environment_options.form": "prompt.txt",
  "stage.stage1.task.environment_options.form": "prompt.txt",
  "tokenizer.template": "form.jinja",
}


def test_the_users_files_and_what_they_import_are_part_of_a_run(
  begun, tmp_path, monkeypatch
):
  own = tmp_path / "own"
  own.mkdir()
  texts = own_files(own)
  monkeypatch.setattr(sources, "reads_text", lambda config: True)
  config = config_of(
    tokenizer={"template": f"{own}/form.jinja"},
    stage__base__method={"name": f"file:{own}/method.py:make"},
    stage__stage1__task={"reward": f"exact, file:{own}/method.py:f*0.5"},
    stage__stage1__table={"stage": "base"},  # Its rows are the run's own.
  )
  task = config["task"] | {
    "reward": f"file:{own}/reward.py:f", "environment": f"file:{own}/reply.py",
    "environment_options": {"form": f"file:{own}/prompt.txt", "n": 3},
  }
  made = build.task_from(config_of())
  blank = Stage(*[()] * len(Stage._fields))._replace(task=made)
  stages = [blank._replace(name=name) for name in ("base", "stage1")]
  record = lambda: sources.record(
    config | {"task": task}, config, made, made, stages
  )
  before = record()
  assert before.keys() == USES.keys()
  for name in texts:
    (own / name).write_text(texts[name] + "# another")
    after = record()
    (own / name).write_text(texts[name])
    changed = {f for f in after if after[f] != before[f]}
    assert changed == {f for f, used in USES.items() if name in used.split()}
  # What samples or updates depend on is refused, and is told elsewhere.
  known = identity.begun_in(begun, config)
  for field in USES:
    other = before | {field: before[field] | {"fingerprint": "0"}}
    if field.startswith("evaluate"):
      (line,) = sources.check("run", known, before, other)
      assert line.startswith(f"config.{field}: ")
      continue
    with pytest.raises(ConfigError, match=f"other content of config.{field}: "):
      sources.check("run", known, before, other)


def test_a_tokenizer_and_its_end_tokens_are_part_of_a_run(tmp_path):
  """Its prompts may be the same tokens, and its turns end elsewhere."""
  own = tmp_path / "tokens"
  own.mkdir()
  for name in ("tokenizer.json", "generation_config.json", "model.safetensors"):
    (own / name).write_text("{}")
  config = {"tokenizer": {"path": str(own)}, "model": {}}
  first = sources._tokenizer(config, config)
  assert first["tokenizer"]["path"] == str(own)
  (own / "model.safetensors").write_text("other")
  assert sources._tokenizer(config, config) == first
  (own / "generation_config.json").write_text('{"eos_token_id": [7]}')
  assert sources._tokenizer(config, config) != first
  # That of the model, if it is there, and none that is trained in the workdir.
  beside = {"tokenizer": {}, "model": {"path": str(own)}}
  assert sources._tokenizer(beside, beside)["tokenizer"]["path"] == str(own)
  assert sources._tokenizer({"model": {}}, {"model": {}}) == {}


def test_adapters_are_read_on_their_own_base_alone(begun):
  """Else they would be sampled and exported on another, in silence."""
  path = model_at(begun / "model", 1)
  config = config_of(model={"path": path, "lora": {"rank": 4}})
  workdir.write_json(begun / "config.json", config)
  model = sources.model_of(path) | {"path": path}
  workdir.write_json(begun / sources.FILE, {"model.path": model})
  assert build.config_of_run(str(begun))["model"]["path"] == path
  model_at(begun / "model", 2)
  with pytest.raises(ConfigError, match="another base than config.model.path="):
    build.config_of_run(str(begun))
  # All of the parameters of a run without adapters are in its checkpoints.
  workdir.write_json(begun / "config.json", config_of(model={"path": path}))
  assert build.config_of_run(str(begun))["model"]["path"] == path


def test_revisions_of_the_hub_are_kept():
  config = config_of(model={"path": "owner/name"})
  config["roles"] = {"judge": {"path": "owner/judge@main"}, "critic": {}}
  known = {
    "model.path": {"path": "owner/name", "revision": "abc"},
    "roles.judge.path": {"path": "owner/judge@main", "revision": "def"},
  }
  found = sources.pinned(config, known)
  assert found["model"]["path"] == "owner/name@abc"
  assert found["roles"] == config["roles"]  # It says which one.
  config["model"]["path"] = "owner/other"
  assert sources.pinned(config, known)["model"]["path"] == "owner/other"
  config["task"] = {"name": "gsm8k", "source": "owner/rows:main"}
  rows = {"path": "owner/rows:main", "revision": "012"}
  found = sources.pinned(config, {"task": rows})
  assert found["task"]["source"] == "owner/rows:main@012"
  assert found["stage"] == config["stage"]
  config["tokenizer"] = {"path": "owner/tokens", "template": "plain"}
  tokens = {"path": "owner/tokens", "revision": "345"}
  found = sources.pinned(config, {"tokenizer": tokens})
  assert found["tokenizer"] == {
    "path": "owner/tokens@345", "template": "plain"
  }
  cache = epath.Path("hub/models--owner--name/snapshots/abc")
  assert sources.revision_of(cache) == "abc"
  assert sources.revision_of(epath.Path("models/abc")) == ""


def test_places_are_called_as_from_everywhere(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  assert workdir.absolute("~/run") == workdir.absolute("run")
  assert workdir.absolute("run") == str(tmp_path / "run")
  assert workdir.absolute("gs://bucket/run") == "gs://bucket/run"
  assert workdir.absolute("") == ""
  for path in ("s3://bucket/run", "file:///run"):
    line = f"^--output={path}: .* is not supported: give a folder"
    with pytest.raises(ConfigError, match=line):
      workdir.absolute(path, "--output")
  line = "^--workdir=~.* there is no user nobodyhere$"
  with pytest.raises(ConfigError, match=line):
    workdir.absolute("~nobodyhere/run")
  (tmp_path / "model").mkdir()
  (tmp_path / "own.py").write_text("")
  (tmp_path / "other" / "base").mkdir(parents=True)
  config = {
    "model": {"path": "model"}, "task": {"source": "~/rows.jsonl"},
    "tokenizer": {"path": "owner/name", "template": ""},
    "stage": {"one": {
      "method": {"name": "file:own.py:make"}, "start": "other/base/last",
      "held": {"reference": "base/last", "judge": "init"},
    }},
  }
  found = workdir.flatten(fields.placed(config))
  changed = {n: v for n, v in found.items() if v != workdir.flatten(config)[n]}
  assert changed == {
    "model.path": f"{tmp_path}/model",
    "task.source": f"{tmp_path}/rows.jsonl",
    "stage.one.method.name": f"file:{tmp_path}/own.py:make",
    "stage.one.start": f"{tmp_path}/other/base/last",
  }


@pytest.mark.parametrize("place", ["/proc/none/run", "{}/file", "{}/file/run"])
def test_a_workdir_that_cannot_be_written_is_named(place, tmp_path):
  (tmp_path / "file").write_text("")
  why = "cannot be written|is a file: give a folder"
  place = place.format(tmp_path)
  with pytest.raises(ConfigError, match=f"--workdir={place}.* ({why})"):
    workdir.check_folder(place, f"--workdir={place}")


def test_a_workdir_that_can_be_written_is_left_as_it_was(tmp_path):
  workdir.check_folder(str(tmp_path / "a" / "b"), "--output")
  (tmp_path / "run").mkdir()
  workdir.check_folder(str(tmp_path / "run"), "--output")
  assert [path.name for path in tmp_path.iterdir()] == ["run"]
  assert not list((tmp_path / "run").iterdir())


def test_free_fields_are_whole_words():
  assert identity.is_free("mesh.data") and identity.is_free("run")
  assert not identity.is_free("running") and not identity.is_free("stage.run")
  assert identity.is_free("stage.one.task.workers")
  assert jax.process_count() == 1
