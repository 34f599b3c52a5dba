"""Measure what an install costs: packages, megabytes, seconds, and the imports of a prediction.

Run from the repository: `python benchmarks/install.py python3.10 python3.13 --json install.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import click

if __name__ == "__main__":  # run as a script: the package `benchmarks` is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench.machine.environment import describe_environment, load_average
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import NumclipError
from numclip_runtime.files import atomic_text

ROOT = Path(__file__).resolve().parents[1]
RUNS = 21  # fresh processes whose imports are timed
# What a process loads that predicts with `load(...).predict(...)`.
IMPORTS = ("numpy", "PIL.Image", "numclip_runtime", "onnxruntime")

# A file's size as pip's RECORD names it, so the bytecode that pip compiles is counted as well.
_INSPECT = """
import json, platform
from importlib.metadata import distributions
def size(files):
    paths = [file.locate() for file in files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file())
found = [(d.metadata["Name"], d.version, size(d.files)) for d in distributions()]
print(json.dumps([platform.python_version(), found]))
"""
_IMPORT = """
import sys, time
start = time.perf_counter()
for name in sys.argv[1:]:
    __import__(name)
print((time.perf_counter() - start) * 1e3)
"""


@dataclass(frozen=True)
class Package:
    """One installed distribution."""

    name: str
    version: str
    mb: float  # 10**6 bytes on disk, bytecode included


@dataclass(frozen=True)
class Install:
    """What a fresh virtual environment holds after one `pip install`, and what that took."""

    python: str  # "3.11.7"
    packages: tuple[Package, ...]  # largest first; pip itself is not among them
    cold_s: float  # pip install with an empty cache: depends on the network
    warm_s: float  # the same once more, into another environment
    import_ms: float | None  # median over RUNS processes; None: not everything is installed

    @property
    def mb(self) -> float:
        """Size of all packages, 10**6 bytes."""
        return sum(package.mb for package in self.packages)


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
        cold, warm = Path(folder, "cold"), Path(folder, "warm")
        seconds = []
        for environment in (cold, warm):
            # pip stays outside and works on the environment, which so holds nothing else.
            _run([python, "-m", "venv", "--without-pip", str(environment)])
            target = ["--python", str(environment / "bin" / "python")]
            cache = ["--cache-dir", str(Path(folder, "cache"))]
            command = [sys.executable, "-m", "pip", *target, "install", "-q", *cache]
            start = perf_counter()
            _run([*command, *options, requirement])
            seconds.append(perf_counter() - start)
        version, packages = inspect_packages(warm / "bin" / "python")
        cold_s, warm_s = seconds
        return Install(
            version, packages, cold_s, warm_s, import_ms(warm / "bin" / "python", IMPORTS)
        )


def inspect_packages(python: Path) -> tuple[str, tuple[Package, ...]]:
    """Return a Python's version, and what is installed for it, largest first."""
    version, found = json.loads(_run([str(python), "-c", _INSPECT]))
    packages = [Package(name, release, size / 1e6) for name, release, size in found]
    return version, tuple(sorted(packages, key=lambda package: -package.mb))


def import_ms(python: Path, modules: Sequence[str]) -> float | None:
    """Return the median time to import modules, in fresh processes; None where one is missing."""
    command = [str(python), "-c", _IMPORT, *modules]
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


def table(installs: Sequence[Install]) -> str:
    """Format one line per Python, and below the packages of the last one."""
    lines = [f"{'Python':8}  packages     MB  cold s  warm s  imports ms"]
    for one in installs:
        imports = "-" if one.import_ms is None else f"{one.import_ms:.0f}"
        lines.append(
            f"{one.python:8}  {len(one.packages):8}  {one.mb:5.1f}  {one.cold_s:6.1f}  "
            f"{one.warm_s:6.1f}  {imports:>10}"
        )
    lines += [""] + [f"{p.mb:7.1f} MB  {p.name} {p.version}" for p in installs[-1].packages]
    return "\n".join(lines)


def build_wheel(folder: Path) -> Path:
    """Build this checkout's wheel."""
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT)
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
    load_before = load_average()
    with exit_on_error(), tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        requirement = f"{wheel}[{extra}]" if extra else str(wheel)
        installs = [measure_install(python, requirement, options) for python in pythons]
        click.echo(f"wheel: {wheel.stat().st_size / 1e3:.0f} kB\n{table(installs)}")
        if json_path is not None:
            environment = describe_environment(argv=sys.argv, load_before=load_before)
            results = [asdict(one) | {"mb": one.mb} for one in installs]
            with atomic_text(json_path) as file:
                json.dump({"environment": environment, "results": results}, file, indent=2)
                file.write("\n")


if __name__ == "__main__":
    main()
