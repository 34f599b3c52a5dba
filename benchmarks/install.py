"""Measure what an install costs: packages, megabytes, seconds, and the imports of a prediction.

Run from the repository: `python benchmarks/install.py python3.10 python3.13 --json install.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import click

if not __package__:  # run by its path: the repository joins the import path
    __import__("script")

from benchmarks.bench.machine.environment import REPOSITORY, script_report
from benchmarks.bench.processes import installed
from numclip_runtime.console import FILE, SETTINGS, columns, exit_on_error
from numclip_runtime.errors import NumclipError

RUNS = 21  # fresh processes whose imports are timed
# Imports of a process that predicts with `load(...).predict(...)`.
IMPORTS = ("numpy", "PIL.Image", "numclip_runtime", "onnxruntime")


@dataclass(frozen=True)
class Package:
    """One installed distribution."""

    name: str
    version: str
    mb: float  # 10**6 bytes on disk, bytecode included


@dataclass(frozen=True)
class Install:
    """Content of a fresh virtual environment after one `pip install`, and its cost."""

    python: str  # "3.11.7"
    packages: list[Package]  # largest first; pip itself is not among them
    cold_s: float  # pip install with an empty cache: depends on the network
    warm_s: float  # the same once more, into another environment
    import_ms: float | None  # median over RUNS processes; None: not everything is installed
    mb: float  # of all packages, 10**6 bytes


def measure_install(python: str, requirement: str, options: Sequence[str] = ()) -> Install:
    """Install a requirement twice, each time into a fresh virtual environment.

    Args:
        python: Command or path of the Python to install for.
        requirement: For pip, such as "numclip[cpu]" or "dist/x.whl[cpu]".
        options: More arguments of `pip install`.

    Raises:
        NumclipError: if the environment cannot be made, or pip fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for name in ("cold", "warm"):
            # pip stays outside and works on the environment, which so holds nothing else.
            _run([python, "-m", "venv", "--without-pip", str(Path(folder, name))])
            inside = Path(folder, name, "bin", "python")
            cache = ["--cache-dir", str(Path(folder, "cache"))]
            command = [sys.executable, "-m", "pip", "--python", str(inside), "install", "-q"]
            start = perf_counter()
            _run([*command, *cache, *options, requirement])
            seconds.append(perf_counter() - start)
        version, packages = inspect_packages(inside)
        cold_s, warm_s = seconds
        took, mb = import_ms(inside, IMPORTS), sum(package.mb for package in packages)
        return Install(version, packages, cold_s, warm_s, took, mb)


def inspect_packages(python: Path) -> tuple[str, list[Package]]:
    """Return a Python's version, and the packages installed for it, largest first."""
    version, found = json.loads(_run([str(python), installed.__file__]))
    packages = [Package(name, release, size / 1e6) for name, release, size in found]
    return version, sorted(packages, key=lambda package: -package.mb)


def import_ms(python: Path, modules: Sequence[str]) -> float | None:
    """Return the median time to import modules, in fresh processes; None where one is missing."""
    command = [str(python), installed.__file__, *modules]
    try:
        _run(command)  # reads the files into the system's cache
    except NumclipError:
        return None
    return median(float(_run(command)) for _ in range(RUNS))


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd)
    except FileNotFoundError:
        raise NumclipError(f"{command[0]}: no such command; give a Python's path.") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no output"])[-1]
        raise NumclipError(f"{' '.join(command[:4])} ...: failed ({reason}).") from None
    return done.stdout


def install_table(installs: Sequence[Install]) -> str:
    """Format one line per Python, and below the packages of the last one."""
    rows: list[tuple[str, ...]] = [("Python", "packages", "MB", "cold s", "warm s", "imports ms")]
    for one in installs:
        imports = "-" if one.import_ms is None else f"{one.import_ms:.0f}"
        figures = (f"{figure:.1f}" for figure in (one.mb, one.cold_s, one.warm_s))
        rows.append((one.python, str(len(one.packages)), *figures, imports))
    packages = [f"{p.mb:7.1f} MB  {p.name} {p.version}" for p in installs[-1].packages]
    return "\n".join([*columns(rows, "<>>>>>"), "", *packages])


def build_wheel(folder: Path) -> Path:
    """Build this checkout's wheel."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    _run(command, cwd=REPOSITORY)
    (wheel,) = folder.glob("*.whl")
    return wheel


@click.command(context_settings=SETTINGS)
@click.argument("pythons", nargs=-1, required=True, metavar="PYTHON...")
@click.option("--extra", default="cpu", show_default=True, help="Extra of the wheel to install.")
@click.option("--pip", "options", multiple=True, help="More arguments of `pip install`.")
@click.option("--json", "json_path", type=FILE, help="Write all figures.")
def main(
    pythons: tuple[str, ...], extra: str, options: tuple[str, ...], json_path: Path | None
) -> None:
    """Install this checkout's wheel for each PYTHON (a command or a path), and report the cost."""
    with (
        exit_on_error(),
        script_report(json_path, sys.argv) as write,
        tempfile.TemporaryDirectory() as folder,
    ):
        wheel = build_wheel(Path(folder))
        requirement = f"{wheel}[{extra}]" if extra else str(wheel)
        installs = [measure_install(python, requirement, options) for python in pythons]
        click.echo(f"wheel: {wheel.stat().st_size / 1e3:.0f} kB\n{install_table(installs)}")
        write(results=installs)


if __name__ == "__main__":
    main()
