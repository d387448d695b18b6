r"""What an answer is: a number, words, a list, an interval, an equation.

`read` decides by structure alone and computes nothing. Its records are
compared in equivalence.py.
"""

import re
from collections.abc import Sequence
from typing import Any

from sitrain.tasks.verifiers import expressions, relations, units
from sitrain.tasks.verifiers.latex import Unreadable
from sitrain.tasks.verifiers.records import (
  DOTS,
  INFINITE,
  Assigned,
  Based,
  Clock,
  Equation,
  Foreign,
  Inequality,
  Many,
  Matrix,
  Number,
  Ratio,
  Union,
  Words,
)

SIGNS = {"=": "=", r"\approx": "~", "<": "<", ">": ">", r"\le": "<=",
         r"\ge": ">=", r"\ne": "!", r"\in": "in", r"\equiv": "=", "≡": "="}
SETS = {r"\cup": "cup", r"\cap": "cap", r"\setminus": "minus"}
JOINTS = {",": ",", ";": ",", r"\land": "and", r"\wedge": "and",
          r"\lor": "or", r"\vee": "or"}
# An answer that begins and ends like this has nothing around it.
FIRST = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                  "([-+")
LAST = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                 ")]}%")
STOPS = re.compile(r"(?:(?<!\\)[.,;:]|\\\\|\\ |\s)+$")
STARTS = re.compile(r"^(?:[,;]|\\\\|\\ |\s|\.(?!\d))+")
PIECE = re.compile(r"\\text\{[^{}]*\}|\\[a-zA-Z]+|\\.|.", re.DOTALL)
OPENS = frozenset(["(", "[", "{", r"\{", r"\langle", r"\begin", r"\lfloor",
                   r"\lceil"])
CLOSES = frozenset([")", "]", "}", r"\}", r"\rangle", r"\end", r"\rfloor",
                    r"\rceil"])
FOREIGN = re.compile(
  r"\\(?:int|sum|prod|lim|gcd|lcm|bmod|pmod|mod|det|min|max|text\{(?:gcd|lcm"
  r"|min|max|det)\})(?![a-zA-Z])"
)
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9,
          "trillion": 12}
SCALE = re.compile(
  r"(\\text\{|(?<=[\d}) ])) ?(dozen|hundred|thousand|[mbtr]+illion)s?"
  r"(?![a-z])", re.IGNORECASE
)
LEAD = re.compile(
  r"^(?:\\text\{ ?)?(?:(?:so|thus|therefore|hence|and|we (?:get|have|find)),? )?"
  r"(?:(?:the |our )?(?:final |correct )?(?:answer|result|solution|value)s?"
  r"(?: of [a-zA-Z]| (?:to|for) [a-z ]{1,30})? ?(?:is|are|=|:)(?: equal to)?:?"
  r" ?|answer ?:? ?|approximately |about |exactly |it is )(?:\} ?)?(?=\S)",
  re.IGNORECASE,
)
# What no gold answer makes a unit.
RESERVED = frozenset("""
and or to than less more about half halves third thirds times plus minus mod
base dozen hundred thousand million billion trillion percent hundreds thousands
millions billions squared cubed pm am p.m. a.m. e i x y
""".split())
PROSE = re.compile(r"(?:(?<![\\{a-z])[a-z]{2,}[ ,.]+){2}[a-z]{2}")
TEXT = re.compile(r"\\text\{([^{}]*)\}")
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
NUMBER_WORDS = {
  word: i for i, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve".split()
  )
}


def read(text: str, known: frozenset[str] = frozenset()) -> Any:
  """The record of an answer in plain LaTeX (see latex.plain).

  known: words that count as units here, beside those of units.py. Raises
  Unreadable for what is neither mathematics nor words.
  """
  text = _trimmed(text)
  if len(text) < 300:
    text = _trimmed(LEAD.sub("", text, count=1))
  text = _prepared(text)
  clock = _clock(text)
  if clock:
    return clock
  parts, joints = _split(text, JOINTS)
  parts = [part for part in parts if part.strip(" .")]
  if len(parts) > 1:
    return _listed(parts, joints, known)
  return _item(parts[0] if parts else text, known)


def words(text: str) -> str:
  r"""A text in small letters, without what only marks it as text."""
  bare = re.sub(r"\\text\{([^{}]*)\}|\\[a-zA-Z]+ ?", r" \1 ", text)
  bare = re.sub(r"[{}\\$\"“”'`*]", "", bare).lower()
  bare = re.sub(r"\s*([,;:()])\s*", r" \1 ", bare)
  bare = " ".join(bare.split()).strip(" .,;:!")
  bare = re.sub(r"\s*\.\s*$", "", bare)
  return re.sub(r"^(?:the|an?) (?=\S)", "", bare)


