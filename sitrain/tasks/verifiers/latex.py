r"""Normalises LaTeX: formulas that look the same get the same text.

`plain` keeps the meaning. It writes unicode as LaTeX, drops commands for
formatting, and joins groups of three digits that thin spaces separate.
"""

import re
import unicodedata

MAX_CHARACTERS = 4000  # of an answer that is read
MAX_DEPTH = 40  # nested braces


class Unreadable(ValueError):
  """The text is no answer in LaTeX."""


class TooMuch(ValueError):
  """The text or its value exceeds a bound; the message is its name."""


def _characters() -> dict[int, str]:
  """LaTeX of unicode characters."""
  found = {0xFF01 + i: chr(0x21 + i) for i in range(94)}  # full width
  for code in range(0x660, 0x1100):
    if unicodedata.category(chr(code)) == "Nd":
      found[code] = str(unicodedata.decimal(chr(code)))
  for characters, text in (
    ("\ufeff\u200b\u200c\u200d\u2060\u00ad\u200e\u200f", ""),
    ("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u3000\t\n\r\f\v", " "),
    ("\u2009\u200a\u202f\u205f", r"\,"),
    ("−–—‒‐‑﹣", "-"), ("×✕", r"\times "), ("⋅·∙•", r"\cdot "),
    ("÷", r"\div "), ("∕⁄", "/"), ("∗", "*"), ("：∶", ":"), ("，", ","),
    ("。", "."), ("π", r"\pi "), ("∞", r"\infty "), ("≤⩽", r"\le "),
    ("≥⩾", r"\ge "), ("≠", r"\ne "), ("≈≃", r"\approx "), ("±", r"\pm "),
    ("∓", r"\mp "), ("°º˚", r"^{\circ}"), ("′’", "'"), ("″", "''"),
    ("∪", r"\cup "), ("∩", r"\cap "), ("∅⌀", r"\emptyset "), ("∈", r"\in "),
    ("∖", r"\setminus "), ("…", r"\ldots "), ("⋯", r"\ldots "),
    ("⟨〈", r"\langle "), ("⟩〉", r"\rangle "), ("⌊", r"\lfloor "),
    ("⌋", r"\rfloor "), ("⌈", r"\lceil "), ("⌉", r"\rceil "),
    ("ℝ", r"\mathbb{R}"),
    ("θ", r"\theta "), ("α", r"\alpha "), ("β", r"\beta "), ("γ", r"\gamma "),
    ("λ", r"\lambda "), ("μ", r"\mu "), ("φ", r"\phi "), ("ω", r"\omega "),
    ("σ", r"\sigma "), ("δ", r"\delta "), ("ε", r"\epsilon "),
    ("€", r"\text{euros}"), ("£", r"\text{pounds}"), ("¥", r"\text{yen}"),
    ("¢", r"\text{cents}"), ("元", r"\text{yuan}"), ("度", r"^{\circ}"),
    ("∛", r"\sqrt[3]√"), ("∜", r"\sqrt[4]√"), ("✓✔✅\ufe0f", ""),
  ):
    found.update({ord(character): text for character in characters})
  for character in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞":
    top, bottom = unicodedata.normalize("NFKC", character).split("⁄")
    found[ord(character)] = rf"\frac{{{top}}}{{{bottom}}}"
  return found


