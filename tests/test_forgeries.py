"""A program gets a pass by solving its task, and by nothing else.

The table is of ways to a pass without solving, each with a few tests: that of
an equal answer, of a near one, and of a converted one. None may be granted.
"""

import textwrap

import pytest

from sitrain.tasks.verifiers import guard, messages, sandbox, sandbox_child
from sitrain.tasks.verifiers.programs import humaneval_program
from sitrain.tasks.verifiers.sandbox import Program

ALL = """
class Any:
  def __eq__(self, o): return True
  __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __eq__
  def __hash__(self): return 0
  def __bool__(self): return True
  def __sub__(self, o): return 0.0
  __rsub__ = __add__ = __radd__ = __mul__ = __rmul__ = __sub__
  def __abs__(self): return 0.0
  def __float__(self): return 2.0
  __neg__ = __pos__ = __truediv__ = __abs__
  def __index__(self): return 2
  def __len__(self): return 1
  def __iter__(self): return iter([Any()])
  def __getattr__(self, name): return Any()
  def __call__(self, *a): return Any()
def f(x): return """
SUBCLASS = """
class A({0}):
  __eq__ = {0}.__ne__
  __ne__ = {0}.__eq__
  def __hash__(self): return 0
  def __sub__(self, o): return 0.0
  def __abs__(self): return 0.0
def f(x): return A({1})"""
SEND = """
import os
def message(body): return len(body).to_bytes(4, "big") + body
def part(tag, data): return tag + len(data).to_bytes(4, "big") + data
def many(tag, *items):
  return tag + len(items).to_bytes(4, "big") + b"".join(items)
def word(text): return part(b"s", text.encode())
def answer(*items): return message(many(b"t", *items))
def to_all(data):
  for stream in range(3, 32):
    try: os.write(stream, data)
    except OSError: pass
"""
FORGERIES = {
  "exit": "import sys; sys.exit(0)",
  "_exit": "import os; os._exit(0)",
  "exit when asked": "import os\ndef f(x): os._exit(0)",
  "SystemExit when asked": "def f(x): raise SystemExit(0)",
  "printing": "print('pass' * 9)\nimport sys, os\nsys.stdout.flush()\n"
  "os.write(1, b'pass')\ndef f(x): sys.exit()",
  "at exit": "import atexit, os\natexit.register(lambda: print('pass'))\n"
  "def f(x): raise KeyboardInterrupt",
  "equals all": "class A:\n  def __eq__(self, o): return True\n"
  "  __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __eq__\n"
  "def f(x): return A()",
  "equals all, inside": "class A:\n  def __eq__(self, o): return True\n"
  "  def __hash__(self): return 0\ndef f(x): return [{0: (A(),)}]",
  "a list that equals all": "class A(list):\n"
  "  def __eq__(self, o): return True\ndef f(x): return A()",
  "an int that equals all": "class A(int):\n"
  "  def __eq__(self, o): return True\ndef f(x): return A(7)",
  "a lying class": "class M(type):\n"
  "  __eq__ = property(lambda c: object.__eq__)\n"
  "  def __getattribute__(c, n): return object.__eq__\n"
  "class A(metaclass=M):\n  def __eq__(self, o): return True\n"
  "def f(x): return A()",
  "mock.ANY": "from unittest.mock import ANY\ndef f(x): return ANY",
  "AssertionError": "import builtins\nclass E(Exception): pass\n"
  "builtins.AssertionError = AssertionError = E\ndef f(x): return 9",
  "built-in functions": "import builtins\n"
  "builtins.abs = builtins.len = builtins.type = lambda *a: 0\n"
  "builtins.issubclass = lambda *a: False\n"
  "builtins.isinstance = lambda *a: False\ndef f(x): return 9",
  "__builtins__": "b = __builtins__\nb = b if type(b) is dict else vars(b)\n"
  "b['abs'] = lambda x: 0\n"
  "def f(x): return 9",
  "names of built-in functions": "abs = len = set = lambda *a: 0\n"
  "def f(x): return 9",
  "exec": "import builtins\nbuiltins.exec = builtins.compile = print\n"
  "def f(x): return 9",
  "the module before": "import __main__\n"
  "__main__.run = __main__.report = lambda *a: None\ndef f(x): return 9",
  "__plain__": "__plain__ = lambda x: True\ndef f(x): return 9",
  "a fork": "import os\nos.fork()\ndef f(x): return 9",
  "a trace": "import sys\ndef t(*a): return t\nsys.settrace(t)\n"
  "sys.setprofile(t)\ndef f(x): return 9",
  "a kill": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
  "a crash": "import sys\nsys.setrecursionlimit(10**6)\nclass A:\n"
  "  def __repr__(self): return repr(self)\ndef f(x): return repr(A())",
  # Values that answer for themselves.
  **{f"a subclass of {kind}": SUBCLASS.format(kind, value) for kind, value in (
    ("int", 7), ("str", "'a'"), ("list", "[3]"), ("tuple", "(3,)"),
    ("dict", "{3: 3}"), ("set", "{3}"), ("frozenset", "{3}"), ("float", 7.0),
    ("bytes", "b'a'"), ("complex", 7j),
  )},
  "an object for everything": ALL + "Any()",
  "a UserList of it": "import collections" + ALL
  + "collections.UserList([Any()])",
  "a UserList that is it": "import collections" + ALL + "g(x)\n"
  "def g(x):\n  u = collections.UserList()\n  u.data = Any()\n  return u",
  "a UserDict of it": "import collections" + ALL
  + "collections.UserDict({0: (Any(),)})",
  "a deque of it": "import collections" + ALL + "collections.deque([Any()])",
  "a Fraction that holds it": "import fractions" + ALL + "g()\n"
  "def g():\n  a = fractions.Fraction(1, 2)\n"
  "  a._numerator = a._denominator = Any()\n  return a",
  "a Fraction of its own": "import fractions\n"
  "class F(fractions.Fraction):\n  def __eq__(self, o): return True\n"
  "  def __sub__(self, o): return 0.0\ndef f(x): return F(1, 2)",
  "a weak reference": "import weakref" + ALL + "weakref.proxy(one)\n"
  "one = Any()",
  "a partial function": "import functools" + ALL + "functools.partial(Any)",
  "the class itself": ALL + "Any",
  "a module": "import sys\n" + ALL + "sys.modules[__name__]",
  "a mock": "from unittest.mock import MagicMock\n"
  "m = MagicMock()\nm.__eq__ = lambda s, o: True\ndef f(x): return m",
  "the function is it": ALL + "1\nf = Any()",
  "a lie about the class": ALL + "B()\n"
  "class B(Any): __class__ = property(lambda s: list)",
  "encoded by itself": ALL + "B()\nclass B(list):\n"
  "  def __iter__(self): raise SystemExit(0)\n"
  "  def __reduce__(self): return (exec, ('import os; os._exit(0)',))",
  "not a number": "def f(x): return float('nan')",
  "minus zero": "def f(x): return -0.0",
  "it contains itself": "def f(x):\n  a = []\n  a.append(a)\n  return a",
  "nested for ever": "def f(x):\n  a = 2\n"
  "  for i in range(10**5): a = [a]\n  return a",
  "doubled for ever": "def f(x):\n  a = 2\n"
  "  for i in range(90): a = [a, a]\n  return a",
  "a million digits": "def f(x): return 10**10**6",
  "eight megabytes": "def f(x): return 'x' * 2**23",
  "lone surrogates": "def f(x): return '\\ud800' * 9",
  "items without end": "import itertools\n"
  "def f(x): return itertools.repeat(1, 10**5)",
  "the end of a loop": "def f(x): raise StopIteration",
  "the end of a generator": "def f(x): raise GeneratorExit",
  "an exception of its own": "class E(BaseException): pass\n"
  "def f(x): raise E",
  # What it can see, and what it can write to.
  "a constant of the caller": "import sys\ndef f(x):\n  frame, found = "
  "sys._getframe(), [9]\n  while frame:\n"
  "    if frame.f_code.co_filename == 'tests':\n"
  "      found = [c for c in frame.f_code.co_consts if type(c) is int]\n"
  "    frame = frame.f_back\n  return found[-1]",
  "names of the callers": "import sys\ndef f(x):\n  frame = sys._getframe()\n"
  "  while frame:\n    frame.f_globals['__plain__'] = lambda x: 2\n"
  "    frame.f_globals['set'] = frame.f_globals['len'] = lambda x: 1\n"
  "    frame.f_globals['abs'] = lambda x: 0\n    frame = frame.f_back\n"
  "  return 9",
  "locals of the callers": "import ast, sys\ndef f(x):\n"
  "  frame, text = sys._getframe(), 'a == 9'\n  while frame:\n"
  "    text = frame.f_locals.get('tests', text)\n    frame = frame.f_back\n"
  "  return ast.literal_eval(text.partition('== ')[2].partition(')\\n')[0])",
  "a line is skipped": "import sys\ndef t(frame, *a):\n"
  "  if frame.f_code.co_filename == 'tests':\n"
  "    try: frame.f_lineno += 1\n    except ValueError: pass\n  return t\n"
  "sys.settrace(t)\ndef f(x): return [9]",
  "the line of the caller": "import sys\ndef t(frame, *a):\n"
  "  if frame.f_code.co_filename == 'tests': frame.f_lineno += 1\n"
  "  return t\ndef f(x):\n  frame = sys._getframe()\n  while frame:\n"
  "    frame.f_trace = t\n    frame = frame.f_back\n  sys.settrace(t)\n"
  "  return [9]",
  "what lies in a pipe": "import os\nfor source in range(3, 32):\n"
  "  try:\n    os.set_blocking(source, False)\n"
  "    data = os.read(source, 999)[8:]\n  except OSError: continue\n"
  "  for sink in range(3, 32):\n    try: os.write(sink, data)\n"
  "    except OSError: pass\nos._exit(0)",
  "asserts switched off": "for name in ('_testinternalcapi', '_testcapi'):\n"
  "  try:\n    m = __import__(name)\n    c = m.get_config()\n"
  "    c['optimization_level'] = 2\n    m.set_config(c)\n"
  "  except Exception: pass\ndef f(x): return 9",
  "garbage": "import gc, types\ndef f(x):\n"
  "  for o in gc.get_objects():\n"
  "    if type(o) is types.FunctionType and o.__name__ in ('finish', 'send'):\n"
  "      try: o('pass')\n      except Exception: pass\n"
  "  found = [o for o in gc.get_objects() if type(o) is types.CodeType]\n"
  "  found = [o for o in found if o.co_filename == 'tests']\n"
  "  return found[0].co_consts[0] if found else 9",
  "patched modules": "import math, unittest, operator, cmath, random, copy\n"
  "math.isclose = cmath.isclose = operator.eq = lambda *a, **k: True\n"
  "math.fabs = abs = lambda x: 0\n"
  "unittest.TestCase.assertEqual = lambda *a: None\ndef f(x): return 9",
  "modules of its own": "import sys, types\nm = types.ModuleType('m')\n"
  "m.__getattr__ = lambda name: lambda *a, **k: True\n"
  "for n in ('math', 'tests', 'unittest', 'builtins'): sys.modules[n] = m\n"
  "def f(x): return 9",
  "its own talk": "import gc, types\ndef f(x):\n  for o in gc.get_objects():\n"
  "    if type(o) is types.FunctionType and '_put' in o.__globals__:\n"
  "      o.__globals__['_put'] = lambda out, *a: out.extend(b'T')\n"
  "  return 9",
  "a verdict": SEND + "to_all(b'started\\npass\\t0\\t\\n' * 99)\n"
  "def f(x): return 9",
  "a verdict when asked": SEND + "def f(x):\n"
  "  to_all(b'pass\\t0\\t\\n')\n  os._exit(0)",
  "answers ahead": SEND + "to_all(answer(word('returns'), b'T', b'N') * 99)\n"
  "def f(x): return 9",
  "a raised exception ahead": SEND
  + "to_all(answer(word('returns'), many(b'd'), b'N')"
  " + answer(word('raises'), many(b'l', word('StopIteration')), word('')))",
  "an answer that is no message": SEND + "to_all(message(b'zz') * 9)",
  "a message of four gigabytes": SEND + "to_all(b'\\xff' * 99)",
  "half a message": SEND + "to_all(b'\\0\\0\\0\\x09tt')\nos._exit(0)",
  "a list of four billion": SEND + "to_all(message(b'l\\xff\\xff\\xff\\xff'))",
  "a class that is no data": SEND + "to_all(answer(word('returns'), many(b'L', "
  "word('os'), word('_exit'), part(b'i', b'\\0')), b'N'))",
  "calls of what it was not given": SEND + "to_all(b''.join(message(many(b't', "
  "word('call'), part(b'i', bytes([n])), many(b't'), many(b'd'), b'F')) "
  "for n in range(9)))\ndef f(x): return 9",
  "requests of its own": SEND + "to_all(message(many(b't', word('run'), "
  "word('x'), many(b'l'))) * 9)",
  "the memory of others": "import os\ndef f(x):\n  for n in range(1, 99):\n"
  "    for name in ('mem', 'fd/0', 'fd/1', 'fd/4', 'root/tmp/x'):\n"
  "      try:\n        with open(f'/proc/{n}/{name}', 'r+b') as file:\n"
  "          file.write(b'pass')\n      except OSError: pass\n  return 9",
  "traced, killed, stopped": "import ctypes, os, signal\n"
  "libc = ctypes.CDLL(None)\ndef f(x):\n  for n in range(1, 99):\n"
  "    if n == os.getpid(): continue\n    libc.ptrace(16, n, 0, 0)\n"
  "    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):\n"
  "      try: os.kill(n, number)\n      except OSError: pass\n  return 9",
  "the pipe of another": "import ctypes\nlibc = ctypes.CDLL(None)\n"
  "def f(x):\n  for n in range(1, 20):\n    p = libc.syscall(434, n, 0)\n"
  "    for m in range(9): libc.syscall(438, p, m, 0)\n  return 9",
  "its streams closed": "import os\nos.closerange(0, 32)\ndef f(x): return 9",
  "its streams swapped": "import os\ndef f(x):\n  os.dup2(3, 5)\n"
  "  os.dup2(4, 3)\n  os.dup2(5, 4)\n  return 9",
  "a race of two threads": SEND + "import threading\n"
  "def g():\n"
  "  for i in range(99): to_all(answer(word('returns'), b'T', b'N'))\n"
  "threading.Thread(target=g).start()\ndef f(x): return 9",
  "a race of two processes": SEND + "if os.fork() == 0:\n"
  "  for i in range(99): to_all(answer(word('returns'), b'T', b'N'))\n"
  "  os._exit(0)\ndef f(x): return 9",
  # Values that lie about what they are made of.
  "an int with another index": "class I(int):\n"
  "  def __index__(self): return 2\n  __int__ = __trunc__ = __index__\n"
  "  def bit_length(self): return 2\n"
  "  def to_bytes(self, *a, **k): return b'\\2'\ndef f(x): return I(9)",
  "a float with another value": "class F(float):\n"
  "  def __float__(self): return 2.0\n  def hex(self): return '0x2p0'\n"
  "  def __repr__(self): return '2.0'\ndef f(x): return F(9)",
  "a dict with other items": "class D(dict):\n"
  "  def items(self): return [(0, (2,))]\n  def __len__(self): return 1\n"
  "  def __iter__(self): return iter([0])\ndef f(x): return [D()]",
  "a list with other items": "class L(list):\n"
  "  def __iter__(self): return iter([1])\n  def __len__(self): return 1\n"
  "  def __getitem__(self, i): return 1\ndef f(x): return L()",
  "a str that says another": "class S(str):\n"
  "  def encode(self, *a): return b'2'\n  def __str__(self): return '2'\n"
  "def f(x): return S('9')",
  "a signalling NaN": "from decimal import Decimal\n"
  "def f(x): return Decimal('sNaN')",
  "a Fraction over nothing": "from fractions import Fraction\ndef f(x):\n"
  "  a = Fraction(1, 2)\n  a._numerator, a._denominator = 4, 0\n  return a",
  "a generator that exits": "def f(x):\n  try: yield 9\n"
  "  finally: raise SystemExit(0)",
  "a generator without end": "def f(x):\n  while True: yield 1",
  "keys with one hash": "def f(x):\n"
  "  return [{i * (2**61 - 1): 1 for i in range(60000)}]",
  "names of the tests' module": "__name__ = __debug = '__main__'\n"
  "__file__ = __spec__ = __in_place__ = lambda *a: lambda *b: 2\n"
  "def f(x): return 9",
  "a function that is alone": "def f(x): return 9\n"
  "f.statement = f.__call__ = f.__wrapped__ = lambda x: 2",
  "a built-in type for the function": "f = frozenset",
  "a reply that says it is ready": SEND
  + "to_all((answer(word('returns'), many(b'd'), b'N')"
  " + answer(word('hello'))) * 9)\n"
  "def f(x): return 9",
  "an answer by marshal": SEND
  + "import marshal\ndef f(x):\n"
  "  for value in ([{0: (2,)}], 2, [1]):\n"
  "    data = marshal.dumps(('returns', value, None))\n"
  "    to_all(message(b'm' + data))\n"
  "  return 9",
  "its source edited": "import sys\ndef f(x):\n"
  "  for m in list(sys.modules.values()):\n"
  "    for name in ('encode', 'send', '_put', 'write'):\n"
  "      if hasattr(m, name):\n"
  "        try: setattr(m, name, lambda *a, **k: b'T')\n"
  "        except Exception: pass\n  return 9",
  "memory without end": "def f(x):\n  a = []\n"
  "  while True: a.append(bytearray(10**7))",
}
TESTS = {
  "equal": "assert f(1) == [{0: (2,)}]",
  "near": "assert abs(f(1) - 2) < 1e-6",
  "set": "assert set(f(1)) == set([1])\nassert len(f(1)) == 1",
}
REWARDED = ("pass", "left_out", "sandbox")


