"""Google Cloud Storage on loopback, with faults on demand, for tests.

`python gcs.py` serves one empty bucket from memory until its stdin is closed:
gcp-storage-emulator with what Orbax needs beyond it (generations on downloads,
failed preconditions, threads). `serve()` starts it as a process of its own.
"""

import base64
import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

try:
  from gcp_storage_emulator import server as emulator
  from gcp_storage_emulator.storage import Storage
except ImportError:
  emulator = None

BUCKET = "bucket"
LARGEST = 256 << 20  # bytes that the server holds at the most
LONGEST = 1200  # seconds that it lives at the most
OBJECT = re.compile(r"(?:/download|/upload)?(?:/storage/v1)?/b/([^/]+)/o/?(.*)")
# As the reference of the JSON API has them: status, reason and message.
REFUSALS = {
  "unavailable": (503, "backendError", "Backend Error"),
  "busy": (429, "rateLimitExceeded", "The rate of changes was exceeded."),
  "quota": (403, "quotaExceeded", "The quota of the project is exceeded."),
  "forbidden": (
    403, "forbidden", "caller does not have storage.objects.create access."
  ),
}  # fmt: skip


class Gcs(NamedTuple):
  """A server that runs."""

  environment: dict[str, str]  # what sends a process's gs:// there
  faults: Callable[..., None]  # (*fault): these, instead of those before
  served: Callable[[], list[str]]  # the requests that met a fault
  names: Callable[[str], list[str]]  # (start) of the objects that there are
  fetch: Callable[[str, Any], None]  # (start, folder): copies those objects
  close: Callable[[], None]


def fault(on: str, kind: str, *, after: int = 0, times: int = 10**6) -> dict:
  """What happens to requests `METHOD path` in which the regex `on` is found.

  The first `after` of them pass, the next `times` meet a fault: one of
  REFUSALS, "slow" (a second late), "torn" (the connection breaks while a body
  is sent) or "lost" (it breaks when all is done).
  """
  return {"on": on, "kind": kind, "after": after, "times": times}


def serve() -> Gcs:
  """Starts a server; skips the test where the emulator is not installed."""
  if emulator is None:
    import pytest

    pytest.skip("needs gcp-storage-emulator: pip install -e '.[test]'")
  process = subprocess.Popen(
    [sys.executable, __file__], text=True, stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )

  def close() -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.communicate(timeout=10)
    process.kill()

  return at(f"http://127.0.0.1:{int(process.stdout.readline())}", close)


