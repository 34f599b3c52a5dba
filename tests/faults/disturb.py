"""Kills at random moments, small limits, and inputs that vanish or change while a command runs."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.harness import CHANGED, Result, Server, files_of, problems

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LOADER = "cannot allocate memory for thread-local data"
DECODE_S = 0.03  # per photo: a run of 8 photos takes long enough to be disturbed


def killed(server: Server, signum: signal.Signals, moment: float, *, old: bool) -> Result:
    """Send a signal at a moment, 0 to 1 of the time that the command takes at present; check.

    Records that were complete when the signal came must be in the output, and every signal but
    SIGKILL must end the command with its own exit code.
    """
    folder = server.fresh(old=old)
    before = files_of(folder)
    finished = 0

    def strike(pid: int, folder: Path) -> None:
        nonlocal finished
        time.sleep(moment * server.seconds)
        finished = _finished(server, folder)
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            finished = 0  # it was faster

    rate = DECODE_S if server.command.name in ("run", "eval") else 0.0
    result = server.start(folder, disturb=strike, input_rate_s=rate)
    sudden = signum == signal.SIGKILL or result.code == -signum
    result.problems = problems(server.command, result, folder, before, killed=sudden)
    allowed = {0, -signum} if sudden else {0, 128 + signum}
    if result.code not in allowed:
        result.problems.append(f"exit code {result.code} after {signum.name}")
    begun = [name for name in files_of(folder).keys() - before.keys() if ".part" in name]
    if result.code == -signum and signum != signal.SIGKILL and begun:
        result.problems.append(f"{signum.name} was not handled, although {begun} was begun")
    if result.code == 128 + signum and finished > (kept := _kept(server, folder)):
        result.problems.append(f"{finished} records were finished, {kept} are kept")
    if not result.problems:
        shutil.rmtree(folder)
    return result


def _finished(server: Server, folder: Path) -> int:
    """Return how many records a run has written into its temporary file."""
    if server.command.name != "run":
        return 0
    parts = [path for path in folder.glob(".out.*.part.jsonl") if path.exists()]
    try:
        return sum(path.read_bytes().count(b"\n") for path in parts)
    except FileNotFoundError:
        return 0


def _kept(server: Server, folder: Path) -> int:
    if server.command.name != "run":
        return 0
    path = folder / server.command.outputs[0]
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kills(server: Server, count: int, seed: int = 0) -> Iterator[tuple[str, Result]]:
    """Kill a command `count` times, at moments that are spread over its whole time."""
    rng = random.Random(seed)
    for i in range(count):
        signum = SIGNALS[i % len(SIGNALS)]
        moment = (i + rng.random()) / count
        yield signum.name, killed(server, signum, moment, old=i % 8 >= 4)


def limited(server: Server, name: str, value: int) -> Result:
    """Run with a small limit of the system, such as RLIMIT_NOFILE."""
    folder = server.fresh()
    before = files_of(folder)
    result = server.start(folder, limits={name: value})
    result.problems = problems(server.command, result, folder, before)
    if result.code == 127 and LOADER in result.stderr:
        result.problems = []  # the C library ends the process by itself
    if not result.problems:
        shutil.rmtree(folder)
    return result


def limits(server: Server, count: int) -> Iterator[tuple[str, Result]]:
    """Run with few files, and with little memory beyond what importing the packages took."""
    for i in range(count):
        yield "RLIMIT_NOFILE", limited(server, "RLIMIT_NOFILE", 4 + 3 * i)
    for i in range(count):
        more = (1 << 22) * 4**i
        yield "RLIMIT_AS", limited(server, "RLIMIT_AS", server.address_space + more)
    for size in (5_000, 150_000)[:count]:  # messages must fit: they go to files as well
        yield "RLIMIT_FSIZE", limited(server, "RLIMIT_FSIZE", size)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _rename(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))


def _become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _become_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _become_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _rewrite(path: Path) -> None:
    path.write_bytes(os.urandom(3000))


CHANGES: tuple[Callable[[Path], None], ...] = (
    _remove,
    _truncate,
    _empty,
    _rename,
    _become_folder,
    _become_pipe,
    _become_loop,
    _rewrite,
)
IMAGES = {"run": "photos", "eval": "photos", "train": "train", "export": "val"}


def changed(server: Server, change: Callable[[Path], None], moment: float, seed: int) -> Result:
    """Change inputs one after the other while a command runs, from a moment on."""
    folder = server.fresh()
    before = files_of(folder)
    rng = random.Random(seed)

    def strike(pid: int, folder: Path) -> None:
        time.sleep(moment * server.seconds)
        paths = sorted((folder / IMAGES[server.command.name]).iterdir())
        for path in rng.sample(paths, CHANGED):
            change(path)
            time.sleep(0.01)

    rate = DECODE_S if server.command.name in ("run", "eval") else 0.0
    result = server.start(folder, disturb=strike, input_rate_s=rate)
    result.problems = problems(server.command, result, folder, before, inputs_change=True)
    if not result.problems:
        shutil.rmtree(folder)
    return result


def changes(server: Server, count: int) -> Iterator[tuple[str, Result]]:
    """Disturb a command's inputs in each way, `count` times."""
    rng = random.Random(1)
    for i in range(count * len(CHANGES)):
        change = CHANGES[i % len(CHANGES)]
        yield change.__name__.strip("_"), changed(server, change, 0.9 * rng.random(), i)
