"""The command `sitrain`, configs by name, and what needs which extra."""

import configparser
import importlib
import os
import re
import subprocess
import sys

import mains
import pytest
import test_house as house

import sitrain
from sitrain import cli
from sitrain.runtime import config_files, extras, listing, overrides
from sitrain.runtime.options import ConfigError

SETUP = configparser.ConfigParser()
SETUP.read(mains.ROOT / "setup.cfg")


def called(*words, folder=mains.ROOT, code="from sitrain import cli"):
  script = (
    f"import sys; {code}; sys.argv = ['sitrain', *{list(words)!r}]; "
    "code = cli.main(); print([n for n in ('jax', 'numpy', 'absl') "
    "if n in sys.modules], file=sys.stderr); sys.exit(code)"
  )
  return subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder,
    env=os.environ | {"PYTHONPATH": str(mains.ROOT)}, timeout=60,
  )


def test_help_names_what_there_is_and_loads_nothing():
  done = called("--help")
  assert done.returncode == 0 and done.stderr == "[]\n"
  for name, command in cli.commands().items():
    assert f"\n{name} " in done.stdout and command.about in done.stdout
    assert f"  sitrain {name} {command.example}\n" in done.stdout
  for name in cli.COMMANDS.keys() - cli.commands().keys():
    assert f"\n{name} " not in done.stdout
  assert {"train", "sample", "evaluate", "export", "report", "plan"} <= {
    *cli.commands()
  }
  assert max(map(len, done.stdout.splitlines())) <= 80


def test_commands_on_one_run_take_it_without_a_flag():
  """Their flags clash in a process, and one each would take seconds."""
  for name in ("sample", "evaluate/__main__", "talk", "export", "infer"):
    source = (mains.ROOT / "sitrain" / f"{name}.py").read_text()
    assert source.endswith('  run_main(main, argument="workdir")\n'), name


def test_a_row_without_a_module_is_not_offered(monkeypatch):
  row = cli.Command("sitrain.nowhere", "go", "")
  monkeypatch.setitem(cli.COMMANDS, "nowhere", row)
  assert "nowhere" not in cli.commands() and "nowhere" not in cli.help_text()
  here = row._replace(module="sitrain.evaluate")  # A package with a __main__.
  monkeypatch.setitem(cli.COMMANDS, "nowhere", here)
  assert "nowhere" in cli.commands()
  package = row._replace(module="sitrain.losses")
  monkeypatch.setitem(cli.COMMANDS, "nowhere", package)
  assert "nowhere" not in cli.commands()


def test_what_is_no_command_is_one_line(monkeypatch, capsys):
  for words, code, out, err in (
    (["trian"], 2, "", "'trian' is no command: did you mean 'train'?"),
    (["--config=quickstart"], 2, "", "known: train, sample"),
    ([], 2, "sitrain train --config=quickstart", ""),
    (["--version"], 0, f"sitrain {sitrain.__version__}\n", ""),
  ):
    monkeypatch.setattr(cli.early, "listen", lambda: None)
    monkeypatch.setattr(sys, "argv", ["sitrain", *words])
    assert cli.main() == code
    said = capsys.readouterr()
    assert out in said.out and err in said.err
    assert said.err.count("\n") == bool(err)


def test_a_command_is_the_main_with_its_flags_and_exit_code(tmp_path):
  """`python -m` says the same; here absl's --help knows whose flags they are.

  The folder of the caller has no configs/.
  """
  done = called(
    "train", "--config=quickstart:quik", f"--workdir={tmp_path / 'run'}",
    folder=tmp_path,
  )
  assert done.returncode == 2 and not (tmp_path / "run").exists()
  assert done.stderr.startswith("error: --config=quickstart:quik: config argum")
  assert done.stderr.count("\n") == 1
  done = called("report", "--help")
  assert done.returncode == 0
  assert "Writes the report of a run again" in done.stdout
  assert "--workdir" in done.stdout


