"""Dialogues and samples as HTML: attempts side by side, changes marked."""

import html
import re
from collections.abc import Sequence
from typing import Any

from sitrain.runtime.page.changes import changes
from sitrain.runtime.page.curves import is_number
from sitrain.runtime.page.symbols import Drawing
from sitrain.runtime.progress import turn_name

Records = Sequence[dict[str, Any]]
STEPS = 40  # of samples that the page shows
LONGEST = 40_000  # letters of a text that the page shows

KINDS = {  # in the order in which they are shown
  "i->c": "wrong, then right",
  "c->i": "right, then wrong",
  "c->c": "right, and right again",
  "i->i": "wrong, and wrong again",
}


def dialogues(stages: Records, last: Records, draw: Drawing) -> str:
  """The dialogues of all stages, with menus that filter them.

  `last` are those of the last stage, for runs that keep no others. `draw` turns
  a problem into what people read.
  """
  found = [
    (str(stage.get("name", "")), talk)
    for stage in reversed(stages) for talk in stage.get("dialogues") or []
  ] or [("", talk) for talk in last]
  if not found:
    return ""
  names = list(dict.fromkeys(name for name, _ in found))
  order = {kind: i for i, kind in enumerate(KINDS)}
  found.sort(key=lambda one: (
    names.index(one[0]), order.get(kind_of(one[1]), len(order))
  ))
  kinds = [kind for kind in KINDS if any(kind_of(t) == kind for _, t in found)]
  blocks = "".join(dialogue(talk, draw, stage) for stage, talk in found)
  return (
    f'<div class="filters">{_choice("stage", dict(zip(names, names)))}'
    + _choice("kind", {kind: KINDS[kind] for kind in kinds})
    + _choice("order", {"longest": "longest first"}, every="as evaluated")
    + f'<span class="count"></span></div><div class="talks">{blocks}</div>'
  )


def _choice(name: str, options: dict[str, str], every: str = "all") -> str:
  """A menu; without scripts it is hidden, and everything is shown."""
  if len(options) < 2 and name != "order":
    return ""
  items = [("", f"{name}: {every}"), *options.items()]
  inner = "".join(
    f'<option value="{html.escape(value)}">{html.escape(text)}</option>'
    for value, text in items
  )
  return f'<select data-filter="{name}" aria-label="{name}">{inner}</select>'


def kind_of(talk: dict[str, Any]) -> str:
  """Whether the first and the last attempt are right, as "i->c"."""
  if talk.get("kind") in KINDS:
    return talk["kind"]
  marks = [talk[key] for key in sorted(talk) if key.startswith("right_")]
  letter = lambda right: "c" if right else "i"
  return f"{letter(marks[0])}->{letter(marks[-1])}" if marks else ""


def dialogue(talk: dict[str, Any], draw: Drawing, stage: str = "") -> str:
  """One problem with all its attempts."""
  numbers = sorted(
    int(key.removeprefix("attempt_")) for key in talk
    if re.fullmatch(r"attempt_\d+", key)
  )
  texts = [str(talk[f"attempt_{k}"]) for k in numbers]
  before = {
    k: talk.get("instruction" if k == 2 else f"instruction_{k - 1}", "")
    for k in numbers
  }
  verdicts = [
    (turn_name(talk, k), _verdict(talk.get(f"right_{k}")), before[k])
    for k in numbers
  ]
  size = sum(map(len, texts))
  about = [stage, KINDS.get(kind_of(talk), ""), str(talk.get("level", ""))]
  return (
    f'<article class="talk" data-stage="{html.escape(stage)}"'
    f' data-kind="{html.escape(kind_of(talk))}" data-size="{size}">'
    + _about([word for word in about if word])
    + side_by_side(_given(talk.get("problem", ""), draw), texts, verdicts)
    + "</article>"
  )


