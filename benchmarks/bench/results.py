"""The JSON document of a latency run: its schema, and how it is read and written."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import IO, Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from benchmarks.bench.machine.state import MachineState
from numclip_runtime.errors import UsageError

SCHEMA = 2
STAGES = ("decode", "preprocess", "upload", "inference", "download", "postprocess")
TOTAL = "total"

Record = TypeVar("Record")


@dataclass(frozen=True)
class Summary:
    """Statistics of one stage over all timed batches, ms per batch."""

    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    mean: float
    n: int  # timed batches

    @classmethod
    def of(cls, times: npt.NDArray[np.float64]) -> Summary:
        """Summarise (N,) times in ms; percentiles interpolate linearly, nothing is left out."""
        p50, p90, p95, p99 = np.percentile(times, [50, 90, 95, 99]).tolist()
        return cls(p50, p90, p95, p99, float(times.max()), float(times.mean()), len(times))


@dataclass(frozen=True)
class Ratio:
    """Speed relative to another system, by the rounds' median times."""

    to: str  # the other system's name
    of: str  # the stage compared
    median: float  # over the rounds
    low: float  # first quartile
    high: float  # third quartile


@dataclass(frozen=True)
class Fidelity:
    """Differences from the checkpoint's outputs in PyTorch, float32, over N images."""

    value_max: float  # label units
    value_mean: float  # label units
    # Cosine between image features, both less their mean over the images: plain ones are above .99
    # whatever happens, for all features point into one narrow cone. None: features not known.
    cosine_min: float | None
    cosine_mean: float | None
    images: int


@dataclass(frozen=True)
class LabelError:
    """Mean absolute error on labelled images."""

    mae: float  # label units
    unit: str
    images: int  # that were read
    failed: int  # that could not be read


@dataclass(frozen=True)
class Energy:
    """Energy of a row's turns, added up."""

    source: str  # the meter, in words
    joules_per_image: float
    mean_watts: float | None


@dataclass(frozen=True)
class StartTimes:
    """Seconds from the start of a process to its first prediction, over `n` processes."""

    median: float
    min: float
    max: float
    n: int


@dataclass(frozen=True)
class Startup(StartTimes):
    """The same for a program as users write it, with the medians of what it reports."""

    import_s: float  # part of the time that imports took
    peak_host_mb: float | None


@dataclass(frozen=True)
class Warmup:
    """Course of a warm-up."""

    rule: str
    seconds: float
    stable: bool  # whether the medians agreed before the time was up
    runs: int


@dataclass(frozen=True)
class FixedRate:
    """Latency of requests that arrive at even intervals."""

    asked_img_s: float
    achieved_img_s: float
    kept_up: bool
    requests: int
    latency_ms: Summary  # from the scheduled arrival to the answer
    service_ms: Summary  # from when the request was taken up
    samples_ms: list[float]  # latency of each request, in order


@dataclass(kw_only=True)
class Row:
    """One system at one batch size."""

    name: str
    kind: str  # "artefact", or the key of a baseline
    model: str  # file name
    sha256: str  # of that file
    backend: str
    provider: str
    device: str
    precision: str  # in which matrices are multiplied
    batch: int
    threads: int | None  # None: the backend's choice
    stages_ms: dict[str, Summary]  # each of STAGES that took time, then TOTAL
    total_ms_samples: list[float]  # one per timed batch
    inference_ms_samples: list[float]
    throughput_img_s: float
    ratio: Ratio | None = None  # None: others are compared with it
    fidelity: Fidelity | None = None
    mae: LabelError | None = None
    power: Energy | None = None
    first_prediction_s: float  # the median of `first_prediction`
    first_prediction: StartTimes
    warmup: Warmup
    rate: FixedRate | None = None
    peak_host_mb: float | None
    peak_device_mb: float | None
    ceiling_share: float | None = None  # of matrix products


