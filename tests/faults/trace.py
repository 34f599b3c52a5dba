"""Run a command under strace, and read which sockets it made and what it wrote."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CALLS = (
    "network,open,openat,creat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,"
    "linkat,symlink,symlinkat,chmod,fchmodat,truncate,mknod,mknodat"
)
# pid, call, arguments, result
LINE = re.compile(r"(\d+)\s+(\w+)\((.*)\)\s+= (-?\d+)")
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
WRITES = ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC")
LOCAL = ("AF_UNIX", "AF_LOCAL")
DEVICES = ("/dev/null", "/dev/tty", "/dev/shm/", "/proc/self/", "/proc/thread-self/")


@dataclass(frozen=True)
class Trace:
    """What a process and its children did."""

    code: int
    stderr: str
    sockets: list[str]  # calls about sockets that are not local
    changed: set[Path]  # files and folders that were written, made, renamed or deleted

    def outside(self, *allowed: Path) -> set[Path]:
        """Return what was changed outside the allowed files and folders."""
        return {
            path
            for path in self.changed
            if not any(path == place or place in path.parents for place in allowed)
        }


def strace() -> str | None:
    """Return strace if it is there and may trace."""
    found = shutil.which("strace")
    if found and subprocess.run([found, "true"], capture_output=True, check=False).returncode == 0:
        return found
    return None


def traced(code: str, args: Sequence[str], folder: Path, home: Path) -> Trace:
    """Run Python code with arguments in a folder, with a home folder of its own."""
    found = strace()
    assert found is not None
    log = home / "strace.log"
    folders = os.pathsep.join(str(ROOT / part) for part in ("", "export", "runtime"))
    environment = {
        **os.environ,
        "PYTHONPATH": folders,
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    for name in ("tmp", "cache"):
        (home / name).mkdir(exist_ok=True)
    command = [found, "-f", "--seccomp-bpf", "-s", "4096", "-e", f"trace={CALLS}", "-o", str(log)]
    done = subprocess.run(
        [*command, sys.executable, "-c", code, *args],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    lines = list(joined(log.read_text("utf-8", "replace").splitlines()))
    sockets = [line for line in lines if _is_foreign_socket(line)]
    changed = {path for line in lines for path in _changed(line, folder)}
    return Trace(done.returncode, done.stderr, sockets, changed)


def joined(lines: Sequence[str]) -> Iterator[str]:
    """Yield strace's lines; a call during which another thread went on is written as two."""
    begun: dict[str, str] = {}  # by process
    for line in lines:
        pid = line.split(" ", 1)[0]
        if line.endswith("<unfinished ...>"):
            begun[pid] = line.removesuffix("<unfinished ...>").rstrip()
        elif " resumed>" in line and pid in begun:
            yield begun.pop(pid) + line.partition(" resumed>")[2]
        else:
            yield line


def _is_foreign_socket(line: str) -> bool:
    match = LINE.match(line)
    if match is None or match[2] not in ("socket", "connect", "bind", "sendto", "listen"):
        return False
    return match[2] != "sendto" and not any(family in match[3] for family in LOCAL)


def _changed(line: str, folder: Path) -> Iterator[Path]:
    match = LINE.match(line)
    if match is None or int(match[4]) < 0:
        return
    call, arguments = match[2], match[3]
    if "O_TMPFILE" in arguments:  # has no name, and vanishes with the process
        return
    if call in ("open", "openat") and not any(flag in arguments for flag in WRITES):
        return
    if call.startswith(("socket", "connect", "bind", "send", "recv", "get", "set", "shutdown")):
        return
    for text in TEXT.findall(arguments):
        path = Path(os.path.normpath(folder / text))
        if not str(path).startswith(DEVICES):
            yield path
