"""Real processes in small surroundings: a disk that is full, and no further thread or process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS, Command, missing
from tests.faults.harness import ROOT, Result, files_of, problems

MAIN = "from numclip_runtime.cli import main; main()"


def ran(command: Command, folder: Path, *before: str) -> Result:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    folders = os.pathsep.join(str(ROOT / part) for part in ("", "export", "runtime"))
    done = subprocess.run(
        [*before, sys.executable, "-c", MAIN, *command.args],
        cwd=folder,
        env=plain | {"PYTHONPATH": folders, "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr, struck=True)


def possible(*command: str) -> bool:
    """Return whether a wrapper is there, and may do what it is told here."""
    if shutil.which(command[0]) is None:
        return False
    done = subprocess.run([*command, "true"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("size", ["0k", "4k", "64k"])
@pytest.mark.parametrize("name", ["run", "run-json", "run-csv"])
def test_a_full_disk(name: str, size: str, tmp_path: Path) -> None:
    """The folder lies on a tmpfs with room for the inputs, and no or little more."""
    alone = ["unshare", "--mount", "sh", "-c"]
    if not possible(*alone, f"mount -t tmpfs x {tmp_path}"):
        pytest.skip("no permission for a mount namespace with a tmpfs")
    command = COMMANDS[name]
    if absent := missing(command):
        pytest.skip(f"{absent[0]} is not installed")
    inputs, kept, disk = (tmp_path / part for part in ("inputs", "kept", "disk"))
    for folder in (inputs, kept, disk):
        folder.mkdir()
    command.prepare(inputs)
    blocks = sum(-(-len(content) // 4096) for content in files_of(inputs).values())
    script = (
        f"mount -t tmpfs -o size=$(({blocks} * 4096 + {size.rstrip('k')} * 1024)) x {disk}\n"
        f'cp -r {inputs}/. {disk} && cd {disk} && "$@"; code=$?\n'
        f"cp -a {disk}/. {kept}; exit $code"
    )
    before = files_of(inputs)
    result = ran(command, inputs, *alone, script, "sh")
    assert problems(command, result, kept, before) == [], result.stderr
    assert result.code == (2 if size == "0k" else result.code)  # it was full


@pytest.mark.parametrize("count", [1, 2, 4])
def test_no_further_thread(count: int, tmp_path: Path) -> None:
    """A limit of processes does not bind root: another user, who may still read everything."""
    command = COMMANDS["run"]
    if absent := missing(command):
        pytest.skip(f"{absent[0]} is not installed")
    number = 60_000 + os.getpid() % 5000  # the limit counts the processes of other tests as well
    user = ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups"]
    user += ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"]
    limit = ["prlimit", f"--nproc={count}"]
    if not possible(*user, *limit):
        pytest.skip("no permission to become another user, or no setpriv and prlimit")
    command.prepare(tmp_path)
    before = files_of(tmp_path)
    result = ran(command, tmp_path, *user, *limit)
    assert problems(command, result, tmp_path, before) == [], result.stderr
