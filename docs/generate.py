"""The pages that are made from the code, when the site is built.

  pip install -e '.[train,docs]' && mkdocs serve

mkdocs calls `on_files`. The pages: one of each method, the reference of configs
and options, the messages that the package can print, the papers, the sizes of
runs on pods, and the README as the front page.
"""

import ast
import functools
import importlib
import inspect
import json
import pathlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
from benchmarks import family_results  # noqa: E402 No package has it.
from sitrain import methods
from sitrain.runtime import alarms, config_files, glossary, listing
from sitrain.runtime.options import accepted, makers

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Documents of other folders that are pages, as the README links to them.
OUTSIDE = {
  "benchmarks/README.md": "benchmarks.md",
  "benchmarks/results/score_table/README.md": "score_table.md",
}
PAPER = re.compile(r"arXiv:\s?(\d{4}\.\d{5})")


def on_files(files, config):
  """Adds the pages to those of docs/."""
  from mkdocs.structure.files import File

  for path, text in pages().items():
    files.append(File.generated(config, path, content=text))
  pictures = ROOT / "benchmarks" / "results"
  for path in sorted(pictures.glob("*/*.png")):
    name = f"{path.parent.name}/{path.name}"
    files.append(File.generated(config, name, content=path.read_bytes()))
  return files


@functools.cache
def pages() -> dict[str, str]:
  """The text of every page that is made, by its path."""
  return {
    "index.md": outside("README.md"),
    "benchmarks.md": outside("benchmarks/README.md"),
    "score_table.md": outside("benchmarks/results/score_table/README.md"),
    "changelog.md": outside("CHANGELOG.md"),
    "contributing.md": outside("CONTRIBUTING.md"),
    "configs.md": config_page(),
    "messages.md": message_page(),
    "method_pages.md": method_list(),
    "papers.md": paper_page(),
    "sizes.md": size_page(),
    **{f"methods/{name}.md": method_page(name) for name in method_names()},
  }


def outside(path: str) -> str:
  """A page of another folder, with its pictures."""
  folder = pathlib.Path(path).parent.name
  text = (ROOT / path).read_text().replace("](docs/", "](")
  for name, page in OUTSIDE.items():
    text = text.replace(f"]({name})", f"]({page})")
  text = re.sub(r"!\[(.*?)\]\(([\w.]+\.png)\)", rf"![\1]({folder}/\2)", text)
  return _without_links_outside(text)


def _without_links_outside(text: str) -> str:
  """Links to files that are no page become their words."""
  known = {path.name for path in (ROOT / "docs").glob("*.md")} | {
    "benchmarks.md", "score_table.md", "configs.md", "messages.md",
    "papers.md", "sizes.md", "changelog.md", "contributing.md",
    "method_pages.md",
  }

  def kept(match: re.Match) -> str:
    target = match[2].partition("#")[0]
    good = target in known or "://" in target or not target
    return match[0] if good or target.endswith(".png") else match[1]

  return re.sub(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]*)\)", kept, text)


def method_names() -> list[str]:
  """The files of sitrain/methods/ that can be named in a config."""
  return sorted({name.partition(".")[0] for name, _ in makers("methods")
                 .items()} - {"reinforce", "preference", "objectives"})


def method_list() -> str:
  """The way to the pages of the methods: name and first line of each."""
  lines = ["# All methods", "", "| method | what it is |", "|---|---|"]
  for name in method_names():
    module = importlib.import_module(f"sitrain.methods.{name}")
    first = (inspect.getdoc(module) or "").partition("\n")[0]
    lines.append(f"| [`{name}`](methods/{name}.md) | {first} |")
  return "\n".join([*lines, ""])


def method_page(name: str) -> str:
  """What it is, formula, options, command, result, metrics, source."""
  module = importlib.import_module(f"sitrain.methods.{name}")
  first, _, rest = (inspect.getdoc(module) or "").partition("\n")
  lines = [f"# {name}", "", first, "", *rest.strip().splitlines(), ""]
  if rows := formulas(name):
    lines += ["## Formula", "", *rows, ""]
  lines += ["## Options", "", *_options(name), ""]
  lines += ["## Command", ""]
  if found := list(configs_of(name)):
    for config, text in found:
      lines += [f"### configs/{config}.py", "", *_paragraphs(text), ""]
  else:
    lines += [
      "No config of its own; as the method of a stage:"
      f" `--config.stage.STAGE.method.name={name}`.", "",
    ]
  if result := family_result(name):
    lines += ["## Expected", "", result, ""]
  lines += ["## Logged", "", *_metrics(module), ""]
  papers = sorted(set(PAPER.findall(inspect.getsource(module))))
  lines += ["## Source", ""]
  lines += [
    f"- [arXiv:{paper}](https://arxiv.org/abs/{paper})" for paper in papers
  ]
  lines += [
    f"- `sitrain/methods/{name}.py`; what it leaves out or does differently is"
    " said above.", "",
  ]
  return "\n".join(lines)