def side_by_side(
  problem: str, texts: Sequence[str], verdicts: Sequence[tuple[str, str, Any]]
) -> str:
  """Problem and attempts in columns.

  `verdicts` has of each attempt a label, a verdict and what came before.

  What the first one has and the second lacks is struck; what is new in a later
  one is marked.
  """
  clipped = list(map(clip, texts))
  shown = list(map(html.escape, clipped))
  for i in range(1, len(clipped)):
    old, shown[i] = marked(clipped[i - 1], clipped[i])
    if i == 1:
      shown[0] = old
  columns = []
  for (label, verdict, given), text in zip(verdicts, shown):
    if str(given).strip():
      label = f"{label}, after “{first_words(str(given))}”"
    style, verdict = verdict.partition(" ")[0], html.escape(verdict)
    columns.append(
      f'<div class="turn {style}"><b>{html.escape(label)}'
      f"{verdict and f' ({verdict})'}</b><p>{text}</p></div>"
    )
  return f'<div class="turns">{problem}{"".join(columns)}</div>'


def marked(before: str, after: str) -> tuple[str, str]:
  """Both texts as HTML: what is gone is struck, and what is new is marked."""
  old, new = "", ""
  for part in changes(before, after):
    gone, fresh = map(html.escape, part)
    if not (gone and fresh):
      gone = gone and f"<del>{gone}</del>"
      fresh = fresh and f"<ins>{fresh}</ins>"
    old, new = old + gone, new + fresh
  return old, new


def clip(text: str) -> str:
  """The text, or its start and how much more there is."""
  if len(text) <= LONGEST:
    return text
  return f"{text[:LONGEST]} ... ({len(text) - LONGEST} more letters)"


def first_words(text: str, most: int = 60) -> str:
  """The start of a text, in one line."""
  line = " ".join(text.split())
  return line if len(line) <= most else f"{line[: most - 1]}…"


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


def sample(one: dict[str, Any], draw: Drawing) -> str:
  """One row of a step: its prompt, and each turn with its rewards."""
  turns = [t for t in one.get("turns") or [] if isinstance(t, dict)]
  texts = [str(turn.get("text", "")) for turn in turns]
  verdicts = [
    (f"attempt {k}", _facts(turn), turn.get("given", ""))
    for k, turn in enumerate(turns, start=1)
  ]
  kind = str(one.get("kind", ""))
  return (
    f'<article class="talk">{_about([kind] if kind else [])}'
    + side_by_side(_given(one.get("prompt", ""), draw), texts, verdicts)
    + "</article>"
  )


def samples_by_step(samples: Records, draw: Drawing) -> str:
  """Samples of a run, a foldable block for each step; the last one is open."""
  steps = shown_steps(samples)
  return "".join(
    f"<details{' open' * (i == len(steps))}><summary>{html.escape(title)}"
    f"</summary>{''.join(sample(x, draw) for x in found)}</details>"
    for i, (title, found) in enumerate(steps, start=1)
  )


def _facts(turn: dict[str, Any]) -> str:
  """The verdict of a sampled turn, its rewards and its advantage."""
  rewards = turn.get("rewards")
  rewards = rewards if isinstance(rewards, dict) else {}
  paid = rewards.get("reward")
  known = turn.get("known", True)
  verdict = ""
  if known and is_number(paid):
    verdict = "right" if paid >= 1 else "partly" if paid > 0 else "wrong"
  facts = [
    f"{name} {'unknown' if value is None else value}"
    for name, value in rewards.items()
  ]
  facts += ["verdict unknown"] * (not known)
  if is_number(turn.get("advantage")):
    facts.append(f"advantage {turn['advantage']:+.3f}")
  facts += ["cut at its limit"] * bool(turn.get("cut"))
  return f"{verdict} {', '.join(facts)}".strip()


def _verdict(right: Any) -> str:
  return "" if right is None else "right" if right else "wrong"


def _about(words: Sequence[str]) -> str:
  if not words:
    return ""
  return f'<p class="about">{html.escape(" · ".join(words))}</p>'


def _given(text: Any, draw: Drawing) -> str:
  drawn = draw(str(text))
  drawn = f'<p class="drawn">{html.escape(drawn)}</p>' if drawn else ""
  text = html.escape(clip(str(text)))
  return f'<div class="given"><b>problem</b><p>{text}</p>{drawn}</div>'
