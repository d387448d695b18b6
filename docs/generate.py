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

import messages  # mkdocs looks for it beside this file

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
from benchmarks import family_results  # noqa: E402 No package has it.
from sitrain import methods
from sitrain.runtime import config_files, glossary, listing
from sitrain.runtime.options import accepted, makers

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Documents of other folders that are pages, as the README links to them.
OUTSIDE = {
  "benchmarks/README.md": "benchmarks.md",
  "benchmarks/results/score_table/README.md": "score_table.md",
  "benchmarks/results/objectives/README.md": "objectives_table.md",
  "benchmarks/results/habits/README.md": "habits_table.md",
  "benchmarks/results/self_correction/README.md": "self_correction_table.md",
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
    **{page: outside(path) for path, page in OUTSIDE.items()},
    "changelog.md": outside("CHANGELOG.md"),
    "contributing.md": outside("CONTRIBUTING.md"),
    "configs.md": config_page(),
    "messages.md": messages.page(),
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
    *OUTSIDE.values(), "configs.md", "messages.md", "papers.md", "sizes.md",
    "changelog.md", "contributing.md", "method_pages.md",
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
  """What it is, formula, options, command, expected result, metrics, what is
  left out, source: always in this order.
  """
  module = importlib.import_module(f"sitrain.methods.{name}")
  first, _, rest = (inspect.getdoc(module) or "").partition("\n")
  about, left_out = told_apart(rest)
  papers = sorted(set(PAPER.findall(inspect.getsource(module))))
  parts = {
    "Formula": formulas(name),
    "Options": _options(name),
    "Command": _commands(name),
    "Expected": expected(name),
    "Logged": _metrics(module),
    "Left out, or done differently": [left_out or "The file names nothing."],
    "Source": [
      *(f"- [arXiv:{paper}](https://arxiv.org/abs/{paper})"
        for paper in papers),
      f"- `sitrain/methods/{name}.py`",
    ],
  }
  lines = [f"# {name}", "", first, "", about, ""]
  for title, part in parts.items():
    lines += [f"## {title}", "", *part, ""]
  return "\n".join(lines)


# What tells sentences of a docstring about the original from all others.
ORIGINAL = re.compile(
  r"\b[Ll]eft out|\b[Hh]ere\b|\b[Tt]he paper\b|paper's own|released code|"
  r"where (?:most|the author)"
)


def told_apart(text: str) -> tuple[str, str]:
  """What a method is, and how it differs from what its paper has."""
  sentences = re.split(r"(?<=[.)])\s+(?=[A-Z])", " ".join(text.split()))
  differs = [bool(ORIGINAL.search(sentence)) for sentence in sentences]
  both = zip(sentences, differs)
  kept = {True: [], False: []}
  for sentence, one in both:
    kept[one].append(sentence)
  return " ".join(kept[False]), " ".join(kept[True])


def _commands(name: str) -> list[str]:
  """The configs that run a method: the first ones with all that they say."""
  found = list(configs_of(name))
  if not found:
    return [
      "No config of its own; as the method of a stage:"
      f" `--config.stage.STAGE.method.name={name}`."
    ]
  own = [one for one in found if one[0] == name] or found[:3]
  lines = []
  for config, text in own:
    lines += [f"### configs/{config}.py", "", *_paragraphs(text), ""]
  others = [f"`{config}`" for config, _ in found if config not in dict(own)]
  return lines + ([f"Stages of it are in {', '.join(others)}."] if others
                  else [])


def expected(name: str) -> list[str]:
  """What runs of it have shown, and where the lines of a log are explained."""
  commands = {f"--config={config}" for config, _ in configs_of(name)}
  lines = []
  for line in (ROOT / "docs" / "methods.md").read_text().splitlines():
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    if len(cells) == 3 and cells[1].strip("`") in commands:
      text = re.sub(r"\]\((\w+\.md)", r"](../\1", cells[2])
      lines.append(f"- {cells[0]}, {cells[1]}: {text}")
  if name == "imitation":  # Nearly all configs begin with it.
    lines = lines[:1]
  if result := family_result(name):
    lines.append(f"- {result}")
  if not lines:
    lines = ["- Nothing was measured; with `:quick` the command above runs."]
  return [
    *lines, "",
    "The log is that of every run:"
    " [its lines](../running.md#what-a-run-prints).",
  ]


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


# The metrics that tell most, by what the source of a method calls.
TELLING = {
  r"reinforce\.|grpo\.make|policy_loss":
    "judge/reward_1 judge/no_signal_1 learn/entropy_1 learn/kl_1"
    " generate/truncated_1 learn/gradient_norm",
  r"preference\.|preference_loss":
    "judge/reward_1 curate/pairs learn/margin learn/nll_chosen"
    " learn/gradient_norm",
  "": "judge/reward_1 learn/nll learn/gradient_norm",
}


def _metrics(module) -> list[str]:
  """Those that the file itself names, and those that tell most of its kind."""
  source = inspect.getsource(module)
  names = re.findall(
    r'"((?:generate|judge|curate|learn|refresh)/\w+)"', source
  )
  kind = next(words for words in TELLING if re.search(words, source))
  names = [*sorted(set(names)), *TELLING[kind].split()]
  entries = dict.fromkeys(filter(None, map(glossary.find, names)))
  return [
    *(f"- `{entry.name}`: {entry.formula}; healthy: {entry.healthy}"
      for entry in entries),
    "", "K is the number of a turn. [Metrics](../metrics.md) has all.",
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
