"""The systems of a run: the given models in the asked backends, and baselines of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from benchmarks.bench.baselines.baseline_files import nncf_file, plain_file
from benchmarks.bench.baselines.device_copies import with_copies_apart
from benchmarks.bench.baselines.registry import BASELINES, GPU_REFERENCE, NNCF, REFERENCE
from benchmarks.bench.processes.worker import call_apart
from numclip_runtime import ModelMetadata, NumclipError, UsageError, read_metadata
from numclip_runtime.backends import Backend, BackendName, DeviceKind, OpenOptions, open_backend
from numclip_runtime.backends.bf16 import why_no_bf16
from numclip_runtime.backends.openvino import OpenVinoBackend
from numclip_runtime.files import sha256
from numclip_runtime.model_files.open_model import is_plan

WORDS = {"onnxruntime": "onnxruntime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}
ARTEFACT = "artefact"


@dataclass(frozen=True)
class SystemUnderTest:
    """One line of the table, before it is measured; plain data, sent to its process as JSON."""

    name: str  # for people, unique in a run
    kind: str  # ARTEFACT (opened by numclip_runtime), or a key of BASELINES
    file: str | None  # model file that is run: .onnx or .plan; None: the checkpoint itself
    checkpoint: str | None = None  # that the baselines share
    backend: BackendName | None = None  # of an artefact; None: the runtime's choice
    device: DeviceKind = "auto"
    threads: int | None = None  # CPU threads inside one inference; None: the backend's choice
    family: str = ""  # those with the same weights: only they are compared with each other
    features: str | None = None  # tensor of the ONNX file that leaves the image encoder
    bf16: bool = False  # an artefact computes in bfloat16 up to its features, proved or not

    @property
    def model(self) -> Path:
        """The file whose name and SHA-256 a report gives."""
        path = self.file if self.kind == ARTEFACT else self.checkpoint
        assert path is not None
        return Path(path)

    def open(self) -> Backend:
        """Load it; heavy packages are imported only here.

        Raises:
            MissingDependencyError: if a package that it needs is not installed.
            ModelError: if its file cannot be used.
        """
        if self.kind == ARTEFACT:
            options = OpenOptions(
                threads=self.threads, device=self.device, backend=self.backend, bf16=False
            )
            if self.bf16:
                return OpenVinoBackend(self.model, options, proving=self.features)
            return with_copies_apart(open_backend(self.model, options))
        baseline = BASELINES[self.kind]
        opened: Backend
        if baseline.torch is not None:
            from benchmarks.bench.baselines.torch_baselines import open_torch

            opened = open_torch(self.model, baseline.torch, self.threads, gpu=baseline.gpu)
        else:
            assert baseline.onnx is not None
            assert self.file is not None
            module = import_module("benchmarks.bench.baselines.onnx_baselines")
            opened = getattr(module, baseline.onnx)(Path(self.file), self.threads)
        return opened

    def precision(self, metadata: ModelMetadata) -> str:
        """Return the precision in which the network's matrices are multiplied."""
        if self.kind == ARTEFACT:
            return "bf16" if self.bf16 and metadata.precision == "fp32" else metadata.precision
        return BASELINES[self.kind].precision


@dataclass(frozen=True)
class Family:
    """Models with the same weights, and the checkpoint that they come from."""

    models: tuple[Path, ...]
    checkpoint: Path | None = None  # None: no baselines, and no fidelity


@dataclass(frozen=True)
class Choice:
    """Options that choose systems, beyond models."""

    backends: tuple[BackendName | None, ...] = (None,)  # None: the runtime's choice
    baselines: tuple[str, ...] = ()  # keys of BASELINES
    precisions: tuple[str, ...] | None = None  # None: all
    threads: int | None = None
    device: DeviceKind = "auto"


@dataclass
class Systems:
    """Systems of one family, and notes on those that are left out."""

    systems: list[SystemUnderTest] = field(default_factory=list)
    macs: int | None = None  # multiply-accumulates of one image through the image tower
    notes: list[str] = field(default_factory=list)


