"""Only `posix.py` names what Windows lacks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import numclip_runtime

RUNTIME = Path(numclip_runtime.__file__).parent


def words(text: str) -> set[str]:
    return set(text.split())


MODULES = words("fcntl grp posix pty pwd resource syslog termios tty")
NAMES = {
    "os": words(
        "O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_TMPFILE chown chroot confstr fchmod fchown fork "
        "forkpty getegid geteuid getgid getgroups getloadavg getpgid getsid getuid killpg lchown "
        "link lockf major mkfifo mknod nice openpty posix_fadvise posix_fallocate posix_spawn "
        "pread preadv pwrite register_at_fork sched_getaffinity sched_setaffinity sendfile setsid "
        "statvfs symlink sysconf tcgetpgrp umask uname wait waitpid"
    ),
    "signal": words(
        "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGUSR1 SIGUSR2 alarm "
        "pthread_kill pthread_sigmask setitimer siginterrupt sigpending sigtimedwait sigwait"
    ),
    "mmap": words("MAP_ANONYMOUS MAP_PRIVATE PROT_READ"),
    "time": words("tzset"),
}
FILES = ("/proc", "/sys", "/dev", "/etc", "/run", "/tmp")
# The first reads recorded machines as well: unknown facts are None, and files may be missing. The
# second names Linux' cameras where the system is Linux.
ALLOWED_FILES = {"system.py", "video.py"}


def posix_only(source: str, *, files: bool = True) -> Iterator[str]:
    """Yield "line 3: os.fork" for each name of POSIX in a module's source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in NAMES.get(node.value.id, ()):
                yield f"line {node.lineno}: {node.value.id}.{node.attr}"
        elif isinstance(node, ast.Import):
            found = {alias.name.split(".")[0] for alias in node.names} & MODULES
            yield from (f"line {node.lineno}: import {name}" for name in found)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module in MODULES:
                yield f"line {node.lineno}: import {node.module}"
            for alias in node.names:
                if alias.name in NAMES.get(node.module, ()):
                    yield f"line {node.lineno}: {node.module}.{alias.name}"
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            of, *names = (getattr(arg, "id", getattr(arg, "value", "")) for arg in node.args)
            if names and names[0] in NAMES.get(of, ()):
                yield f"line {node.lineno}: {of}.{names[0]}"
        elif isinstance(node, ast.Constant) and files:  # noqa: SIM102 (one condition would be two lines)
            if isinstance(text := node.value, str) and text.startswith(FILES) and "\n" not in text:
                yield f"line {node.lineno}: {text}"


@pytest.mark.parametrize(
    "path", sorted(RUNTIME.rglob("*.py")), ids=lambda path: path.relative_to(RUNTIME).as_posix()
)
def test_the_runtime_names_them_in_one_module(path: Path) -> None:
    found = list(posix_only(path.read_text("utf-8"), files=path.name not in ALLOWED_FILES))
    assert bool(found) == (path == RUNTIME / "posix.py"), found


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.fork()",
        "import fcntl",
        "def f():\n    import resource",
        "from os import symlink",
        "from signal import SIGHUP",
        "import signal\nx = signal.SIGHUP",
        'import os\nx = getattr(os, "O_NONBLOCK", 0)',
        'x = open("/proc/self/maps")',
    ],
)
def test_the_guard_catches(source: str) -> None:
    assert len(list(posix_only(source))) == 1
