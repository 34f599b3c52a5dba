"""Start-up: from the start of a process to its first prediction, imports, and memory.

Two programs as users would write them, without anything of the benchmark in their processes: the
lean runtime with an exported model, and the checkpoint in PyTorch with open_clip.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

from benchmarks.bench.worker import environment, last_line
from numclip_runtime.errors import ModelError

RUNS = 5  # fresh processes per program

# The first line ends the time; the second says what the process found out about itself.
_TAIL = """
from benchmarks.memory_use import peak_host_mb
import json
print(json.dumps({"import_s": imported - start, "peak_host_mb": peak_host_mb()}))
"""

_RUNTIME = """
from time import perf_counter
start = perf_counter()
import sys
import onnxruntime
from numclip_runtime import load
imported = perf_counter()
model, image, threads = sys.argv[1:]
print(load(model, threads=int(threads) or None).predict(image).value, flush=True)
"""

_TORCH = """
from time import perf_counter
start = perf_counter()
import sys
from pathlib import Path
import torch
from numclip.checkpoint import load_checkpoint  # imports open_clip
from numclip_runtime.preprocess import preprocess
imported = perf_counter()
checkpoint, image, threads = sys.argv[1:]
if int(threads):
    torch.set_num_threads(int(threads))
ckpt = load_checkpoint(Path(checkpoint))
images = torch.from_numpy(preprocess(image, ckpt.metadata.preprocessing)[None])
with torch.inference_mode():
    print(ckpt.model(images).values.item(), flush=True)
"""


@dataclass(frozen=True)
class Start:
    """One process."""

    seconds: float  # from its start to its first line
    about: Mapping[str, Any]  # its second line; empty if there is none


def first_predictions(
    model: Path,
    checkpoint: Path,
    image: str,
    *,
    threads: int | None = None,
    runs: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, float]]:
    """Compare the exported model in the lean runtime with the checkpoint in PyTorch.

    Returns:
        "numclip_runtime" and "torch": see `alternate`.

    Raises:
        ModelError: if one of the processes fails.
    """
    rest = [image, str(threads or 0)]
    programs = {
        "numclip_runtime": [sys.executable, "-c", _RUNTIME + _TAIL, str(model), *rest],
        "torch": [sys.executable, "-c", _TORCH + _TAIL, str(checkpoint), *rest],
    }
    return alternate(programs, runs=runs, tick=tick)


def alternate(
    programs: Mapping[str, Sequence[str]],
    *,
    runs: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, float]]:
    """Time programs by turns, A B A B, so that a change of the machine's load meets them all.

    Args:
        programs: Name -> command that prints one line when it is ready, and then perhaps one of
            JSON, numbers by name.
        runs: Processes per program; None means RUNS.
        tick: Called after each process.

    Returns:
        Name -> "median", "min", "max" of the seconds to the first line, "n", and the medians of
        the numbers in the second.

    Raises:
        ModelError: if a program ends without printing a line.
    """
    starts: dict[str, list[Start]] = {name: [] for name in programs}
    for _ in range(RUNS if runs is None else runs):
        for name, command in programs.items():
            starts[name].append(start_process(command, name=name))
            tick()
    return {name: _summary(found) for name, found in starts.items()}


def _summary(starts: Sequence[Start]) -> dict[str, float]:
    times = [start.seconds for start in starts]
    facts = {key: median(start.about[key] for start in starts) for key in starts[0].about}
    summary = {"median": median(times), "min": min(times), "max": max(times), "n": len(times)}
    return summary | facts


def start_process(command: Sequence[str], *, name: str) -> Start:
    """Start a process and time it until it prints a line (its shutdown not counted).

    Raises:
        ModelError: if the process ends without one, or with an exit code other than 0.
    """
    # A file, not a pipe: a process that fills the pipe of stderr would wait for ever.
    with tempfile.TemporaryFile() as errors:
        start = perf_counter_ns()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=environment()
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            elapsed = perf_counter_ns() - start
            rest = process.stdout.read()
        if not line or process.returncode:
            raise ModelError(
                f"first prediction with {name}: the process failed, exit code "
                f"{process.returncode} ({last_line(errors)})."
            )
    return Start(elapsed / 1e9, json.loads(rest) if rest.strip() else {})


def lines(starts: Mapping[str, Mapping[str, float]]) -> str:
    """Format one line per program."""
    width = max(map(len, starts))
    return "\n".join(
        f"  {name.ljust(width)}  {took['median']:.2f} s ({took['min']:.2f} to {took['max']:.2f}, "
        f"{took['n']} processes), of these imports {took['import_s']:.2f} s; peak "
        f"{took['peak_host_mb']:.0f} MB"
        for name, took in starts.items()
    )
