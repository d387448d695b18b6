r"""One expression in LaTeX as a tree; no equations, no lists, no words.

A tree is a tuple of its kind and its parts: ("number", Fraction),
("name", "x"), ("constant", "pi"), ("add", a, b), ("call", "sin", a). Juxtaposed
factors multiply and bind as \cdot does: 1/2y is y/2.
"""

import re
from fractions import Fraction

from sitrain.tasks.verifiers.latex import Unreadable

Tree = tuple
TOKEN = re.compile(
  r"\\text\{[^{}]*\}|\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|\.\d+|[^\s]", re.ASCII
)
NUMBER = re.compile(r"\d+(?:\.\d+)?|\.\d+", re.ASCII)
FUNCTIONS = frozenset(
  "sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan ln log lg exp"
  .split()
)
INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
GREEK = frozenset(
  "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa"
  " lambda mu nu xi rho sigma tau phi varphi chi psi omega Gamma Delta Theta"
  " Lambda Xi Sigma Phi Psi Omega ell".split()
)
OPEN = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor",
        r"\lceil": r"\rceil", "|": "|"}
CLOSE = frozenset([*OPEN.values(), "=", ",", ":", ";", "&", "<", ">"])
MAX_TOKENS = 1500


def parse(text: str) -> Tree:
  """The tree of plain LaTeX (see latex.plain); Unreadable for anything else."""
  if re.search(r"(?<![_^])[\d.] [\d.]", text):
    raise Unreadable("a space between digits")
  tokens = TOKEN.findall(text)
  if not tokens or len(tokens) > MAX_TOKENS:
    raise Unreadable("empty or too long")
  tree, at = _sum([*tokens, ""], 0, False)
  if at != len(tokens):
    raise Unreadable(f"{tokens[at]} after the end of the expression")
  return tree


def _sum(tokens, at, bars):
  tree, at = _product(tokens, at, bars)
  while tokens[at] in ("+", "-"):
    kind = "add" if tokens[at] == "+" else "subtract"
    other, at = _product(tokens, at + 1, bars)
    tree = (kind, tree, other)
  return tree, at


def _product(tokens, at, bars):
  tree, at = _signed(tokens, at, bars)
  while True:
    token = tokens[at]
    if token in ("*", r"\cdot", r"\times"):
      other, at = _signed(tokens, at + 1, bars)
      tree = ("multiply", tree, other)
    elif token in ("/", r"\div"):
      other, at = _signed(tokens, at + 1, bars)
      tree = ("divide", tree, other)
    elif _begins(token, bars):
      # Two adjacent numbers are no product: 3 5 is not 15.
      if NUMBER.fullmatch(token) and NUMBER.fullmatch(tokens[at - 1]):
        raise Unreadable("a number after a number")
      other, at = _power(tokens, at, bars)
      tree = ("multiply", tree, other)
    else:
      return tree, at


def _begins(token, bars):
  """Whether a factor may begin here."""
  if not token or token in CLOSE and (token != "|" or bars):
    return False
  return token not in ("+", "-", "^", "_", "!", "'", r"\%", "%")


def _signed(tokens, at, bars):
  if tokens[at] == "-":
    tree, at = _signed(tokens, at + 1, bars)
    return ("negate", tree), at
  if tokens[at] == "+":
    return _signed(tokens, at + 1, bars)
  return _power(tokens, at, bars)


def _power(tokens, at, bars):
  tree, at = _primary(tokens, at, bars)
  tree, at = _postfix(tokens, at, tree)
  if tokens[at] == "^":
    if tokens[at + 1:at + 4] == ["{", r"\circ", "}"]:
      tree, at = ("degrees", tree), at + 4
    elif tokens[at + 1] == r"\circ":
      tree, at = ("degrees", tree), at + 2
    else:
      power, at = _script(tokens, at + 1)
      tree = ("power", tree, power)
  return _postfix(tokens, at, tree)


def _postfix(tokens, at, tree):
  """A factor with its postfix: a factorial, a percent sign."""
  if tokens[at] == "!":
    if tokens[at + 1] == "!":
      raise Unreadable("!!")
    tree, at = ("factorial", tree), at + 1
  if tokens[at] in ("%", r"\%"):
    tree, at = ("divide", tree, ("number", Fraction(100))), at + 1
  return tree, at


