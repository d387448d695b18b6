"""How the two sides of a sandbox talk: requests, answers, and calls back.

Runs inside the sandbox, on both sides. Either side may call what the other has
handed over, while it waits for an answer too: a test may hand over a function,
and a program may return one. Requests are ("run", code, names),
("call", number, arguments, options, alone) and ("next", number); answers are
("gives", value, changed arguments or None), ("raises", names of the exception's
classes, text), ("refuses", why) and ("stops",).
"""

import builtins
import posix

from sitrain.tasks.verifiers.crossing import (
  DEEPEST,
  LARGEST,
  Namespace,
  Refused,
  decode,
  encode,
)

__builtins__ = vars(builtins).copy()  # as in crossing.py

ANSWERS = ("gives", "raises", "refuses", "stops")
# A test that maps or sums over calls would take these for the end of its loop.
ENDS = (StopIteration, StopAsyncIteration)
LONGEST_TEXT = 2000
PROGRAM = (LARGEST, DEEPEST)
# More, so that tests can hand on whatever a program has sent.
TESTS = (4 * LARGEST, DEEPEST + 50)


def peer(source, sink, *, lost, refuse, serve, takes, gives):
  """The other process, as this side sees it.

  source, sink: descriptors. lost(why): ends this process, called when the other
  is gone or sends what is no message. refuse(error): called where a value does
  not cross, before `Refused` is raised. serve(peer, request): the answer to
  requests besides calls. takes, gives: (bytes, depth) of messages from and to
  it; those of PROGRAM are of what a program sends, those of TESTS of the rest.
  """
  made = Namespace(
    source=source, sink=sink, kept=[], lost=lost, refuse=refuse, serve=serve,
    takes=takes, gives=gives,
  )
  made.function = lambda number: _function(made, number)
  made.items = lambda number: _items(made, number)
  return made


def send(peer, *message):
  """Writes one message; Refused, before a byte is written, from `encode`."""
  try:
    data = encode(message, peer)
  except Refused as error:
    peer.refuse(error)
    raise
  data[:0] = len(data).to_bytes(4, "big")
  view = memoryview(data)
  try:
    while view:
      view = view[posix.write(peer.sink, view):]
  except OSError:
    peer.lost("")


def receive(peer):
  """The next message, a tuple that begins with its kind."""
  size = int.from_bytes(_read(peer, 4), "big")
  if size > peer.takes[0] + 64:  # the last value's tag and length
    peer.lost("sent a message that is too long")
  try:
    message = decode(_read(peer, size), peer)
    if type(message) is tuple and type(message[0]) is str:
      return message
  except (ValueError, IndexError):
    pass
  return peer.lost("sent what is no message")


def _read(peer, size):
  parts = []
  while size > 0:
    try:
      part = posix.read(peer.source, min(size, 2**20))
    except OSError:
      part = b""
    if not part:
      peer.lost("")
    parts.append(part)
    size -= len(part)
  return b"".join(parts)


def request(peer, *message):
  """Sends a request; its answer."""
  send(peer, *message)
  return answer_to(peer)


def answer_to(peer):
  """The answer to what was sent. Serves what the other asks meanwhile."""
  while True:
    said = receive(peer)
    if said[0] in ANSWERS:
      return said
    tell(peer, done(peer, said))


def done(peer, said):
  """Does what a request asks for; the answer."""
  try:
    return _done(peer, said)
  except Refused as error:
    return "refuses", str(error)
  except BaseException as error:
    return _raised(error)


def tell(peer, found):
  """Sends an answer, or why it cannot be sent."""
  try:
    send(peer, *found)
  except Refused as error:
    send(peer, "refuses", str(error))
  except BaseException as error:  # out of memory, say
    send(peer, *_raised(error))


def _done(peer, said):
  if said[0] == "call":
    _, number, arguments, options, alone = said
    value = peer.kept[number](*arguments, **options)
    changed = (arguments, options) if alone or value is None else None
    return "gives", value, changed
  if said[0] == "next":
    for item in peer.kept[said[1]]:
      return "gives", item, None
    return ("stops",)
  return peer.serve(peer, said)


def _raised(error):
  """How an exception crosses: the names of its classes, and its text."""
  try:
    first = error.args[:1]
    plain = len(error.args) == 1 and type(first[0]) is str
    text = first[0] if plain else str(error)
    text = str.__str__(text)[:LONGEST_TEXT]
  except BaseException:
    text = "an exception that cannot be shown"
  return "raises", [kind.__name__ for kind in type(error).__mro__], text


def value_of(said):
  """The value of an answer; raises what it says was raised.

  AssertionError for a value that the other side cannot send.
  """
  if said[0] == "gives":
    return said[1]
  if said[0] == "raises":
    raise _exception(said[1], said[2])
  raise AssertionError(f"the answer is or holds {said[1]}")


def _exception(names, text):
  """The nearest exception of Python's own, with the same text."""
  if names[0] == "Exception":
    return Exception(text)
  for name in names:
    kind = __builtins__.get(name)
    usual = isinstance(kind, type) and issubclass(kind, Exception)
    if usual and kind is not Exception and not issubclass(kind, ENDS):
      try:
        return kind(text)
      except TypeError:  # one that wants more than a text
        continue
  own = "Exception" in names and names[0] not in __builtins__
  kind = Exception if own else RuntimeError
  return kind(f"{names[0]}: {text}")


def _function(peer, number):
  """A function that calls the other side's."""
  def called(*arguments, **options):
    return call(peer, number, arguments, options, alone=False)

  def alone(*arguments, **options):
    return call(peer, number, arguments, options, alone=True)

  called.alone = alone
  return called


def call(peer, number, arguments, options, *, alone):
  """Calls a function of the other side.

  What it changed in its arguments is written back where it returned None, or
  where the call stands `alone`, so that its value is not used. Elsewhere it is
  not: a program could empty the very list that its answer is compared with.
  """
  said = request(peer, "call", number, arguments, options, alone)
  value = value_of(said)
  if alone or value is None:  # whatever the other side sends
    theirs, named = said[2]
    for old, new in zip(arguments, theirs):
      _write_back(old, new)
    for name in options:
      _write_back(options[name], named[name])
  return value


def _write_back(old, new):
  """Makes a container what the other side's copy of it has become."""
  if type(new) is not type(old) and not isinstance(old, type(new)):
    return
  if isinstance(old, (list, bytearray)):
    old[:] = new
  elif isinstance(old, (dict, set)):
    old.clear()
    old.update(new)
  elif hasattr(old, "extendleft"):
    old.clear()
    old.extend(new)


def _items(peer, number):
  """The items of the other side's iterator."""
  while True:
    said = request(peer, "next", number)
    if said[0] == "stops":
      return
    yield value_of(said)