def formulas(name: str) -> list[str]:
  """The rows about a method in the tables of docs/objectives.md."""
  found, head = [], []
  for line in (ROOT / "docs" / "objectives.md").read_text().splitlines():
    if not line.startswith("|"):
      head = []
      continue
    if len(head) < 2:
      head.append(line)
    elif f"`{name}`" in line.split("|")[1]:
      titles = [cell.strip() for cell in head[0].split("|")[2:-1]]
      cells = [cell.strip() for cell in line.split("|")[2:-1]]
      found += [f"- {t}: {c}" for t, c in zip(titles, cells)]
  return found


def _options(name: str) -> list[str]:
  """A table of the options of every maker of the file."""
  lines = []
  for full, maker in makers("methods").items():
    if full.partition(".")[0] != name:
      continue
    lines += [f"`method.name=\"{full}\"`", "", *_paragraphs(
      inspect.getdoc(maker) or ""), "", "| option | type | default | |",
      "|---|---|---|---|"]
    about = listing.described(maker)
    for option, one in accepted(maker).items():
      kind = "" if one.annotation is one.empty else inspect.formatannotation(
        one.annotation)
      default = "has to be given" if one.default is one.empty else (
        f"`{one.default!r}`")
      kind = kind.replace("|", "\\|")
      text = about.get(option, "").replace("|", "\\|")
      lines.append(f"| `{option}` | {kind} | {default} | {text} |")
    lines.append("")
  return lines


def configs_of(name: str) -> Iterator[tuple[str, str]]:
  """(name, docstring) of the configs that run this method, its own first."""
  for config, methods_of in sorted(
    stages().items(), key=lambda item: item[0] != name
  ):
    if name in methods_of:
      text = (ROOT / "configs" / f"{config}.py").read_text()
      yield config, ast.get_docstring(ast.parse(text)) or ""


@functools.cache
def stages() -> dict[str, set[str]]:
  """The methods of the stages of every config, by the config's name."""
  found = {}
  for config in config_files.abouts():
    module = importlib.import_module(f"sitrain.configs.{config}")
    stage = module.get_config().stage.values()
    found[config] = {one.method.name.partition(".")[0] for one in stage}
  return found


def family_result(name: str) -> str:
  """What benchmarks.families stored about it, in a sentence."""
  if not (rows := family_results.read(name)):
    return ""
  seeds = ",".join(str(row["seed"]) for row in rows)
  return (
    f"`python -m benchmarks.families --only={name} --seeds={seeds}`:"
    f" {family_results.sentence(rows)}. Means, with 95 % t-intervals over"
    " seeds."
  )


def _metrics(module) -> list[str]:
  """The metrics that the file itself names; all others are in metrics.md."""
  names = re.findall(
    r'"((?:generate|judge|curate|learn|refresh)/\w+)"',
    inspect.getsource(module),
  )
  lines = []
  for name in sorted(set(names)):
    entry = glossary.find(name)
    if entry:
      lines.append(f"- `{name}`: {entry.formula}; healthy: {entry.healthy}")
  return lines + [
    ("And those" if lines else "Those") + " of every run of its kind:"
    " [metrics](../metrics.md)."
  ]


def _paragraphs(text: str) -> list[str]:
  """A docstring, with its commands as code."""
  lines, code = [], False
  for line in text.splitlines():
    command = re.match(r"\s*(python -m |sitrain |  )", line)
    if bool(command) != code:
      lines.append("```")
      code = not code
    lines.append(line.rstrip())
  return lines + ["```"] * code


def config_page() -> str:
  """All configs, methods, tasks and options with types and defaults."""
  if not (about := config_files.abouts()):
    raise SystemExit("sitrain is not installed: pip install -e '.[train,docs]'")
  lines = [
    "# Configs and options", "",
    "Made from the code; `sitrain train --list` prints the same, and"
    " `sitrain train --config=NAME --show` one config with every default.", "",
    "| config | what it runs |", "|---|---|",
    *(f"| `{name}` | {text} |" for name, text in about.items()), "",
  ]
  titles = re.compile(r"^(\w[\w ]*): (config\.\S+.*)$")
  block = []
  for line in listing.listed():
    if match := titles.match(line):
      lines += _code(block) + [f"## {match[1]}", "", f"`{match[2]}`", ""]
      block = []
    elif not line.startswith("Configs: "):
      block.append(line)
  return "\n".join(lines + _code(block))


def _code(lines: list[str]) -> list[str]:
  # The first block is the list of configs, which is a table already.
  text = "\n".join(lines).strip("\n")
  if not text or ": SCoRe" in text:
    return []
  return ["```text", text, "```", ""]


class Message(NamedTuple):
  """An error or a warning of the package."""

  text: str  # {...} where a value is put in
  kind: str
  file: str
  line: int