def _script(tokens, at):
  """An exponent: a group, or one sign. `7^(2)` is no LaTeX."""
  token = tokens[at]
  if token in ("(", "[", "-", "+", "|") or not _begins(token, False):
    raise Unreadable("an exponent without braces")
  if token in FUNCTIONS or token == "":
    raise Unreadable("no exponent")
  return _primary(tokens, at, False)


def _argument(tokens, at):
  r"""An argument of \frac, \sqrt: a group or one sign; (tree, at).

  Without braces only the first digit of a number belongs to it.
  """
  token = tokens[at]
  if NUMBER.fullmatch(token):
    if token[0] == ".":
      raise Unreadable("half a number")
    if len(token) > 1:
      tokens[at] = token[1:]
      return ("number", Fraction(int(token[0]))), at
    return ("number", Fraction(int(token))), at + 1
  if token in ("(", "[", "|", "-", "+") or not _begins(token, False):
    raise Unreadable("an argument without braces")
  return _primary(tokens, at, False)


def _primary(tokens, at, bars):
  token = tokens[at]
  if NUMBER.fullmatch(token):
    return _number(tokens, at)
  if token in OPEN:
    return _group(tokens, at)
  if token.isalpha() and len(token) == 1 and token.isascii():
    return _letter(tokens, at)
  if token == "√":
    return _root_sign(tokens, at + 1)
  if token.startswith("\\"):
    return _command(tokens, at, bars)
  raise Unreadable(f"{token or 'the end'} where a value should stand")


def _number(tokens, at):
  r"""A number, also a repeating decimal: 0.1\overline{6}, 0.\dot{3}."""
  text, at = tokens[at], at + 1
  if tokens[at] == ".":  # what is left of "0." before \overline
    text, at = text + ".", at + 1
  bar = tokens[at] in (r"\overline", r"\bar", r"\dot")
  if "." not in text or not bar:
    if text.endswith("."):
      raise Unreadable("a point without decimals")
    return ("number", Fraction(text)), at
  if tokens[at + 1] == "{":
    digits, close, at = tokens[at + 2], tokens[at + 3], at + 4
  else:
    digits, close, at = tokens[at + 1], "}", at + 2
  if not re.fullmatch(r"[0-9]{1,60}", digits) or close != "}":
    raise Unreadable("the repeating part is no number")
  part = text.split(".")[1]
  once = Fraction(text + "0" if text != "." else "0")
  again = Fraction(int(digits), (10 ** len(digits) - 1) * 10 ** len(part))
  return ("number", once + again), at


def _group(tokens, at):
  token = tokens[at]
  close = OPEN[token]
  tree, at = _sum(tokens, at + 1, token == "|")
  if tokens[at] != close:
    raise Unreadable(f"{token} does not close")
  kinds = {"|": "absolute", r"\lfloor": "floor", r"\lceil": "ceiling"}
  return ((kinds[token], tree) if token in kinds else tree), at + 1


def _letter(tokens, at):
  name, at = tokens[at], at + 1
  if tokens[at] == "_":
    index, at = _index(tokens, at + 1)
    return ("name", f"{name}_{index}"), at
  if name in "fgh" and tokens[at] == "(":
    inside = _applied(tokens, at)
    if name != "h" or len(inside) == 1:
      return ("name", f"{name}({' '.join(inside)})"), at + len(inside) + 2
  primes = 0
  while tokens[at] == "'":
    primes, at = primes + 1, at + 1
  if primes:
    return ("name", name + "'" * primes), at
  if name in ("e", "i"):
    return ("constant", name), at
  return ("name", name), at


def _applied(tokens, at):
  """The argument of f: f(2) is a name and no product."""
  end, depth = at, 0
  while tokens[end]:
    depth += (tokens[end] == "(") - (tokens[end] == ")")
    if not depth:
      return tokens[at + 1:end]
    end += 1
  raise Unreadable("( does not close")


def _index(tokens, at):
  """A subscript as text."""
  if tokens[at] != "{":
    if not tokens[at] or tokens[at] in CLOSE:
      raise Unreadable("no subscript")
    return tokens[at], at + 1
  end = at
  while tokens[end] != "}":
    end += 1
    if not tokens[end] or tokens[end] == "{":
      raise Unreadable("a subscript that does not close")
  return "".join(tokens[at + 1:end]), end + 1


def _root_sign(tokens, at):
  """√ applies to the number or group after it."""
  if tokens[at] == "√":
    raise Unreadable("√√")
  tree, at = _primary(tokens, at, False)
  return ("root", ("number", Fraction(2)), tree), at


