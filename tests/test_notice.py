"""What the cloud says of a machine, by a server of metadata on loopback."""

import contextlib
import http.server
import os
import subprocess
import sys
import threading
import time

import pytest

from sitrain.runtime import notice

AT_LAST = 20.0  # seconds after which a test that waits has failed


@contextlib.contextmanager
def metadata(values, broken=(), etag="e{}"):
  """(its address, the requests so far); the first ones get `broken` replies.

  Replies at once, and not, as the real one, when a value changes.
  """
  asked = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      asked.append((self.path, self.headers.get("Metadata-Flavor")))
      name = self.path.split("?")[0].rsplit("/", 1)[1]
      if len(asked) <= len(broken):
        self.wfile.write(broken[len(asked) - 1])
        return
      self.send_response(200)
      self.send_header("ETag", etag.format(len(asked)))
      self.end_headers()
      self.wfile.write(values[name].encode())
      time.sleep(0.02)

    def log_message(self, *args):
      pass

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    yield f"127.0.0.1:{server.server_port}", asked
  finally:
    server.shutdown()
    server.server_close()


@pytest.fixture
def quiet(monkeypatch):
  """Neither flags of the environment nor a machine of Google."""
  monkeypatch.delenv("NO_GCE_CHECK", raising=False)
  monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
  monkeypatch.setattr(notice, "PAUSE", 0.01)


HTTP = b"HTTP/1.0 "
# An error, no HTTP at all, nothing, less than was promised, and no text.
BROKEN = (
  HTTP + b"503 Busy\r\n\r\n", b"banana\r\n\r\n", b"",
  HTTP + b"200 OK\r\nContent-Length: 99\r\n\r\nFALSE",
  HTTP + b"200 OK\r\n\r\n\xff\xfe", HTTP + b"200 OK\r\nETag: \xe9\r\n\r\n\x80",
)


@pytest.mark.parametrize("name, end", notice.ENDS.items())
def test_a_notice_is_acted_on_once(name, end, quiet, monkeypatch):
  values, heard = {"preempted": "FALSE", "maintenance-event": "NONE"}, []
  came = threading.Event()
  with metadata(values, broken=BROKEN) as (host, asked):
    monkeypatch.setenv("GCE_METADATA_HOST", host)
    threads = notice.watch(lambda: (heard.append(1), came.set()))
    until = time.monotonic() + AT_LAST
    while len(asked) < len(BROKEN) + 7 and time.monotonic() < until:
      time.sleep(0.01)
    assert all(thread.is_alive() for thread in threads)
    assert not heard
    values[name] = end
    assert came.wait(AT_LAST)
    for other in values:  # Ends the other thread too.
      values[other] = notice.ENDS[other]
    for thread in threads:
      thread.join(AT_LAST)
  assert len(heard) == 2
  paths, flavors = zip(*asked)
  assert set(flavors) == {"Google"}
  start = f"/computeMetadata/v1/instance/{name}?wait_for_change=true"
  assert any(path.startswith(start) and "etag=e" in path for path in paths)


def test_who_does_not_wait_is_not_asked_without_end(quiet, monkeypatch):
  """A proxy may answer at once, again and again."""
  monkeypatch.setattr(notice, "PAUSE", 0.5)
  values = {"preempted": "FALSE", "maintenance-event": "NONE"}
  with metadata(values, etag="same") as (host, asked):
    monkeypatch.setenv("GCE_METADATA_HOST", host)
    threads = notice.watch(lambda: None)
    time.sleep(0.8)
    assert 4 <= len(asked) <= 6
    for other in values:
      values[other] = notice.ENDS[other]
    for thread in threads:
      thread.join(AT_LAST)


def test_elsewhere_nobody_is_asked(quiet, monkeypatch, tmp_path):
  monkeypatch.setattr(notice, "PRODUCT", tmp_path / "none")
  assert notice.watch() == []
  monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
  monkeypatch.setenv("NO_GCE_CHECK", "true")
  assert notice.watch() == []
  monkeypatch.delenv("NO_GCE_CHECK")
  monkeypatch.delenv("GCE_METADATA_HOST")
  (tmp_path / "none").write_text("Google Compute Engine\n")
  assert notice.is_on_compute_engine()


CHILD = """
import os, time
from sitrain.runtime import notice, signals

def leave(code, why):
  print(why, flush=True)
  os._exit(code)

signals.listen(leave)
notice.watch()
time.sleep(60)
"""


def test_it_ends_a_process_as_sigterm_does(quiet):
  values = {"preempted": "TRUE", "maintenance-event": "NONE"}
  with metadata(values) as (host, _):
    environment = os.environ | {"GCE_METADATA_HOST": host}
    done = subprocess.run(
      [sys.executable, "-c", CHILD], env=environment, capture_output=True,
      text=True, timeout=300,
    )
  assert done.returncode == 75, done.stderr
  assert done.stdout.strip()
