"""The command lines of bubblewrap, and which system calls it lets through."""

import functools
import platform
import shutil
import struct
import sys
from pathlib import Path

TMP_SIZE = 16 * 2**20  # bytes of all files of a sandbox
# Numbers of (x86_64, aarch64). Calls that could reach other namespaces, mount,
# inspect other processes, or use memory that no limit counts.
REFUSED = {
  "add_key": (248, 217), "bpf": (321, 280), "fsconfig": (431, 431),
  "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433),
  "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
  "io_uring_setup": (425, 425), "kcmp": (312, 272), "keyctl": (250, 219),
  "memfd_create": (319, 279), "memfd_secret": (447, 447), "mount": (165, 40),
  "mount_setattr": (442, 442), "move_mount": (429, 429), "msgget": (68, 186),
  "open_tree": (428, 428), "perf_event_open": (298, 241),
  "pidfd_getfd": (438, 438), "pivot_root": (155, 41),
  "process_madvise": (440, 440), "process_vm_readv": (310, 270),
  "process_vm_writev": (311, 271), "ptrace": (101, 117),
  "request_key": (249, 218), "semget": (64, 190), "setns": (308, 268),
  "shmget": (29, 194),
  "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
CLONE, CLONE3, NEW_USER = (56, 220), 435, 0x10000000
# Only sockets of these families: AF_VSOCK, say, ignores network namespaces.
SOCKETS, FAMILIES = ((41, 198), (53, 199)), (1, 2)  # AF_UNIX, AF_INET
# The shell is the first process inside. It dies with bubblewrap, and all others
# with it (the program cannot be made to, as another user owns it); bubblewrap
# reaps it. With its own first process bubblewrap would leave that to pid 1
# outside, which may never do so.
SHELL, INSIDE = "/bin/sh", '({limits} && exec "$@"); exit $?'
LOAD, EQUAL, ABOVE, SHARES, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of BPF
ALLOW, KILL, REFUSE, UNKNOWN = 0x7FFF0000, 0x80000000, 0x50001, 0x50026
NO_FAMILY = 0x50061  # EAFNOSUPPORT


@functools.cache
def path_of(tool: str) -> str:
  """The path of an installed tool; ValueError if it is not installed."""
  found = shutil.which(tool)
  if found is None:
    raise ValueError(f"{tool} is not installed")
  return found


def python() -> str:
  """The interpreter itself, not a virtual environment's link to it."""
  base = getattr(sys, "_base_executable", None) or sys.executable
  return str(Path(base).resolve())


def as_root(rules: int, limits: str) -> list[str]:
  """The arguments before a command that run it in a sandbox.

  The command can still take another user id, which it must do first (a process
  with another one has no capabilities and cannot gain any).
  rules: the descriptor that `call_filter` is read from; limits: shell commands
  that set them.
  """
  keep = ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
  return [*_isolation(rules), *keep, "--", *_shell(limits)]


def as_user(rules: int, limits: str) -> list[str]:
  """The same for a user other than root, under its own id."""
  own = ("--unshare-user", "--disable-userns")
  return [*_isolation(rules), *own, "--", *_shell(limits)]


def _shell(limits: str) -> list[str]:
  return [SHELL, "-c", INSIDE.format(limits=limits), "sh"]


def _isolation(rules: int) -> list[str]:
  """The arguments that both have in common."""
  names = ("ipc", "net", "pid", "uts", "cgroup-try")
  return [
    path_of("bwrap"), *(f"--unshare-{name}" for name in names),
    "--as-pid-1", "--die-with-parent", "--new-session", "--clearenv",
    "--setenv", "PYTHONHASHSEED", "0",  # the same outcome every time
    "--cap-drop", "ALL", *_filter_words(rules), *_files(),
  ]


def _filter_words(rules: int) -> list[str]:
  return ["--seccomp", str(rules)] if call_filter() else []


@functools.cache
def _files() -> list[str]:
  """The file system that the program sees."""
  words = ["--ro-bind", "/usr", "/usr"]
  for path in sorted(Path("/").glob("lib*")) + [Path("/bin")]:
    if path.is_symlink():
      words += ["--symlink", str(path.readlink()), str(path)]
    elif path.is_dir():
      words += ["--ro-bind", str(path), str(path)]
  words += ["--dev", "/dev", "--perms", "1777"]
  words += ["--size", str(TMP_SIZE), "--tmpfs", "/tmp"]
  prefix = Path(sys.base_prefix).resolve()
  if Path("/usr") not in (prefix, *prefix.parents):
    # Folders on the way would be closed to others if bubblewrap made them.
    for parent in reversed(prefix.parents[:-1]):
      if parent != Path("/tmp"):
        words += ["--perms", "0755", "--dir", str(parent)]
    words += ["--ro-bind", str(prefix), str(prefix)]
  for place in ("/dev", "/"):
    words += ["--remount-ro", place]
  return [*words, "--chdir", "/tmp"]


@functools.cache
def call_filter() -> bytes:
  """A seccomp program that refuses REFUSED, new user namespaces and sockets of
  other families than FAMILIES; empty for an unknown machine.

  Classic BPF: instructions of 8 bytes (code, jump if true, if false, value).
  """
  if platform.machine() not in MACHINES:
    return b""
  column, audit = MACHINES[platform.machine()]
  numbers = sorted(n[column] for n in REFUSED.values())
  body = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL)]
  body += [(LOAD, 0, 0, 0), (ABOVE, 0, 1, 0x40000000), (RETURN, 0, 0, REFUSE)]
  for number in numbers:
    body += [(EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE)]
  # clone3 hides its flags in memory; without it, clone is called instead.
  body += [(EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, UNKNOWN)]
  # The first argument of a call stands at 16.
  body += [(EQUAL, 0, 4, CLONE[column]), (LOAD, 0, 0, 16)]
  body += [(SHARES, 0, 1, NEW_USER), (RETURN, 0, 0, REFUSE)]
  body += [(RETURN, 0, 0, ALLOW)]
  body += [(EQUAL, 1, 0, SOCKETS[0][column]), (EQUAL, 0, 4, SOCKETS[1][column])]
  body += [(LOAD, 0, 0, 16)]
  body += [(EQUAL, 2, 0, FAMILIES[0]), (EQUAL, 1, 0, FAMILIES[1])]
  body += [(RETURN, 0, 0, NO_FAMILY), (RETURN, 0, 0, ALLOW)]
  return b"".join(struct.pack("=HBBI", *step) for step in body)