def test_without_packages_a_command_names_the_extra(tmp_path):
  """A folder of a package's name is not the package."""
  (tmp_path / "matplotlib").mkdir()
  hide = (
    "import importlib.util as u; find = u.find_spec; "
    "hidden = ('ml_collections', 'matplotlib'); "
    "u.find_spec = lambda n: u.spec_from_loader(n, None, is_package=True) "
    "if n == 'matplotlib' else None if n in hidden else find(n); "
    "from sitrain import cli"
  )
  done = called("train", code=hide, folder=tmp_path)
  assert done.returncode == 2
  assert done.stderr == (
    "error: matplotlib, ml_collections are not installed:"
    " pip install 'sitrain[train]'\n"
  )
  assert called("--help", code=hide).returncode == 0


def test_errors_of_imports_name_the_extra():
  assert extras.line(ImportError("no", name="math_verify.parser")) == (
    "math_verify is not installed: pip install 'sitrain[text]'"
  )
  said = extras.line(ImportError("Install gcsfs to access GCS"))
  assert said == "gcsfs is not installed: pip install 'sitrain[gcs]'"
  assert extras.line(ImportError("no", name="requests")) == ""


def test_the_core_needs_no_extra():
  """Losses, a training step of a foreign model, and methods without text."""
  done = subprocess.run(
    [sys.executable, "tests/light_core.py"], capture_output=True, text=True,
    cwd=mains.ROOT, env=mains.environment(""), timeout=300,
  )
  found = mains.json_of(mains.Done(done.returncode, done.stdout, done.stderr))
  # Beyond jax, in seconds of the processor; 0.2 on the cores of a laptop.
  assert found["seconds"] < 1.0
  assert found["moved"] > 0 and found["likelier"] and found["norm"] > 0
  assert found["refused"].startswith("config.task.name='gsm8k': ")
  assert found["refused"].endswith("pip install 'sitrain[text]'")
  assert {"gsm8k", "math"} <= found["not_installed"].keys()
  assert "maze" not in found["not_installed"]


def module_of(requirement):
  name = re.match(r"[\w-]+", requirement)[0]
  return {"absl-py": "absl"}.get(name, name.replace("-", "_"))


def test_the_table_of_extras_is_that_of_the_package():
  given = SETUP["options.extras_require"]
  for extra, modules in extras.MODULES.items():
    lines = [x for x in given[extra].split("\n") if x and "sitrain[" not in x]
    assert sorted(map(module_of, lines)) == sorted(modules), extra
  core = [x for x in SETUP["options"]["install_requires"].split("\n") if x]
  heavy = {name for names in extras.MODULES.values() for name in names}
  assert not heavy & set(map(module_of, core))


def test_what_is_imported_is_installed_by_the_core_or_named_with_its_extra():
  core = SETUP["options"]["install_requires"].strip().split("\n")
  core = {module_of(line).removesuffix("_checkpoint") for line in core}
  known = core | extras.ALONG.keys() | set(sys.stdlib_module_names) | {
    name for names in extras.MODULES.values() for name in names
  }
  unknown = {
    f"{house.name(path)}: {name}" for path in house.SOURCES
    for name in (module.partition(".")[0] for _, module in house.imported(path))
    if name not in known | {"sitrain"}
  }
  assert not unknown


def test_the_package_has_all_that_is_run():
  folders = dict(
    re.split(r"\s*=\s*", line)
    for line in SETUP["options"]["package_dir"].strip().split("\n")
  )
  packages = set(SETUP["options"]["packages"].split())
  found = {
    ".".join(path.parent.relative_to(mains.ROOT).parts)
    for path in (mains.ROOT / "sitrain").rglob("__init__.py")
  }
  assert packages == found | folders.keys()
  assert folders["sitrain.configs"] == "configs"
  entry = SETUP["options.entry_points"]["console_scripts"].strip()
  assert entry == "sitrain = sitrain.cli:main"
  assert (mains.ROOT / "sitrain" / "py.typed").exists()
  assert re.fullmatch(r"\d+\.\d+\.\d+", sitrain.__version__)
  changes = (mains.ROOT / "CHANGELOG.md").read_text()
  assert f"## {sitrain.__version__}" in changes
  cited = (mains.ROOT / "CITATION.cff").read_text()
  assert f"version: {sitrain.__version__}" in cited