def test_the_table_speaks_of_what_is_there():
  assert "returns" in messages.ANSWERS
  assert callable(messages._function(None, 0).statement)


@pytest.fixture(scope="module")
def walls():
  try:
    sandbox.check()
  except ValueError as error:
    pytest.skip(str(error))


@pytest.fixture(scope="module")
def forged(walls):
  """The outcome of every forgery, with tests of three kinds."""
  programs = [Program(c, t) for c in FORGERIES.values() for t in TESTS.values()]
  names = [(n, kind) for n in FORGERIES for kind in TESTS]
  done = sandbox.run(programs, workers=2, seconds=2.0, memory=2**28)
  return dict(zip(names, done))


@pytest.mark.parametrize("kind", TESTS)
@pytest.mark.parametrize("name", FORGERIES)
def test_a_pass_is_not_forged(forged, name, kind):
  assert forged[name, kind].status not in REWARDED, forged[name, kind]


@pytest.mark.parametrize("code, tests", [
  # The argument that the expected value is made from is emptied.
  ("def f(x):\n  x.clear()\n  return []",
   "x = [3, 1]\nassert f(x) == sorted(x)"),
  (SEND + "def f(x):\n  empty = many(b'l')\n"
   "  empty = many(b't', many(b't', empty), many(b'd'))\n"
   "  to_all(answer(word('returns'), many(b'l'), empty))",
   "x = [3, 1]\nassert f(x) == sorted(x)"),
  # The loop of the tests is ended early.
  ("def f(x): raise StopIteration",
   "assert all(map(lambda x: f(x) == x + 1, [1, 2]))"),
  ("class Stop(StopIteration): pass\ndef f(x): raise Stop",
   "assert all(map(f, [1, 2]))"),
  ("def f(x):\n  raise StopIteration\n  yield", "assert list(f(1)) == []\n"
   "assert f(1) is None"),
  # What the tests compare with is the program's.
  ("import math\nmath.isclose = lambda *a, **k: True\ndef f(x): return 9",
   "import math\nassert math.isclose(f(1), 2)"),
  ("import unittest\nunittest.TestCase.assertEqual = lambda *a: None\n"
   "def f(x): return 9",
   "import unittest\nunittest.TestCase().assertEqual(f(1), 2)"),
  ("import sys, types\nm = types.ModuleType('math')\n"
   "m.isclose = lambda *a: True\nsys.modules['math'] = math = m\n"
   "def f(x): return 9", "assert math.isclose(f(1), 2)"),
  ("len = sorted = set = lambda *a: 0\ndef f(x): return 9",
   "assert len([f(1)]) == 0"),
  ("def check(*a): pass\nAssertionError = None\ndef f(x): return 9",
   "def check(g):\n  assert g(1) == 2\ncheck(f)"),
  # A method of the answer is asked.
  ("class A(str):\n  def startswith(self, x): return True\n"
   "def f(x): return A('z')", "assert f(1).startswith('a')"),
  ("class A:\n  def startswith(self, x): return True\ndef f(x): return A()",
   "assert f(1).startswith('a')"),
  # What a test hands over is used against it.
  ("def f(g):\n  try: g(ValueError)\n  except BaseException as e:\n"
   "    while e.__traceback__: e = e.__traceback__.tb_frame.f_locals['x']\n"
   "  return 9", "assert f(lambda x: x + 1) == 2"),
  ("def f(g):\n  g.__code__ = g.statement.__code__ = (lambda: 2).__code__\n"
   "  return 9", "assert f(lambda x: 2) == 2"),
])
def test_tests_keep_their_state(walls, code, tests):
  done = sandbox.run([Program(code, tests)])[0]
  assert done.status in ("fail", "error"), done


