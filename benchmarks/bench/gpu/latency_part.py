"""Part c: `latency.py` as a user calls it, with torch's ways on a GPU beside the files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
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
_RESERVE_S = 5.0  # of the part's time, for its end


@dataclass(frozen=True)
class Call:
    """A call of `latency.py`. Its JSON is complete or absent: the most telling call comes first."""

    name: str  # of its JSON: gpu-NAME.json
    batches: str
    precisions: tuple[str, ...]  # files
    peers: str
    flags: tuple[str, ...]


# Times of one H100 are not known. Each system starts in some seconds (torch, weights, CUDA);
# torch.compile compiles each batch size for half a minute.
_CALLS = (
    Call(
        *("latency", "1,8", tuple(PROOF_FILES), "cuda-eager,cuda-fp16,cuda-graphs,cuda-onnx"),
        ("--duration", "0.5"),
    ),
    Call(
        *("latency-large", "64,256", ("fp32", "fp16"), "cuda-eager,cuda-fp16,cuda-graphs"),
        ("--iterations", "5"),
    ),
    Call(
        *("latency-compile", "1,8", ("fp16",), "cuda-fp16,cuda-compile,cuda-graphs"),
        ("--duration", "0.5"),
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
    done = subprocess.run(
        latency_command(settings, call), capture_output=True, text=True, check=False, timeout=left
    )
    expect(done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-500:]}")
    print(done.stdout, file=sys.stderr)  # the table, for the log
    path = Path(settings.out) / f"gpu-{call.name}.json"
    return {"json": path.name, **_summary(read_document(path))}


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
