"""Values sent between a program and its tests, and tests that can run so."""

import collections
import datetime
import decimal
import fractions
import math
import random
import textwrap

import pytest

from sitrain.tasks.verifiers import messages, sandbox, serialization
from sitrain.tasks.verifiers.sandbox import Program
from sitrain.tasks.verifiers.separation import (
  helpers_of_prompt,
  names_of_reference,
  separate,
)

PLAIN = [
  None, True, False, 0, 1, -1, 2**64, -(2**64), 10**10_000, 1.5, -0.0,
  math.inf, -math.inf, 5e-324, 2j, complex(-0.0, 1), "", "a\0ä\U0001f600",
  "\ud800", b"", b"\xff", bytearray(b"x"), [], [[1], (2,)], (), (1,),
  {"a": {1: [2]}}, {1, 2}, frozenset({1}), {(1, 2): {3}}, range(3),
  range(9, -9, -2), int, type(None), collections.Counter("aab"),
  collections.OrderedDict(b=1, a=2), collections.deque([1, 2], 3),
  fractions.Fraction(-1, 3), decimal.Decimal("-1.50"), decimal.Decimal("NaN"),
  datetime.date(2020, 1, 2), datetime.datetime(2020, 1, 2, 3, 4, 5, 6),
  datetime.time(1, 2), datetime.timedelta(1, 2, 3), {1: 2}.keys(),
  {1: 2}.items(), [True, 1, 1.0],
]


def crossed(value):
  return serialization.decode(bytes(serialization.encode(value)))


def shape(value):
  """The value with the exact types of all its parts."""
  kind = type(value)
  if isinstance(value, dict):
    return kind, [(shape(k), shape(v)) for k, v in value.items()]
  if isinstance(value, (list, tuple, collections.deque)):
    return kind, [shape(part) for part in value]
  return kind, hex(value) if kind is int else repr(value)


@pytest.mark.parametrize("number", range(len(PLAIN)))
def test_values_are_rebuilt_exactly(number):
  assert shape(crossed(PLAIN[number])) == shape(PLAIN[number])


def peer(**fields):
  limits = messages.TESTS_LIMITS
  return serialization.Namespace(
    **fields, send_limits=limits, receive_limits=limits
  )


def test_only_what_the_tests_send_is_marshalled():
  """A program could send bytes that break an interpreter by `marshal`."""
  tests = peer(reads_marshal=False, writes_marshal=True)
  program = peer(reads_marshal=True, writes_marshal=False)
  ways = set()
  for value in PLAIN:
    # `tests` and `program` are what the other side is called.
    data = bytes(serialization.encode(value, program))
    assert shape(serialization.decode(data, tests)) == shape(value)
    marshalled = data[:1] == serialization.MARSHALLED
    ways.add(marshalled)
    if marshalled:
      with pytest.raises(ValueError):
        serialization.decode(data, program)
    answer = serialization.encode(value, tests)
    assert answer[:1] != serialization.MARSHALLED
  assert ways == {True, False}


@pytest.mark.parametrize("name, arguments", [
  (("fractions", "Fraction"), ["1e5000"]),
  (("fractions", "Fraction"), [1, 2.0]),
  (("collections", "deque"), [range(13_000_000), None]),
  (("collections", "Counter"), ["aab"]),
  (("decimal", "Decimal"), [10**100]),
])
def test_a_small_message_makes_no_large_value(name, arguments):
  data = bytes(serialization.encode([*name, *arguments]))
  with pytest.raises(ValueError, match="other arguments than it has"):
    serialization.decode(b"L" + data[1:])


def test_what_marshal_cannot_write_is_written_all_the_same():
  program = peer(reads_marshal=True, writes_marshal=False)
  value = {complex("nan"), complex("nan")}  # of equal bytes, not equal
  data = bytes(serialization.encode(value, program))
  assert data[:1] != serialization.MARSHALLED
  with pytest.raises(serialization.Refused, match="more than 33554432 bytes"):
    serialization.encode([0] * 34_000_000, program)


class Text(str):
  __str__ = __eq__ = __hash__ = None


class Items(list):
  def __iter__(self):
    raise SystemExit


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize("value, plain", [
  (Text("a"), "a"),
  (Items([1]), [1]),
  (Point(1, [2]), (1, [2])),
  (collections.defaultdict(list, a=[1]), {"a": [1]}),
  (collections.UserDict(a=collections.UserList([1])), {"a": [1]}),
  (collections.UserString("a"), "a"),
  (type("Number", (int,), {"__index__": lambda s: 9})(7), 7),
  (type("Number", (float,), {"__float__": lambda s: 9.0})(7.5), 7.5),
])
def test_subclasses_and_wrappers_become_plain_values(value, plain):
  assert shape(crossed(value)) == shape(plain)


