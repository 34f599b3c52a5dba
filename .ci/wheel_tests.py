"""Run the runtime's tests on the built wheel, in an environment of its own.

    python .ci/wheel_tests.py --constraint --without-posix   # this Python, constraints.txt
    python .ci/wheel_tests.py --floors 3.10    # the oldest requirements of pyproject.toml
    python .ci/wheel_tests.py 3.13             # the newest on PyPI

Where that Python is missing, this says so, and tests this Python with constraints.txt instead.
PYTHON310 or PYTHON313 names it otherwise.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOOR = re.compile(r'"([\w-]+)>=([\w.]+)"')
TOOLS = ("pytest", "pytest-xdist", "hypothesis")


def floors() -> list[str]:
    """Return what the runtime and its extra `cpu` need, each in its oldest version."""
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
    chosen = [line for line in lines if re.match(r"(dependencies|cpu) = ", line)]
    return [f"{name}=={version}" for line in chosen for name, version in FLOOR.findall(line)]


def interpreter(version: str) -> str | None:
    """Return a Python of this version: named by the environment, on the path, or pyenv's."""
    if named := os.environ.get(f"PYTHON{version.replace('.', '')}"):
        return named
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}")]
    candidates += [str(path) for path in sorted(versions.glob(f"{version}.*/bin/python"))]
    for path in filter(None, candidates):  # pyenv's shims exist for versions that are not chosen
        command = [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.stdout.strip() == version:
            return path
    return None


def main() -> int:
    """Make the environment, and run the tests in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", nargs="?", help="such as 3.10; default: this Python's")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--floors", action="store_true", help="the oldest requirements")
    chosen.add_argument("--constraint", action="store_true", help="those of constraints.txt")
    parser.add_argument("--without-posix", action="store_true", help="hide what Windows lacks")
    parser.add_argument("--wheel", type=Path, help="default: built from this tree")
    given = parser.parse_args()
    version, python = given.version, interpreter(given.version) if given.version else sys.executable
    if python is None:
        name = f"PYTHON{version.replace('.', '')}"
        print(f"There is no Python {version} here; install it, or name it by {name}.")
        given.floors, given.constraint, python = False, True, sys.executable
        print(f"Testing {python} with constraints.txt instead.")
    kind = "floors" if given.floors else "bare" if given.constraint else "newest"
    folder = ROOT / f".venv-{kind}"
    dist = folder / "dist"
    shutil.rmtree(folder, ignore_errors=True)

    def run(*command: object) -> None:
        subprocess.run([str(word) for word in command], cwd=ROOT, check=True)

    run(python, "-m", "venv", folder)
    if given.wheel is None:
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", dist)
    (wheel,) = [given.wheel] if given.wheel else dist.glob("*.whl")
    python = folder / "bin/python"
    bounds = floors() if given.floors else ["--constraint", "constraints.txt"]
    bounds = bounds if given.floors or given.constraint else []
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[cpu]", *TOOLS, *bounds)
    run(python, "-m", "pip", "list", "--format", "freeze")
    tests = [python, "-m", "pytest", "-q", "-n", "auto", "--maxprocesses", "4", "tests/runtime"]
    hidden = {"NUMCLIP_TEST_WITHOUT_POSIX": "1"} if given.without_posix else {}
    return subprocess.run(
        [*tests, "--dist", "worksteal"], cwd=ROOT, env=os.environ | hidden, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
