"""Charts as inline SVG that keep their text readable at every width.

The curves are in an inner picture of 1000 x 1000 that is stretched to the width
of the page; the text stands outside of it, at percentages, and is not. Colours
come from the style sheet, so that they fit light and dark.
"""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

SIZE = 1000  # of the stretched picture, in both directions
NARROWEST = 270  # pixels of a plot on a phone
LETTER = 6.5  # pixels of a small letter


class Point(NamedTuple):
  """A value with its interval; NaN, NaN without one."""

  x: float
  y: float
  low: float = math.nan
  high: float = math.nan


class Line(NamedTuple):
  """A curve in pieces: between two pieces there are no values."""

  label: str
  pieces: list[list[Point]]
  color: int  # 0 to 7
  dots: bool = False  # single measurements, with whiskers
  dashed: bool = False
  faint: bool = False


class Gap(NamedTuple):
  """Steps that have no value."""

  first: float
  last: float


class Axes(NamedTuple):
  """What a chart shows besides its lines."""

  borders: Sequence[tuple[float, str]] = ()  # where a stage starts, its name
  gaps: Sequence[Gap] = ()
  percent: bool = False
  across: str = "step"
  ticks: Sequence[tuple[float, str]] = ()  # across; (): round numbers
  bottom: float = math.nan  # a value that is always in the picture
  top: float = math.nan


def chart(title: str, lines: Sequence[Line], axes: Axes, note: str = "") -> str:
  """A figure: title, legend, plot, and `note` below it; "" without points."""
  points = [p for line in lines for piece in line.pieces for p in piece]
  if not points:
    return ""
  low, high = _range(points, axes)
  left, right = _ends([p.x for p in points], axes)
  across = lambda x: (x - left) / (right - left)
  up = lambda y: 1 - (y - low) / (high - low)
  inner = [_gap(gap, across) for gap in axes.gaps]
  inner += [_curve(line, across, up) for line in lines]
  body = [*_vertical(low, high, up, axes.percent)]
  body += _borders(axes.borders, across)
  body += _horizontal(left, right, across, axes.ticks)
  body.append(
    f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none"'
    f' width="100%" height="100%">{"".join(inner)}</svg>'
  )
  body += [_whiskers(line, across, up) for line in lines if line.dots]
  said = html.escape(f"{title}: {', '.join(line.label for line in lines)}")
  return (
    f'<figure><figcaption>{html.escape(title)}</figcaption>{_legend(lines)}'
    f'<svg class="plot" role="img" aria-label="{said}" width="100%"'
    f' height="100%">{"".join(body)}</svg>'
    f'<p class="across">{html.escape(axes.across)}</p>'
    + (f'<p class="note">{html.escape(note)}</p>' if note else "")
    + "</figure>"
  )


def bars(title: str, heights: Sequence[float], ticks: Sequence[str],
         color: int, note: str = "") -> str:
  """A histogram: shares, and the text below the ends of its bins."""
  high = max([x for x in heights if math.isfinite(x)] or [0.0]) or 1.0
  high = round_numbers(0.0, high)[-1]
  up = lambda y: 1 - y / high
  width = SIZE / max(len(heights), 1)
  inner = "".join(
    f'<rect class="f{color}" x="{i * width + 3:.0f}" y="{SIZE * up(x):.0f}"'
    f' width="{width - 6:.0f}" height="{SIZE * x / high:.0f}">'
    f"<title>{100 * x:.1f} %</title></rect>"
    for i, x in enumerate(heights) if math.isfinite(x)
  )
  at = [(i / (len(ticks) - 1), text) for i, text in enumerate(ticks)]
  body = [*_vertical(0.0, high, up, True), *_labels(at)]
  return (
    f'<figure><figcaption>{html.escape(title)}</figcaption>'
    f'<svg class="plot" role="img" aria-label="{html.escape(title)}"'
    f' width="100%" height="100%">{"".join(body)}<svg'
    f' viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" width="100%"'
    f' height="100%">{inner}</svg></svg>'
    f'<p class="note">{html.escape(note)}</p></figure>'
  )


def round_numbers(
  low: float | int, high: float | int, count: int = 4
) -> list[float]:
  """Round numbers around [low, high], about `count` steps of 1, 2 or 5."""
  if not high > low:
    high = low + (abs(low) or 1.0)
  rough = (high - low) / count
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough * 0.999)
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [round(i * step, 12) for i in range(first, last + 1)]


def short(value: float | int) -> str:
  """A number of an axis: 1200 is 1.2k."""
  for limit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
    if abs(value) >= limit:
      return f"{value / (1e3 if sign == 'k' else limit):.4g}{sign}"
  return f"{value:.0f}" if value == int(value) else f"{value:.3g}"


def _range(points, axes) -> tuple[float, float]:
  """The ends of the vertical axis, round, with all intervals inside."""
  found = [x for p in points for x in (p.y, p.low, p.high)]
  found = [x for x in (*found, axes.bottom, axes.top) if math.isfinite(x)]
  numbers = round_numbers(min(found, default=0), max(found, default=1))
  return numbers[0], numbers[-1]


