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

AT_LAST = 60.0  # seconds after which a test that waits has failed


@contextlib.contextmanager
def metadata(values, broken=0):
  """(its address, the requests so far); the first `broken` get an error.

  Replies at once, and not, as the real one, when a value changes.
  """
  asked = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      asked.append((self.path, self.headers.get("Metadata-Flavor")))
      name = self.path.split("?")[0].rsplit("/", 1)[1]
      self.send_response(503 if len(asked) <= broken else 200)
      self.send_header("ETag", f"e{len(asked)}")
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


@pytest.mark.parametrize("name, end", notice.ENDS.items())
def test_a_notice_is_acted_on_once(name, end, quiet, monkeypatch):
  values, heard = {"preempted": "FALSE", "maintenance-event": "NONE"}, []
  came = threading.Event()
  with metadata(values, broken=3) as (host, asked):
    monkeypatch.setenv("GCE_METADATA_HOST", host)
    threads = notice.watch(lambda: (heard.append(1), came.set()))
    while len(asked) < 10:
      time.sleep(0.01)
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


def test_elsewhere_nobody_is_asked(quiet, monkeypatch, tmp_path):
  monkeypatch.setattr(notice, "PRODUCT", tmp_path / "none")
  assert notice.watch() == []
  monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
  monkeypatch.setenv("NO_GCE_CHECK", "true")
  assert notice.watch() == []
  monkeypatch.delenv("NO_GCE_CHECK")
  monkeypatch.delenv("GCE_METADATA_HOST")
  (tmp_path / "none").write_text("Google Compute Engine\n")
  assert notice.told()


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
