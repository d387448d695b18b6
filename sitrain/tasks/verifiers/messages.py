"""Messages between the two sides of a sandbox: requests and answers.

Runs inside the sandbox, on both sides. Either side may call functions that the
other has sent, also while it waits for an answer: a test may pass a function,
and a program may return one. Requests are ("run", code, names),
("call", number, arguments, options, statement) and ("next", number); answers
are ("returns", value, changed arguments or None), ("raises", names of the
exception's classes, text), ("refuses", why) and ("stops",).
"""

import builtins
import posix

from sitrain.tasks.verifiers.serialization import (
  MAX_BYTES,
  MAX_DEPTH,
  Namespace,
  Refused,
  decode,
  encode,
)

__builtins__ = vars(builtins).copy()  # as in serialization.py

ANSWERS = ("returns", "raises", "refuses", "stops")
# In a test that maps over calls these would end the loop.
ENDS = (StopIteration, StopAsyncIteration)
MAX_TEXT = 2000
PROGRAM_LIMITS = (MAX_BYTES, MAX_DEPTH)  # of what a program sends
# Larger, so that tests can send back whatever a program has sent.
TESTS_LIMITS = (4 * MAX_BYTES, MAX_DEPTH + 50)


def make_peer(
  source, sink, *, lost, refuse, serve, receive_limits, send_limits, program
):
  """The connection to the other process.

  source, sink: descriptors. lost(why): ends this process; called when the other
  is gone or sends invalid data. refuse(error): called where a value cannot be
  sent, before `Refused` is raised. serve(peer, request): the answer to requests
  besides calls. receive_limits, send_limits: (bytes, depth) of messages;
  PROGRAM_LIMITS for those of the program, else TESTS_LIMITS. program: whether
  the other process is the program's, which trusts what the tests send; they
  trust nothing that it sends.
  """
  made = Namespace(
    source=source, sink=sink, rest=b"", kept=[], lost=lost, refuse=refuse,
    serve=serve, receive_limits=receive_limits, send_limits=send_limits,
    reads_marshal=program, writes_marshal=not program,
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
  if size > peer.receive_limits[0] + 64:  # the last value's tag and length
    peer.lost("sent a message that is too long")
  try:
    message = decode(_read(peer, size), peer)
    if type(message) is tuple and type(message[0]) is str:
      return message
  except (ValueError, IndexError):
    pass
  return peer.lost("sent what is no message")


def _read(peer, size):
  parts, have = [peer.rest], len(peer.rest)
  while have < size:
    try:
      # Most messages come with their length in one read.
      part = posix.read(peer.source, max(2**12, min(size - have, 2**20)))
    except OSError:
      part = b""
    if not part:
      peer.lost("")
    parts.append(part)
    have += len(part)
  data = b"".join(parts)
  peer.rest = data[size:]
  return data[:size]


def request(peer, *message):
  """Sends a request and returns its answer."""
  send(peer, *message)
  return wait_for_answer(peer)


def wait_for_answer(peer):
  """The answer to a request; serves requests of the other side meanwhile."""
  while True:
    message = receive(peer)
    if message[0] in ANSWERS:
      return message
    send_answer(peer, execute(peer, message))


def execute(peer, message):
  """Executes a request and returns the answer."""
  try:
    return _execute(peer, message)
  except Refused as error:
    return "refuses", str(error)
  except BaseException as error:
    return _raised(error)


def send_answer(peer, answer):
  """Sends an answer, or why it cannot be sent."""
  try:
    send(peer, *answer)
  except Refused as error:
    send(peer, "refuses", str(error))
  except BaseException as error:  # such as out of memory
    send(peer, *_raised(error))


def _execute(peer, message):
  if message[0] == "call":
    _, number, arguments, options, statement = message
    value = peer.kept[number](*arguments, **options)
    changed = (arguments, options) if statement or value is None else None
    return "returns", value, changed
  if message[0] == "next":
    for item in peer.kept[message[1]]:
      return "returns", item, None
    return ("stops",)
  return peer.serve(peer, message)


def _raised(error):
  """An exception as a message: the names of its classes, and its text."""
  try:
    first = error.args[:1]
    plain = len(error.args) == 1 and type(first[0]) is str
    text = first[0] if plain else str(error)
    text = str.__str__(text)[:MAX_TEXT]
  except BaseException:
    text = "an exception that cannot be shown"
  return "raises", [kind.__name__ for kind in type(error).__mro__], text


def value_of(answer):
  """The value of an answer; raises the exception that was raised.

  AssertionError for a value that the other side cannot send.
  """
  if answer[0] == "returns":
    return answer[1]
  if answer[0] == "raises":
    raise _exception(answer[1], answer[2])
  raise AssertionError(f"the answer is or holds {answer[1]}")


def _exception(names, text):
  """The nearest built-in exception, with the same text."""
  if names[0] == "Exception":
    return Exception(text)
  for name in names:
    kind = __builtins__.get(name)
    usual = isinstance(kind, type) and issubclass(kind, Exception)
    if usual and kind is not Exception and not issubclass(kind, ENDS):
      try:
        return kind(text)
      except TypeError:  # it takes other arguments than a text
        continue
  own = "Exception" in names and names[0] not in __builtins__
  kind = Exception if own else RuntimeError
  return kind(f"{names[0]}: {text}")


def _function(peer, number):
  """A function that calls the other side's."""
  def expression(*arguments, **options):
    return call(peer, number, arguments, options, statement=False)

  def statement(*arguments, **options):
    return call(peer, number, arguments, options, statement=True)

  expression.statement = statement
  return expression


def call(peer, number, arguments, options, *, statement):
  """Calls a function of the other side.

  Changes to its arguments are written back where it returned None, or where the
  call is a `statement`, whose value is not used. Elsewhere they are not: a
  program could empty the very list that its answer is compared with.
  """
  answer = request(peer, "call", number, arguments, options, statement)
  value = value_of(answer)
  if statement or value is None:  # whatever the other side sends
    theirs, named = answer[2]
    for old, new in zip(arguments, theirs):
      _write_back(old, new)
    for name in options:
      _write_back(options[name], named[name])
  return value


def _write_back(old, new):
  """Copies the changed container of the other side into the own one."""
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
    answer = request(peer, "next", number)
    if answer[0] == "stops":
      return
    yield value_of(answer)