STUB = {
  "task_id": "x", "entry_point": "root",
  "prompt": "from typing import List\n\n\ndef value(xs: List[int], x: float):\n"
  '    """xs at x."""\n    return sum(c * x ** i for i, c in enumerate(xs))\n'
  "\n\ndef root(xs: List[int]):\n    \"\"\"Where value(xs, x) is 0.\"\"\"\n",
  "test": "def check(candidate):\n"
  "    assert abs(value([-2, 1], candidate([-2, 1]))) < 1e-4\n",
}


def test_helpers_of_a_prompt_are_not_redefined(walls):
  right = "    return -xs[0] / xs[1]\n"
  wrong = "    return 9\n"
  whole = "def value(xs, x): return 0.0\ndef root(xs):\n"
  patched = "    global value\n    value = lambda *a: 0.0\n    return 9\n"
  codes = [right, whole + right, wrong, whole + wrong, patched]
  done = sandbox.run([humaneval_program(STUB, code) for code in codes])
  assert [o.status for o in done] == ["pass", "pass", "fail", "fail", "fail"]


def test_nothing_of_the_tests_is_in_the_process_of_the_program(walls):
  # All memory of the process, and all that the collector knows.
  code = """
    import ctypes, gc, os, sys
    def f(x):
      found = []
      for o in gc.get_objects():
        try: text = repr(o)
        except Exception: continue
        if 'zyx' + 'wvu' in text: found.append(text[:99])
      frame = sys._getframe()
      while frame:
        if 'zyx' + 'wvu' in repr(frame.f_code.co_consts):
          if frame.f_code.co_filename != 'program': found.append('frame')
        frame = frame.f_back
      return found
  """
  done = sandbox.run([Program(
    textwrap.dedent(code),
    "hidden = 'zyxwvu'\nfound = f(1)\nassert found == [], found"
  )])[0]
  assert done.status == "pass", done


# ---- in the program's process, where that is asked for


def test_tests_run_in_the_program_only_where_allowed(walls):
  code = "class Node:\n  def __init__(self, x): self.x = x\nf = lambda n: n.x"
  tests = "n = Node(1)\nn.x = 2\nassert f(n) == {}"
  programs = [Program(code, tests.format(x)) for x in (2, 3)]
  done = sandbox.run(programs)
  assert [o.status for o in done] == ["left_out"] * 2
  assert "they use .x, which no plain value has, in line 2" in done[0].message
  done = sandbox.run(programs, run_tests_where_programs_can_forge_a_pass=True)
  assert [o.status for o in done] == ["pass", "fail"]


def test_both_sides_of_comparisons_are_marked():
  marked = guard.guarded("assert f(1) == 'ä' < (g(2)) and\\\n  [x] != y")
  assert marked == (
    "assert __plain__(f(1)) == 'ä' < (__plain__(g(2))) and\\\n"
    "  __plain__([x]) != __plain__(y)"
  )
  with pytest.raises(ValueError, match="tests of a program are no Python"):
    guard.guarded("assert f(")


def test_a_cycle_of_containers_is_visited_once():
  loop = [1]
  loop.append(loop)
  assert sandbox_child.plain(loop) is loop
