"""The proof: parts in processes of their own, each with its time, and the document they fill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter

from benchmarks.bench.gpu.checks import TRACEBACK_LINES, VERSIONS, Check, Settings
from benchmarks.bench.machine.environment import REPOSITORY, describe_environment
from benchmarks.bench.machine.nvidia import Gpu, read_gpus
from benchmarks.bench.machine.state import load_average
from benchmarks.bench.processes.worker import child_environment
from benchmarks.bench.results import Environment, from_plain
from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_text

PROOF_SCHEMA = 1
PROOF_FILE = "gpu-proof.json"
_GRACE_S = 5.0  # between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Part:
    """A part of the proof."""

    letter: str  # of --only
    title: str
    target: str  # MODULE:NAME of a generator of checks, called with the settings
    share: float  # of the time, relative to the others that are left
    needs_models: bool = True


MODELS_PART = Part(
    "m", "models", "benchmarks.bench.gpu.proof_models:prepare_models", 70, needs_models=False
)
# By value. Time that a part leaves goes to those after it.
PROOF_PARTS = (
    Part(
        *("a", "CUDA driver by ctypes", "benchmarks.bench.gpu.driver_part:check_driver", 30),
        needs_models=False,
    ),
    MODELS_PART,
    Part("b", "ONNX on the CUDA provider", "benchmarks.bench.gpu.onnx_part:check_onnx", 60),
    Part("c", "latency", "benchmarks.bench.gpu.latency_part:check_latency", 250),
    Part("d", "lanes and timeline", "benchmarks.bench.gpu.lanes_part:check_lanes", 35),
    Part("e", "TensorRT-RTX", "benchmarks.bench.gpu.plan_part:check_plans", 45),
    Part(
        *("f", "training", "benchmarks.bench.gpu.training_part:check_training", 70),
        needs_models=False,
    ),
)
PART_LETTERS = tuple(part.letter for part in PROOF_PARTS if part is not MODELS_PART)


@dataclass
class PartResult:
    """What came of a part."""

    letter: str
    title: str
    status: str  # "passed", "failed", "timed out" or "skipped"
    seconds: float
    limit_s: float
    checks: list[Check] = field(default_factory=list)
    reason: str | None = None  # of a part that ended early: the last lines of its words
    date: str = ""  # of its begin
    gpus_after: list[Gpu] = field(default_factory=list)  # clocks, power, heat


@dataclass
class Proof:
    """The document."""

    schema: int
    rehearsal: bool  # on a CPU with a stand-in: says nothing of a GPU, and is never published
    environment: Environment
    minutes: float
    gpus_before: list[Gpu]
    gpu_problem: str | None  # why NVML shows none
    parts: list[PartResult] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no part failed or ended early."""
        return all(part.status in ("passed", "skipped") for part in self.parts)


def read_proof(path: Path) -> Proof:
    """Read the document of a proof.

    Raises:
        UsageError: if the file is not one, or of another schema.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        if data.get("schema") == PROOF_SCHEMA and "parts" in data:
            return from_plain(Proof, data)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"{path}: not the JSON of a GPU proof ({error}).") from None
    raise UsageError(f"{path}: not a GPU proof of schema {PROOF_SCHEMA}.")


def chosen_parts(only: Sequence[str] | None) -> list[Part]:
    """Return the parts to run, the models' where one of them needs them."""
    chosen = [part for part in PROOF_PARTS if only is None or part.letter in only]
    if MODELS_PART not in chosen and any(part.needs_models for part in chosen):
        chosen = [part for part in PROOF_PARTS if part in chosen or part is MODELS_PART]
    return chosen


def run_proof(
    parts: Sequence[Part],
    settings: Settings,
    *,
    argv: Sequence[str],
    on_part: Callable[[PartResult], None] = lambda _: None,
    earlier: Proof | None = None,
) -> Proof:
    """Run the parts one after the other; the document is written after each.

    Args:
        parts: See `chosen_parts`.
        settings: `seconds` are those of all parts together.
        argv: Command line, script first; named in the document.
        on_part: Called with each part's result.
        earlier: Of this GPU: its results of other parts are kept.
    """
    gpus, problem = read_gpus()
    environment = describe_environment(argv=argv, load_before=load_average())
    minutes = round(settings.seconds / 60, 2)
    proof = Proof(PROOF_SCHEMA, settings.rehearse, environment, minutes, gpus, problem)
    if earlier is not None:
        proof = joined(earlier, proof)
    end = perf_counter() + settings.seconds
    for number, part in enumerate(parts):
        left, date = end - perf_counter(), datetime.now(timezone.utc).isoformat(timespec="seconds")
        limit = max(0.0, left * part.share / sum(each.share for each in parts[number:]))
        if reason := _obstacle(part, proof.parts):
            result = PartResult(part.letter, part.title, "failed", 0, limit, reason=reason)
        else:
            result = run_part(part, settings, limit_s=limit)
        for check in [check for check in result.checks if check.name == VERSIONS]:
            proof.environment.versions |= check.facts
            result.checks.remove(check)
        result.date, result.gpus_after = date, read_gpus()[0]
        proof.parts = _last_of_each([*proof.parts, result])
        proof.environment.load_average_after = load_average()
        write_proof(proof, Path(settings.out) / PROOF_FILE)
        on_part(result)
    return proof