def _ends(found, axes) -> tuple[float, float]:
  found = [*found, *(x for x, _ in axes.borders), *(x for x, _ in axes.ticks)]
  left, right = min(found), max(found)
  return (left, right) if right > left else (left - 0.5, left + 0.5)


def _vertical(low, high, up, percent) -> list[str]:
  marks = []
  for value in round_numbers(low, high):
    if low <= value <= high:
      at = f"{100 * up(value):.2f}%"
      text = f"{100 * value:.4g}%" if percent else short(value)
      marks.append(
        f'<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>'
        f'<text class="tick" x="-6" y="{at}" dy="4" text-anchor="end">{text}'
        "</text>"
      )
  return marks


def _horizontal(left, right, across, ticks) -> list[str]:
  found = [(across(x), text) for x, text in ticks] or [
    (across(x), short(x)) for x in round_numbers(left, right)
    if left <= x <= right and x == int(x)
  ]
  return _labels(found)


def _labels(found) -> list[str]:
  """Text below the plot; that at its ends does not stand out."""
  ends = lambda x: "start" if x < 0.02 else "end" if x > 0.98 else "middle"
  return [
    f'<text class="tick" x="{100 * x:.2f}%" y="100%" dy="16"'
    f' text-anchor="{ends(x)}">{html.escape(text)}</text>' for x, text in found
  ]


def _borders(borders, across) -> list[str]:
  """A dashed line where a stage starts; its name where there is room."""
  marks, places = [], [across(x) for x, _ in borders] + [1.0]
  for (_, name), at, end in zip(borders, places, places[1:]):
    x = f"{100 * at:.2f}%"
    room = (end - at) * NARROWEST / LETTER - 1
    shown = name if len(name) <= room else name[: int(room) - 1] + "…"
    marks.append(
      f'<line class="border" x1="{x}" x2="{x}" y1="-14" y2="100%">'
      f"<title>{html.escape(name)}</title></line>"
    )
    if room >= 4:
      marks.append(
        f'<text class="stage" x="{x}" dx="4" y="-4">{html.escape(shown)}'
        "</text>"
      )
  return marks


def _gap(gap, across) -> str:
  first, last = SIZE * across(gap.first), SIZE * across(gap.last)
  first, last = max(first, 0.0), min(last, SIZE)
  width = max(last - first, 4.0)
  return (
    f'<rect class="gap" x="{first:.1f}" y="0" width="{width:.1f}"'
    f' height="{SIZE}"><title>steps {short(gap.first)} to {short(gap.last)}:'
    " no value</title></rect>"
  )


def _curve(line, across, up) -> str:
  """Bands and curves of a line; a single point is a dot."""
  at = lambda x, y: f"{SIZE * across(x):.1f} {SIZE * up(y):.1f}"
  parts = []
  for piece in line.pieces:
    known = [p for p in piece if math.isfinite(p.low + p.high)]
    if len(known) > 1 and not line.dots:
      around = [at(p.x, p.high) for p in known]
      around += [at(p.x, p.low) for p in reversed(known)]
      band = "L".join(around)
      parts.append(f'<path class="f{line.color} band" d="M{band}Z"/>')
    style = f"s{line.color}" + " dashed" * line.dashed + " faint" * line.faint
    path = "L".join(at(p.x, p.y) for p in piece)
    if len(piece) == 1:  # A line of no length, with round ends.
      path += f"L{at(piece[0].x, piece[0].y)}"
      style += " dot"
    parts.append(f'<path class="{style}" d="M{path}"/>')
  return "".join(parts)


def _whiskers(line, across, up) -> str:
  """Dots and their intervals, which are not stretched."""
  marks = []
  for p in (p for piece in line.pieces for p in piece):
    x, y = f"{100 * across(p.x):.2f}%", f"{100 * up(p.y):.2f}%"
    said = f"{line.label}, {short(p.x)}: {p.y:.4g}"
    if math.isfinite(p.low + p.high):
      said += f" [{p.low:.4g}, {p.high:.4g}]"
      ends = [f"{100 * up(end):.2f}%" for end in (p.low, p.high)]
      marks.append(
        f'<line class="s{line.color}" x1="{x}" x2="{x}" y1="{ends[0]}"'
        f' y2="{ends[1]}"/>'
      )
    marks.append(
      f'<circle class="f{line.color}" cx="{x}" cy="{y}" r="4"><title>'
      f"{html.escape(said)}</title></circle>"
    )
  return "".join(marks)


def _legend(lines) -> str:
  """What each colour means; nothing where one line has the chart's title."""
  if len(lines) == 1 and not lines[0].label:
    return ""
  items = []
  for line in lines:
    style = f"s{line.color}" + " dashed" * line.dashed + " faint" * line.faint
    mark = f'<path class="{style}" d="M1 6L21 6"/>'
    if line.dots:
      mark = f'<circle class="f{line.color}" cx="11" cy="6" r="4"/>'
    items.append(
      f'<li><svg width="22" height="12">{mark}</svg>{html.escape(line.label)}'
      "</li>"
    )
  return f'<ul class="legend">{"".join(items)}</ul>'
