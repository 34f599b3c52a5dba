"""Build docker/Dockerfile and use the image: `make image`.

Takes docker, or buildah where there is none. buildah runs commands with chroot, in which the root
file system cannot be made read-only; the image's user may write nowhere but in /tmp anyway.

    python .ci/image.py --base my-debian-with-python
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGE = "localhost/numclip-test"
Command = list[str]


def usable(tool: str) -> bool:
    """Return whether a tool is installed, and docker's daemon answers."""
    if shutil.which(tool) is None:
        return False
    return subprocess.run([tool, "info"], capture_output=True, check=False).returncode == 0


def output(command: Command) -> str:
    """Print and run a command; return what it writes to stdout."""
    print("$", " ".join(command), flush=True)
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def with_docker(build: Command, data: Path) -> Callable[..., Command]:
    """Build with docker; return what makes the command that runs words in the image."""
    output(["docker", "build", "-q", *build])
    run = [
        "docker",
        "run",
        "--rm",
        "-i",
        "--read-only",
        "--network",
        "none",
        "-v",
        f"{data}:/data:ro",
    ]

    def command(*words: str) -> Command:
        return [*run, "--entrypoint", words[0], IMAGE, *words[1:]]

    return command


def with_buildah(build: Command, data: Path) -> Callable[..., Command]:
    """Build with buildah; return the same."""
    output(["buildah", "bud", "--isolation", "chroot", "--network", "host", "-q", *build])
    container = output(["buildah", "from", IMAGE]).strip()
    run = ["buildah", "run", "--isolation", "chroot", "-v", f"{data}:/data:ro", container, "--"]
    return lambda *words: [*run, *words]


def main() -> int:
    """Build, use, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", help="an image with Python, in place of the Dockerfile's")
    base = parser.parse_args().base
    tool = next(filter(usable, ("docker", "buildah")), None)
    if tool is None:
        print("needs docker with its daemon running, or buildah.", file=sys.stderr)
        return 2
    build = ["-f", "docker/Dockerfile", "-t", IMAGE]
    build += ["--build-arg", f"BASE={base}"] if base else []
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        data.chmod(0o755)
        shutil.copy(ROOT / "docs" / "demo.png", data / "photo.png")
        run = {"docker": with_docker, "buildah": with_buildah}[tool]([*build, "."], data)
        here = subprocess.run(
            [Path(sys.executable).parent / "numclip", "run", "quality", data / "photo.png"],
            *(), check=True, text=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        there = json.loads(output(run("numclip", "run", "quality", "/data/photo.png")))
        assert abs(there["value"] - json.loads(here.stdout)["value"]) < 0.01, there
        assert output(run("id", "-u")).strip() == "65532"
        modules = (
            "import importlib.util as u; print(*(m for m in ('torch','pip') if u.find_spec(m)))"
        )
        assert output(run("/opt/numclip/bin/python", "-c", modules)).strip() == ""
        try_writing = "import pathlib; pathlib.Path('/opt/numclip/x').touch()"
        refused = subprocess.run(
            run("/opt/numclip/bin/python", "-c", try_writing), stderr=subprocess.PIPE, text=True
        )
        assert "Permission denied" in refused.stderr or "Read-only" in refused.stderr, refused
        if tool == "docker":
            stopped(run("numclip", "run", "quality", "-"))
        else:  # buildah passes no signals on
            wait = "sleep 9 | numclip run quality - & sleep 3; kill -TERM $!; wait $!; echo $?"
            assert output(run("sh", "-c", wait)).strip() == "143"
        size = output(run("du", "-sm", "/opt/numclip")).split()[0]
    print(f"The image works with {tool}; numclip and what it needs have {size} MB in it.")
    return 0


def stopped(command: Command) -> None:
    """Check that a run that waits for names on stdin ends with 143 when it gets SIGTERM."""
    print("$", " ".join(command), "(and SIGTERM)", flush=True)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("/data/photo.png\n")
    process.stdin.flush()
    assert process.stdout.readline()  # it has begun
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143, process.returncode


if __name__ == "__main__":
    sys.exit(main())
