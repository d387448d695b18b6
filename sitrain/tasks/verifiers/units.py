"""Units: words after a number that do not change its value.

Other words do: "12 million", "5 or 6" and "5 dozen" are not 12, 5 and 5.
"""

import functools
import re

# Spellings of one unit are in one row; the first is its name.
MEASURES = """
mm millimeter millimetre
cm centimeter centimetre
dm decimeter decimetre
m meter metre
km kilometer kilometre
in inch inche
ft foot feet
yd yard
mi mile
mph
kph kmh kmph
ha hectare
acre ac
mg milligram
g gram gm gramme
kg kilogram kilo
ton tonne
oz ounce
lb pound
ml milliliter millilitre
cl centiliter centilitre
l L liter litre
gal gallon
qt quart
pt pint
cup
tsp teaspoon
tbsp tablespoon
s sec second
ms millisecond
min minute
h hr hour
day
week
month
yr year
decade
century centurie
deg degree
rad radian
K kelvin
celsius
fahrenheit
N newton
J joule
kj kilojoule
W watt
kw kilowatt
kwh
V volt
amp ampere
ohm
hz hertz
khz
mol mole
pa pascal
cal calorie
kcal
bit
byte
kb
mb
gb
dollar usd buck
cent
euro eur
pounds_sterling gbp
yen jpy
yuan rmb
rupee
peso
franc
unit
"""
# Things that are counted, as in the problems of data sets.
COUNTS = """
penny pennie nickel dime
animal answer apple arrangement arrow atom bag ball banana base batch bead bean
bear bee bicycle bike bird block board boat body book bottle bow bowl box boxe
boy branch branche brick brother bucket bulb bus buse bush bushe bushel button
cake can candle candy candie car card cat cell chair chicken child children
choice chocolate chord circle class classe client clip clock club coin color
column combination computer cone cookie corner country countrie couple cow
cupcake crate crayon cube customer cycle daisy deck desk diagonal dice digit
dish dishe divisor dog doll donut door dot dress dresse duck edge egg element
employee event face factor family familie fan farmer fish flag flavor flight
floor flower fold frog fruit function game girl glass glasse goal goat grape
group guest handshake hat head hen hexagon hit home horse house inning integer
item jar job kid king kit leaf leave leg lemon letter light line loaf log lot
machine man map marble mark match matche meal member men message mistake month
move movie muffin multiple name neighbor night number nut object orange order
outcome pack package pad page painting pair pairing pan paper part path patient
pattern peach peache pea pear pen pencil people person permutation phone photo
picture pie piece pig pile pill pizza place plane plant plate player point pole
polygon possibility possibilitie prime prize problem program question quiz
quizze rabbit race rectangle revolution ribbon ring road rock room root rope
rose rotation roll row ruler run sandwich sandwiche seat segment sequence
serving set share sheep sheet shelf shelve shirt shoe shot side sister site
slice snack sock soda solution song square stair stamp star step stick sticker
stone store story storie strawberry strawberrie student subset summand table
tank task team teacher term test ticket tile time tire toy train tree triangle
trip truck tulip turn value vehicle vertex vertice vote walk wall watermelon way
wheel window win woman women wood word worker zeroe zeros
"""
# These say more about a unit or a thing, and are none alone.
ADJECTIVES = frozenset("""
sq square cu cubic per a an each of the in every distinct different possible
total right isosceles equilateral children's adult real positive nonnegative
negative ordered whole equal odd even consecutive lattice red blue green
yellow white black more new us u.s. additional old
""".split())

SAME = {"mi h": "mph", "km h": "kph", "deg celsius": "celsius",
        "deg fahrenheit": "fahrenheit"}
POWERS = {"sq": "2", "square": "2", "cu": "3", "cubic": "3"}


def _single(word: str) -> str:
  return word[:-1] if len(word) > 2 and word.endswith("s") else word


def _named() -> dict[str, str]:
  found = {_single(word): "count" for word in COUNTS.split()}
  found["zeros"] = "count"
  for row in MEASURES.split("\n"):
    for word in row.split():
      found[word] = row.split()[0]
  return found


NAMED = _named()


@functools.lru_cache(maxsize=4096)
def unit(words: str) -> str | None:
  """The name of the unit in words, "" for no words; None: no unit.

  Counts of things are all one unit, "count": what things are is not read, nor
  that they stand behind a measure. A power is part of the name: cm^2 and square
  centimeters are both "cm 2".
  """
  words = words.replace("/", " per ").replace(".", " ").replace("~", " ")
  power = re.search(r"\^ ?\{? ?([23])|(?<=[a-z])([23])$", words)
  number = next((x for x in power.groups() if x), "") if power else ""
  words = re.sub(r"\^ ?\{? ?[23] ?\}?|(?<=[a-z])[23]$|(?<=[a-z])-(?=[a-z])",
                 " ", words)
  found = re.findall(r"[a-zA-Z']+|[^\sa-zA-Z'{}]", words)
  if not found:
    return ""
  names = []
  for word in found:
    low = word.lower() if len(word) > 1 else word
    alone = len(found) == 1
    name = NAMED.get(low) or NAMED.get(_single(low))
    if low in ADJECTIVES and not (alone and name):
      number = number or POWERS.get(low, "")
      continue
    if not name:
      return None
    names.append(name)
  first = names[:1] if names[:1] == ["count"] else []
  name = " ".join(first + [x for x in names if x != "count"]) or None
  name = SAME.get(name, name)
  return name and (name if name == "count" else f"{name} {number}".strip())


def differ(one: str, other: str) -> bool:
  """Whether two units are known and differ.

  A power that only one of them says is no difference: 12 cm, said of an area.
  Degrees may be those of a temperature, and units anything that is counted.
  """
  if "" in (one, other):
    return False
  names = [re.sub(r" ?[23]$", "", x) for x in (one, other)]
  if "deg" in names and set(names) <= {"deg", "celsius", "fahrenheit"}:
    return False
  if "count" in names and {x.split()[0] for x in names} <= {"count", "unit"}:
    return False
  powers = {x[-1] for x in (one, other) if x[-1] in "23"}
  return names[0] != names[1] or len(powers) > 1
