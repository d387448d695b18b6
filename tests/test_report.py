"""The report of a run, and of several: what stands in the HTML, and its size.

The pages are parsed; that they fit a phone is measured in a browser where there
is one.
"""

import html.parser
import json
import math
import re
import shutil
import subprocess
import sys

import pytest

from sitrain.runtime import glossary, workdir
from sitrain.runtime.page import (
  changes,
  charts,
  compared,
  curves,
  files,
  one_run,
  svg,
  tables,
  talks,
)
from sitrain.tasks import maze

EVIL = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"
VOID = ("meta", "img", "br", "input")


class Page(html.parser.HTMLParser):
  """The elements of a page, its text by the innermost element, and ids."""

  def __init__(self, text):
    super().__init__(convert_charrefs=True)
    self.found, self.texts, self.open, self.bad = [], {}, [], []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attributes):
    self.found.append((tag, dict(attributes)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.found.append((tag, dict(attributes)))

  def handle_endtag(self, tag):
    if not self.open or self.open.pop() != tag:
      self.bad.append(tag)

  def handle_data(self, data):
    if self.open:
      self.texts.setdefault(self.open[-1], []).append(data)

  def all(self, tag, style=""):
    return [
      attributes for name, attributes in self.found
      if name == tag and style in (attributes.get("class") or "").split(" ")
    ] if style else [a for name, a in self.found if name == tag]


def stage_row(name, end, first, second, **more):
  """A row of a summary, as an evaluation of two attempts has it."""
  near = lambda x: [max(x - 0.02, 0.0), min(x + 0.02, 1.0)]
  return {
    "name": name, "seconds": 20.0, "end": end, "problems": 512,
    "accuracy_1": first, "accuracy_2": second, "gain": second - first,
    "incorrect_to_correct": second - first + 0.01,
    "correct_to_incorrect": 0.01, "corrects": second > first,
    "intervals": {
      "accuracy_1": near(first), "accuracy_2": near(second),
      "incorrect_to_correct": near(second - first + 0.01),
    },
    "resample": {
      "accuracy": first, "accuracy_2": first, "incorrect_to_correct": 0.05,
      "correct_to_incorrect": 0.05,
    },
    "edits": {"density": [10.0] + [0.0] * 18 + [10.0], "copied": 0.5},
  } | more


def talk_of(first, second, kind, problem="How many pens?"):
  right = {"c": True, "i": False}
  return {
    "kind": kind, "level": "all", "problem": problem, "attempt_1": first,
    "instruction": "There may be an error.\nCorrect it.", "attempt_2": second,
    "right_1": right[kind[0]], "right_2": right[kind[-1]],
  }


def write_run(folder, *, seed=7, text=True, stages=("base", "rl")):
  """The files of a finished run of two stages: the second has rewards."""
  folder.mkdir(parents=True, exist_ok=True)
  lines = []
  for step in range(1, 41):
    lines.append({"stage": stages[0], "step": step, "learn/nll": 3 / step})
  for step in range(1, 121):
    lines.append({
      "stage": stages[1], "step": step, "judge/reward_1": 0.3 + step / 1000,
      "judge/reward_2": 0.3 + step / 200, "learn/entropy_1": 1 / step,
      "learn/kl_1": None if 50 <= step < 60 else 0.01 * step,
      "learn/kl_2": 0.02 * step, "judge/no_signal_1": 0.1,
      "run/seconds": 0.1, "run/host_seconds": 0.02,
      "run/tokens_per_second": 1234.0 + step, "learn/trained": 0.5,
    })
    if step % 40 == 0:
      lines[-1] |= {"eval/accuracy_1": 0.4, "eval/accuracy_2": 0.5,
                    "run/evaluation_seconds": 0.5}
  content = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "metrics.jsonl").write_text(content)
  long = "First there are 3 boxes with 4 pens each, so 3 * 4 = 12. " * 12
  talks_of = [
    talk_of(f"{EVIL} 12", "7 #### 7", "i->c"),
    talk_of(f"{long}#### 12", f"{long}#### 13", "c->i"),
  ] if text else [talk_of("2346+", "2364+", "c->i", "28-.346.+9702=")]
  rows = [
    stage_row(stages[0], 40, 0.34, 0.31),
    stage_row(stages[1], 160, 0.42, 0.98, dialogues=talks_of, alarms={
      "no_signal": {"steps": 20, "first": 30, "last": 60},
    }),
  ]
  rows[0]["dialogues"] = [talk_of("a b c", "a x c", "i->i")]
  workdir.write_json(folder / "summary.json", {
    "config_hash": "abc", "device": "cpu", "jax": "0.10", "seed": seed,
    "seconds": 40.0, "start": {"seconds": 3.0}, "stages": rows,
    "dialogues": talks_of,
  })
  name = "word_problems" if text else "maze"
  workdir.write_json(folder / "config.json", {
    "seed": seed, "task": {"name": name, "again": EVIL},
    "evaluate": {"every_problems": 100}, "only": {str(seed): 1},
  })
  turn = {"given": "", "rewards": {"reward": 1.0, "format": 0.5},
          "known": True, "advantage": None, "cut": True}
  samples = [
    {"stage": stages[1], "step": step, "kind": "", "row": 0, "prompt": EVIL,
     "turns": [turn | {"text": "one two"}, turn | {"text": "one three"}]}
    for step in (20, 40)
  ]
  lines = "".join(json.dumps(line) + "\n" for line in samples)
  (folder / "samples.jsonl").write_text(lines)
  (folder / "logs").mkdir(exist_ok=True)
  (folder / "logs" / "host_0.log").write_text(
    "2026-01-01 00:00:00,000 --- /a/main.py --config=mine.py --workdir=run\n"
  )
  return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def page(run):
  text = one_run.write_report(run).read_text()
  return Page(text), text


def test_the_page_is_one_file_that_loads_nothing(page):
  parsed, text = page
  assert not parsed.bad and not parsed.open  # every element is closed
  allowed = ("html", "head", "body", "meta", "title", "style", "script")
  for tag, attributes in parsed.found:
    assert not {"src", "onerror", "onload"} & attributes.keys(), (tag, allowed)
    assert attributes.get("href", "#").startswith("#")
  assert len(parsed.all("script")) == 1  # ours
  policy = parsed.all("meta")[1]["content"]
  assert "default-src 'none'" in policy and "'sha256-" in policy
  assert not re.search(r"url\(|@import|https?://", text)
  assert any("width=device-width" in m.get("content", "")
             for m in parsed.all("meta"))


def test_what_a_model_has_written_is_text(page):
  parsed, text = page
  assert "<img" not in text and "document.title='taken'" not in "".join(
    parsed.texts["script"]
  )
  # It stands there, in pieces where it was changed.
  assert "document" in "".join(parsed.texts["del"])


def test_the_headline_says_what_was_achieved(page):
  parsed, text = page
  (title,) = parsed.texts["h1"]
  assert title == (
    "From 31 % to 98 % right on the second attempt, from base to rl"
  )
  assert "A fresh second sample would be right in 42.0 %" in text
  for words in ("on cpu", "seed 7", "0:00:40 in all", "On 512 problems"):
    assert words in text
  rows = [stage_row("only", 3, 0.2, 0.25)]
  assert one_run.tables.headline(rows) == (
    "25 % right on the second attempt, after only"
  )
  assert "evaluated yet" in one_run.tables.headline([])
  # Corrections alone are none, where as much is spoiled.
  worse = [stage_row("a", 1, 0.5, 0.4, corrects=True)]
  assert "another try would do as well" in one_run.tables.below(worse)
  near = [stage_row("a", 1, 0.2, 0.25), stage_row("b", 2, 0.2, 0.26)]
  assert "may be chance" in one_run.tables.below(near)
  assert "may be chance" not in text


def test_the_transitions_of_attempts_add_up(run):
  table = Page(one_run.tables.transitions(one_run.stages_of(files.read(run))))
  cells = table.texts["td"]
  at = cells.index("rl")
  shares = list(map(float, cells[at + 1 : at + 5]))
  # 0.42 first: 0.41 stay right, 0.57 of all become so, 0.01 are lost.
  assert shares == [41.0, 57.0, 1.0, 1.0]
  assert cells[at + 5] == "· fresh sample" and cells[at + 6] == "37.0"


def test_charts_only_for_what_was_measured_and_in_words(page):
  parsed, text = page
  titles = parsed.texts["figcaption"]
  assert "Every attempt over the run" in titles
  assert {"Entropy", "KL to the reference", "Negative log-likelihood",
          "Problems without a signal", "Tokens per second"} <= set(titles)
  assert "Preference loss" not in titles and "Gradient norm" not in titles
  # Those of no group are there too, and no picture has a raw name.
  assert "Sampled tokens that are trained on" in titles
  shown = " ".join(titles + parsed.texts["li"] + parsed.texts["p"])
  assert not re.search(r"\b(judge|learn|generate|eval|run)/\w", shown)
  legend = parsed.texts["li"]
  for words in ("reward while training", "greedy while training",
                "accuracy after a stage"):
    assert f"attempt 2, {words}" in legend
  # The nll is that of the first stage alone, with its axis.
  nll = text[text.index("<figcaption>Negative log-like"):]
  nll = nll[: nll.index("</figure>")]
  assert "base" in nll and ">rl" not in nll


def test_steps_without_a_value_are_a_marked_gap(page):
  parsed, text = page
  assert len(parsed.all("rect", "gap")) == 1
  assert "steps 49.5 to 59.5: no value" in text
  kl = text[text.index("<figcaption>KL to"):]
  kl = kl[: kl.index("</figure>")]
  # The first attempt's curve is in two pieces, the second's in one.
  assert kl.count('<path class="s0" d=') == 2 + 1  # and the legend's
  assert kl.count('<path class="s1" d=') == 1 + 1
  assert "NaN" not in text and "nan" not in re.sub(r"\w*nan\w+", "", text)


def test_dialogues_of_all_stages_can_be_filtered(page):
  parsed, text = page
  found = parsed.all("article", "talk")
  told = [(a["data-stage"], a["data-kind"]) for a in found if "data-kind" in a]
  assert told == [("rl", "i->c"), ("rl", "c->i"), ("base", "i->i")]
  text = talks.dialogues([{"dialogues": [
    talk_of("a", "b", kind) for kind in ("i->i", "c->c", "i->c")
  ]}], (), maze.drawing)
  kinds = [a["data-kind"] for a in Page(text).all("article")]
  assert kinds == ["i->c", "c->c", "i->i"]
  options = [a["value"] for a in parsed.all("option")]
  assert {"rl", "base", "i->c", "c->i", "i->i", "longest"} <= set(options)
  assert "c->c" not in options  # there is none
  assert [a["data-filter"] for a in parsed.all("select")] == [
    "stage", "kind", "order",
  ]
  # Of the long one only a number is marked.
  assert "13" in parsed.texts["ins"] and "12" in parsed.texts["del"]
  assert "attempt 2, after “There may be an error. Correct it.” (wrong)" in (
    parsed.texts["b"]
  )


def test_a_changed_part_is_marked_by_words_or_letters():
  assert talks.marked("a b c", "a x c") == (
    "a <del>b</del> c", "a <ins>x</ins> c"
  )
  assert talks.marked("2346+", "2364+")[1].count("<ins>") == 1
  assert talks.marked("same", "same") == ("same", "same")
  assert talks.marked("<b>", "<i>") == (
    "&lt;<del>b</del>&gt;", "&lt;<ins>i</ins>&gt;"
  )
  huge = "word " * changes.MOST
  assert "<ins>" not in talks.marked(huge, huge + "more")[1]
  assert len(talks.clip("x" * 10 * talks.LONGEST)) < talks.LONGEST + 50


def test_symbols_of_a_maze_have_a_legend_and_a_drawing(tmp_path):
  text = one_run.write_report(write_run(tmp_path, text=False)).read_text()
  parsed = Page(text)
  assert ["0-9", ".", "+"] == parsed.texts["dt"][:3]
  assert "2 > 3 > 4 > 6 > +\n8 > 7 > 9 > 0 > -\nhint: 2" in parsed.texts["p"]
  # What is no maze has no drawing, however long it is.
  for prompt in ("", "=", "abc", "12+", "x" * 14, EVIL):
    assert maze.drawing(prompt) == ""
  assert maze.drawing("932-18+..470.=").endswith("no hint")


def test_samples_time_commands_and_config(page):
  parsed, text = page
  summaries = parsed.texts["summary"]
  assert "rl, step 20" in summaries and "rl, step 40" in summaries
  facts = "right reward 1.0, format 0.5, cut at its limit"
  assert f"attempt 1 ({facts})" in parsed.texts["b"]
  cells = parsed.texts["td"]
  at = cells.index("0:00:12")  # 120 steps of 0.1 s
  # Three evaluations, and the rest of 2.4 s between the calls; 20 s in all.
  assert cells[at - 2 : at + 5] == [
    "rl", "0:00:20", "0:00:12", "0:00:02", "0:00:01", "0:00:06", "1,295",
  ]
  commands = parsed.texts["pre"][0]
  assert "sitrain train --config=mine.py --workdir=run\n" in commands
  for name in ("talk", "evaluate", "export", "report"):
    assert f"sitrain {name} " in commands
  assert '"seed": 7' in parsed.texts["pre"][1]
  assert "no_signal at 20 steps" in text


def test_what_is_missing_or_torn_is_said(tmp_path, caplog):
  with pytest.raises(FileNotFoundError, match="--workdir"):
    one_run.write_report(tmp_path)
  run = write_run(tmp_path / "run")
  with open(run / "metrics.jsonl", "ab") as file:
    file.write('{"stage": "rl", "step": 121, "é'.encode()[:-1])  # half of it
    file.write(b"\n3\n")
  (run / "summary.json").write_text('{"stages": [')
  (run / "config.json").unlink()
  text = one_run.write_report(run).read_text()
  for words in (
    "metrics.jsonl: 2 lines are torn", "summary.json is torn",
    "config.json is missing", "No stage of this run has been evaluated yet",
    "Every attempt over the run",
  ):
    assert words in text
  assert not Page(text).bad and not caplog.records
  (run / "metrics.jsonl").unlink()
  (run / "summary.json").write_text('{"seed": 1, "stages": [3, {"name": "a"}]}')
  text = one_run.write_report(run).read_text()
  assert "metrics.jsonl is missing" in text and "Attempts</h2>" not in text


def test_a_run_that_is_not_finished_says_so(run, tmp_path):
  other = write_run(tmp_path / "run")
  config = json.loads((other / "config.json").read_text())
  config |= {"stages": ["base", "rl", "two"], "stage": {"rl": {"steps": 300}}}
  workdir.write_json(other / "config.json", config)
  found = files.read(other)
  assert one_run.unfinished(found) == [
    "Not finished: two left. The same command goes on."
  ]
  stages = found.summary["stages"][:1]
  early = found._replace(summary={"stages": stages})
  want = "Not finished: rl, two left; rl was at step 120 of 300. The same"
  assert one_run.unfinished(early)[0].startswith(want)
  assert want in one_run.render(early)
  assert not one_run.unfinished(files.read(run))


def test_odd_numbers_of_a_run_make_a_page(tmp_path):
  """One step, infinite ends, texts for numbers, and many attempts."""
  row = stage_row("a", 1, 0.0, 0.0) | {
    "accuracy_3": 1.0, "intervals": {"accuracy_3": [None, None]},
    "edits": {"density": [None]}, "resample": None, "dialogues": [{}, {
      "problem": "p", "attempt_1": "x", "attempt_2": "y", "attempt_3": "z",
      "instruction_2": "again", "right_1": False, "right_3": True,
    }],
  }
  workdir.write_json(tmp_path / "summary.json", {"stages": [row, {}]})
  (tmp_path / "metrics.jsonl").write_text(
    '{"stage": "a", "step": 1, "learn/kl_1": Infinity, "learn/nll": "x",'
    ' "learn/entropy_1": 1e300, "judge/reward_1": -0.05}\n{"step": null}\n'
  )
  text = one_run.write_report(tmp_path).read_text()
  parsed = Page(text)
  assert not parsed.bad and "100 % right on the third attempt" in text
  assert "attempt 3, after “again” (right)" in parsed.texts["b"]
  # Where a verdict stands between two attempts, turn 3 is the second.
  judged = row | {"verdict_accuracy": 0.5, "dialogues": [
    row["dialogues"][1] | {"verdicts": [2]}
  ]}
  workdir.write_json(tmp_path / "summary.json", {"stages": [judged]})
  text = one_run.write_report(tmp_path).read_text()
  assert "100 % right on the second attempt" in text
  assert "verdict 2" in " ".join(Page(text).texts["b"])


def test_an_evaluation_of_its_own_is_shown(tmp_path):
  run = write_run(tmp_path / "run")
  study = {
    "summary": stage_row("rl", 1, 0.5, 0.6),
    "self_refine": {
      name.replace("_2", "_3"): x
      for name, x in stage_row("rl", 1, 0.5, 0.7).items()
    },
    "many_turns": {
      "turns": [1, 2, 3], "accuracy": [0.1, 0.2, None],
      "intervals": {"accuracy": [[0.0, 0.2], [0.1, 0.3], [None, None]]},
    },
    "scaling": {"budget": [2, 4], "parallel": [0.1, 0.2], "pass": [0.2, 0.3],
                "intervals": {}},
  }
  workdir.write_json(run / "evaluation.json", {"stages": {"rl": study}})
  parsed = Page(one_run.write_report(run).read_text())
  titles = parsed.texts["figcaption"]
  assert "rl, with feedback: what the last attempt changes" in titles
  cells = parsed.texts["td"]
  at = cells.index("rl, with feedback")
  # Of each study the last attempt: the second here, the third there.
  assert cells[at - 5 : at + 3] == [
    "rl", "50.0", "60.0", "10.0", "50.0", "rl, with feedback", "50.0", "70.0",
  ]
  assert "Accuracy by attempt" in titles
  assert "rl: accuracy at a matched budget" in titles
  assert "any first attempt right" in parsed.texts["li"]
  notes = " ".join(parsed.texts["p"])
  assert "By sitrain evaluate" in notes and "(Self-Refine)" in notes


def test_notes_are_words_and_no_formulas():
  names = [f"judge/{name}_2" for name in ("changed", "corrected", "spoiled")]
  note = charts.note_of([*names, "generate/truncated_2"], 0)
  assert "differ from the attempt before, as a share of all turns. " in note
  assert "right attempts after a wrong one, as a share of all" in note
  assert "wrong attempts after a right one, as a share of all" in note
  assert " / " not in note and "(1 - r" not in note


@pytest.mark.parametrize("name, healthy", [
  ("generate/truncated_2", "below 10 %."),  # The axis says 10 %, not 0.1.
  ("judge/no_signal_2", "below 80 %; 100 %: nothing can be learned."),
  ("judge/changed_2", "neither 0 (copies) nor 100 %."),
  ("judge/distinct_2", "falls slowly; 1 / samples: all are copies."),
  ("learn/ratio", "near 1."),  # The axis has ratios.
])
def test_what_is_healthy_is_in_the_unit_of_the_axis(name, healthy):
  assert charts.note_of([name], 0).endswith(f"Healthy: {healthy}")


def test_a_note_counts_no_turns():
  names = [f"judge/{name}_3" for name in ("copied", "true", "caught")]
  assert not re.search(r"\bK\b| - [12]\b", charts.note_of(names, 0))


def test_a_time_table_has_no_column_of_dashes():
  record = {"stage": "rl", "step": 1, "run/seconds": 2.0}
  stage = {"name": "rl", "seconds": 3.0}
  assert "tokens/s" not in tables.time_table([record], [stage])
  rated = record | {"run/tokens_per_second": 1234.4}
  assert "tokens/s" in tables.time_table([rated], [stage])
  assert "1,234" in tables.time_table([rated], [stage])


def test_runs_are_compared_in_one_page(run, tmp_path):
  other = write_run(tmp_path / "other" / "run", seed=8)
  (other / "samples.jsonl").write_text("{")
  target = compared.write_comparison([run, other], tmp_path / "both.html")
  text = target.read_text()
  parsed = Page(text)
  names = [f"{run.parent.name}/run", "other/run"]
  assert not parsed.bad and len(parsed.all("script")) == 1
  assert parsed.texts["h1"] == ["2 runs compared"]
  assert set(names) <= set(parsed.texts["li"])  # in the legends
  assert "Second attempt, right after each stage" in parsed.texts["figcaption"]
  cells = parsed.texts["td"]
  assert cells[cells.index("seed") + 1 :][:2] == ["7", "8"]
  assert "task.name" not in cells  # the same in both
  assert "only.8" in cells and "(not set)" in cells
  assert "other/run: samples.jsonl: 1 line is torn" in text
  same = compared.render([files.read(run), files.read(run)])
  assert "repetitions of one run" in same


def test_the_command_takes_several_runs_as_words(tmp_path):
  runs = [write_run(tmp_path / name) for name in ("a", "b")]
  done = subprocess.run(
    [sys.executable, "-m", "sitrain.report", *map(str, runs),
     f"--output={tmp_path}/both.html"],
    capture_output=True, text=True, timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert "2 runs compared" in (tmp_path / "both.html").read_text()


def test_every_metric_has_a_label_in_words():
  for group in glossary.GROUPS.values():
    for entry in group:
      name = entry.name.replace("NAME", "easy")
      # Those without a verb are no records of a run.
      raw = re.search(r"_|[a-z]/|\bK\b", glossary.label(name))
      assert "/" not in name or not raw, entry.name
  for name, want in (
    ("learn/kl_2", "KL to the reference, attempt 2"),
    ("learn/kl_K", "KL to the reference"),
    ("eval/sampled_accuracy_1", "accuracy, attempt 1 (sampled)"),
    ("judge/format_2", "format, attempt 2"), ("own/thing", "thing"),
  ):
    assert glossary.label(name) == want
  known = [entry.name for group in glossary.GROUPS.values() for entry in group]
  assert set(glossary.LABELS) <= set(known)


def test_stages_follow_each_other_on_the_axis():
  steps = [("a", 1), ("a", 5), ("b", 1), ("b", 2)]
  placed = curves.place([{"stage": s, "step": n} for s, n in steps])
  assert placed.at == [1, 5, 6, 7]
  assert placed.borders == [(0, "a"), (5, "b")]


def test_curves_are_means_with_intervals():
  records = [{"stage": "a", "step": i, "x": i % 2} for i in range(1, 1001)]
  line = curves.curve(curves.place(records), "x", label="", color=0)
  (points,) = line.pieces
  assert len(points) == curves.BINS
  assert all(p.y == 0.5 and p.low < 0.5 < p.high for p in points)
  # 10 values of 0 and 1: a deviation of 0.527, over the root of 10.
  assert points[0].high - 0.5 == pytest.approx(1.96 * 0.527 / 10**0.5, 1e-3)
  few = curves.curve(curves.place(records[:5]), "x", label="", color=0)
  assert [p.y for p in few.pieces[0]] == [1, 0, 1, 0, 1]
  assert all(math.isnan(p.low) for p in few.pieces[0])
  # Wilson's interval of 8 of 10, from his formula worked out by hand.
  assert curves.wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_axes_have_round_numbers():
  assert svg.round_numbers(0, 1) == [0, 0.5, 1.0]
  assert svg.round_numbers(0, 0.93) == [0, 0.5, 1.0]
  assert svg.round_numbers(3, 3)[0] <= 3 <= svg.round_numbers(3, 3)[-1]
  assert [svg.short(x) for x in (0, 0.25, 1500, 25000, 3e6)] == [
    "0", "0.25", "1500", "25k", "3M",
  ]


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MEASURE = """<body><iframe style="border:0;width:{width}px;height:900px"
 src="page.html"></iframe><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument;
  const box = page.documentElement;
  const wide = [...page.querySelectorAll("body *")].filter((one) =>
    one.getBoundingClientRect().right > {width} + 1 &&
    !one.closest(".scroll, pre, svg, details:not([open])"));
  const count = page.querySelector(".count");
  const counts = [count ? count.textContent : ""];
  const said = [box.clientWidth, box.scrollWidth, wide.map(
    (one) => one.tagName + "." + one.className).join(" "), page.title, counts];
  const menu = page.querySelector("[data-filter=kind]");
  if (menu) {{
    menu.value = "c->i";
    menu.dispatchEvent(new Event("change"));
    counts.push(count.textContent);
  }}
  document.body.textContent = "MEASURED" + JSON.stringify(said) + "END";
}});
</script>"""


def browse(browser, folder, *options):
  return subprocess.run(
    [browser, "--headless=new", "--no-sandbox", "--disable-gpu",
     "--allow-file-access-from-files", f"--user-data-dir={folder}/profile",
     "--window-size=1400,1000", *options, (folder / "outer.html").as_uri()],
    capture_output=True, text=True, timeout=120,
  )


def measured(browser, folder, width):
  """(width inside, width needed, what stands out, title, talks shown)."""
  (folder / "outer.html").write_text(MEASURE.format(width=width))
  done = browse(browser, folder, "--dump-dom")
  found = re.search("MEASURED(.*?)END", done.stdout)
  assert found, done.stderr[-2000:]
  return json.loads(html.unescape(found[1]))


@pytest.mark.nightly
@pytest.mark.parametrize("width", [1280, 400])
def test_the_pages_fit_a_screen_in_a_browser(run, tmp_path, width):
  browser = next(filter(None, map(shutil.which, BROWSERS)), None)
  if browser is None:
    pytest.skip(f"no browser here: one of {', '.join(BROWSERS)}")
  long = write_run(tmp_path / ("long" * 30), stages=("b" * 90, "s" * 90))
  found = json.loads((long / "summary.json").read_text())
  found["stages"][1]["dialogues"] = [talk_of("x" * 999, "y" * 999, "c->i")]
  (long / "summary.json").write_text(json.dumps(found))
  page = tmp_path / "page.html"
  for write, shown in (
    (lambda: one_run.write_report(run, str(page)), ["3 of 3", "1 of 3"]),
    (lambda: one_run.write_report(long, str(page)), ["2 of 2", "1 of 2"]),
    (lambda: compared.write_comparison([run, long], page), [""]),
  ):
    write()
    inner, needed, wide, title, counts = measured(browser, tmp_path, width)
    assert inner <= width and needed <= inner and not wide, wide
    # Our script ran, also on a choice, and that of a dialogue did not.
    assert [x.removesuffix(" dialogues") for x in counts] == shown
    assert "taken" not in title
  picture = tmp_path / "page.png"
  (tmp_path / "outer.html").write_text(
    f'<iframe style="width:{width}px;height:900px" src="page.html"></iframe>'
  )
  browse(browser, tmp_path, f"--screenshot={picture}")
  assert picture.read_bytes().startswith(b"\x89PNG")
  assert picture.stat().st_size > 20_000