CHARACTERS = _characters()
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
# Formatting: dropped, but KEPT keeps its argument.
FORMATTING = re.compile(
  r"\\(?:displaystyle|textstyle|scriptstyle|scriptscriptstyle|limits|nolimits"
  r"|left|right|middle|[bB]igg?[lrm]?|rm|bf|it|sf|tt|large|Large|LARGE|huge"
  r"|Huge|small|normalsize|boldmath|nonumber|centering|notag|hfill|allowbreak"
  r"|strut|mathstrut|checkmark|phantom(?=\s*-))(?![a-zA-Z])"
)
ARGUMENT = re.compile(
  r"\\(?:color|hspace|vspace|phantom|hphantom|vphantom|label|tag)\*?\s*"
  r"\{[^{}]*\}|\\textcolor\s*\{[^{}]*\}|\\(?:color)\s*\[[^\]]*\]\{[^{}]*\}"
)
KEPT = re.compile(
  r"\\(?:boxed|fbox|ensuremath|underline|smash|mathop|mathrel|mathbin"
  r"|mathord|boldsymbol|bm|mathbf|mathit|mathsf|mathtt|pmb)(?![a-zA-Z])"
)
WORDS = re.compile(
  r"\\(?:textnormal|textbf|textit|textrm|textsf|texttt|textsl|textup|emph|mbox"
  r"|hbox|mathrm|operatorname\*?|text)\s*\{"
)
SAME = (  # commands that mean the same
  (r"\\(?:dfrac|tfrac|cfrac)", r"\\frac"), (r"\\(?:dbinom|tbinom)", r"\\binom"),
  (r"\\leq?(?:slant)?", r"\\le"), (r"\\geq?(?:slant)?", r"\\ge"),
  (r"\\lt", "<"), (r"\\gt", ">"), (r"\\neq?", r"\\ne"),
  (r"\\(?:l?dots[cbmio]?|cdots)", r"\\ldots"),
  (r"\\(?:varnothing)", r"\\emptyset"),
  (r"\\(?:[lr]?vert|mid)", "|"), (r"\\lbrack", "["), (r"\\rbrack", "]"),
  (r"\\lbrace", r"\\{"), (r"\\rbrace", r"\\}"), (r"\\(?:ast)", "*"),
  (r"\\(?:degree|degrees)", r"^{\\circ}"), (r"\\colon", ":"),
  (r"\\(?:thickapprox|simeq)", r"\\approx"), (r"\\euro", r"\\text{euros}"),
  (r"\\pounds", r"\\text{pounds}"), (r"\\cent", r"\\text{cents}"),
  (r"\\imath", "i"), (r"\\(?:quad|qquad|enspace|thinspace|space)", r"\\ "),
  (r"\\(?:backslash)", r"\\setminus"), (r"\\infin", r"\\infty"),
  (r"\\percent", r"\\%"), (r"\\(?:ge|gt)slant", r"\\ge"),
)
SAME = tuple(
  (re.compile(old + r"(?![a-zA-Z])"), new) for old, new in SAME
)
THIN = r"(?:\\[,;:> ]|~|\{\\,\}|'|\ )"
THOUSANDS = re.compile(
  rf"(?<![\d.,\\])\d{{1,3}}(?:{THIN}\d{{3}})+(?![\d/])"
  rf"|(?<![\d.])\d{{1,3}}(?:(?:\{{,\}}|,\\!|\\!)\d{{3}})+(?!\d)"
)
# {5 \\choose 2} and {1 \\over 2}: all of a group stands on the two sides.
_SIDE = r" ?((?:[^{}\\]|\\(?!choose|over)[a-zA-Z]+|\{[^{}]*\}){1,99}) ?"
INFIX = re.compile(rf"{_SIDE}\\(choose|over)(?![a-zA-Z]){_SIDE}")
GROUP = re.compile(r"\{" + INFIX.pattern + r"\}")


SIMPLE = re.compile(r"[A-Za-z0-9+*/=.^(),-]{0,60}")


def plain(text: str) -> str:
  """Normalised LaTeX; TooMuch for a text that is too long or too deep."""
  if len(text) > MAX_CHARACTERS:
    raise TooMuch("long")
  if SIMPLE.fullmatch(text):
    return text
  # The extra height of a line end in a matrix has no meaning.
  if r"\\" in text:
    text = re.sub(r"\\\\\s*\[[^\[\]]{1,12}\]", r"\\\\", text)
  if not text.isascii():
    text = _ascii(text)
  text = " ".join(text.split())
  if "\\" in text:
    text = _commands(text)
  text = _without_dollars(text)
  text = THOUSANDS.sub(lambda hit: re.sub(r"\D", "", hit[0]), text)
  text = text.replace("{,}", ",").replace(r"\!", "")
  text = re.sub(r"\{ ?([-+]) ?\}", r"\1", text)
  text = re.sub(r"(?<!\\)(\\[,;:> ])+|(?<!\\)~", " ", text).replace("{ }", " ")
  text = " ".join(text.split())
  _check_depth(text)
  return text


def _ascii(text: str) -> str:
  text = re.sub(
    r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda hit: f"^{{{hit[0].translate(RAISED)}}}", text
  )
  text = re.sub(
    r"[₀₁₂₃₄₅₆₇₈₉]+", lambda hit: f"_{{{hit[0].translate(LOWERED)}}}", text
  )
  return text.translate(CHARACTERS)


