"""What takes part in a run: an artefact in a backend, or a peer; and how to open it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.bench.baselines.device_copies import with_copies_apart
from benchmarks.bench.baselines.registry import PEERS
from numclip_runtime.backends import Backend, BackendName, DeviceKind, open_backend
from numclip_runtime.metadata import ModelMetadata


@dataclass(frozen=True)
class Competitor:
    """One line of the table, before it is measured; plain data, sent to its process as JSON."""

    name: str  # for people, unique in a run
    kind: str  # "artefact" (opened by numclip_runtime), or a key of PEERS
    file: str | None  # model file that is run: .onnx or .plan; None: the checkpoint itself
    checkpoint: str | None = None  # that the peers share
    backend: BackendName | None = None  # of an artefact
    device: DeviceKind = "auto"
    threads: int | None = None  # CPU threads inside one inference; None: the backend's choice
    family: str = ""  # those with the same weights: only they are compared with each other
    features: str | None = None  # tensor of the ONNX file that leaves the image encoder

    @property
    def model(self) -> Path:
        """The file whose name and SHA-256 a report gives."""
        path = self.file if self.kind == "artefact" else self.checkpoint
        assert path is not None
        return Path(path)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Competitor:
        """Build from what `to_dict` gave."""
        return cls(**data)

    def open(self) -> Backend:
        """Load it; heavy packages are imported only here.

        Raises:
            MissingDependencyError: if a package that it needs is not installed.
            ModelError: if its file cannot be used.
        """
        if self.kind == "artefact":
            assert self.file is not None
            backend = open_backend(
                Path(self.file), threads=self.threads, device=self.device, backend=self.backend
            )
            return with_copies_apart(backend)
        peer = PEERS[self.kind]
        opened: Backend = getattr(import_module(peer.module), peer.factory)(self)
        return opened


def precision_of(competitor: Competitor, metadata: ModelMetadata) -> str:
    """Return the precision in which the network's matrices are multiplied."""
    if competitor.kind == "artefact":
        return metadata.precision
    return PEERS[competitor.kind].precision