def joined(earlier: Proof, later: Proof) -> Proof:
    """Return the later document with the earlier one's parts that it lacks.

    Raises:
        UsageError: if they are of different GPUs or drivers, or one is a rehearsal.
    """
    if _place(earlier) != _place(later):
        raise UsageError(
            f"the results there are of {_place(earlier)}, and here is {_place(later)}; give "
            "another folder as --out."
        )
    versions = earlier.environment.versions | later.environment.versions
    return replace(
        later,
        environment=replace(later.environment, versions=versions),
        parts=_last_of_each([*earlier.parts, *later.parts]),
    )


def _place(proof: Proof) -> str:
    """Return where a proof was made, in words."""
    if proof.rehearsal:
        return "a rehearsal"
    gpus = [f"{gpu.name}, driver {gpu.driver}" for gpu in proof.gpus_before]
    return " and ".join(gpus) or "a GPU that NVML does not show"


def _last_of_each(parts: Sequence[PartResult]) -> list[PartResult]:
    """Return the last result of each part, where its first one stood."""
    return list({part.letter: part for part in parts}.values())


def _obstacle(part: Part, done: Sequence[PartResult]) -> str | None:
    """Return why a part cannot begin: its models were not made."""
    models = next((result for result in done if result.letter == MODELS_PART.letter), None)
    if not part.needs_models or models is None or models.status == "passed":
        return None
    made = {check.name for check in models.checks if check.status == "passed"}
    return None if "checkpoint" in made else f"its models were not made: {models.reason}"


def run_part(part: Part, settings: Settings, *, limit_s: float) -> PartResult:
    """Run a part in a process group of its own; what it had found until its end is kept."""
    answers = Path(settings.work) / f"{part.letter}.answers.jsonl"
    log = Path(settings.work) / f"{part.letter}.log"
    given = {**asdict(settings), "seconds": limit_s}
    command = [
        *(sys.executable, "-m", "benchmarks.bench.processes.child"),
        *(part.target, json.dumps({"settings": given})),
    ]
    start = perf_counter()
    with answers.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=_environment(settings),
            start_new_session=True,
        )
        with _ended(process):
            try:
                process.wait(limit_s)
                late = False
            except subprocess.TimeoutExpired:
                late = True
    seconds = round(perf_counter() - start, 2)
    lines = [json.loads(line) for line in _whole_lines(_words(answers, settings))]
    checks = [from_plain(Check, line["result"]) for line in lines if "result" in line]
    error = next((line["error"] for line in lines if "error" in line), None)
    reason = error
    if late:
        reason = f"its {limit_s:.0f} s were over: {_tail(log, settings)}"
    elif process.returncode and error is None:
        reason = f"its process ended with exit code {process.returncode}: {_tail(log, settings)}"
    failed = [check.name for check in checks if check.status == "failed"]
    status = "timed out" if late else "failed" if reason or failed else "passed"
    if reason is None and failed:
        reason = f"failed: {', '.join(failed)}"
    return PartResult(part.letter, part.title, status, seconds, round(limit_s, 1), checks, reason)


def write_proof(proof: Proof, path: Path) -> None:
    """Write the document; it appears whole."""
    with atomic_text(path) as file:
        print(json.dumps(asdict(proof), indent=1), file=file)


def _environment(settings: Settings) -> dict[str, str]:
    found = child_environment()
    roots = [str(REPOSITORY / folder) for folder in ("export", "runtime")]
    found["PYTHONPATH"] = os.pathsep.join([found["PYTHONPATH"], *roots])
    found["PYTHONFAULTHANDLER"] = "1"  # where a process dies stands in its log
    # Images of containers often forbid compiled modules: each process compiles torch's 2,000 again
    if found.pop("PYTHONDONTWRITEBYTECODE", None):
        found["PYTHONPYCACHEPREFIX"] = str(Path(settings.work) / "pycache")
    if settings.rehearse:
        found["CUDA_VISIBLE_DEVICES"] = ""
    return found


def _whole_lines(text: str) -> list[str]:
    """Return the lines that were written to their end."""
    return text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]


def _words(file: Path, settings: Settings) -> str:
    """Return what a process wrote, without this machine's folders: results are published."""
    text = file.read_text("utf-8", "replace")
    for folder in (settings.work, str(REPOSITORY)):
        text = text.replace(f"{folder}{os.sep}", "")
    return text


def _tail(log: Path, settings: Settings) -> str:
    lines = _words(log, settings).strip().splitlines()
    return "\n".join(lines[-TRACEBACK_LINES:]) or "it wrote nothing"


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the process with all that it started, whatever happens."""
    try:
        yield
    finally:
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signum)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