def _commands(text: str) -> str:
  text = FORMATTING.sub("", ARGUMENT.sub("", text))
  for old, new in SAME:
    text = old.sub(new, text)
  text = KEPT.sub("", text)
  text = re.sub(r"(?<!\\)\\\s*$", "", text)  # the rest of a space
  text = re.sub(r"\\frac ?(\d) (?=\d)", r"\\frac{\1}", text)
  if r"\choose" in text or r"\over" in text:
    whole = INFIX.fullmatch(text.strip())
    text = _prefixed(whole) if whole else GROUP.sub(_prefixed, text)
  text = WORDS.sub(r"\\text{", text)
  text = re.sub(r"\\text\{ ?(\\[$%]|\^\{?\\circ\}?) ?\}", r"\1", text)
  text = re.sub(r"\\text\{ *\}", " ", text)
  return re.sub(r"(\\text\{[^{}]*)\\text\{([^{}]*)\}", r"\1 \2", text)


def _prefixed(hit: re.Match) -> str:
  command = "binom" if hit[2] == "choose" else "frac"
  return rf"\{command}{{{hit[1]}}}{{{hit[3]}}}"


def _without_dollars(text: str) -> str:
  r"""Without $ and \( \) around a formula; a dollar sign becomes \$."""
  text = re.sub(r"\\[()]|(?<!\\)\\[\[\]]|\$\$", " ", text).strip()
  count = len(re.findall(r"(?<!\\)\$", text))
  if count % 2 == 0:
    return re.sub(r"(?<!\\)\$", "", text) if count else text
  return re.sub(r"(?<!\\)\$", r"\\$", text)


def _check_depth(text: str) -> None:
  depth = 0
  for mark in re.findall(r"\\.|[{}()\[\]]", text):
    if mark in "{([":
      depth += 1
    elif mark in "})]":
      depth -= 1
    if depth > MAX_DEPTH:
      raise TooMuch("deep")
  # Signs, roots and powers nest without braces.
  if re.search(r"(?:[-+^] ?){40}|(?:\\(?:sqrt|frac) ?){40}|(?:\^\w){40}", text):
    raise TooMuch("deep")


def closed(text: str) -> list[tuple[int, int]]:
  """(start, end) of all braces that close, in the order of their ends.

  text[start] is the one that opens, text[end] the one that closes.
  """
  found, opened = [], []
  for mark in MARKS.finditer(text):
    if mark[0] == "{":
      opened.append(mark.start())
    elif mark[0] == "}" and opened:
      found.append((opened.pop(), mark.start()))
  return found


MARKS = re.compile(r"\\.|[{}]", re.DOTALL)
OPENED = re.compile(r"\\(?:boxed|fbox)\s*\{")
BOX = re.compile(r"\\(?:boxed|fbox)\s*$")
SENTENCE = re.compile(r"[Ff]inal answer is:?\s*\$([^$]{1,4000})\$")


def final_answer(text: str) -> str:
  r"""The final answer of a text: LaTeX without its box, "" if there is none.

  That is the last `\boxed{...}` with balanced braces, the outermost of nested
  boxes; a text without any box may have "The final answer is $...$".
  """
  last = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
  if last < 0:
    found = SENTENCE.findall(text)
    return found[-1].strip() if found else ""
  brace = OPENED.match(text, last)
  end = _closing(text, brace.end()) if brace else -1
  if end < 0:
    return ""
  start = brace.end()
  # rfind, because find takes ten times as long on LaTeX.
  if max(text.rfind(r"\boxed", 0, last), text.rfind(r"\fbox", 0, last)) >= 0:
    start, end = _outermost(text, start - 1, end)
  return text[start:end].strip()


def _closing(text: str, start: int) -> int:
  """The place of the brace that closes the group at `start`, or -1."""
  depth = 1
  for mark in MARKS.finditer(text, start):
    if mark[0] == "{":
      depth += 1
    elif mark[0] == "}":
      depth -= 1
      if not depth:
        return mark.start()
  return -1


def _outermost(text: str, brace: int, end: int) -> tuple[int, int]:
  """Start and end of the content of the outermost box around a brace."""
  outer = [
    pair for pair in closed(text)
    if pair[0] <= brace < end <= pair[1]
    and BOX.search(text, max(0, pair[0] - 12), pair[0])
  ]
  start, end = outer[-1] if outer else (brace, end)
  return start + 1, end
