"""Part c: `latency.py` as a user calls it, with torch's ways on a GPU beside the files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.bench.gpu.checks import (
    Check,
    CheckSkippedError,
    Settings,
    expect,
    loaded_packages,
    tried,
)
from benchmarks.bench.gpu.proof_models import CHECKPOINT, PROOF_FILES
from benchmarks.bench.machine.environment import REPOSITORY
from benchmarks.bench.results import Document, read_document

_LEAST_S = 25.0  # a call that has less is not begun
_RESERVE_S = 15.0  # of the part's time, for its end
_GRACE_S = 10.0  # between SIGTERM, after which a call removes what it has begun, and SIGKILL


@dataclass(frozen=True)
class Call:
    """A call of `latency.py`. Its JSON is complete or absent: the most telling call comes first."""

    name: str  # of its JSON: gpu-NAME.json
    batches: str
    precisions: tuple[str, ...]  # files
    peers: str
    flags: tuple[str, ...]


# Beside an H200, on 16 cores, a system of torch took 15 s to start, a file of onnxruntime 2 s, and
# what comes before them 40 s. PyTorch on the CPU is not among them: it took longer than all others
# together, and part b compares the values. torch.compile takes half a minute for each batch size.
_CALLS = (
    Call(
        *("latency", "1,8,64,256", tuple(PROOF_FILES), "cuda-eager,cuda-fp16,cuda-graphs"),
        ("--duration", "0.4"),
    ),
    Call(
        *("latency-compile", "1,8", ("fp16",), "cuda-eager,cuda-compile,cuda-onnx"),
        ("--duration", "0.4"),
    ),
)


def check_latency(settings: dict[str, Any]) -> Iterator[Check]:
    """Yield a check for each call; `settings` are those of `Settings`."""
    given = Settings(**settings)
    end = perf_counter() + given.seconds - _RESERVE_S
    for call in _CALLS:
        yield tried(
            f"latency.py --batch {call.batches}, {call.name}", partial(_run, given, call, end)
        )
    yield loaded_packages()


def latency_command(settings: Settings, call: Call) -> list[str]:
    """Return the command line of a call."""
    folder = Path(settings.models)
    files = [str(folder / PROOF_FILES[precision]) for precision in call.precisions]
    flags = ["--iterations", "2"] if settings.rehearse else [*call.flags]
    return [
        *(sys.executable, str(REPOSITORY / "benchmarks" / "latency.py"), *files),
        *("--ckpt", str(folder / CHECKPOINT), "--device", settings.device),
        *("--peers", call.peers, "--batch", call.batches, "--images", str(folder / "photos")),
        *("--starts", "1", "--warmup", "0.1" if settings.rehearse else "0.5", *flags),
        *("--json", str(Path(settings.out) / f"gpu-{call.name}.json")),
    ]


def _run(settings: Settings, call: Call, end: float) -> dict[str, Any]:
    left = end - perf_counter()
    if left < _LEAST_S:
        raise CheckSkippedError(f"{max(left, 0):.0f} s are left of the part's time")
    table = run_within(latency_command(settings, call), left)
    print(table, file=sys.stderr)  # for the log
    path = Path(settings.out) / f"gpu-{call.name}.json"
    return {"json": path.name, **_summary(read_document(path))}


def run_within(command: Sequence[str], seconds: float) -> str:
    """Run a command that must succeed in a time; return what it printed."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            _, err = process.communicate(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _, err = process.communicate()
        raise AssertionError(
            f"it was not done after {seconds:.0f} s: {err.strip()[-500:]}"
        ) from None
    expect(process.returncode == 0, f"exit code {process.returncode}: {err[-500:]}")
    return out


def _summary(document: Document) -> dict[str, Any]:
    """Return ms of the network by system and batch, watts, and what the run says of the machine."""
    rows: dict[str, dict[str, float]] = {}
    watts: dict[str, float] = {}
    for row in document.rows:
        rows.setdefault(row.name, {})[str(row.batch)] = round(row.stages_ms["inference"].p50, 4)
        if row.power is not None and row.power.mean_watts is not None:
            watts[f"{row.name}, batch {row.batch}"] = round(row.power.mean_watts, 1)
    clocks = [f"{gpu.sm_mhz} of {gpu.sm_max_mhz} MHz" for gpu in document.state.after.gpus]
    return {
        "network_ms": rows,
        "watts": watts,
        "clocks_after": clocks,
        "notes": [*document.notes, *document.state.warnings],
    }
