r"""Parses an answer: a number, words, a list, an interval, an equation.

`read` goes by structure alone and computes nothing. Its records are compared in
matching.py.
"""

import re
from collections.abc import Sequence
from typing import Any

from sitrain.tasks.verifiers import expressions, relations, units
from sitrain.tasks.verifiers.latex import Unreadable
from sitrain.tasks.verifiers.leaves import (
  CLOSES,
  OPENS,
  PIECE,
  as_words,
  encloses_all,
  number,
  trimmed,
)
from sitrain.tasks.verifiers.records import (
  DOTS,
  INFINITE,
  Assigned,
  Based,
  Clock,
  Equation,
  Inequality,
  Items,
  Matrix,
  Number,
  Ratio,
  Residue,
  Union,
)
from sitrain.tasks.verifiers.words import NUMBER_WORDS

SIGNS = {"=": "=", r"\approx": "~", "<": "<", ">": ">", r"\le": "<=",
         r"\ge": ">=", r"\ne": "!", r"\in": "in", r"\equiv": "=", "≡": "="}
SETS = {r"\cup": "cup", r"\cap": "cap", r"\setminus": "minus"}
JOINTS = {",": ",", ";": ",", r"\land": "and", r"\wedge": "and",
          r"\lor": "or", r"\vee": "or"}
SIGN = re.compile(r"\\(pm|mp)(?![a-zA-Z]) ?")
LEAD = re.compile(
  r"^(?:\\text\{ ?)?"
  r"(?:(?:so|thus|therefore|hence|and|we (?:get|have|find)),? )?"
  r"(?:(?:the |our )?(?:final |correct )?(?:answer|result|solution|value)s?"
  r"(?: of [a-zA-Z]| (?:to|for) [a-z ]{1,30})? ?(?:is|are|=|:)(?: equal to)?:?"
  r" ?|answer ?:? ?|approximately |about |exactly |it is )(?:\} ?)?(?=\S)",
  re.IGNORECASE,
)
TEXT = re.compile(r"\\text\{([^{}]*)\}")
COUNTED = re.compile(
  r" ?(-?(?:\\\$ ?)?\d[\d.,/]*)(?: ([a-zA-Z][a-zA-Z ./^23]*)| ?)"
)
MODULO = re.compile(
  r"([^()]*?) ?\(? ?\\(?:[bp]?mod|text\{ ?mod ?\}) ?\{?([^()]*?)\}?\)?"
)
POINT = re.compile(r"[A-Z](?:_(?:\d|\{\d\})|')? ?(?=\()")
# ]-1, 3[ is written for (-1, 3), too.
TURNED = re.compile(r"(?:^|\\in|\\c[ua]p|=) ?\]|\[ ?(?:$|\\c[ua]p)")
_END = r"(?:(?!\\c[ua]p)[^\[\]();,])+"
BOUNDS = re.compile(rf"([\[\](])({_END}[,;]{_END})([\[\])])")
AND = re.compile(r"(?<=[^a-zA-Z\\]) and (?=\S)")
OR = re.compile(r"(?<=[^a-zA-Z\\]) or (?=\S)")
TWICE = re.compile(r"(?:[,;] ?)+(?=\\(?:land|lor)\b)")
MIXED = re.compile(
  r"(?<![\d.^_})!a-zA-Z])(\d+) ?(?:\\frac ?(?:\{ ?(\d+) ?\}|(\d)) ?"
  r"(?:\{ ?(\d+) ?\}|(\d)))(?![\d!^])"
)
SPACED = re.compile(
  r"(?<![\d./^_})!a-zA-Z])(\d+) (\d+)()/(\d+)()(?![\d/.!^])"
)


def read(text: str, known: frozenset[str] = frozenset()) -> Any:
  """The record of an answer in plain LaTeX (see latex.plain).

  known: words that are units here, besides those of units.py. Raises Unreadable
  for a text that is neither mathematics nor words.
  """
  text = trimmed(text)
  if len(text) < 300:
    text = trimmed(LEAD.sub("", text, count=1))
  text = _prepared(text)
  clock = _clock(text)
  if clock:
    return clock
  parts, joints = _split(text, JOINTS)
  parts = [part for part in parts if part.strip(" .")]
  if len(parts) > 1:
    return _listed(parts, joints, known)
  return _item(parts[0] if parts else text, known)


