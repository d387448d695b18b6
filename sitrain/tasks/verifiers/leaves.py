r"""Parses one value of an answer: an expression with its unit, or words."""

import re
import string
from fractions import Fraction
from typing import Any

from sitrain.tasks.verifiers import expressions, units
from sitrain.tasks.verifiers.latex import Unreadable
from sitrain.tasks.verifiers.records import Fallback, Number, Words
from sitrain.tasks.verifiers.words import words

# An answer that begins and ends with these needs no trimming.
FIRST = frozenset(string.ascii_letters + string.digits + "([-+")
LAST = frozenset(string.ascii_letters + string.digits + ")]}%")
STOPS = re.compile(r"(?:(?<!\\)[.,;:]|\\\\|\\ |\s)+$")
STARTS = re.compile(r"^(?:[,;]|\\\\|\\ |\s|\.(?!\d))+")
PIECE = re.compile(r"\\text\{[^{}]*\}|\\[a-zA-Z]+|\\.|.", re.DOTALL)
OPENS = frozenset(["(", "[", "{", r"\{", r"\langle", r"\begin", r"\lfloor",
                   r"\lceil"])
CLOSES = frozenset([")", "]", "}", r"\}", r"\rangle", r"\end", r"\rfloor",
                    r"\rceil"])
FALLBACK = re.compile(
  r"\\(?:int|sum|prod|lim|gcd|lcm|det|min|max|text\{(?:gcd|lcm"
  r"|min|max|det)\})(?![a-zA-Z])"
)
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9,
          "trillion": 12}
SCALE = re.compile(
  r"(\\text\{|(?<=[\d}) ])) ?(dozen|hundred|thousand|[mbtr]+illion)s?"
  r"(?![a-z])", re.IGNORECASE
)
# Words that are no unit, even in a gold answer.
RESERVED = frozenset("""
and or to than less more about half halves third thirds times plus minus mod
base dozen hundred thousand million billion trillion percent hundreds thousands
millions billions squared cubed pm am p.m. a.m. e i x y
""".split())
PROSE = re.compile(r"(?:(?<![\\{a-z])[a-z]{2,}[ ,.]+){2}[a-z]{2}")


def trimmed(text: str) -> str:
  """The text without outer punctuation, spaces and braces."""
  if text and text[0] in FIRST and text[-1] in LAST:
    return text
  before = None
  while before != text:
    before = text
    text = text.strip()
    if not text.endswith((r"\ldots", "...")):
      text = STOPS.sub("", text)
    text = STARTS.sub("", text)
    if text.startswith("{") and text.endswith("}") and encloses_all(text):
      text = text[1:-1]
  return text


def encloses_all(text: str) -> bool:
  """Whether the first bracket is closed by the last character."""
  depth = 0
  pieces = PIECE.findall(text)
  for i, piece in enumerate(pieces):
    depth += (piece in OPENS) - (piece in CLOSES)
    if not depth:
      return i == len(pieces) - 1
  return False


def number(text: str, known) -> Any:
  """The record of an expression with its unit, or of words."""
  text = trimmed(text)
  bare, unit, factor, percent, suffix = text, "", 0, False, ""
  if not NUMERIC.fullmatch(text):
    if r"\$" in bare:
      bare, unit = DOLLAR.sub("", bare), "dollar"
    bare, unit = _degrees(ORDINAL.sub("", bare), unit)
    bare, factor = _scaled(bare)
    if "%" in bare or "cent" in bare:
      bare, percent = PERCENT.subn("", bare)
    bare, suffix = _unit(bare, known)
    if suffix is None or PROSE.search(bare):
      return as_words(text)
  try:
    tree = expressions.parse(bare.strip())
  except Unreadable:
    if FALLBACK.search(bare):
      return Fallback(bare)
    return as_words(text)
  if factor:
    tree = ("multiply", tree, ("number", Fraction(factor)))
  return Number(tree, suffix or unit, bool(percent))


NUMERIC = re.compile(r"[-+]?[0-9.]+")
DOLLAR = re.compile(r"\\\$ ?")
ORDINAL = re.compile(r"(?<=\d) ?\^?\{? ?(\\text\{)? ?(st|nd|rd|th)[ }]*$")
CELSIUS = re.compile(r"(\^\{?\\circ\}?) ?(?:\\text\{ ?([CF]) ?\}|([CF]))$")
PERCENT = re.compile(
  r"(?<=.) ?(?:\\?%|\\text\{ ?per ?cent ?\}|per ?cent)$"
)


def _degrees(text: str, unit: str) -> tuple[str, str]:
  """Without the letter of a temperature, and the name of its unit."""
  found = CELSIUS.search(text)
  if not found:
    return text, unit
  letter = found[2] or found[3]
  return text[:found.end(1)], units.unit(
    "celsius" if letter == "C" else "fahrenheit"
  ) or ""


def _scaled(text: str) -> tuple[str, int]:
  """The text without "million", and the factor it stands for; 0: none."""
  found = SCALE.search(text)
  if not found or not text[:found.start()].strip():
    return text, 0
  word = found[2].lower()
  if word not in SCALES and word != "dozen":
    return text, 0
  rest = found[1] + text[found.end():]
  rest = re.sub(r"^\\text\{ *\}", "", rest)
  factor = 12 if word == "dozen" else 10**SCALES[word]
  return text[:found.start()] + rest, factor


UNIT = re.compile(
  r"(?:\s*/?\s*\\text\{[^{}]*\}(?: ?\^ ?(?:\{ ?[23] ?\}|[23]))?)+\s*$"
)
CURRENCY = re.compile(
  r"^(-?)\\text\{(euros|pounds|yen|yuan|cents|USD|Rs\.?)\}"
)
LOOSE = re.compile(r"(?<=[\d)} ])([a-zA-Z][a-zA-Z]+(?:[ ./]+[a-zA-Z]+){0,3}"
                   r"(?:\^\{?[23]\}?)?)$")


def _unit(text: str, known) -> tuple[str, str | None]:
  """The text without its unit, and the unit; None: the words are no unit."""
  found, before = None, ""
  if "\\text" in text:
    money = CURRENCY.match(text)
    if money:
      before = units.unit(money[2]) or ""
      text = money[1] + text[money.end():]
    found = UNIT.search(text)
  if found and text[:found.start()].strip(" -+"):
    suffix = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", found[0]).strip()
    if re.fullmatch(r"[a-zA-Z]", suffix) and not units.unit(suffix):
      return text, ""  # a letter in upright type
    name = units.unit(" ".join(suffix.split()))
    if name is None and known and set(suffix.lower().split()) <= known:
      name = "count"
    return text[:found.start()], name
  loose = LOOSE.search(text)
  if loose and re.match(r"[\d.\s\\{}]*[\d}]", text[:loose.start()]):
    name = units.unit(loose[1])
    if name:
      return text[:loose.start()], name
  return text, before


def as_words(text: str) -> Words:
  """The words of a text; Unreadable where it has none."""
  found = words(text)
  if not re.search(r"[^\W\d_]", found):
    raise Unreadable("neither mathematics nor words")
  return Words(found)
