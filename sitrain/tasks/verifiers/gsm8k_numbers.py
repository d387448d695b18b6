r"""The final number of a text on a problem of GSM8K.

`strict` needs `#### 42` and reads the complete line: the beginning of another
number (3/4, 1e3, 5 million) is no number. digits.py decides the same on the
device. `lenient` finds a number where there is no marker.
"""

import re
import unicodedata
from fractions import Fraction

MARK = "####"
# How words begin that make another number of the one before them: million, and
# a half; with a space whole words. Six letters at most, for digits.py packs
# them into an integer.
SCALES = ("hundre", "thousa", "millio", "billio", "trilli", "dozen", "lakh",
          "crore", "and", "k ", "mil ", "mill ", "mils ", "mln ", "bn ", "bil ",
          "bln ", "thou ")
AFTER_MARK = re.compile(r"#### \$?(-?)([0-9.,]+)([^\r\n]*)")
GOES_BEYOND = re.compile(r"[0-9]|^[A-Za-z]")
WORD = re.compile(r"[A-Za-z]+")
GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?")
DECIMAL = re.compile(r"(-?)([0-9]*)\.?([0-9]*)")


def number(text: str) -> str:
  """A decimal number in its shortest form, without commas; "" for others.

  Equal numbers have equal forms: 1,200.50 and 1200.5, 42. and 42.00 and 42.
  Commas stand between groups of three digits or nowhere.
  """
  if text.isdigit() and text.isascii():
    return text.lstrip("0") or "0"
  if "," in text:
    if not GROUPED.fullmatch(text.removeprefix("-")):
      return ""
    text = text.replace(",", "")
  found = DECIMAL.fullmatch(text)
  sign, integer, part = found.groups() if found else ("", "", "")
  if not integer and not part:
    return ""
  integer, part = integer.lstrip("0") or "0", part.rstrip("0")
  shortest = f"{integer}.{part}" if part else integer
  return shortest if shortest == "0" else sign + shortest


def strict(text: str) -> str:
  r"""The number after the last ####, or "".

  That is `#### \$?-?` and a number, stops behind it dropped. The rest of its
  line may say anything, "72 dollars.", but hold no digit, no letter that
  touches the number, and no word of SCALES (million) as its first; nor begin
  with what is strange (5!, 5², 5½, 5万).
  """
  found = AFTER_MARK.match(text, max(0, text.rfind(MARK)))
  if not found:
    return ""
  sign, digits, rest = found.groups()
  if rest:
    if GOES_BEYOND.search(rest) or is_strange(rest.lstrip(" ")[:1]):
      return ""
    word = WORD.search(rest)
    if word and f"{word[0].lower()} ".startswith(SCALES):
      return ""
  return number(sign + digits.rstrip(".,"))


def is_strange(character: str) -> bool:
  """Whether a character behind a number, if there is one, makes another of it.

  That are a !, and what is no ASCII but a digit, a letter, or not valid.
  """
  return character in ("!", "\ufffd") or not character.isascii() and (
    character.isalnum()
  )


def has_digits(text: str) -> bool:
  """Whether a digit stands behind the last ####, if not a number."""
  found = AFTER_MARK.match(text, max(0, text.rfind(MARK)))
  return bool(found) and bool(re.search(r"[0-9]", found[2]))


_THIN = r"(?:,|\{,\}|,\\!|\\,|\\!| )"
_DIGITS = rf"(?:[0-9]{{1,3}}(?:{_THIN}[0-9]{{3}})+(?![0-9])|[0-9]+)"
_ONE = rf"(?:{_DIGITS}(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)"
FOUND = re.compile(
  rf"(?P<sign>(?:(?<![\w)\]}}])|(?<=\\boxed\{{))[-−–] ?)?\\?\$? ?"
  rf"(?:(?P<mixed>[0-9]+) (?P<top>[0-9]+)/(?P<bottom>[0-9]+)"
  rf"|\\[dt]?frac\{{(?P<over>[0-9]+)\}}\{{(?P<under>[0-9]+)\}}"
  rf"|(?P<first>{_ONE})(?: ?[eE](?P<power>[+-]?[0-9]{{1,2}})(?![0-9A-Za-z]))?"
  rf"(?: ?/ ?(?P<second>[0-9]+(?:\.[0-9]+)?)(?![0-9/]))?)"
  rf"(?:[ -](?P<scale>(?i:hundred|thousand|million|billion|trillion))s?\b"
  rf"| ?(?P<short>[kK]|[Mm]ill?|mln|bn)(?![A-Za-z0-9])"
  rf"| ?(?P<part>[¼½¾⅐-⅞])|(?P<raised>[²³¹⁰-⁹]))?"
)
POWERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9,
          "trillion": 12, "k": 3, "mil": 6, "mill": 6, "mln": 6, "bn": 9}
ANSWER_PHRASE = re.compile(
  r"\\boxed ?\{|####|(?:final |the )?answer(?: is|:| =)|\*\*answer:?\*\*",
  re.IGNORECASE,
)
GOES_ON = re.compile(
  r" ?\)? ?(?:[-*+/^=×÷–]|\\(?:times|div|cdot)) ?(?:\*\*|\\?\$|\()? ?(?=[0-9])"
)
MAX_SEARCHED = 20_000  # characters at the end of a text that are searched


def lenient(text: str) -> str:
  """The number in the last box, after the last ####, or after "answer is".

  Without any of them the last number of the text; "" without a number. A
  fraction, 2e3, 3 1/2, 3½, 5 million and 5k are one number each, 5² is none.
  """
  found = strict(text)
  if found:
    return found
  text = text[-MAX_SEARCHED:]
  places = [hit.end() for hit in ANSWER_PHRASE.finditer(text)]
  for place in reversed(places):
    hit = FOUND.search(text, place, place + 200)
    while hit and (more := GOES_ON.match(text, hit.end())):
      hit = FOUND.search(text, more.end())  # of 2 + 3 = 5 the last
    if hit:
      return _shortest(hit)
  last = ""
  for hit in FOUND.finditer(text):
    last = _shortest(hit) or last
  return last


def _shortest(hit: re.Match) -> str:
  """A number that was found, as a decimal if it has one, else as a fraction."""
  part = hit.groupdict()
  try:
    if part["mixed"]:
      more = Fraction(int(part["top"]), int(part["bottom"]))
      value = int(part["mixed"]) + more
    elif part["over"]:
      value = Fraction(int(part["over"]), int(part["under"]))
    else:
      value = Fraction(re.sub(r"[^0-9.]", "", part["first"]))
      value *= Fraction(10) ** int(part["power"] or 0)
      value /= Fraction(part["second"] or 1)
    if part["raised"]:
      return ""
    if part["part"]:
      top, bottom = unicodedata.normalize("NFKC", part["part"]).split("⁄")
      value += Fraction(int(top), int(bottom))
    scale = part["scale"] or part["short"] or ""
    value *= 10 ** POWERS.get(scale.lower(), 0)
    return decimal(-value if part["sign"] else value)
  except (ValueError, ZeroDivisionError):  # thousands of digits are one, too
    return ""


def decimal(value: Fraction) -> str:
  """The shortest decimal of a rational number, or the fraction itself."""
  bottom, digits = value.denominator, 0
  while digits < 60 and 10**digits % bottom:
    digits += 1
  if 10**digits % bottom:
    return str(value)
  scaled = abs(value.numerator) * 10**digits // bottom
  text = str(scaled).rjust(digits + 1, "0")
  sign, point = "-" if value < 0 else "", len(text) - digits
  return sign + number(f"{text[:point]}.{text[point:]}")