def choose_systems(
    family: Family, choice: Choice, images: Sequence[str], *, cache: Path | None = None
) -> Systems:
    """Return the systems to measure; a baseline is calibrated with the images.

    The baselines' files are kept in `cache`, by default the user's.

    Raises:
        ModelError: if a model is missing, or not one of numclip.
        UsageError: if nothing is left, or no model was made from the checkpoint.
    """
    found = Systems()
    digest = sha256(family.checkpoint) if family.checkpoint else None
    described = {path: read_metadata(path) for path in family.models}
    made_from = {metadata.checkpoint_sha256 for metadata in described.values()}
    if digest is not None and described and digest not in made_from:
        raise UsageError(
            f"{family.checkpoint}: none of the models was made from this checkpoint, so they do "
            "not have the same weights; give the one that they were exported from."
        )
    chosen = [
        (path, metadata, backend)
        for path, metadata in described.items()
        for backend in choice.backends
        if not is_plan(path) or backend in (None, "tensorrt")
        if backend is None or metadata.backend in (None, backend)
        if backend != "openvino" or metadata.optimized_by is None
    ]
    nothing = UsageError("nothing is left to measure; choose another --precision or --peers.")
    facts = {path: _facts(path, found.notes) for path in family.models}
    found.macs = max((macs or 0 for macs, _ in facts.values()), default=0) or None
    # An INT8 file keeps the name of its float32 sibling's tensor
    features = {m.checkpoint_sha256: f for p, m in described.items() if (f := facts[p][1])}
    for path, metadata, backend in chosen:
        system = SystemUnderTest(
            name=_name(path, metadata, backend),
            kind=ARTEFACT,
            file=str(path),
            checkpoint=str(family.checkpoint) if family.checkpoint else None,
            backend=backend,
            device=choice.device,
            threads=choice.threads,
            family=metadata.checkpoint_sha256 or sha256(path),
            features=facts[path][1] or features.get(metadata.checkpoint_sha256),
        )
        if choice.precisions is None or metadata.precision in choice.precisions:
            found.systems.append(system)
        if choice.precisions is None or "bf16" in choice.precisions:
            found.systems += _in_bf16(system, metadata, found.notes)
    if not found.systems and not choice.baselines:
        raise nothing
    if family.checkpoint is not None and digest is not None:
        _add_baselines(found, family.checkpoint, digest, choice, images, cache)
    if not found.systems:
        raise nothing
    names = [system.name for system in found.systems]
    found.systems = [
        replace(s, name=f"{s.name} ({s.model.name})") if names.count(s.name) > 1 else s
        for s in found.systems
    ]
    return found


def installed_backends() -> tuple[BackendName, ...]:
    """Return the backends for ONNX files on the CPU whose packages are installed."""
    known: tuple[BackendName, ...] = ("onnxruntime", "openvino")
    return tuple(name for name in known if find_spec(name) is not None)


def _name(path: Path, metadata: ModelMetadata, backend: BackendName | None) -> str:
    kind = "tensorrt" if is_plan(path) else backend or "onnxruntime"
    precision = metadata.precision.upper() if metadata.precision == "int8" else metadata.precision
    return f"numclip {precision}, {WORDS.get(kind, kind)}"


def _in_bf16(
    system: SystemUnderTest, metadata: ModelMetadata, notes: list[str]
) -> list[SystemUnderTest]:
    """Return the row of a file in bfloat16, or all but INT8; none where this machine cannot."""
    wanted = system.backend == "openvino" or (system.backend is None and metadata.bf16 is not None)
    can = metadata.precision == "fp32" or metadata.backend == "openvino"
    if not can or not wanted or system.device == "cuda" or why_no_bf16():
        return []
    features = metadata.bf16.features if metadata.bf16 else system.features
    if features is None:
        return []
    if metadata.bf16 is None:
        notes.append(
            f"{system.model.name}: bfloat16 is not proved of this file, so it does not use it by "
            "default; the row of bf16 shows what a proof at the export would give."
        )
    name = f"numclip {'bf16' if metadata.precision == 'fp32' else 'INT8 + bf16'}, OpenVINO"
    return [replace(system, name=name, backend="openvino", features=features, bf16=True)]


def _facts(path: Path, notes: list[str]) -> tuple[int | None, str | None]:
    """Return multiply-accumulates and the features' tensor of a file; a plan has neither."""
    if is_plan(path):
        return None, None
    try:
        found = call_apart("benchmarks.bench.fidelity:model_facts", path=str(path))
    except NumclipError as error:
        notes.append(f"{path.name}: arithmetic and features are not known: {error}")
        return None, None
    return found["macs"], found["features"]


def _add_baselines(
    found: Systems,
    checkpoint: Path,
    digest: str,
    choice: Choice,
    images: Sequence[str],
    cache: Path | None,
) -> None:
    plain: Path | None = None
    if any(BASELINES[name].onnx for name in choice.baselines):
        try:
            plain = plain_file(checkpoint, digest, cache)
            found.macs = found.macs or _facts(plain, found.notes)[0]
        except NumclipError as error:
            found.notes.append(f"peers of the plain ONNX export are left out: {error}")
    for name in choice.baselines:
        baseline = BASELINES[name]
        unwanted = choice.precisions is not None and baseline.precision not in choice.precisions
        if unwanted and name not in (REFERENCE, GPU_REFERENCE):  # all others are compared with it
            continue
        file = None
        if baseline.onnx:
            if plain is None:
                continue
            try:
                file = nncf_file(plain, digest, images, cache) if name == NNCF else plain
            except NumclipError as error:
                found.notes.append(f"{baseline.title} is left out: {error}")
                continue
        found.systems.append(
            SystemUnderTest(
                name=baseline.title,
                kind=name,
                file=str(file) if file else None,
                checkpoint=str(checkpoint),
                threads=choice.threads,
                family=digest,
                features="features" if file else None,
            )
        )
