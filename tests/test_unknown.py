"""What is said of words that are no flags, and of a reader that is gone."""

import os
import sys

import pytest
from absl import flags
from test_bad_input import parsed

from sitrain.runtime import config_files, errors, overrides, unknown
from sitrain.runtime.options import ConfigError

QUICK = "--config=quickstart:quick"


def said(*words, own=("config", "workdir", "show", "list")):
  """The line about a command line of a main with these flags."""
  known, words = flags.FlagValues(), ["main", *words]
  if "config" in own:
    overrides.define("", flag_values=known, sys_argv=words)
  for name in {*own} - {"config"}:
    boolean = name in ("show", "list")
    define = flags.DEFINE_bool if boolean else flags.DEFINE_string
    define(name, None, "", flag_values=known)
  with pytest.raises(ConfigError) as info:
    overrides.parse(words, known)
  line = str(info.value)
  assert "\n" not in line
  return line


# What follows "did you mean"; every stage that has the field is named.
MEANT = {
  "--workdri=/x": "--workdir=/x?",
  "--steps=2": "--config.stage.base.steps=2, --config.stage.stage1.steps=2 or"
  " --config.stage.stage2.steps=2?",
  "--lr=1e-3": "--config.stage.base.optimizer.learning_rate=1e-3, ",
  "--bonus=3": "--config.stage.stage2.method.bonus=3?",
  "--temperatur=2": "--config.evaluate.temperature=2, --config.stage.stage1.",
  "--discount=0.5": "--config.stage.stage1.method.discount=0.5 or ",
  "--task=chain": "--config.task.name=chain?",
  "--mesh=data=2": "--config.mesh.data=..., --config.mesh.fsdp=... or ",
  "--stage.base.steps=2": "--config.stage.base.steps=2?",
  "--max_steps=3": "--config.stage.base.steps=3, ",
  "config.seed=3": "--config.seed=3?",
  "--config.steps=2": "--config.stage.base.steps, ",
  "--config.stage.stage2.bonus=2": "--config.stage.stage2.method.bonus?",
}


@pytest.mark.parametrize("word", MEANT)
def test_flags_and_fields_that_may_be_meant(word):
  line = said(QUICK, word)
  assert f": did you mean {MEANT[word]}" in line, line


def test_words_that_are_like_nothing():
  assert said(QUICK, "--xyzzy").startswith(
    "--xyzzy is no flag of this command: --show prints the fields of the config"
  )
  line = said("--steps=2", own=("config",))
  assert "fields of a config are given as --config=NAME --config.FIELD=" in line
  line = said("--steps=2", own=("workdir", "stage"))
  assert line == (
    "--steps is no flag of this command: --help prints those that there are"
  )
  assert "is that of --workdir" in said("--config=x", own=("workdir",))
  assert said("quickstart:quick", own=("config", "workdir")) == (
    "'quickstart:quick' is no flag: did you mean --config=quickstart:quick?"
  )
  assert said(QUICK, "--show", "true").startswith("--show true: it takes no va")
  assert said(QUICK, "--workdir") == (
    "--workdir has no value: give it one, as --workdir=VALUE"
  )
  line = said("--config.batch=2", own=("config", "batch"))
  assert line.endswith("or did you mean --batch=...?")


def test_groups_that_a_config_leaves_out_can_be_given():
  for words, group in (
    (["--config.roles.critic.head=scalar"], {"critic": {"head": "scalar"}}),
    (["--config.tokenizer.size=300"], {"size": 300}),
  ):
    config = parsed(QUICK, *words)
    assert config[words[0].split(".")[1]] == group
  test = parsed(QUICK, "--config.evaluate.task.hinted=0.0")
  assert test["evaluate"]["task"] == {"hinted": 0.0}
  assert {"roles", "tokenizer"}.isdisjoint(parsed(QUICK))
  assert "did you mean 'turns'" in said(QUICK, "--config.evaluate.tsk.name=x")


def test_an_option_of_the_task_that_a_quick_run_replaces():
  line = said("--config=score_math:quick", "--config.task.verifier=strict")
  assert line.startswith("--config.task.verifier: a quick run has the small ta")
  kept = parsed(
    "--config=score_math:quick", "--config.task.verifier=strict",
    "--config.task.source=rows.jsonl",
  )
  assert kept["task"]["verifier"] == "strict"
  assert parsed(QUICK, "--config.task.dors=2")["task"]["dors"] == 2


def test_flags_of_libraries_are_not_offered():
  known = flags.FlagValues()
  flags.DEFINE_string("own", "", "", flag_values=known)
  flags.DEFINE_string(
    "log_dir", "", "", flag_values=known, module_name="absl.logging"
  )
  assert unknown.names(known) == ["own"]


def test_a_folder_is_no_config_and_one_of_its_files_is_named(tmp_path):
  def line():
    with pytest.raises(ConfigError) as info:
      config_files.located(str(tmp_path))
    return str(info.value)

  (tmp_path / "common.py").write_text("")
  assert line().endswith("without a config: give a file or a name, as "
                         "--config=quickstart")
  (tmp_path / "mine.py").write_text("def get_config(argument=''):\n  pass\n")
  assert line().endswith(f": name a file in it, as --config={tmp_path}/mine.py")
  (tmp_path / "config.json").write_text("{}")
  assert "is a folder with a run: name the config that it began" in line()


def test_the_quick_variant_is_seen_on_the_command_line():
  quick = lambda *words: overrides.is_quick(["main", *words])
  assert quick(QUICK) and quick("--seed=1", "--config", "a.py:quick,task")
  assert not quick("--config=quick.py") and not quick("--config=a:b", QUICK[2:])


def ended(monkeypatch, main, *, parse=lambda words, **options: words):
  """The exit code of a main whose output goes to a pipe without a reader."""
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer, "w") as out:
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["main"])
    for name in ("_show_warnings", "copy_all"):
      monkeypatch.setattr(errors, name, lambda: None)
    monkeypatch.setattr(errors.signals, "listen", lambda leave: None)
    monkeypatch.setattr(errors.overrides, "parse", parse)
    with pytest.raises(SystemExit) as info:
      errors.run_main(main)
    out.flush()  # To nowhere, and without an error.
  return info.value.code


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch, capsys):
  """As `sitrain train --list | head`, and what a rich Console makes of it."""
  lines = "line\n" * 100_000

  def of_console(_):
    try:
      print(lines, flush=True)
    except BrokenPipeError:
      raise SystemExit(1)  # noqa: B904  As rich does.

  def helped(words, **options):
    print(lines, flush=True)

  assert ended(monkeypatch, lambda _: print(lines)) == 0
  assert ended(monkeypatch, lambda _: print("short")) == 0
  assert ended(monkeypatch, of_console) == 0
  assert ended(monkeypatch, lambda _: None, parse=helped) == 0
  assert ended(monkeypatch, lambda _: sys.exit(3)) == 3
  assert capsys.readouterr().err == ""