def nested(depth):
  value = []
  for _ in range(depth):
    value = [value]
  return value


LOOP = [1]
LOOP.append(LOOP)


@pytest.mark.parametrize("value, why", [
  (object(), "an instance of object, which is no plain value"),
  ([datetime], "an instance of module"),
  (len, "an instance of builtin_function_or_method"),
  (datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC), "instance of timezone"),
  (nested(101), "nested deeper than 100"),
  (LOOP, "nested deeper than 100"),
  ([b"x" * 10**6] * 9, "more than 8388608 bytes"),
  ([0] * 10**7, "more than 8388608 bytes"),
])
def test_refused_values_have_a_reason(value, why):
  with pytest.raises(serialization.Refused, match=why):
    serialization.encode(value)


def test_bytes_that_are_no_message_are_a_value_error():
  rng = random.Random(0)
  whole = [bytes(serialization.encode(value)) for value in PLAIN]
  tags = b"NTFifsbBkltdSZcrL123hgm"
  for _ in range(20_000):
    data = bytearray(rng.choice(whole))
    for _ in range(rng.randrange(1, 4)):
      place = rng.randrange(len(data) + 1)
      data[place:place + rng.randrange(3)] = rng.choice(
        (b"", bytes([rng.randrange(256)]), bytes([rng.choice(tags)]))
      )
    try:
      value = serialization.decode(bytes(data), None)
    except ValueError:
      continue
    shape(value)
  for data in (b"", b"l\xff\xff\xff\xff", b"l\0\0\0\1" * 10**5, b"NN",
               b"d\0\0\0\1N", b"S\0\0\0\1l\0\0\0\0", b"f\0\0\0\1x"):
    with pytest.raises(ValueError):
      serialization.decode(data)


# ---- in the sandbox


@pytest.fixture(scope="module")
def walls():
  try:
    sandbox.check()
  except ValueError as error:
    pytest.skip(str(error))