def _trimmed(text: str) -> str:
  """Without stops and spaces around it, and without an outer pair of braces."""
  if text and text[0] in FIRST and text[-1] in LAST:
    return text
  before = None
  while before != text:
    before = text
    text = text.strip()
    if not text.endswith((r"\ldots", "...")):
      text = STOPS.sub("", text)
    text = STARTS.sub("", text)
    if text.startswith("{") and text.endswith("}") and _whole(text):
      text = text[1:-1]
  return text


def _whole(text: str) -> bool:
  """Whether the first bracket is closed by the last character."""
  depth = 0
  pieces = PIECE.findall(text)
  for i, piece in enumerate(pieces):
    depth += (piece in OPENS) - (piece in CLOSES)
    if not depth:
      return i == len(pieces) - 1
  return False


def _prepared(text: str) -> str:
  r"""Words that join or only wrap become what they mean.

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
  return text


def _mixed(hit: re.Match) -> str:
  whole, *rest = hit.groups()
  top, bottom = (x for x in rest if x)
  if int(top) >= int(bottom):
    return hit[0]
  return rf"\mixed{{{whole}}}{{{top}}}{{{bottom}}}"


def _unwrapped(hit: re.Match) -> str:
  content = hit[1]
  parts = re.split(r"\s*([,;]|\band\b|\bor\b)\s*", content)
  found = []
  for part in parts:
    if part in ("and", "or"):
      found.append(r" \land " if part == "and" else r" \lor ")
    elif re.fullmatch(r"[,;]|[\d.:/+\-\s]*|\(? ?[A-Za-z] ?\)", part):
      found.append(part)
    else:
      found.append(rf"\text{{{part}}}")
  return hit[0] if len(parts) == 1 and found[0] != content else "".join(found)


def _split(text: str, marks: dict) -> tuple[list[str], list[str]]:
  """Parts of a text at the marks that stand in no brackets, and the marks."""
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
    plain = isinstance(found, Many) and not found.opens
    items += found.items if plain else [found]
  # n = 2, 3, 4 names them all.
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
  return Many("", "", tuple(items))


def _item(text: str, known) -> Any:
  """One answer of a list, or the only one."""
  text = _trimmed(text)
  if re.search(r"\\(?:pm|mp)(?![a-zA-Z])", text):
    sides = [
      re.sub(r"\\(pm|mp)(?![a-zA-Z]) ?", lambda hit: swap[hit[1]], text)
      for swap in ({"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"})
    ]
    return Many("", "", tuple(_item(side, known) for side in sides))
  sides, signs = _split(text, SIGNS)
  if signs:
    return relations.read(sides, signs, lambda side: _sets(side, known), text)
  return _sets(text, known)


def _sets(text: str, known) -> Any:
  text = _trimmed(text)
  sides, signs = _split(text, SETS)
  if signs:
    return Union(tuple(signs), tuple(_value(side, known) for side in sides))
  return _value(text, known)


def _value(text: str, known) -> Any:
  text = _trimmed(text)
  if text in (r"\emptyset", r"\{\}", r"\{ \}"):
    return Many("{", "}", ())
  if text in (r"\ldots", "..."):
    return Number(DOTS)
  if re.fullmatch(r"[+-]? ?\\infty", text):
    sign = text.startswith("-")
    return Number(("negate", INFINITE) if sign else INFINITE)
  if r"\begin" in text:
    return _matrix(text)
  for found in (_bracketed(text, known), _based(text)):
    if found is not None:
      return found
  parts, marks = _split(text, {":": ":"})
  if marks and all(part.strip() for part in parts):
    try:
      return Ratio(tuple(expressions.parse(part) for part in parts))
    except Unreadable:
      return _words(text)
  return number(text, known)


def _bracketed(text: str, known) -> Any:
  """What stands in brackets that hold the whole text, or None."""
  if text[:1] not in ("(", "[", "\\"):
    return None
  opens = re.match(r"\(|\[|\\\{|\\langle", text)
  closes = re.search(r"(\)|\]|\\\}|\\rangle)$", text)
  if not opens or not closes or not _whole(text):
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
      spread = isinstance(found, Many) and not found.opens
      items += found.items if spread else [found]
    return Many(one.strip("\\"), other.strip("\\"), tuple(items))
  if one == r"\{":
    builder, marks = _split(inside, {"|": "|", ":": ":"})
    if len(builder) == 2 and len(builder[0].strip()) < 20:
      return _item(builder[1], known)
    found = _item(inside, known)
    spread = isinstance(found, Many) and not found.opens
    return Many("{", "}", found.items if spread else (found,))
  if r"\begin" in text or re.search(r"[<>=]|\\(le|ge|cup)\b", inside):
    return None
  if (one, other) in (("(", ")"), ("[", "]")):
    return _value(inside, known)
  raise Unreadable("half an interval")


def _based(text: str) -> Based | None:
  if "_" not in text:
    return None
  bare = re.sub(r"\\text\{ ?([0-9A-Z]+) ?\}", r"\1", text).replace(" ", "")
  found = re.fullmatch(
    r"(-?)\(?(\d[0-9A-Z]*(?:\.[0-9A-Z]+)?|[A-Z]+\d[0-9A-Z]*)\)?"
    r"_(?:\{(\d{1,2})\}|(\d{1,2})|\{?\\text\{([a-z]+)\}\}?)", bare
  )
  if not found:
    return None
  spelled = NUMBER_WORDS.get(found[5] or "", 0)
  base = int(found[3] or found[4] or spelled)
  return Based(found[1] + (found[2].lstrip("0") or "0"), base)


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


def number(text: str, known) -> Any:
  """An expression with its unit; words for what is words."""
  text = _trimmed(text)
  bare, unit, zeros, percent, behind = text, "", 0, False, ""
  if not NUMERIC.fullmatch(text):
    if r"\$" in bare:
      bare, unit = DOLLAR.sub("", bare), "dollar"
    bare = CELSIUS.sub(r"\1", ORDINAL.sub("", bare))
    bare, zeros = _scaled(bare)
    if "%" in bare or "cent" in bare:
      bare, percent = PERCENT.subn("", bare)
    bare, behind = _unit(bare, known)
    if behind is None or PROSE.search(bare):
      return _words(text)
  try:
    tree = expressions.parse(bare.strip())
  except Unreadable:
    if FOREIGN.search(bare):
      return Foreign(bare)
    return _words(text)
  if zeros:
    tree = ("multiply", tree, ("number", expressions.Fraction(zeros)))
  return Number(tree, behind or unit, bool(percent))


NUMERIC = re.compile(r"[-+]?[0-9.]+")
DOLLAR = re.compile(r"\\\$ ?")
ORDINAL = re.compile(r"(?<=\d) ?\^?\{? ?(\\text\{)? ?(st|nd|rd|th)[ }]*$")
CELSIUS = re.compile(r"(\^\{?\\circ\}?) ?(?:\\text\{ ?[CF] ?\}|[CF])$")
PERCENT = re.compile(
  r"(?<=.) ?(?:\\?%|\\text\{ ?per ?cent ?\}|per ?cent)$"
)


def _scaled(text: str) -> tuple[str, int]:
  """Without "million", and what it multiplies by; 0 for nothing."""
  found = SCALE.search(text)
  if not found or not text[:found.start()].strip():
    return text, 0
  word = found[2].lower()
  if word not in SCALES and word != "dozen":
    return text, 0
  rest = found[1] + text[found.end():]
  rest = re.sub(r"^\\text\{ *\}", "", rest)
  return text[:found.start()] + rest, 12 if word == "dozen" else 10**SCALES[word]


UNIT = re.compile(
  r"(?:\s*/?\s*\\text\{[^{}]*\}(?: ?\^ ?(?:\{ ?[23] ?\}|[23]))?)+\s*$"
)
CURRENCY = re.compile(r"^(-?)\\text\{(?:euros|pounds|yen|yuan|cents|USD|Rs\.?)\}")
LOOSE = re.compile(r"(?<=[\d)} ])([a-zA-Z][a-zA-Z]+(?:[ ./]+[a-zA-Z]+){0,3}"
                   r"(?:\^\{?[23]\}?)?)$")


def _unit(text: str, known) -> tuple[str, str | None]:
  """Without a unit behind it, and its name; None: the words are no unit."""
  found = None
  if "\\text" in text:
    text = CURRENCY.sub(r"\1", text)
    found = UNIT.search(text)
  if found and text[:found.start()].strip(" -+"):
    said = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", found[0])
    if re.fullmatch(r"\s*[a-zA-Z]\s*", said) and not units.unit(said.strip()):
      return text, ""  # a letter in upright type
    name = units.unit(" ".join(said.split()))
    if name is None and known and set(said.lower().split()) <= known:
      name = "count"
    return text[:found.start()], name
  loose = LOOSE.search(text)
  if loose and re.match(r"[\d.\s\\{}]*[\d}]", text[:loose.start()]):
    name = units.unit(loose[1])
    if name:
      return text[:loose.start()], name
  return text, ""


def _words(text: str) -> Words:
  found = words(text)
  if not re.search(r"[^\W\d_]", found):
    raise Unreadable("neither mathematics nor words")
  return Words(found)
