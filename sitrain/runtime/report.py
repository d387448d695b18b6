"""The report of a run as one HTML file: curves, summary, dialogues, config."""

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from etils import epath

from sitrain.runtime import alarms
from sitrain.runtime import workdir as workdirs
from sitrain.runtime.progress import control, duration, summary_rows
from sitrain.runtime.stopping import EVAL
from sitrain.runtime.storage import write_whole

Records = Sequence[dict[str, Any]]

# Title, and the prefix of its metrics: one curve each.
CURVES = (
  ("accuracy of evaluations (greedy)", "eval/accuracy_"),
  ("accuracy of evaluations (sampled)", "eval/sampled_accuracy_"),
  ("reward per turn", "judge/reward_"),
  ("problems without a signal", "judge/no_signal_"),
  ("KL to the reference per turn (nat)", "learn/kl_"),
  ("entropy per turn (nat per token)", "learn/entropy_"),
  ("attempts that change the answer", "judge/changed"),
  ("gradient norm", "learn/gradient_norm"),
)

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:60rem;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;border-bottom:1px solid #ddd;
margin-top:2.5rem}
table{border-collapse:collapse;font-size:.9rem}
td,th{padding:.35rem .8rem;border-bottom:1px solid #e5e5e5;text-align:right}
td:first-child,th:first-child{text-align:left}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(26rem,1fr));
gap:1rem}.charts img{width:100%}
.talk{border:1px solid #ddd;border-radius:6px;padding:.6rem 1rem;
margin:.8rem 0}.talk p{margin:.3rem 0;white-space:pre-wrap;
overflow-wrap:anywhere}
.right{border-left:4px solid #2a9d5c;padding-left:.6rem}
.wrong{border-left:4px solid #c8553d;padding-left:.6rem}
.given{color:#666}pre{background:#f6f6f6;padding:1rem;overflow:auto}
.scroll{overflow-x:auto}
"""


def read_records(path: Any) -> list[dict[str, Any]]:
  """The records of a metrics.jsonl; incomplete lines are skipped."""
  path, found = epath.Path(path), []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      found.append(json.loads(line))
    except ValueError:
      continue
  return found


def place(records: Records) -> tuple[list[float], list[tuple[float, str]]]:
  """The position of each record on one axis over all stages, and the borders.

  A stage starts where the one before it ended.
  """
  at, borders = [], []
  start, last, stage = 0.0, 0.0, ""
  for record in records:
    if record.get("stage", "") != stage or not borders:
      stage, start = record.get("stage", ""), last
      borders.append((start, stage))
    last = max(last, start + float(record.get("step", 0)))
    at.append(start + float(record.get("step", 0)))
  return at, borders


def curve_names(records: Records, start: str) -> list[str]:
  """The metrics whose names start with `start`, sorted."""
  return sorted({k for r in records for k in r if k.startswith(start)})


def picture(title: str, start: str, records: Records) -> str:
  """The curves of one group as an inline PNG; "" if there are none."""
  names = curve_names(records, start)
  if not names:
    return ""
  # Imported here, because it is slow. Without pyplot it uses the Agg backend.
  from matplotlib.figure import Figure

  figure = Figure(figsize=(6.4, 3.4), dpi=110, layout="constrained")
  axes = figure.subplots()
  at, borders = place(records)
  for name in names:
    values = [r.get(name) for r in records]
    points = [math.nan if v is None else v for v in values]
    mark = "o" if sum(v is not None for v in values) < 2 else ""
    where = at
    if name.startswith(EVAL):  # Between evaluations there are no numbers.
      known = [(x, v) for x, v in zip(at, values) if v is not None]
      (where, points), mark = zip(*known), "o"
    axes.plot(where, points, label=name, linewidth=1.3, marker=mark)
  for where, stage in borders:
    axes.axvline(where, color="#999", linewidth=0.8, linestyle="--")
    axes.text(
      where, 1.0, f" {stage}", transform=axes.get_xaxis_transform(),
      va="bottom", fontsize=8, color="#555",
    )  # fmt: skip
  axes.set_title(title, fontsize=10, pad=16)
  axes.set_xlabel("step")
  axes.grid(alpha=0.25)
  axes.legend(fontsize=8, frameon=False)
  file = io.BytesIO()
  figure.savefig(file, format="png")
  data = base64.b64encode(file.getvalue()).decode()
  return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'


def table(rows: Sequence[Sequence[str]]) -> str:
  """Rows of text as an HTML table; the first row has the titles."""
  head, *body = rows
  lines = ["<tr>" + "".join(f"<th>{html.escape(c)}</th>" for c in head)]
  for row in body:
    lines.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row))
  return '<div class="scroll"><table>' + "\n".join(lines) + "</table></div>"


def controls(stages: Records) -> str:
  """The resample control of every stage: a fresh second sample."""
  rows = [["stage", "accuracy@2 of a fresh second sample", "cs", "cl"]]
  for stage in stages:
    resample = stage.get("resample") or {}
    shares = [resample.get(key) for key in ("cs", "cl")]
    text = ["-" if x is None else f"{x:.3f}" for x in shares]
    if resample:
      rows.append([str(stage.get("name", "-")), control(stage), *text])
  return table(rows) if len(rows) > 1 else ""


def dialogue(talk: dict[str, Any]) -> str:
  """One problem with both attempts."""
  parts = []
  for key, right in (
    ("problem", ""),
    ("attempt_1", "right_1"),
    ("instruction", ""),
    ("attempt_2", "right_2"),
  ):
    if key not in talk:
      continue
    mark = "right" if talk.get(right) else "wrong"
    style = mark if right else "given"
    verdict = f" ({mark})" if right in talk else ""
    label = key.replace("_", " ") + verdict
    text = html.escape(str(talk[key]))
    parts.append(f'<p class="{style}"><b>{label}</b><br>{text}</p>')
  return '<div class="talk">' + "".join(parts) + "</div>"


STEPS = 40  # of samples that the page shows


def shown_steps(samples: Records) -> list[tuple[str, list[dict[str, Any]]]]:
  """(stage and step, its samples): of at most STEPS steps, the last included.

  Evenly chosen where there are more.
  """
  steps: dict[str, list[dict[str, Any]]] = {}
  for one in samples:
    title = f"{one.get('stage', '')}, step {one.get('step', '?')}"
    steps.setdefault(title, []).append(one)
  titles = list(steps)[::-1]
  each = -(-len(titles) // STEPS) or 1
  return [(title, steps[title]) for title in titles[::each][::-1]]


def sample(one: dict[str, Any]) -> str:
  """One row of a step: its prompt, and each turn with its rewards."""
  prompt = html.escape(str(one.get("prompt", "")))
  parts = [f'<p class="given"><b>problem</b><br>{prompt}</p>']
  for k, turn in enumerate(one.get("turns", ()), start=1):
    if turn.get("given"):
      parts.append(f'<p class="given">{html.escape(str(turn["given"]))}</p>')
    rewards = turn.get("rewards") or {}
    facts = [f"{name} {value}" for name, value in rewards.items()]
    facts += ["verdict unknown"] * (not turn.get("known", True))
    if turn.get("advantage") is not None:
      facts.append(f"advantage {turn['advantage']:+.3f}")
    facts += ["cut"] * bool(turn.get("cut"))
    good = (rewards.get("reward") or 0) > 0
    label = html.escape(f"attempt {k} ({', '.join(facts)})")
    text = html.escape(str(turn.get("text", "")))
    style = "right" if good else "wrong"
    parts.append(f'<p class="{style}"><b>{label}</b><br>{text}</p>')
  return '<div class="talk">' + "".join(parts) + "</div>"


def samples_by_step(samples: Records) -> str:
  """Samples of a run, a foldable block for each step."""
  blocks = [
    f"<details><summary>{html.escape(title)}</summary>"
    + "".join(map(sample, found)) + "</details>"
    for title, found in shown_steps(samples)
  ]
  return "\n".join(blocks)


def alarm_lines(stages: Records) -> str:
  """The alarms of all stages, a line each."""
  lines = [
    alarms.told(name, str(stage.get("name", "-")), seen)
    for stage in stages for name, seen in (stage.get("alarms") or {}).items()
  ]
  return "".join(f'<p class="wrong">{html.escape(x)}</p>' for x in lines)


def _section(title: str, body: str) -> str:
  return f"<h2>{html.escape(title)}</h2>\n{body}\n" if body else ""


def _facts(summary: dict[str, Any]) -> str:
  known = ("config_hash", "device", "seed")
  facts = {k: summary[k] for k in known if k in summary}
  if "seconds" in summary:
    facts["time"] = duration(float(summary["seconds"] or math.nan))
  return " &middot; ".join(
    f"{html.escape(k.replace('_', ' '))} <b>{html.escape(str(v))}</b>"
    for k, v in facts.items()
  )


def _json(path: epath.Path) -> dict[str, Any]:
  return workdirs.read_json(path) if path.exists() else {}


def render(
  records: Records, summary: dict[str, Any], config: dict[str, Any], name: str,
  samples: Records = (),
) -> str:
  """The page, from the files of a run."""
  stages = summary.get("stages") or []
  pictures = "".join(picture(t, s, records) for t, s in CURVES)
  talks = "".join(dialogue(t) for t in summary.get("dialogues") or [])
  settings = html.escape(json.dumps(config, indent=2, default=str))
  body = [
    f"<h1>{html.escape(name)}</h1><p>{_facts(summary)}</p>",
    _section("Summary", table(summary_rows(stages)) if stages else ""),
    _section("Alarms", alarm_lines(stages)),
    _section("Resample control", controls(stages)),
    _section("Curves", f'<div class="charts">{pictures}</div>'),
    _section("Dialogues", talks),
    _section("Samples while it trained", samples_by_step(samples)),
    _section("Config", f"<pre>{settings}</pre>" if config else ""),
  ]
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    f"<title>{html.escape(name)}</title><style>{_STYLE}</style></head><body>\n"
    + "\n".join(body)
    + "</body></html>\n"
  )


def write_report(workdir: Any) -> epath.Path:
  """Writes workdir/report.html from the files of the run.

  Reads metrics.jsonl, samples.jsonl, summary.json and config.json, each if it
  exists. Raises FileNotFoundError if there are neither metrics nor a summary.
  """
  folder = epath.Path(workdir)
  records = read_records(folder / "metrics.jsonl")
  summary = _json(folder / "summary.json")
  if not records and not summary:
    raise FileNotFoundError(
      f"{workdir} has neither metrics.jsonl nor summary.json: give the"
      " --workdir of a run"
    )
  page = render(
    records, summary, _json(folder / "config.json"), folder.name,
    read_records(folder / "samples.jsonl"),
  )
  target = folder / "report.html"
  write_whole(target, page)
  return target
