"""Nothing gets out of the sandbox, and nothing stays behind.

Every dangerous program here is bounded in itself (20 forks, 2 GB asked for,
100 MB written), and runs only after harmless ones have shown that its user and
its limits are what they should be (`walls`).
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from sitrain.tasks.verifiers import bubble, sandbox
from sitrain.tasks.verifiers.sandbox import Program

ROOT = pathlib.Path(__file__).parent.parent
FORKS = """
import os, time
def f():
  made = 0
  for i in range(20):
    try: child = os.fork()
    except OSError: break
    if child == 0:
      time.sleep(30)
      os._exit(0)
    made += 1
  return made
"""  # at most 20
GOOD = Program("def f(x):\n  return x + 1", "assert f(1) == 2")


def run_one(code, tests="assert f() == []", **options):
  code = textwrap.dedent(code)
  return sandbox.run([Program(code, tests)], **options)[0]


@pytest.fixture(scope="module")
def walls():
  """Skips where there is no sandbox; fails if it is not what it should be."""
  try:
    sandbox.check()
  except ValueError as error:
    pytest.skip(str(error))
  code = """
    import os, resource
    def f():
      limit = resource.getrlimit
      return [os.getuid() == 0, os.getgid() == 0, os.getgroups() == [],
              limit(resource.RLIMIT_NPROC), limit(resource.RLIMIT_AS)[1],
              limit(resource.RLIMIT_CORE), os.getpid() < 9]
  """
  user = os.getuid() == 0 or os.getgroups() == []
  expected = [False, os.getuid() != 0 and os.getgid() == 0, user,
              (4, 4), 2**28, (0, 0), True]
  done = run_one(code, f"assert f() == {expected}, f()", memory=2**28)
  assert done.status == "pass", done


def descendants(top):
  """Process ids of all that a process has started, zombies included."""
  parents = {}
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      fields = path.read_text().rpartition(")")[2].split()
    except OSError:
      continue
    parents[int(path.parent.name)] = int(fields[1])
  found, more = {top}, True
  while more:
    more = {p for p, parent in parents.items() if parent in found} - found
    found |= more
  return found - {top}


def gone(processes, seconds=10.0):
  """Waits until none of them is there; those that still are."""
  limit = time.monotonic() + seconds
  left = processes
  while left and time.monotonic() < limit:
    left = {p for p in left if pathlib.Path(f"/proc/{p}").exists()}
    time.sleep(0.02)
  return left


@pytest.fixture
def clean(walls):
  """No process may be left, and the next program must run."""
  before = descendants(os.getpid())
  yield
  assert not gone(descendants(os.getpid()) - before)
  assert sandbox.run([GOOD])[0].status == "pass"


@pytest.mark.parametrize("code, status, said", [
  ("def f(): return []", "pass", ""),
  ("def f(): return [1]", "fail", "assert f() == []"),
  ("def f(): assert False, 'mine'", "fail", "mine"),
  ("def f(): return 1 / 0", "error", "ZeroDivisionError: division by zero at"),
  ("def f(:", "error", "SyntaxError"),
  ("def g(): pass", "error", "NameError: name 'f' is not defined"),
  ("f = input()", "error", "EOFError"),
  ("def f(): return f()", "error", "RecursionError"),
  ("x = 'a\\x00b' + 'ä' * 3\ndef f(): return []", "pass", ""),
  ("a\x00b", "error", "null bytes"),
  ("import numpy", "error", "ModuleNotFoundError"),
])
def test_outcomes(walls, code, status, said):
  done = run_one(code)
  assert done.status == status and said in done.message, done
  assert "\n" not in done.message and 0 <= done.seconds < 10


def test_the_failing_test_is_named(walls):
  tests = "assert f(1) == 2\nassert f(2) == [\n  4]\nassert f(3) == 4"
  done = sandbox.run([Program("f = lambda x: x + 1", tests)])[0]
  assert done.message.startswith("AssertionError at: assert f(2) == [")


def test_outcomes_keep_the_order(walls):
  programs = [Program(f"x = {i}", "assert x % 2 == 0") for i in range(8)]
  done = sandbox.run(programs, workers=3)
  assert [o.status for o in done] == ["pass", "fail"] * 4
  assert sandbox.run([]) == []


def test_hashes_are_the_same_every_time(walls):
  code = f"f = lambda: hash('abc') - {hash_of('abc')}"
  assert run_one(code, "assert f() == 0").status == "pass"


def hash_of(text):
  command = [sys.executable, "-c", f"print(hash({text!r}))"]
  environment = {**os.environ, "PYTHONHASHSEED": "0"}
  return int(subprocess.check_output(command, env=environment))


# ---- limits


def test_an_endless_loop_ends(clean):
  began = time.monotonic()
  done = run_one("while True: pass", seconds=0.5)
  assert done.status == "timeout" and time.monotonic() - began < 15
  assert run_one("import time; time.sleep(60)", seconds=0.3).status == "timeout"
  assert run_one(
    """
    import signal, time
    for number in range(1, 64):
      try: signal.signal(number, signal.SIG_IGN)
      except (OSError, ValueError): pass
    while True:
      try: time.sleep(60)
      except BaseException: pass
    """, seconds=0.3,
  ).status == "timeout"


def test_two_gigabytes_are_refused(clean):
  assert run_one("x = bytearray(2 * 10**9)").status == "oom"
  slowly = "x = []\nfor i in range(200): x.append(bytearray(10**7))"
  assert run_one(slowly).status == "oom"
  assert run_one("x = bytearray(3 * 10**8)\nf = list").status == "pass"
  less = run_one("x = bytearray(3 * 10**8)", memory=2**28)
  assert less.status == "oom"


def test_memory_that_no_address_space_counts_is_refused(clean):
  code = """
    import os, ctypes
    def f():
      libc, got = ctypes.CDLL(None), []
      for i in range(20):
        try: got.append(os.memfd_create("x"))
        except OSError: pass
      if libc.shmget(0, 10**8, 0o1666) >= 0: got.append("shm")
      return got
  """
  if not bubble.call_filter():
    pytest.skip("no filter of system calls for this machine")
  assert run_one(code).status == "pass"


def test_twenty_forks_are_refused(clean):
  assert run_one(FORKS, "assert f() < 4").status == "pass"


def test_a_hundred_megabytes_of_output_are_dropped(clean):
  code = """
    import os, sys
    def f():
      for i in range(50):
        print("x" * 10**6)
        print("x" * 10**6, file=sys.stderr)
      return []
  """
  assert run_one(code).status == "pass"
  # Written straight into every descriptor that is open.
  flood = """
    import os
    for i in range(100):
      for stream in range(3, 32):
        try: os.write(stream, b"x" * 10**6)
        except OSError: pass
  """
  assert run_one(flood).status == "error"


def test_files_are_limited_and_deleted_afterwards(clean):
  code = """
    import os
    def f():
      total = 0
      for i in range(25):
        try:
          with open(f"/tmp/{i}", "wb") as file:
            for j in range(40): total += file.write(b"x" * 10**5)
        except OSError: pass
      return total
  """
  assert run_one(code, "assert 10**7 < f() < 2 * 10**7").status == "pass"
  empty = "import os\nf = lambda: [os.getcwd(), os.listdir('.')]"
  assert run_one(empty, "assert f() == ['/tmp', []]").status == "pass"
  assert run_one(
    """
    def f():
      with open("/tmp/one", "wb", buffering=0) as file:
        for j in range(20): file.write(b"x" * 10**6)
    """
  ).message.startswith("OSError: [Errno 27] File too large")


# ---- walls


def test_no_network(clean):
  with socket.create_server(("127.0.0.1", 0)) as server:
    server.settimeout(0.1)
    port = server.getsockname()[1]
    hidden = socket.socket(socket.AF_UNIX)
    hidden.bind(f"\0sitrain-{os.getpid()}")
    hidden.listen()
    code = f"""
      import os, socket
      def f():
        reached = []
        for kind, place in (
          (socket.AF_INET, ("127.0.0.1", {port})),
          (socket.AF_INET, ("192.0.2.1", 80)),
          (socket.AF_UNIX, "\\0sitrain-{os.getpid()}"),
        ):
          with socket.socket(kind) as s:
            s.settimeout(1)
            try:
              s.connect(place)
              reached.append(place)
            except OSError: pass
        names = os.listdir("/sys/class/net") if os.path.exists("/sys") else []
        return reached + names
    """
    assert run_one(code).status == "pass"
    with pytest.raises(TimeoutError):
      server.accept()
    hidden.close()


def test_sockets_are_of_two_families_only(clean):
  # Made and closed, never connected: AF_VSOCK is in no network namespace.
  code = """
    import socket
    def f():
      made = []
      for family in range(64):
        for make in (socket.socket, socket.socketpair):
          for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
            try: ends = make(family, kind)
            except OSError: continue
            for end in ends if type(ends) is tuple else [ends]: end.close()
            made.append(family)
      return sorted(set(made))
  """
  if not bubble.call_filter():
    pytest.skip("no filter of system calls for this machine")
  done = run_one(code, "x = f()\nassert x == [1, 2], x")
  assert done.status == "pass", done


def test_no_environment_and_no_files_of_ours(clean, monkeypatch, tmp_path):
  monkeypatch.setenv("SITRAIN_SECRET", "secret")
  ours = tmp_path / "ours"
  ours.write_text("secret")
  ours.chmod(0o644)
  places = [str(ours), str(tmp_path), str(ROOT), __file__, "/etc/passwd",
            "/proc/1/environ", "/proc/self/root", "/sys", "/home", "/var"]
  code = f"""
    import os, sys
    def f():
      allowed = {{"PWD", "LC_CTYPE", "PYTHONHASHSEED"}}
      seen = [n for n in os.environ if n not in allowed]
      os.symlink("/", "/tmp/top")
      os.symlink("../../../../..", "/tmp/up")
      for place in {places}:
        for way in ("", "/tmp/top", "/tmp/up", "/dev/fd/0/..", "/proc/1/root",
                    "/proc/self/cwd/.."):
          if os.path.exists(way + place): seen.append(way + place)
      # Descriptors that were left open.
      for stream in range(3, 100):
        try: kind = os.fstat(stream).st_mode >> 12
        except OSError: continue
        if kind not in (1, 2): seen.append((stream, kind))
      return seen + [a for a in sys.orig_argv if {str(ROOT)!r} in a]
  """
  done = run_one(code, "found = f()\nassert found == [], found")
  assert done.status == "pass", done


def test_nothing_can_be_written_outside(clean):
  prefix = pathlib.Path(sys.base_prefix).resolve()
  places = ["/", "/usr", "/usr/bin", "/usr/lib", "/bin", "/lib", "/dev",
            "/dev/shm", str(prefix), *map(str, prefix.parents)]
  code = f"""
    import os
    def f():
      done = []
      for place in {places}:
        try:
          open(place + "/sitrain_was_here", "w").close()
          done.append(place)
        except OSError: pass
        for act in (os.rmdir, os.unlink, lambda p: os.chmod(p, 0o777)):
          try:
            act(place)
            done.append(place)
          except OSError: pass
      for tool in ("/usr/bin/env", "/usr/bin/prlimit"):
        try:
          open(tool, "ab").close()
          done.append(tool)
        except OSError: pass
      return [p for p in done if p != "/tmp"]
  """
  assert run_one(code, "x = f()\nassert x == [], x").status == "pass"
  assert not pathlib.Path("/usr/sitrain_was_here").exists()


def test_no_capability_can_be_gained(clean):
  code = '''
    import ctypes, os, subprocess, sys
    libc = ctypes.CDLL(None, use_errno=True)
    HELD = """if True:
      import ctypes
      libc = ctypes.CDLL(None)
      held = ctypes.create_string_buffer(24)
      header = (ctypes.c_uint32 * 2)(0x20080522, 0)
      assert libc.capget(header, held) == 0
      sets = memoryview(held.raw).cast("I")  # 2 words of three sets
      held = [sets[i] for i in (0, 1, 3, 4)]
      print(held == [0] * 4, not any(libc.prctl(47, 1, n, 0, 0) > 0
                                     for n in range(41)))
    """
    def f():
      # Of a program that this one executes: none is effective, permitted or
      # ambient. (The inheritable ones need a file with capabilities, which
      # no_new_privs makes nothing of.)
      command = [sys.executable, "-S", "-c", HELD]
      done = subprocess.run(command, capture_output=True, text=True)
      out = done.stdout or done.stderr[-150:]
      got = [] if out.split() == ["True", "True"] else [out]
      for name, act in {
        "user namespace": lambda: libc.unshare(0x10000000),
        "mount namespace": lambda: libc.unshare(0x00020000),
        "mount": lambda: libc.mount(b"x", b"/tmp", b"tmpfs", 0, None),
        "root": lambda: libc.setuid(0),
        "chroot": lambda: libc.chroot(b"/tmp"),
        "new group": lambda: libc.setgroups(1, (ctypes.c_int * 1)(0)),
        "host name": lambda: libc.sethostname(b"x", 1),
        "more processes": lambda: libc.setrlimit(6, (ctypes.c_ulong * 2)(9, 9)),
      }.items():
        if act() == 0: got.append(name)
      if libc.prctl(39, 0, 0, 0, 0) != 1: got.append("new privileges")
      # clone with a new user namespace; the child, if any, leaves at once
      child = libc.syscall({"x86_64": 56, "aarch64": 220}[os.uname().machine],
                           0x10000000 | 17, 0, 0, 0, 0)
      if child == 0: os._exit(0)
      return got + ["clone"] * (child > 0)
  '''
  if not bubble.call_filter():
    pytest.skip("no filter of system calls for this machine")
  # A sandbox of a user has capabilities over nothing but its own namespace.
  done = run_one(code, "x = f()\nassert x == [], x")
  assert done.status == "pass", done


def test_an_error_ends_all_programs(clean):
  """Those that wait for a process of the tests would else wait for ever."""
  slow = "import time\ndef f(x):\n  time.sleep(.2)\n  return x"
  slow = [Program(slow, "assert f(1) == 1")] * 3
  for _ in range(3):
    with pytest.raises(ValueError, match="the tests of a program are no Py"):
      sandbox.run([Program("x = 1", "assert ("), *slow], workers=2)


def test_no_other_process_can_be_killed(clean):
  code = """
    import os, signal
    for number in (signal.SIGTERM, signal.SIGKILL):
      for process in [-1, *range(1, 200)]:
        if process != os.getpid():
          try: os.kill(process, number)
          except OSError: pass
    f = list
  """
  began = time.monotonic()
  assert run_one(code).status in ("pass", "error")
  assert time.monotonic() - began < 15


def test_no_child_is_left_in_the_background(clean):
  code = """
    import os, time
    def f():
      if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
          time.sleep(300)
        os._exit(0)
      return []
  """
  began = time.monotonic()
  assert run_one(code, seconds=30.0).status == "pass"
  assert time.monotonic() - began < 20


# ---- running several, and being ended


def test_from_several_threads(clean):
  done = {}

  def work(name):
    programs = [Program(f"x = {i}", f"assert x == {name}") for i in range(4)]
    done[name] = [o.status for o in sandbox.run(programs, workers=2)]

  threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for name in range(4):
    expected = ["pass" if i == name else "fail" for i in range(4)]
    assert done[name] == expected


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_programs_end_with_the_run(walls, number, late):
  script = (
    "from sitrain.tasks.verifiers.sandbox import Program, run\n"
    "run([Program('import time\\ntime.sleep(40)', '')] * 2, seconds=60)\n"
  )
  process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
  try:
    limit = time.monotonic() + 60
    inside = set()
    # Two sandboxes of three processes: bubblewrap, sh and the interpreter.
    while len(inside) < 6 and time.monotonic() < limit:
      assert process.poll() is None
      time.sleep(0.05)
      inside = descendants(process.pid)
    assert len(inside) >= 6
    time.sleep(0.5 * late)  # while they start, and while they run
    process.send_signal(number)
    process.wait(20)
    assert not gone(inside)
  finally:
    process.kill()
    process.wait()


def test_nothing_is_left_to_be_reaped(walls):
  # A run may be process 1 of a container: whoever is orphaned becomes its
  # child, and nobody reaps it. PR_SET_CHILD_SUBREAPER, 36, makes it so here.
  script = textwrap.dedent("""
    import ctypes, os
    from sitrain.tasks.verifiers.sandbox import Program, run
    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
    left = "import os, time\\nif os.fork() == 0: time.sleep(60)"
    codes = ["", "1/0", "while True: pass", "import os; os._exit(3)", left]
    done = run([Program(code, "") for code in codes], seconds=0.5)
    print(*[o.status for o in done])
    try:
      print(os.waitpid(-1, os.WNOHANG))
    except ChildProcessError:
      print("nobody")
  """)
  said = subprocess.check_output(
    [sys.executable, "-c", script], cwd=ROOT, text=True, timeout=120
  )
  assert said.split("\n") == ["pass error timeout error pass", "nobody", ""]


def test_another_user_has_a_sandbox_too(walls):
  python = "/usr/bin/python3"
  if os.getuid() or not shutil.which(python):
    pytest.skip("needs root, to become another user, and a system Python")
  version = subprocess.check_output(
    [python, "-c", "import sys; print(sys.version_info >= (3, 11))"], text=True
  )
  if version.strip() != "True":
    pytest.skip("the system's Python is older than 3.11")
  # A copy, as that user may not read where the project lies.
  place = pathlib.Path("/tmp") / f"sitrain_sandbox_{os.getpid()}"
  try:
    copied = place / "sitrain/tasks/verifiers"
    copied.mkdir(parents=True)
    for name in ("", "sandbox", "sandbox_child", "sandbox_process", "guard",
                 "bubble", "separation", "separate_process", "serialization",
                 "program_side", "messages", "tests_side", "same_process"):
      source = ROOT / "sitrain/tasks/verifiers" / f"{name or '__init__'}.py"
      (copied / source.name).write_text(source.read_text())
    for path in (place, *place.rglob("*")):
      path.chmod(0o755)
    seen = f"import os\nf = lambda: [p for p in {['/proc', str(place)]} "
    seen += "if os.path.exists(p)]"
    written = "import os\nf = lambda: [p for p in ['/', '/dev', '/dev/shm', "
    written += "'/usr'] if os.access(p, os.W_OK)] + list(set(os.environ) & "
    written += "{'SITRAIN_SECRET'})"
    programs = [(seen, "assert f() == []"), (written, "assert f() == []"),
                (FORKS, "assert f() < 4"), ("while True: pass", "")]
    script = textwrap.dedent(f"""
      import os
      from sitrain.tasks.verifiers.sandbox import Program, check, run
      try:
        check()
      except ValueError as error:
        raise SystemExit(f"SKIP {{error}}")
      done = run([Program(*p) for p in {programs!r}], seconds=2.0)
      print(os.getuid(), *[o.status for o in done])
    """)
    done = subprocess.run(
      [bubble.path_of("setpriv"), "--reuid=54321", "--regid=54321",
       "--clear-groups", python, "-B", "-c", script],
      cwd=place, capture_output=True, text=True, timeout=120,
        env={"SITRAIN_SECRET": "secret"},
    )
  finally:
    shutil.rmtree(place)
  if "SKIP" in done.stderr:
    pytest.skip(done.stderr)
  assert done.stdout.split() == ["54321", *["pass"] * 3, "timeout"], done


# ---- where there is no sandbox


def test_without_bubblewrap_it_refuses(monkeypatch):
  sandbox.check.cache_clear()
  which = shutil.which
  monkeypatch.setattr(shutil, "which", lambda t: t != "bwrap" and which(t)
                      or None)
  with pytest.raises(ValueError, match="bwrap is not installed; install bubb"):
    sandbox.run([GOOD])
  monkeypatch.undo()
  sandbox.check.cache_clear()


def test_refused_namespaces_are_reported(monkeypatch):
  sandbox.check.cache_clear()
  monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
  said = "import sys; sys.exit('bwrap: No permissions to create namespace')"
  monkeypatch.setattr(
    sandbox, "_command", lambda *_: [sys.executable, "-c", said]
  )
  with pytest.raises(ValueError, match="No permissions to create.*, install"):
    sandbox.run([GOOD])
  # The sandbox's failure is not the program's.
  monkeypatch.setattr(sandbox, "check", lambda: None)
  assert sandbox.run([GOOD])[0].status == "sandbox"
  monkeypatch.setattr(sandbox, "_command", lambda *_: ["/no/such/tool"])
  assert sandbox.run([GOOD])[0].status == "sandbox"
  monkeypatch.undo()
  sandbox.check.cache_clear()


def test_unprotected_runs_need_the_option(monkeypatch):
  def refused():
    raise AssertionError("asked for a sandbox")

  monkeypatch.setattr(sandbox, "check", refused)
  programs = [GOOD, Program("f = lambda x: x", GOOD.tests),
              Program("while True: pass", ""),
              Program("x = bytearray(2 * 10**9)", "")]
  done = sandbox.run(programs, seconds=1.0, run_programs_without_sandbox=True)
  assert [o.status for o in done] == ["pass", "fail", "timeout", "oom"]


def test_bad_options_and_long_programs(walls):
  for bad in ({"workers": 0}, {"seconds": 0.0}, {"seconds": float("inf")}):
    with pytest.raises(ValueError, match="both must be above 0 and finite"):
      sandbox.run([GOOD], **bad)
  with pytest.raises(ValueError, match="Python itself needs"):
    sandbox.run([GOOD], memory=2**25)
  least = sandbox.run([GOOD], memory=sandbox.MIN_MEMORY, seconds=10.0**7)
  assert least[0].status == "pass"
  done = sandbox.run([Program("#" * 10**6, ""), Program("#" * 10**5, "")])
  assert [o.status for o in done] == ["error", "pass"]
  assert "longer than" in done[0].message
