"""The report of one run: what stands in it, and in which order."""

import html
import json
import shlex
from typing import Any

from etils import epath

from sitrain.runtime import alarms
from sitrain.runtime.page import charts, files, layout, symbols, tables, talks
from sitrain.runtime.page.files import Files


def write_report(workdir: Any, output: str = "") -> epath.Path:
  """Writes the report of a run; by default as report.html in its workdir.

  Raises FileNotFoundError if there are neither metrics nor a summary.
  """
  target = epath.Path(output or epath.Path(workdir) / "report.html")
  layout.write(target, render(files.read(workdir)))
  return target


def render(run: Files) -> str:
  """The page, from the files of a run."""
  stages = stages_of(run)
  studies = run.evaluation.get("stages") or {}
  rows = {str(stage.get("name", "")): stage for stage in stages}
  figures = lambda body: f'<div class="charts">{body}</div>' if body else ""
  draw = symbols.drawing_of(run.config)
  shown = talks.dialogues(stages, run.summary.get("dialogues") or (), draw)
  first = charts.attempts(run.records, stages, run.config)
  sections = {
    "Attempts": (f'<div class="wide">{first}</div>' if first else "")
    + (tables.accuracies(stages) if tables.evaluated(stages) else "")
    + layout.folded("by difficulty", tables.by_level(stages)),
    "From attempt to attempt": transitions(stages)
    + figures(charts.edits(rows)),
    "Alarms": alarm_lines(stages),
    "Curves": figures(charts.grouped(run.records))
    + layout.folded("all other metrics", figures(charts.others(run.records))),
    "Evaluation": evaluation(studies)
    + figures(charts.studies(studies, turns_of(run.config))),
    "Dialogues": symbols.legend(run.config) * bool(shown) + shown,
    "Samples while it trained": talks.samples_by_step(run.samples, draw),
    "Time": tables.time_table(run.records, stages),
    "Commands": commands(run),
    "Config": settings(run.config),
  }
  below = notes_of(run) + [
    f'class="warn">{html.escape(line)}' for line in unfinished(run)
  ] + [
    f'class="below">{html.escape(tables.below(stages))}',
    f'class="facts">{html.escape(" · ".join(tables.facts(run.summary)))}',
  ]
  return layout.page(
    title=tables.headline(stages), name=run.name, below=below,
    sections=sections,
  )


def turns_of(config: dict[str, Any]) -> int:
  """How many attempts at a problem the run evaluates; 0 if not known."""
  turns = (config.get("evaluate") or {}).get("turns")
  return len(turns) if isinstance(turns, (list, tuple)) else 0


def notes_of(run: Files, start: str = "") -> list[str]:
  """What is missing or torn, as paragraphs for `layout.page`."""
  return [f'class="warn">{html.escape(start + note)}' for note in run.notes]


def stages_of(run: Files) -> list[dict[str, Any]]:
  """The rows of the summary."""
  found = run.summary.get("stages")
  found = found if isinstance(found, list) else []
  return [stage for stage in found if isinstance(stage, dict)]


def unfinished(run: Files) -> list[str]:
  """Which stages are left, and how far the current one is; [] if none."""
  names = run.config.get("stages")
  names = names if isinstance(names, (list, tuple)) else []
  done = [stage.get("name") for stage in stages_of(run)]
  left = [str(name) for name in names if name not in done]
  if not left:
    return []
  last = run.records[-1] if run.records else {}
  options = run.config.get("stage") or {}
  words = f"Not finished: {', '.join(left)} left"
  if last.get("stage") in left:
    steps = (options.get(last["stage"]) or {}).get("steps", "?")
    words += f"; {last['stage']} was at step {last.get('step')} of {steps}"
  return [f"{words}. The same command goes on."]


def transitions(stages: list[dict[str, Any]]) -> str:
  """The table of transitions, and what its second lines are."""
  body = tables.transitions(stages)
  if not body:
    return ""
  return body + (
    '<p class="note">First and last attempt at the same problem. Fresh sample:'
    " a second sample that does not see the first attempt, the control: what"
    " another try alone would change.</p>"
  )


def alarm_lines(stages: list[dict[str, Any]]) -> str:
  """The alarms of all stages, a line each."""
  known = {alarm.name for alarm in alarms.ALARMS}
  lines = [
    alarms.described(name, str(stage.get("name", "-")), seen)
    for stage in stages for name, seen in (stage.get("alarms") or {}).items()
    if name in known
  ]
  return "".join(f'<p class="warn">{html.escape(x)}</p>' for x in lines)


def evaluation(studies: dict[str, dict[str, Any]]) -> str:
  """What `sitrain evaluate` has measured of each stage."""
  rows = [
    study[title] | {"name": f"{name}{words}"}
    for title, words in (("summary", ""), ("self_refine", ", with feedback"))
    for name, study in studies.items() if study.get(title)
  ]
  if not rows:
    return ""
  histograms = charts.edits({row["name"]: row for row in rows})
  about = "By sitrain evaluate, on problems of its own."
  if any(study.get("self_refine") for study in studies.values()):
    about += (
      " With feedback: the model writes what is wrong with its attempt, then"
      " the next one (Self-Refine)."
    )
  return (
    f'<p class="note">{about}</p>'
    + tables.accuracies(rows) + transitions(rows)
    + (f'<div class="charts">{histograms}</div>' if histograms else "")
    + layout.folded("by difficulty", tables.by_level([
      study["summary"] | {"name": name}
      for name, study in studies.items() if study.get("summary")
    ]))
  )


def settings(config: dict[str, Any]) -> str:
  """The config as JSON, folded."""
  if not config:
    return ""
  text = html.escape(json.dumps(config, indent=2, default=str))
  return layout.folded("all settings", f"<pre>{text}</pre>")


def commands(run: Files) -> str:
  """How to go on with the run, and what else can be done with it."""
  workdir = shlex.quote(run.folder)
  resume = f"sitrain train {run.arguments}" if run.arguments else (
    f"sitrain train --config=THE_SAME_CONFIG --workdir={workdir}"
  )
  lines = [
    ("goes on where it stopped, or says that all is done", resume),
    ("talks with the model", f"sitrain talk --workdir={workdir}"),
    ("measures more: many attempts, budgets",
     f"sitrain evaluate --workdir={workdir}"),
    ("writes a model that transformers can load",
     f"sitrain export --workdir={workdir} --output={workdir}/export"),
    ("writes this page again", f"sitrain report {workdir}"),
  ]
  text = "\n".join(f"# {about}\n{line}" for about, line in lines)
  return f"<pre>{html.escape(text)}</pre>"
