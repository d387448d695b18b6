"""Several runs in one page: curves over each other, and what differs."""

import html
import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from sitrain.runtime import workdir as workdirs
from sitrain.runtime.page import charts, curves, files, layout, svg, tables
from sitrain.runtime.page.curves import is_number
from sitrain.runtime.page.files import Files
from sitrain.runtime.page.one_run import notes_of, stages_of
from sitrain.runtime.progress import duration

# What is compared besides the rewards and accuracies of every attempt.
METRICS = (
  r"judge/no_signal_\d+", r"judge/(corrected|spoiled)_\d+",
  r"learn/entropy(_\d+)?", r"learn/kl_\d+", r"learn/nll", r"learn/preference",
  r"generate/length_\d+", r"learn/gradient_norm", r"run/tokens_per_second",
)


def write_comparison(workdirs: Sequence[Any], output: Any) -> epath.Path:
  """Writes one page about several runs.

  Raises FileNotFoundError for a folder without metrics and without a summary.
  """
  target = epath.Path(output)
  layout.write(target, render([files.read(folder) for folder in workdirs]))
  return target


def render(runs: Sequence[Files]) -> str:
  """The page, from the files of the runs."""
  names = names_of(runs)
  figures = lambda body: f'<div class="charts">{body}</div>' if body else ""
  sections = {
    "Results": results(names, runs),
    "Attempts": figures(
      over_stages(names, runs) + pictures(names, runs, r"eval/accuracy_\d+")
      + pictures(names, runs, r"judge/reward_\d+")
    ),
    "Curves": figures("".join(
      pictures(names, runs, pattern) for pattern in METRICS
    )),
    "What differs in the configs": differences(names, runs),
    "Stages": "".join(
      f"<h3>{html.escape(name)}</h3>{tables.accuracies(stages_of(run))}"
      for name, run in zip(names, runs) if stages_of(run)
    ),
  }
  below = []
  for name, run in zip(names, runs):
    below += notes_of(run, start=f"{name}: ")
  return layout.page(
    title=f"{len(runs)} runs compared", name=", ".join(names), below=below,
    sections=sections,
  )


def names_of(runs: Sequence[Files]) -> list[str]:
  """Of each run as many folders of its path as it takes to tell them apart."""
  paths = [run.folder.rstrip("/").split("/") for run in runs]
  for depth in range(1, max(map(len, paths)) + 1):
    names = ["/".join(path[-depth:]) for path in paths]
    if len(set(names)) == len(names):
      break
  return names


def results(names: Sequence[str], runs: Sequence[Files]) -> str:
  """The last evaluated stage of each run, side by side."""
  last = max(tables.last_attempt(stages_of(run)) for run in runs)
  every = [stage for run in runs for stage in stages_of(run)]
  keys = {"accuracy_1": "first attempt"}
  if last > 1:
    keys |= {
      f"accuracy_{last}": f"{tables.ordinal(last, every)} attempt",
      "gain": "gain",
      "incorrect_to_correct": "wrong to right",
      "correct_to_incorrect": "right to wrong",
    }
  rows = [["run", "stage", *keys.values(), "time", "tokens/s"]]
  for name, run in zip(names, runs):
    stages = stages_of(run)
    final = (tables.evaluated(stages) or [{}])[-1]
    seconds = run.summary.get("seconds")
    stage = str(final.get("name", "-"))
    rows.append([
      name, stage, *(tables.cell(final, key) for key in keys),
      duration(seconds) if is_number(seconds) else "-",
      tables.rate_of(run.records, stage),
    ])
  return tables.table(rows) + '<p class="note">Right, in %.</p>'


def over_stages(names: Sequence[str], runs: Sequence[Files]) -> str:
  """The evaluations after the stages, a line for each run."""
  found, every = "", [stage for run in runs for stage in stages_of(run)]
  last = max(tables.last_attempt(stages_of(run)) for run in runs)
  for number in dict.fromkeys((1, last)):
    lines = [
      curves.ends_of(
        stages_of(run), f"accuracy_{number}", label=name, color=i % 8
      )
      for i, (name, run) in enumerate(zip(names, runs))
    ]
    lines = [
      line._replace(pieces=[sum(line.pieces, [])]) for line in lines
      if line.pieces
    ]
    found += svg.chart(
      f"{tables.ordinal(number, every).capitalize()} attempt, right after each"
      " stage",
      lines, svg.Axes(percent=True, bottom=0.0, across="step of the run"),
      "With 95 % intervals.",
    )
  return found


def pictures(
  names: Sequence[str], runs: Sequence[Files], pattern: str
) -> str:
  """A picture for each metric that matches, with a curve for each run."""
  metrics = sorted({
    name for run in runs for name in curves.names_of(run.records, pattern)
  })
  return "".join(_picture(names, runs, metric) for metric in metrics)


def _picture(names, runs, metric) -> str:
  placed = [curves.with_metrics(run.records, [metric]) for run in runs]
  lines = [
    curves.curve(
      one, metric, label=name, color=i % 8,
      share=charts.unit_of([metric]) == charts.SHARE,
    )
    for i, (name, one) in enumerate(zip(names, placed))
    if any(is_number(r.get(metric)) for r in one.records)
  ]
  borders = [one.borders for one in placed if one.borders]
  same = borders and all(each == borders[0] for each in borders)
  axes = charts.axes_of([metric])._replace(
    borders=borders[0] if same else (),
    across="step of the stages that have it",
  )
  return svg.chart(
    charts.title_of(metric), lines, axes, charts.note_of([metric], 0)
  )


def differences(names: Sequence[str], runs: Sequence[Files]) -> str:
  """The settings that are not the same in all runs, a row for each."""
  flat = [workdirs.flatten(run.config) for run in runs]
  fields = dict.fromkeys(field for one in flat for field in one if field)
  rows = [["config", *names]]
  for field in fields:
    values = [_value(one, field) for one in flat]
    if len(set(values)) > 1:
      rows.append([field, *values])
  if len(rows) == 1:
    return "<p>Nothing: they are repetitions of one run.</p>"
  return tables.table(rows, style="settings")


def _value(flat: dict[str, Any], field: str) -> str:
  if field not in flat:
    return "(not set)"
  return json.dumps(flat[field], default=str)