def at(url: str, close: Callable[[], None] = lambda: None) -> Gcs:
  """The server of this address."""

  def ask(path: str, body: Any = ()) -> Any:
    """The answer's JSON, also while all requests meet faults."""
    request = urllib.request.Request(url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
      return json.load(answer)

  def fetch(start: str, folder: Any) -> None:
    for name in ask("/_names", start):
      path = Path(folder) / name.removeprefix(start).lstrip("/")
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(base64.b64decode(ask("/_object", name)))

  return Gcs(
    environment=_environment(url),
    faults=lambda *given: ask("/_faults", given),
    served=lambda: ask("/_served"),
    names=lambda start: ask("/_names", start),
    fetch=fetch,
    close=close,
  )


def _environment(url: str) -> dict[str, str]:
  return {
    "TENSORSTORE_GCS_HTTP_URL": url, "STORAGE_EMULATOR_HOST": url,
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "fake", "NO_GCE_CHECK": "true",
    "FSSPEC_GCS_TOKEN": "anon", "FSSPEC_GS_TOKEN": "anon",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false", "EPATH_USE_TF": "0",
    "GOOGLE_CLOUD_PROJECT": "project",
  }  # fmt: skip


def _named(path: str) -> tuple[str, str]:
  """(bucket, object) that a request is about; "" where it is about none."""
  parts = urlsplit(path)
  found = OBJECT.fullmatch(parts.path)
  if not found:
    return "", ""
  name = found[2] or parse_qs(parts.query).get("name", [""])[0]
  return found[1], unquote(name)


def _handler(storage: Any) -> type:
  """The class that answers requests for this storage."""
  lock, faults, served = threading.Lock(), [], []

  def take(request: str) -> str:
    """The fault that this request is to meet, or ""."""
    with lock:
      for one in faults:
        if re.search(one["on"], request):
          one["after"] -= 1
          if one["after"] < 0 <= one["after"] + one["times"]:
            served.append(request)
            return one["kind"]
    return ""

  def generation(path: str) -> str:
    bucket, name = _named(path)
    return storage.objects.get(bucket, {}).get(name, {}).get("generation", "0")

  def precondition_fails(path: str) -> bool:
    asked = parse_qs(urlsplit(path).query)
    now = generation(path)
    wanted = asked.get("ifGenerationMatch", [now])[0]
    return wanted != now or now in asked.get("ifGenerationNotMatch", [])

  def full(body: bytes) -> bool:
    held = sum(map(len, list(storage._store._files.values())))
    return held + len(body) > LARGEST

  class Handler(emulator.RequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def answer(self, method: str) -> None:
      if self.path.startswith("/_"):
        return self.control()
      kind = take(f"{method} {unquote(self.path)}")
      if kind == "torn":
        self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
        return self.hang_up()
      body = emulator._read_raw_data(self) or b""
      del self.headers["Transfer-Encoding"], self.headers["Content-Length"]
      self.headers["Content-Length"] = str(len(body))
      self.rfile, rest = io.BytesIO(body), self.rfile
      try:
        self.respond(method, kind, body)
      finally:
        self.rfile = rest

    def respond(self, method: str, kind: str, body: bytes) -> None:
      if kind in REFUSALS:
        return self.refuse(*REFUSALS[kind])
      if kind == "slow":
        time.sleep(1)
      with lock:
        if full(body):
          return self.refuse(*REFUSALS["quota"])
        if precondition_fails(self.path):
          return self.refuse(412, "conditionNotMet", "Precondition Failed")
        if kind == "lost":
          self.wfile = io.BytesIO()
        emulator.Router(self).handle(method)
      if kind == "lost":
        self.hang_up()

    def refuse(self, status: int, reason: str, message: str) -> None:
      detail = {"domain": "global", "reason": reason, "message": message}
      error = {"code": status, "message": message, "errors": [detail]}
      self.reply(status, {"error": error})

    def reply(self, status: int, value: Any) -> None:
      text = json.dumps(value).encode()
      self.send_response(status)
      self.send_header("Content-Type", "application/json")
      self.send_header("Content-Length", str(len(text)))
      self.end_headers()
      self.wfile.write(text)

    def control(self) -> None:
      said = json.loads(emulator._read_raw_data(self))
      with lock:
        if self.path == "/_names":
          names = storage.objects.get(BUCKET, {})
          return self.reply(200, sorted(n for n in names if n.startswith(said)))
        if self.path == "/_object":
          found = storage.get_file(BUCKET, said)
          return self.reply(200, base64.b64encode(found).decode())
        if self.path == "/_faults":
          faults[:], served[:] = said, []
        self.reply(200, served)

    def hang_up(self) -> None:
      self.close_connection = True
      with contextlib.suppress(OSError):
        self.connection.shutdown(2)

    def end_headers(self) -> None:
      if (now := generation(self.path)) != "0":
        self.send_header("x-goog-generation", now)
      super().end_headers()

    def do_GET(self) -> None:
      self.answer("GET")

    def do_POST(self) -> None:
      self.answer("POST")

    def do_PUT(self) -> None:
      self.answer("PUT")

    def do_DELETE(self) -> None:
      self.answer("DELETE")

    def do_PATCH(self) -> None:
      self.answer("PATCH")

  return Handler


def _serve() -> None:
  storage = Storage(use_memory_fs=True)
  storage._write_config_to_file = lambda: None  # of all objects, at each write
  emulator.buckets.create_bucket(BUCKET, storage)
  # Else what is deleted is kept for a week.
  policy = storage.buckets[BUCKET]["softDeletePolicy"]
  policy["retentionDurationSeconds"] = "0"
  handle = _handler(storage)
  server = ThreadingHTTPServer(
    ("127.0.0.1", 0), lambda *given: handle(storage, *given)
  )
  server.daemon_threads = True
  server.handle_error = lambda *given: None  # Clients hang up when they like.
  logging.disable()
  threading.Thread(target=server.serve_forever, daemon=True).start()
  threading.Timer(LONGEST, lambda: os._exit(1)).start()
  print(server.server_port, flush=True)
  sys.stdin.read()
  os._exit(0)


if __name__ == "__main__":
  _serve()