def _command(tokens, at, bars):
  name, at = tokens[at][1:], at + 1
  if name == "frac":
    top, at = _argument(tokens, at)
    bottom, at = _argument(tokens, at)
    return ("divide", top, bottom), at
  if name == "binom":
    top, at = _argument(tokens, at)
    bottom, at = _argument(tokens, at)
    return ("choose", top, bottom), at
  if name == "mixed":  # made by answers.py
    parts = [Fraction(int(tokens[at + 1 + 3 * i])) for i in range(3)]
    return ("number", parts[0] + parts[1] / parts[2]), at + 9
  if name == "sqrt":
    return _root(tokens, at)
  if name in FUNCTIONS:
    return _call(tokens, at, name, bars)
  if name in ("pi", "infty"):
    return ("constant", name), at
  if name in GREEK:
    if tokens[at] == "_":
      index, at = _index(tokens, at + 1)
      return ("name", f"{name}_{index}"), at
    return ("name", name), at
  if name.startswith("text{"):
    return _text(name[5:-1].strip()), at
  if name in ("overline", "vec", "hat", "bar", "tilde", "widehat", "mathbb",
              "mathcal", "overrightarrow", "angle", "triangle"):
    return _mark(tokens, at, name)
  raise Unreadable(f"\\{name}")


def _root(tokens, at):
  index = ("number", Fraction(2))
  if tokens[at] == "[":
    index, at = _sum(tokens, at + 1, False)
    if tokens[at] != "]":
      raise Unreadable("the index of a root does not close")
    at += 1
  if tokens[at] == "√":  # from the unicode sign of a cube root
    at += 1
  if NUMBER.fullmatch(tokens[at]):
    tree, at = _number(tokens, at)  # \sqrt13 is written for \sqrt{13}
  else:
    tree, at = _argument(tokens, at)
  return ("root", index, tree), at


def _text(words):
  if re.fullmatch(r"[0-9]{1,60}", words):
    return ("number", Fraction(int(words)))
  if re.fullmatch(r"[a-zA-Z]", words):
    return ("constant" if words in "ei" else "name", words)
  raise Unreadable("words")


def _mark(tokens, at, name):
  """A letter or a name under a bar or an arrow, or after a sign."""
  if tokens[at] == "{":
    text, at = _index(tokens, at)
  else:
    text, end = "", at
    while re.fullmatch(r"[A-Za-z]", tokens[end]) and end - at < 4:
      text, end = text + tokens[end], end + 1
    at = end
  if not re.fullmatch(r"[A-Za-z_0-9]*[A-Za-z]", text):
    raise Unreadable(f"\\{name}")
  return ("name", f"{name} {text}"), at


def _call(tokens, at, name, bars):
  r"""\sin^2 x, \log_2 8, \cos(x+1), \sin 2x: its argument ends at a sign."""
  power = base = None
  while tokens[at] in ("^", "_"):
    if tokens[at] == "^" and power is None:
      power, at = _script(tokens, at + 1)
    elif tokens[at] == "_" and base is None and name == "log":
      base, at = _argument(tokens, at + 1)
    else:
      raise Unreadable(f"\\{name}")
  tree, at = _called(tokens, at, bars)
  if name in ("log", "lg"):
    tree = ("log", base or ("number", Fraction(10)), tree)
  elif power == ("negate", ("number", Fraction(1))) and name in INVERSES:
    return ("call", INVERSES[name], tree), at
  else:
    tree = ("call", name, tree)
  return (("power", tree, power) if power else tree), at


def _called(tokens, at, bars):
  if tokens[at] in ("(", "{", "["):
    tree, at = _group(tokens, at)
    return _postfix(tokens, at, tree)
  tree, at = _signed(tokens, at, bars)
  while _begins(tokens[at], bars) and not (
    tokens[at] in ("*", "/", r"\cdot", r"\times", r"\div", "(")
    or tokens[at][1:] in FUNCTIONS
  ):
    other, at = _power(tokens, at, bars)
    tree = ("multiply", tree, other)
  if tokens[at] == "/" and closed(tree):  # \cos\pi/3
    other, at = _signed(tokens, at + 1, bars)
    tree = ("divide", tree, other)
  return tree, at


def closed(tree: Tree) -> bool:
  """Whether a tree has no names."""
  return not names(tree)


def names(tree: Tree) -> set[str]:
  """The names in a tree."""
  if tree[0] == "name":
    return {tree[1]}
  found: set[str] = set()
  for part in tree[1:]:
    if isinstance(part, tuple):
      found |= names(part)
  return found
