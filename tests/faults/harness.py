"""Run a command with faults, and check what must hold in any event."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.faults.commands import COMMANDS, Command, check_whole, records

ROOT = Path(__file__).parents[2]
STREAMS = ("stdout", "stderr")
CHANGED = 3  # photos that a test changes while a command runs
SECONDS = 60  # no command on its tiny inputs takes as long
CODES = {0, 1, 2, 129, 130, 143}
OUTCOMES = {
    0: "done",
    1: "some failed",
    2: "refused",
    129: "stopped",
    130: "stopped",
    143: "stopped",
    -1: "ended early",
    -2: "ended early",
    -9: "killed",
    -15: "ended early",
}
UGLY = re.compile(
    r"Traceback|Exception ignored|Fatal Python error|terminate called|Segmentation|core dumped"
)
# "Stopped: 3 of 8 images done and kept." after a failure; "Interrupted: ..." after a signal
KEPT = re.compile(r"(?:Stopped|Interrupted|Terminated|Hung up)\b.*?(\d+)(?: of \d+)? images? done")


def compiler() -> str | None:
    """Return a C compiler, if there is one."""
    return shutil.which("cc") or shutil.which("gcc")


@cache
def shim() -> Path:
    """Compile the shim once per process."""
    found = compiler()
    assert found is not None
    library = Path(tempfile.mkdtemp(prefix="numclip-faults-")) / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([found, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class Fault:
    """The `nth` call of a kind on a path that contains a text fails; with `sticky`, all later, too.

    nth 0: none fails, they are counted.
    """

    call: str
    error: str  # name of the errno
    nth: int = 1
    path: str = ""
    sticky: bool = False

    def __str__(self) -> str:
        more = " and all later" if self.sticky else ""
        return f"{self.error} at {self.call} {self.nth}{more} of {self.path or 'any path'}"


@dataclass
class Result:
    """What a command did."""

    code: int
    stdout: str
    stderr: str
    struck: bool = False  # whether the fault happened
    count: int = 0  # calls that matched
    problems: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        if self.problems:
            return "violation"
        if not self.struck:
            return "not reached"
        return OUTCOMES.get(self.code, f"exit code {self.code}")


class Server:
    """Runs one command again and again, each time in a forked child."""

    def __init__(self, name: str, home: Path) -> None:
        self.command: Command = COMMANDS[name]
        self.home = home  # on the disk that the command works on
        self.base = home / f"{name}.base"
        self.seconds = 1.0  # that the command takes on this machine now
        self._done: Path | None = None
        self._number = 0
        if not self.base.exists():
            self.base.mkdir()
            self.command.prepare(self.base)
        folders = os.pathsep.join(str(ROOT / part) for part in ("", "export", "runtime"))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server", self.command.name],
            cwd=ROOT,
            env=os.environ
            | {"LD_PRELOAD": str(shim()), "PYTHONPATH": folders, "OMP_NUM_THREADS": "1"}
            | {"CUDA_VISIBLE_DEVICES": "", "COLUMNS": "1000"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def fresh(self, *, old: bool = False) -> Path:
        """Return a new folder with the inputs; `old`: and the outputs of an earlier run."""
        self._number += 1
        folder = self.home / f"{self.base.stem}.{self._number}"
        shutil.copytree(self.base, folder)
        if old:
            for name in self.command.outputs:
                if name == "copies/":  # must be empty
                    continue
                source = self.done() / name
                if source.is_dir():
                    shutil.copytree(source, folder / name, dirs_exist_ok=True)
                elif source.exists():
                    shutil.copy(source, folder / name)
        return folder

    def done(self) -> Path:
        """Return the folder of a run without any fault."""
        if self._done is None:
            for _ in range(2):  # the first one reads files that the second finds in memory
                folder, started = self.fresh(), time.monotonic()
                result = self.start(folder)
                self.seconds = time.monotonic() - started
                assert result.code == 0, result.stderr
            self._done = folder
        return self._done

    @property
    def address_space(self) -> int:
        """Return the bytes of address space that the server has, and so each child at its start."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[0])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def start(
        self,
        folder: Path,
        fault: Fault | None = None,
        *,
        limits: Mapping[str, int] | None = None,
        disturb: Callable[[int, Path], None] | None = None,
        input_rate_s: float = 0.0,
    ) -> Result:
        """Run the command in a folder.

        Args:
            folder: From `fresh`.
            fault: Armed before the command starts.
            limits: Of `resource`, such as RLIMIT_NOFILE.
            disturb: Called with the process id and the folder once the command has started.
            input_rate_s: Decoding an image takes so much longer.
        """
        streams = {name: f"{folder}.{name}" for name in (*STREAMS, "count")}
        for name in streams.values():
            Path(name).unlink(missing_ok=True)
        graph = self.command.graph
        request: dict[str, Any] = {
            **streams,
            "stdin": os.devnull,
            "folder": str(folder),
            "args": self.command.args,
            "fault": None
            if fault is None
            else asdict(fault) | {"errno": getattr(errno, fault.error)},
            "graph": graph and str(folder / graph),
            "limits": dict(limits or {}),
            "input_rate_s": input_rate_s,
        }
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        pid = self._answer()["pid"]
        alarm = threading.Timer(SECONDS, os.kill, (pid, 9))
        alarm.start()
        if disturb is not None:
            disturb(pid, folder)
        code = self._answer()["code"]
        hung = not alarm.is_alive()
        alarm.cancel()
        out, err = (Path(streams[name]).read_text("utf-8", "replace") for name in STREAMS)
        count = Path(streams["count"])
        found = int(count.read_text()) if count.exists() else 0
        struck = fault is None or 0 < fault.nth <= found
        result = Result(code, out, err, struck, found)
        if hung:
            result.problems.append(f"did not end within {SECONDS} s")
        return result

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the server has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def files_of(folder: Path) -> dict[str, bytes]:
    """Return path -> content of all files below a folder, links followed."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def problems(
    command: Command,
    result: Result,
    folder: Path,
    before: Mapping[str, bytes],
    *,
    killed: bool = False,
    inputs_change: bool = False,
    named: str | None = None,
) -> list[str]:
    """Return what is wrong with the state that a command left.

    Args:
        command: The command.
        result: Its exit code and messages.
        folder: In which it ran.
        before: The files there when it started.
        killed: By SIGKILL, or by another signal before the command handled it: what was begun may
            lie there under its temporary name.
        inputs_change: The test itself changed the inputs meanwhile.
        named: Text that the message of a refusal must contain.
    """
    found = list(result.problems)
    if result.code not in CODES and not (killed and result.code < 0):
        found.append(f"exit code {result.code}")
    if ugly := UGLY.search(result.stderr):
        found.append(f"stderr says {ugly.group()!r}")
    if result.code == 2 and not result.stderr.strip():
        found.append("exit code 2 without a word")
    if result.code == 2 and named is not None and named not in result.stderr:
        found.append(f"the message does not name {named!r}")
    after = files_of(folder)
    for name, content in after.items():
        if before.get(name) == content:
            continue
        if name in before and not _is_output(command, name):
            if not inputs_change:
                found.append(f"{name}: an input was changed")
        elif _is_output(command, name) and not _is_hidden(name):
            try:
                check_whole(folder / name)
            except Exception as error:
                found.append(f"{name}: not whole ({type(error).__name__}: {error})"[:200])
        elif not killed and not (inputs_change and "/" in name) and _unsaid(name, result):
            found.append(f"{name}: left without a word")
    if not inputs_change:
        gone = [name for name in before if name not in after and not _may_vanish(command, name)]
        found += [f"{name}: is gone" for name in gone]
    if result.code == 0:
        found += [
            f"{name}: exit code 0, and it is not there"
            for name in command.outputs
            if not name.endswith((".sha256", "/")) and name not in after
        ]
    if command.name == "run":
        photos = sum(name.startswith("photos/") for name in before)
        # a photo that vanishes before the folder is searched is no input
        least = photos - CHANGED if inputs_change else photos
        found += _lost_records(command, result, folder, least, photos)
    return found


def _unsaid(name: str, result: Result) -> bool:
    return Path(name).name not in result.stderr


def _is_output(command: Command, name: str) -> bool:
    return any(
        name.startswith(output) if output.endswith("/") else name == output
        for output in command.outputs
    )


def _is_hidden(name: str) -> bool:
    return Path(name).name.startswith(".") or ".part" in name


def _may_vanish(command: Command, name: str) -> bool:
    """Return whether a command deletes such a file: resume files, checksums of old artefacts."""
    return (
        _is_output(command, name) and name.endswith((".ckpt", ".sha256", ".onnx", "/", ".md"))
    ) or (command.name == "export" and _is_output(command, name))


def _lost_records(
    command: Command, result: Result, folder: Path, least: int, photos: int
) -> list[str]:
    path = folder / command.outputs[0]
    try:
        written = len(records(path)) if path.exists() else 0
    except Exception:  # reported as not whole
        return []
    if result.code in (0, 1) and not least <= written <= photos:
        return [f"exit code {result.code}, and {written} of {photos} records"]
    kept = KEPT.search(result.stderr)
    if kept and written < int(kept[1]) and int(kept[1]):
        return [f"{kept[1]} records are said to be kept, {written} are there"]
    return []