def _prepared(text: str) -> str:
  r"""Rewrites words that join items or wrap numbers.

  \text{ and } joins items, \text{13} is 13, 1 1/4 and 1\frac{1}{4} are mixed
  numbers.
  """
  if "\\text" in text:
    text = TEXT.sub(_unwrapped, text)
  if " and " in text or " or " in text or r"\l" in text:
    text = AND.sub(r"\\land ", text)
    text = OR.sub(r"\\lor ", text)
    text = TWICE.sub("", text)
  if r"\frac" in text:
    text = MIXED.sub(_mixed, text)
  if "/" in text and " " in text:
    text = SPACED.sub(_mixed, text)
  if ("]" in text or "[" in text) and TURNED.search(text):
    text = BOUNDS.sub(_straight, text)
  return text


def _straight(hit: re.Match) -> str:
  opens, closes = hit[1].replace("]", "("), hit[3].replace("[", ")")
  return f"{opens}{hit[2]}{closes}"


def _mixed(hit: re.Match) -> str:
  integer, *rest = hit.groups()
  top, bottom = (x for x in rest if x)
  if int(top) >= int(bottom):
    return hit[0]
  return rf"\mixed{{{integer}}}{{{top}}}{{{bottom}}}"


def _unwrapped(hit: re.Match) -> str:
  content = hit[1]
  counted = COUNTED.fullmatch(content)
  if counted and not counted[2]:
    return counted[1]
  if counted and units.unit(counted[2]):
    return rf"{counted[1]}\text{{ {counted[2]}}}"
  parts = re.split(r"\s*([,;]|\band\b|\bor\b)\s*", content)
  found = []
  for part in parts:
    if part in ("and", "or"):
      found.append(r" \land " if part == "and" else r" \lor ")
    elif re.fullmatch(r"[,;]|[\d.:/+\-\s]*|\(? ?[A-Za-z] ?\)", part) or (
      hit[0] == hit.string and re.fullmatch(r"\([\d.\-]+\)", part)
    ):
      found.append(part)
    else:
      found.append(rf"\text{{{part}}}")
  return hit[0] if len(parts) == 1 and found[0] != content else "".join(found)


def _split(text: str, marks: dict) -> tuple[list[str], list[str]]:
  """Splits a text at the marks outside of brackets: the parts, the marks."""
  if not any(mark in text for mark in marks):
    return [text], []
  parts, found, depth, start, at = [], [], 0, 0, 0
  for piece in PIECE.findall(text):
    if not depth and piece in marks:
      parts.append(text[start:at])
      found.append(marks[piece])
      start = at + len(piece)
    depth += (piece in OPENS) - (piece in CLOSES)
    depth = max(depth, 0)
    at += len(piece)
  return [*parts, text[start:]], found


def _clock(text: str) -> Clock | None:
  if ":" not in text and "m" not in text.lower():
    return None
  bare = re.sub(r"\\text\{([^{}]*)\}|[{}~]", r" \1 ", text).strip().lower()
  found = re.fullmatch(
    r"(\d{1,2})(?: ?: ?([0-5]\d))?(?: ?: ?([0-5]\d))? *(?:([ap])\.? ?m\.?)?",
    " ".join(bare.split()),
  )
  if not found or not (found[2] or found[4]):
    return None
  parts = tuple(int(found[i] or 0) for i in (1, 2, 3))
  if parts[0] > (12 if found[4] else 24):
    return None
  return Clock(parts, f"{found[4]}m" if found[4] else "")


def _listed(parts: Sequence[str], joints: Sequence[str], known) -> Any:
  items: list[Any] = []
  for part in parts:
    found = _item(part, known)
    plain = isinstance(found, Items) and not found.opens
    items += found.items if plain else [found]
  # In n = 2, 3, 4 the name applies to all items.
  first, *rest = items
  if isinstance(first, Assigned) and not any(
    isinstance(x, (Assigned, Equation, Inequality)) for x in rest
  ):
    items[0] = first.value
  steps = [x for x in items if isinstance(x, Inequality)]
  if len(steps) == len(items) == 2 and set(joints) <= {"and", "or"}:
    both = steps[0].steps + steps[1].steps
    return Inequality(both, None, joints[0]) if joints[0] == "and" else Union(
      ("cup",), tuple(steps)
    )
  return Items("", "", tuple(items))


def _item(text: str, known) -> Any:
  """One answer of a list, or the only one."""
  text = trimmed(text)
  if SIGN.search(text):
    upper, lower = {"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"}
    sides = [
      SIGN.sub(lambda hit: upper[hit[1]], text),
      SIGN.sub(lambda hit: lower[hit[1]], text),
    ]
    return Items("", "", tuple(_item(side, known) for side in sides))
  sides, signs = _split(text, SIGNS)
  if signs:
    return relations.read(sides, signs, lambda side: _sets(side, known), text)
  return _sets(text, known)