@functools.cache
def messages() -> list[Message]:
  """The texts of `raise`, logged warnings, alarms and lines of sitrain/."""
  found = []
  for path in sorted((ROOT / "sitrain").rglob("*.py")):
    file = str(path.relative_to(ROOT))
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Return) and file.startswith("sitrain/runtime/"):
        # A line about what was found, which another function prints.
        text = _template(node.value) if node.value else ""
        if len(text.split()) >= 5:
          found.append(Message(text, "line", file, node.lineno))
        continue
      call = node.exc if isinstance(node, ast.Raise) else node
      if not isinstance(call, ast.Call) or not call.args:
        continue
      name = ast.unparse(call.func)
      raised = isinstance(node, ast.Raise)
      if raised or re.search(r"\b(warn|warning|error)$", name):
        if text := _template(call.args[0]):
          found.append(Message(text, name, file, node.lineno))
  found += [
    Message(f"{alarm.means}: {alarm.fix}", "alarm", "alarms while it trains", 0)
    for alarm in alarms.ALARMS
  ]
  return found


def _template(node: ast.expr) -> str:
  """A string or an f-string, with the names of what is put in; or ""."""
  if isinstance(node, ast.Constant) and isinstance(node.value, str):
    return " ".join(node.value.split())
  if isinstance(node, ast.JoinedStr):
    parts = [
      part.value if isinstance(part, ast.Constant)
      else "{" + ast.unparse(part.value) + "}" for part in node.values
    ]
    return " ".join("".join(parts).split())
  if isinstance(node, ast.IfExp):
    return _template(node.body)
  if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
    left, right = _template(node.left), _template(node.right)
    return f"{left} {right}".strip()
  return ""


def message_page() -> str:
  """All messages, by the file that prints them."""
  lines = [
    "# Messages", "",
    "Errors, warnings and alarms of the package, made from the code; `{...}` is"
    " a value. Search for a few words of yours. Most say themselves what to do;"
    " [Troubleshooting](troubleshooting.md) has those that need more. Missing"
    " are texts that are put together in several places.", "",
  ]
  file = ""
  for message in messages():
    if message.file != file:
      file = message.file
      lines += ["", f"## {file}", ""]
    lines.append(f"- `{message.text.replace('`', chr(39))}`")
  return "\n".join(lines) + "\n"


def paper_page() -> str:
  """Papers, the files that implement them and the configs that run them."""
  found: dict[str, dict[str, set]] = {}
  for path in sorted((ROOT / "sitrain").rglob("*.py")):
    text = path.read_text()
    for match in PAPER.finditer(text):
      entry = found.setdefault(match[1], {"who": set(), "files": set()})
      who = re.search(
        r"([A-Z][\w-]+(?: et al\.| and [A-Z]\w+)?,? (?:19|20)\d\d) \(\Z",
        " ".join(text[: match.start()].split())[-60:],
      )
      entry["who"] |= {who[1]} if who else set()
      entry["files"].add(str(path.relative_to(ROOT / "sitrain")))
  names = set(method_names())
  lines = [
    "# Papers", "", "What the code says it follows, with the configs that run"
    " it.", "", "| paper | where | config |", "|---|---|---|",
  ]
  for paper, entry in sorted(found.items()):
    files = sorted(entry["files"])
    ran = sorted({
      config for file in files if file.startswith("methods/")
      and pathlib.Path(file).stem in names
      for config, _ in configs_of(pathlib.Path(file).stem)
    })
    who = ", ".join(sorted(entry["who"])) or "arXiv"
    lines.append(
      f"| [{who}, {paper}](https://arxiv.org/abs/{paper}) | "
      + ", ".join(f"`{file}`" for file in files) + " | "
      + ", ".join(f"`{config}`" for config in ran) + " |"
    )
  return "\n".join(lines) + "\n"


def size_page() -> str:
  """Stored plans of runs on pods: memory a chip and bounds of time."""
  lines = [
    "# Sizes on TPUs", "",
    "Compiled by TPU's compiler on a machine without one (`sitrain plan`);"
    " **none of it has run on a TPU**. Memory is of the largest program on a"
    " chip; `python -m benchmarks.plans --show` has flops and traffic.", "",
    "| model | slice | chips | mesh | stage, program | rows | GB a chip, of |"
    " fits |", "|---|---|---|---|---|---|---|---|",
  ]
  for path in sorted((ROOT / "benchmarks" / "results").glob("plan_*.json")):
    plan = json.loads(path.read_text())
    for stage in plan["stages"]:
      mesh = " x ".join(f"{n} {k}" for k, n in stage["mesh"].items() if n > 1)
      for program in stage["programs"]:
        if "total" not in program:
          continue
        lines.append(
          f"| {plan['model']} | {plan['topology']} | {stage['chips']} | {mesh}"
          f" | {stage['stage']}, {program['program']} | {stage['rows']} |"
          f" {program['total'] / 1e9:.1f}, {plan['chip']['memory'] / 1e9:.0f} |"
          f" {'yes' if program['fits'] else 'no'} |"
        )
  return "\n".join(lines) + "\n"


def unused_methods() -> list[str]:
  """Modules of sitrain/methods/ without a page: those that others build on."""
  names = {module.name for module in pkgutil.iter_modules(methods.__path__)}
  return sorted(names - set(method_names()))