def test_a_config_is_found_by_name_wherever_the_user_is(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  files = {path.stem for path in (mains.ROOT / "configs").glob("*.py")}
  assert set(config_files.names()) == files - {"__init__", "common", "text"}
  path = mains.ROOT / "configs" / "quickstart.py"
  assert config_files.located("quickstart:quick,task") == f"{path}:quick,task"
  (tmp_path / "quickstart").mkdir()  # A workdir of that name.
  assert config_files.located("quickstart") == str(path)
  (tmp_path / "mine.py").write_text("")
  assert config_files.located("mine.py:x") == "mine.py:x"
  assert config_files.located(f"{tmp_path}/mine.py") == f"{tmp_path}/mine.py"
  assert config_files.abouts()["grpo"].startswith("GRPO: samples of a problem")


def test_a_source_tree_that_is_not_installed_says_so(tmp_path, monkeypatch):
  """Else the line ends in a list of no configs."""
  monkeypatch.setattr(config_files, "_folder", lambda: tmp_path)
  with pytest.raises(ConfigError) as error:
    config_files.located("quickstart:quick")
  assert str(error.value) == (
    "--config=quickstart:quick: sitrain is not installed, so its configs are"
    f" not found: run pip install -e '.[train]' in {mains.ROOT}"
  )
  missing = ModuleNotFoundError("No module", name="sitrain.configs")
  why = overrides._why(missing, "configs/quickstart.py")
  assert why.startswith("sitrain is not installed")
  assert f"  {why}" in listing.listed()
  monkeypatch.undo()
  assert config_files.uninstalled() == ""
  assert overrides._why(missing, "mine.py") == "ModuleNotFoundError: No module"


@pytest.mark.parametrize(
  "spec, said",
  [
    ("quikstart:quick", "no config 'quikstart': did you mean --config=quick"),
    ("configs/quickstart.py", "quickstart.py: did you mean --config=quickst"),
    ("configs/grp.py:quick", "no file configs/grp.py: did you mean --config=g"),
    ("PAG", "no config 'PAG': did you mean --config=pag?"),
    ("s3c-math", "no config 's3c-math': did you mean --config=s3c or"),
    ("mine", "no config 'mine': did you mean --config=mine.py?"),
    ("xyzzy", "no config 'xyzzy': give a file, or one of backtracking, "),
    ("/nowhere/xyzzy.py", "there is no file /nowhere/xyzzy.py"),
    ("common", "no config 'common': "),
  ],
)
def test_a_misspelt_config_names_near_ones(spec, said, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mine.py").write_text("")
  with pytest.raises(ConfigError) as error:
    config_files.located(spec)
  assert str(error.value).startswith(f"--config={spec}: there is no ")
  assert said in str(error.value)


@pytest.mark.parametrize("name", ["four_habits", "backtracking", "chat"])
def test_a_misspelt_argument_of_a_config_names_what_there_is(name):
  module = importlib.import_module(f"sitrain.configs.{name}")
  kinds = getattr(module, "ARMS", None) or module.KINDS
  with pytest.raises(ValueError) as error:
    module.get_config("dotz,quick")
  assert "'dotz' is none of" in str(error.value)
  assert all(kind in str(error.value) for kind in kinds)
  default = {"four_habits": "all", "chat": "grpo"}.get(name, "")
  same = [module.get_config(x).to_dict() for x in ("quick", f"{default},quick")]
  assert same[0] == same[1]