def _sets(text: str, known) -> Any:
  text = trimmed(text)
  sides, signs = _split(text, SETS)
  if signs:
    return Union(tuple(signs), tuple(_value(side, known) for side in sides))
  return _value(text, known)


def _value(text: str, known) -> Any:
  text = trimmed(text)
  if text in (r"\emptyset", r"\{\}", r"\{ \}"):
    return Items("{", "}", ())
  if text in (r"\ldots", "..."):
    return Number(DOTS)
  if re.fullmatch(r"[+-]? ?\\infty", text):
    sign = text.startswith("-")
    return Number(("negate", INFINITE) if sign else INFINITE)
  if r"\begin" in text:
    return _matrix(text)
  for special in (_bracketed, _based, _residue, _point):
    found = special(text, known)
    if found is not None:
      return found
  parts, marks = _split(text, {":": ":"})
  if marks and all(part.strip() for part in parts):
    try:
      return Ratio(tuple(expressions.parse(part) for part in parts))
    except Unreadable:
      return as_words(text)
  return number(text, known)


def _bracketed(text: str, known) -> Any:
  """The record of a text in brackets, or None without them."""
  if text[:1] not in ("(", "[", "\\"):
    return None
  opens = re.match(r"\(|\[|\\\{|\\langle", text)
  closes = re.search(r"(\)|\]|\\\}|\\rangle)$", text)
  if not opens or not closes or not encloses_all(text):
    return None
  inside = text[opens.end():closes.start()]
  parts, _ = _split(inside, {",": ",", ";": ","})
  one, other = opens[0], closes[0]
  if one == r"\langle" and other == r"\rangle":
    one, other = "(", ")"
  if len(parts) > 1:
    items: list[Any] = []
    for part in parts:
      found = _item(part, known)
      spread = isinstance(found, Items) and not found.opens
      items += found.items if spread else [found]
    return Items(one.strip("\\"), other.strip("\\"), tuple(items))
  if one == r"\{":
    builder, marks = _split(inside, {"|": "|", ":": ":"})
    if len(builder) == 2 and len(builder[0].strip()) < 20:
      return _item(builder[1], known)
    found = _item(inside, known)
    spread = isinstance(found, Items) and not found.opens
    return Items("{", "}", found.items if spread else (found,))
  if r"\begin" in text or re.search(r"[<>=]|\\(le|ge|cup)\b", inside):
    return None
  if (one, other) in (("(", ")"), ("[", "]")):
    return _value(inside, known)
  raise Unreadable("half an interval")


def _based(text: str, known) -> Based | None:
  if "_" not in text:
    return None
  bare = re.sub(r"\\text\{ ?([0-9A-Z]+) ?\}", r"\1", text).replace(" ", "")
  found = re.fullmatch(
    r"(-?)\(?(\d[0-9A-Z]*(?:\.[0-9A-Z]+)?|[A-Z]+\d[0-9A-Z]*)\)?"
    r"_(?:\{\(?(\d{1,2})\)?\}|(\d{1,2})|\{?\\text\{([a-z]+)\}\}?)", bare
  )
  if not found:
    return None
  spelled = NUMBER_WORDS.get(found[5] or "", 0)
  base = int(found[3] or found[4] or spelled)
  return Based(found[1] + (found[2].lstrip("0") or "0"), base)


def _residue(text: str, known) -> Residue | None:
  found = MODULO.fullmatch(text) if "mod" in text else None
  if not found:
    return None
  return Residue(*map(expressions.parse, found.groups()))


def _point(text: str, known) -> Assigned | None:
  """A point with its name: P(3, 4)."""
  found = POINT.match(text)
  inside = _bracketed(text[found.end():], known) if found else None
  if not isinstance(inside, Items) or len(inside.items) < 2:
    return None
  return Assigned(text[:found.end()].strip(), inside, None)


def _matrix(text: str) -> Matrix:
  found = re.fullmatch(
    r"(.*?)[(\[]? ?\\begin ?\{([a-zA-Z]*matrix\*?|array)\}(.*)\\end ?\{\2\} ?"
    r"[)\]]?", text, re.DOTALL
  )
  if not found or found[2] == "vmatrix" or r"\begin" in found[3]:
    raise Unreadable("a matrix")
  body = re.sub(r"^ ?\{[lcr| ]*\}|^ ?\[[lcr]*\]|\\hline", "", found[3])
  factor = expressions.parse(found[1]) if found[1].strip() else None
  rows = []
  for line in re.split(r"\\\\", body):
    if line.strip():
      cells = [number(cell, frozenset()).tree for cell in line.split("&")]
      rows.append(tuple(
        ("multiply", factor, cell) if factor else cell for cell in cells
      ))
  return Matrix(tuple(rows))


