"""Time from the start of a process to its first prediction."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter_ns

from numclip_runtime.errors import ModelError

RUNS = 5  # fresh processes per program

_RUNTIME = """
import sys
from numclip_runtime import load
model, image, threads = sys.argv[1:]
print(load(model, threads=int(threads) or None).predict(image).value, flush=True)
"""

_TORCH = """
import sys
from pathlib import Path
import torch
from numclip.checkpoint import load_checkpoint
from numclip_runtime.preprocess import preprocess
checkpoint, image, threads = sys.argv[1:]
if int(threads):
    torch.set_num_threads(int(threads))
ckpt = load_checkpoint(Path(checkpoint))
images = torch.from_numpy(preprocess(image, ckpt.metadata.preprocessing)[None])
with torch.inference_mode():
    print(ckpt.model(images).values.item(), flush=True)
"""


def first_predictions(
    model: Path,
    checkpoint: Path,
    image: str,
    *,
    threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, float]]:
    """Compare the exported model in the lean runtime with the checkpoint in PyTorch.

    Returns:
        "numclip_runtime" and "torch": {"median", "min", "max", "n"}, seconds.

    Raises:
        ModelError: if one of the processes fails.
    """
    rest = [image, str(threads or 0)]
    programs = {
        "numclip_runtime": [sys.executable, "-c", _RUNTIME, str(model), *rest],
        "torch": [sys.executable, "-c", _TORCH, str(checkpoint), *rest],
    }
    return alternate(programs, tick=tick)


def alternate(
    programs: Mapping[str, Sequence[str]],
    *,
    runs: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, float]]:
    """Time programs by turns, A B A B, so that a change of the machine's load meets them all.

    Args:
        programs: Name -> command that prints one line when it is ready.
        runs: Processes per program; None means RUNS.
        tick: Called after each process.

    Raises:
        ModelError: if a program ends without printing a line.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(RUNS if runs is None else runs):
        for name, command in programs.items():
            seconds[name].append(seconds_to_first_line(command, name=name))
            tick()
    return {
        name: {"median": median(times), "min": min(times), "max": max(times), "n": len(times)}
        for name, times in seconds.items()
    }


def seconds_to_first_line(command: Sequence[str], *, name: str) -> float:
    """Start a process; return the seconds until it prints a line (its shutdown not counted).

    Raises:
        ModelError: if the process ends without one, or with an exit code other than 0.
    """
    # A file, not a pipe: a process that fills the pipe of stderr would wait for ever.
    with tempfile.TemporaryFile() as errors:
        start = perf_counter_ns()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            elapsed = perf_counter_ns() - start
            process.stdout.read()
        if not line or process.returncode:
            errors.seek(0)
            reason = errors.read().decode(errors="replace").strip().splitlines() or ["no output"]
            raise ModelError(
                f"first prediction with {name}: the process failed, exit code "
                f"{process.returncode} ({reason[-1]})."
            )
    return elapsed / 1e9
