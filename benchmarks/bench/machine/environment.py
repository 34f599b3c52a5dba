"""The environment that numbers depend on besides the model: machine, versions, command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path

import numclip_runtime
from benchmarks.bench.machine.state import load_average
from benchmarks.bench.results import Environment
from numclip_runtime.files import atomic_text
from numclip_runtime.system import cpu_name

REPOSITORY = Path(__file__).resolve().parents[3]
# Module -> name in the report. Only those that the run really loaded are reported.
_PACKAGES = {
    "numpy": "numpy",
    "PIL": "pillow",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "torch": "torch",
    "open_clip": "open_clip_torch",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
}


@contextmanager
def script_report(path: Path | None, argv: Sequence[str]) -> Iterator[Callable[..., None]]:
    """Open a script's JSON file before it measures; yield a function that writes the results.

    The file appears only when complete; without a path nothing is written.

    Raises:
        UsageError: if it cannot be written.
    """
    load_before = load_average()
    with atomic_text(path) if path is not None else StringIO() as file:

        def write(settings: Mapping[str, object] | None = None, **results: object) -> None:
            """Write results, and the environment with the settings in it."""
            environment = vars(describe_environment(argv=argv, load_before=load_before))
            document = {"environment": {**environment, **(settings or {})}, **results}
            # JSON has no NaN, such as the median of nothing
            text = json.dumps(document, default=asdict)
            print(json.dumps(json.loads(text, parse_constant=lambda _: None), indent=1), file=file)

        yield write


def describe_environment(*, argv: Sequence[str], load_before: list[float] | None) -> Environment:
    """Describe machine and software, after the run: now all packages are loaded."""
    return Environment(
        command=command_line(argv),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        numclip=numclip_runtime.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=cpu_name(),
        logical_cores=os.cpu_count(),
        load_average_before=load_before,
        load_average_after=load_average(),
        versions=loaded_versions(),
    )


def command_line(argv: Sequence[str]) -> str:
    """Return the command as text, absolute paths cut down to their last part."""
    script, *arguments = argv
    path = Path(script).resolve()
    inside = path.is_relative_to(REPOSITORY)
    name = path.relative_to(REPOSITORY).as_posix() if inside else f"benchmarks/{path.name}"
    return shlex.join(["python", name, *map(_shorten, arguments)])


def _shorten(argument: str) -> str:
    option, equals, value = argument.rpartition("=")
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)


def loaded_versions() -> dict[str, str]:
    """Return the versions of the packages that this process has imported."""
    return {
        name: str(sys.modules[module].__version__)
        for module, name in _PACKAGES.items()
        if module in sys.modules
    }