@dataclass(frozen=True)
class Images:
    """The images of a run."""

    source: str  # "given", "photo" or "synthetic"
    name: str
    count: int
    megapixels: float  # median

    def __str__(self) -> str:
        return f"{self.count} {self.source} images ({self.name}), {self.megapixels:.2f} megapixels"


@dataclass
class Environment:
    """The environment that numbers depend on besides the model."""

    command: str
    date: str  # ISO 8601, UTC
    numclip: str
    python: str
    platform: str
    cpu: str
    logical_cores: int | None
    load_average_before: list[float] | None  # of 1, 5 and 15 minutes
    load_average_after: list[float] | None
    versions: dict[str, str]  # of the packages that were loaded


@dataclass
class RunEnvironment(Environment):
    """The environment and the settings of a latency run."""

    images: Images
    threads: int | None
    iterations: int  # timed batches per row
    duration: float | None  # s of timed batches per row, in place of iterations
    rounds: int
    ceilings_with: str | None  # the library that measured the ceilings
    reload: bool = False  # whether each system was loaded for each turn, alone in memory

    @property
    def turns(self) -> str:
        """The turns of a row, in words."""
        alone = ", each with the system loaded alone" if self.reload else ""
        return f"{self.rounds} turns{alone}"


@dataclass
class State:
    """The machine before and after a run, and the reasons to distrust its numbers."""

    before: MachineState
    after: MachineState
    warnings: list[str] = field(default_factory=list)


@dataclass
class Document:
    """A latency run."""

    schema: int
    environment: RunEnvironment
    state: State
    ceilings_gflops: dict[str, float | None] | None  # by precision
    startup: dict[str, Startup] | None  # by program
    rows: list[Row]
    notes: list[str]


def from_plain(kind: type[Record], data: Any) -> Record:
    """Build a record from the data of a JSON file; the inverse of `dataclasses.asdict`.

    Raises:
        TypeError: if a field is missing, or unknown.
    """
    built: Record = _build(kind, data)
    return built


def _build(kind: Any, data: Any) -> Any:
    if data is None:
        return None
    if is_dataclass(kind) and isinstance(kind, type):
        types = get_type_hints(kind)
        if unknown := [name for name in data if name not in types]:
            raise TypeError(f"{kind.__name__} has no field {unknown[0]!r}")
        return kind(**{name: _build(types[name], value) for name, value in data.items()})
    inner = [argument for argument in get_args(kind) if argument is not NoneType]
    if get_origin(kind) is list:
        return [_build(inner[0], value) for value in data]
    if get_origin(kind) is dict:
        return {key: _build(inner[1], value) for key, value in data.items()}
    if len(inner) > 1 and isinstance(data, dict):  # of several records, the one with its fields
        inner = [each for each in inner if {f.name for f in fields(each)} == set(data)]
    return _build(inner[0], data) if len(inner) == 1 else data


def read_document(path: Path) -> Document:
    """Read the JSON of a run.

    Raises:
        UsageError: if the file is not one, or of another schema.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        schema = data.get("schema")
        if schema == SCHEMA:
            return from_plain(Document, data)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"{path}: not the JSON of a run ({error}).") from None
    raise UsageError(
        f"{path}: a run of schema {schema!r}, this version reads {SCHEMA}; measure again."
    )


def write_json(file: IO[str], document: Document) -> None:
    """Write the document, floats with 6 digits and a list of numbers on one line."""
    text = json.dumps(_rounded(asdict(document)), indent=1, ensure_ascii=False)
    file.write(re.sub(r"\[\s+([-+.\deE,\s]+?)\s+\]", _on_one_line, text) + "\n")


def _rounded(part: Any) -> Any:
    if isinstance(part, float):
        return float(f"{part:.6g}")
    if isinstance(part, dict):
        return {name: _rounded(value) for name, value in part.items()}
    return [_rounded(value) for value in part] if isinstance(part, list) else part


def _on_one_line(numbers: re.Match[str]) -> str:
    return f"[{' '.join(numbers[1].split())}]"