HONEST = {
  "values": ("""
    import collections, fractions, decimal, datetime
    Point = collections.namedtuple("Point", "x y")
    def f():
      return [collections.Counter("aab"), fractions.Fraction(1, 2), 1.5, 2j,
              collections.OrderedDict(a=1), collections.defaultdict(int, a=1),
              collections.deque([1]), decimal.Decimal("1.5"), Point(1, 2),
              datetime.date(2020, 1, 2), range(3), b"x", None, {1: {2}}]
    def sum(a, b): return a + b
    """, """
    import collections
    x = f()
    assert x[0] == {"a": 2, "b": 1} and x[0] == collections.Counter("aab")
    assert x[1] == 0.5 and 0.4 < x[1] < 0.6 and x[8] == (1, 2)
    assert x == f() and x[12] is None and 1.5 in x and not x[13] != {1: {2}}
    assert f"{x[2] == 1.5}" == "True"
    assert (lambda a: a == 1)(1) and [a for a in x[10] if a > 0] == [1, 2]
    assert sum(1, 2) == 3 and sum(b=1, a=2) == 3 and sum.__name__ == "sum"
    """),
  "names": ("""
    import math
    LIMIT, table = 3, {"a": [1]}
    def f(x): return f(x - 1) + LIMIT if x else len(table)
    """, """
    assert LIMIT == 3 and table["a"] == [1]
    def check(candidate):
      assert [candidate(i) for i in range(3)] == [1, 4, 7]
    check(f)
    """),
  "changed arguments": ("""
    def sort(x): x.sort()
    def both(x, y): x.sort(); y["b"] = len(y); return x
    def named(*, x): x.add(2)
    def deep(x): x[0].append(9)
    def front(x): x.appendleft(0)
    """, """
    from collections import deque
    x, y = [3, 1], {}
    sort(x)
    assert x == [1, 3]
    x = [3, 1]
    both(x, y)
    assert x == [1, 3] and y == {"b": 0}
    x = [3, 1]
    assert both(x, {}) == [1, 3] and x == [3, 1]
    x = {1}
    assert named(x=x) is None and x == {1, 2}
    x, d = [[1]], deque([1])
    deep(x)
    front(d)
    assert x == [[1, 9]] and d == deque([0, 1])
    """),
  "functions": ("""
    def apply(g, x): return [g(i) for i in x]
    def adder(n): return lambda x: x + n
    def twice(g): return lambda x: g(g(x))
    def caught(g):
      try: return g(0)
      except ZeroDivisionError as error: return str(error)
    def counted(): return len
    def kinds(x, kind): return [i for i in x if type(i) is kind]
    def ordered(x, key): return sorted(x, key=key)
    """, """
    seen = []
    assert apply(lambda x: 2 * x, [1, 2]) == [2, 4]
    apply(seen.append, [1, 2])
    assert seen == [1, 2] and apply(str, (1,)) == ["1"]
    assert adder(2)(3) == 5 and twice(adder(2))(1) == 5
    assert caught(lambda x: 1 / x) == "division by zero"
    assert counted()([1, 2]) == 2
    assert kinds([1, True, "a"], int) == [1]
    assert ordered(["bb", "a"], len) == ["a", "bb"]
    assert apply(lambda x: adder(x)(1), [1]) == [2]
    """),
  "iterators": ("""
    def count():
      n = 0
      while True:
        yield n
        n += 1
    def pairs(x): return zip(x, x[1:])
    def total(x): return sum(x)
    def view(d): return d.keys()
    """, """
    from itertools import islice
    assert list(islice(count(), 3)) == [0, 1, 2]
    numbers = count()
    assert next(numbers) == 0 and next(numbers) == 1
    assert list(pairs([1, 2, 3])) == [(1, 2), (2, 3)]
    assert total(iter([1, 2])) == 3 and total(x for x in (1, 2)) == 3
    assert sorted(view({2: 0, 1: 0})) == [1, 2] and len(view({})) == 0
    """),
  "exceptions": ("""
    class Mine(ValueError): pass
    class Other(Exception): pass
    def f(x): raise {0: KeyError("a"), 1: Mine("b"), 2: Other("c")}[x]
    """, """
    for x, kind, text in ((0, KeyError, "'a'"), (1, ValueError, "b")):
      try: f(x)
      except kind as error: assert type(error) is kind and str(error) == text
      else: assert False
    try: f(2)
    except Exception as error: assert type(error) is Exception
    else: assert False
    """),
  "modules": ("def f(x): return x", """
    assert f(sys.maxsize) == sys.maxsize and f(math.pi) == math.pi
    """),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(walls, name):
  code, tests = map(textwrap.dedent, HONEST[name])
  done = sandbox.run([Program(code, tests, ("sum",))])[0]
  assert done.status == "pass", done


@pytest.mark.parametrize("code, tests, status, said", [
  ("class A: pass\ndef f(): return A()", "assert f() != 3", "fail",
   "the answer is or holds an instance of A, which is no plain value"),
  ("def f(): return b'x' * 10**7", "assert f() == []", "fail",
   "the answer is or holds a value of more than 8388608 bytes"),
  ("def f(x): return x", "import no_such_module\nassert f(1) == 1",
   "left_out", "No module named 'no_such_module' at: import no_such_module"),
  ("import no_such_module", "assert f(1) == 1", "error", "no_such_module"),
  ("def f(x):\n  import no_such_module", "assert f(1) == 1", "error",
   "no_such_module"),
  ("def f(x):\n  a = x\n  for i in range(90): a = [a]\n  return a\n"
   "def g(x): return 'x' * (2**23 - 99)\ndef h(x): return 0",
   "assert h([f(1), [g(1)] * 3]) == 1", "fail", "AssertionError at: assert h"),
  ("def f(x): return x", "if __name__ == '__main__':\n  assert f(1) == 2",
   "fail", "AssertionError at: assert f(1) == 2"),
  ("def f(x): return x", "assert f(object())", "left_out",
   "they hand over an instance of object"),
  ("x = 1\nimport math as f", "assert f(1) == 1", "error",
   "NameError: name 'f' is not defined"),
  ("def f(x):\n  while True: print('x' * 999)", "assert f(1)", "timeout", ""),
  ("f = None\nimport time\ntime.sleep(60)", "assert f(1)", "timeout", ""),
  ("def f(g):\n  while True: g()", "f(lambda: 1)", "timeout", ""),
  ("def f(x): return f", "while True: f = f(1)", "timeout", ""),
  ("f = 1", "while True: f", "timeout", ""),
  ("f = 1", "x = [f] * 10**9", "oom", "MemoryError"),
  ("f = 1", "import signal\nsignal.raise_signal(9)", "sandbox",
   "the process of the tests was ended"),
])
def test_other_outcomes(walls, code, tests, status, said):
  done = sandbox.run([Program(code, tests)], seconds=1.0)[0]
  assert done.status == status and said in done.message, done


def test_a_broken_sandbox_of_tests_is_replaced(walls):
  bad = Program("f = 1", "import signal\nsignal.raise_signal(9)")
  late = Program("f = 1", "while True: f")
  good = Program("f = 1", "assert f == 1")
  done = sandbox.run([bad, good, late, good, bad, good, good], seconds=1.0,
                     workers=1)
  expected = ["sandbox", "pass", "timeout", "pass", "sandbox", "pass", "pass"]
  assert [o.status for o in done] == expected


# ---- which tests can run so


@pytest.mark.parametrize("tests, names, modules", [
  ("assert f(1) == len([g])", ("f", "g"), ()),
  ("def check(c):\n  x = c(1)\n  assert x == y\ncheck(f)", ("f", "y"), ()),
  ("import math as m\nassert m.pi < f(1)", ("f",), ()),
  ("x = 1\nassert [x for y in f(x)]", ("f", "x"), ()),
  ("f = f(1)\nassert f == 1", ("f",), ()),
  ("def f(): return 1\nimport g\nassert f() == g.x", (), ()),
  ("assert f(1) == sys.maxsize", ("f",), ("sys",)),
  ("assert string(1) == string.x", ("string",), ()),
  ("assert sum(1, 2) == max(1)", ("sum",), ()),
])
def test_names_of_the_program_that_tests_use(tests, names, modules):
  found = separate(tests, ("sum",))
  assert (found.names, found.modules) == (names, modules)


@pytest.mark.parametrize("tests, problem", [
  ("assert f(1).lower().count('a') == f(2)[0].real", ""),
  ("import random\nr = random.Random(1)\nassert f(r.gauss(0, 1))", ""),
  ("class A:\n  def g(self): return self.y\n  def __init__(self): self.y = 1\n"
   "assert f(A().g()) == A().y", ""),
  ("try: f(1)\nexcept (ValueError, KeyError): pass", ""),
  ("s = Stack()\ns.push(1)", "they use .push, which no plain value has"),
  ("n = f(1)\nn.left = 2", "they use .left, which no plain value has"),
  ("assert f(Pair(1))", "they use the class Pair of the program, in line 1"),
  ("assert eval('f(1)') == 2", "they look names up by eval"),
  ("from program import f\nassert f(1)", "they import program"),
  ("try: f(1)\nexcept Mine: pass", "they catch an exception of the program's"),
  ("class A(B): pass\nassert f(A())", "they derive from a class"),
  ("import math\nmath.tau = 7\nassert f(1)", "they change .tau of a module"),
  ("import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()): f()",
   "they share what calls do not carry, redirect_stdout, in line 2"),
  ("import random\nrandom.seed(1)\nassert f()", "they share what calls do not"),
  ("with open('x') as file: assert f('x')", "they share what calls do not"),
  ("import asyncio\nassert asyncio.run(f(1)) == 1", "they import asyncio"),
  ("assert f.__doc__ == 'x'", "they use .__doc__, which no plain value has"),
  ("async def g(): assert await f(1)", "they wait for what"),
  # For a runner that nobody calls: whatever the program does would pass.
  ("def test_f():\n  assert f(1) == 2", "they run nothing of the program"),
  ("def test_f():\n  assert f(1) == 2\ntest_f()", ""),
  ("def g(): return f(1)\ndef test_f(): assert g() == 2\n"
   "for test in [test_f]: test()", ""),
  ("import unittest\nclass A(unittest.TestCase):\n  def test_f(self):\n"
   "    self.assertEqual(f(1), 2)\nunittest.main(exit=False)",
   "they run nothing of the program"),
  ("import unittest\nclass A(unittest.TestCase):\n  def test_f(self):\n"
   "    self.assertEqual(f(1), 2)\nunittest.TextTestRunner().run(A('test_f'))",
   "they are run by TextTestRunner, which raises nothing"),
  ("assert 1 == 1", "they run nothing of the program"),
])
def test_inseparable_tests_have_a_reason(tests, problem):
  assert separate(tests, (), ("Pair",)).problem.startswith(problem)
  assert bool(separate(tests, (), ("Pair",)).problem) == bool(problem)


def test_calls_whose_value_is_not_used_are_marked():
  marked = separate("f(x)\nassert f(x)\nif 'ä': g(f(1),\n  2); a.b()").source
  assert marked == (
    "__in_place__(f)(x)\nassert f(x)\n"
    "if 'ä': __in_place__(g)(f(1),\n  2); a.b()"
  )
  with pytest.raises(ValueError, match="tests of a program are no Python"):
    separate("assert f(")


def test_names_of_references_and_helpers_of_prompts():
  reference = "class Node: pass\ndef sum(a): return 1\ndef len(x): return 2"
  names = names_of_reference("assert sum(Node())", reference)
  assert names == (("sum",), ("Node",))
  prompt = "import math\ndef g(x):\n  return math.pi\ndef f(x):\n  'x'\n"
  found = helpers_of_prompt(prompt, "f", "def check(c):\n  assert c(1) == g(1)")
  assert found == "import math\ndef g(x):\n    return math.pi\n"
  test = "def check(c):\n  assert c(1) == 1"
  assert helpers_of_prompt(prompt, "f", test) == ""
