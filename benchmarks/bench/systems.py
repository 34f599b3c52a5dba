"""Who takes part: the given models in the asked backends, and the peers of their checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.bench.baselines.registry import PEERS, REFERENCE
from benchmarks.bench.worker import call_apart
from benchmarks.cache import cached
from benchmarks.competitor import Competitor
from numclip_runtime import ModelMetadata, NumclipError, UsageError, read_metadata
from numclip_runtime.backends import BackendName, DeviceKind
from numclip_runtime.files import sha256
from numclip_runtime.model_file import PLAN_SUFFIXES

WORDS = {"onnxruntime": "onnxruntime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}
CALIBRATION = 32  # images that NNCF quantises with


@dataclass(frozen=True)
class Family:
    """Models with the same weights, and the checkpoint that they come from."""

    models: tuple[Path, ...]
    checkpoint: Path | None = None  # None: no peers, and no fidelity
    random: bool = False  # weights that were never trained


@dataclass(frozen=True)
class Choice:
    """What was asked for, beyond models."""

    backends: tuple[BackendName | None, ...] = (None,)  # None: what the runtime takes by itself
    peers: tuple[str, ...] = ()  # keys of PEERS
    precisions: tuple[str, ...] | None = None  # None: all
    threads: int | None = None
    device: DeviceKind = "auto"


@dataclass
class Lineup:
    """Competitors of one family, and what could not take part."""

    competitors: list[Competitor] = field(default_factory=list)
    macs: int | None = None  # multiply-accumulates of one image through the image tower
    notes: list[str] = field(default_factory=list)


def line_up(
    family: Family, choice: Choice, images: Sequence[str], *, cache: Path | None = None
) -> Lineup:
    """Say who takes part.

    Args:
        family: Models and checkpoint.
        choice: Backends, peers, precisions.
        images: To calibrate a peer with.
        cache: Where plain exports are kept; None: the user's cache.

    Raises:
        ModelError: if a model is missing, or not one of numclip.
        UsageError: if nothing is left, or no model was made from the checkpoint.
    """
    found = Lineup()
    digest = sha256(family.checkpoint) if family.checkpoint else None
    described = [(path, read_metadata(path)) for path in family.models]
    made_from = {metadata.checkpoint_sha256 for _, metadata in described}
    if digest is not None and described and digest not in made_from:
        raise UsageError(
            f"{family.checkpoint}: none of the models was made from this checkpoint, so they do "
            "not have the same weights; give the one that they were exported from."
        )
    facts = {path: _facts(path, found.notes) for path in family.models}
    named = {
        metadata.checkpoint_sha256: facts[path]["features"]
        for path, metadata in described
        if facts[path]["features"] is not None
    }
    for path, metadata in described:
        if choice.precisions is not None and metadata.precision not in choice.precisions:
            continue
        for backend in choice.backends:
            if path.suffix in PLAN_SUFFIXES and backend not in (None, "tensorrt"):
                continue
            found.competitors.append(
                Competitor(
                    name=_name(path, metadata, backend),
                    kind="artefact",
                    file=str(path),
                    checkpoint=str(family.checkpoint) if family.checkpoint else None,
                    backend=backend,
                    device=choice.device,
                    threads=choice.threads,
                    family=metadata.checkpoint_sha256 or sha256(path),
                    # An INT8 file keeps the name of its float32 sibling's tensor
                    features=facts[path]["features"] or named.get(metadata.checkpoint_sha256),
                )
            )
    found.macs = max((fact["macs"] or 0 for fact in facts.values()), default=0) or None
    if family.checkpoint is not None and digest is not None:
        _add_peers(found, family.checkpoint, digest, choice, images, cache)
    if not found.competitors:
        raise UsageError("nothing is left to measure; choose another --precision or --peers.")
    names = [competitor.name for competitor in found.competitors]
    found.competitors = [
        replace(one, name=f"{one.name} ({Path(one.model).name})")
        if names.count(one.name) > 1
        else one
        for one in found.competitors
    ]
    return found


def installed_backends() -> tuple[BackendName, ...]:
    """Return the backends for ONNX files on the CPU whose packages are installed."""
    known: tuple[BackendName, ...] = ("onnxruntime", "openvino")
    return tuple(name for name in known if find_spec(name) is not None)


def _name(path: Path, metadata: ModelMetadata, backend: BackendName | None) -> str:
    kind = "tensorrt" if path.suffix in PLAN_SUFFIXES else backend or "onnxruntime"
    precision = metadata.precision.upper() if metadata.precision == "int8" else metadata.precision
    return f"numclip {precision}, {WORDS.get(kind, kind)}"


def _facts(path: Path, notes: list[str]) -> dict[str, Any]:
    unknown: dict[str, Any] = {"macs": None, "features": None}
    if path.suffix in PLAN_SUFFIXES:
        return unknown
    try:
        found: dict[str, Any] = call_apart("benchmarks.model_facts", "of_file", path=str(path))
    except NumclipError as error:
        notes.append(f"{path.name}: arithmetic and features are not known: {error}")
        return unknown
    return found


def _add_peers(
    found: Lineup,
    checkpoint: Path,
    digest: str,
    choice: Choice,
    images: Sequence[str],
    cache: Path | None,
) -> None:
    plain: Path | None = None
    if any(PEERS[name].plain for name in choice.peers):
        try:
            plain = _plain_file(checkpoint, digest, cache)
        except NumclipError as error:
            found.notes.append(f"peers of the plain ONNX export are left out: {error}")
        else:
            found.macs = found.macs or _facts(plain, found.notes)["macs"]
    for name in choice.peers:
        peer, file = PEERS[name], plain
        unwanted = choice.precisions is not None and peer.precision not in choice.precisions
        if unwanted and name != REFERENCE:  # what all are compared with stays
            continue
        if peer.plain and plain is None:
            continue
        if name == "nncf-int8":
            assert plain is not None
            try:
                file = _nncf_file(plain, digest, images, cache)
            except NumclipError as error:
                found.notes.append(f"{peer.title} is left out: {error}")
                continue
        found.competitors.append(
            Competitor(
                name=peer.title,
                kind=name,
                file=str(file) if peer.plain else None,
                checkpoint=str(checkpoint),
                threads=choice.threads,
                family=digest,
                features="features" if peer.plain else None,
            )
        )


def _plain_file(checkpoint: Path, digest: str, cache: Path | None) -> Path:
    """Return the plain export, from the cache where it was made before."""
    from importlib.metadata import version

    def make(folder: Path) -> None:
        output = str(folder / "model.plain.onnx")
        call_apart("benchmarks.plain_export", "write", checkpoint=str(checkpoint), output=output)

    try:
        made_by = f"torch{version('torch')}"
    except ModuleNotFoundError as error:
        raise UsageError(f"the plain export needs PyTorch ({error}).") from None
    return cached(f"plain-{digest[:16]}-{made_by}", make, cache=cache) / "model.plain.onnx"


def _nncf_file(plain: Path, digest: str, images: Sequence[str], cache: Path | None) -> Path:
    """Return NNCF's file, from the cache where it was made with the same images before."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        made_by = f"nncf{version('nncf')}"
    except PackageNotFoundError:
        raise UsageError("it needs the package nncf: pip install nncf") from None
    chosen = list(images[:CALIBRATION])
    seen = hashlib.sha256(b"".join(Path(path).read_bytes() for path in chosen)).hexdigest()

    def make(folder: Path) -> None:
        call_apart(
            "benchmarks.nncf_file",
            "quantise",
            plain=str(plain),
            output=str(folder / "model.xml"),
            images=chosen,
        )

    name = f"nncf-{digest[:16]}-{seen[:16]}-{made_by}"
    return cached(name, make, cache=cache) / "model.xml"
