"""Open the artefact of a fleet bundle that this machine runs best, or the next one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from numclip_runtime.backends import Backend, OpenOptions, open_backend
from numclip_runtime.backends.bundle_choice import (
    ON_A_GPU,
    Candidate,
    Surroundings,
    candidates,
    read_surroundings,
)
from numclip_runtime.errors import (
    GpuRequiredError,
    MissingDependencyError,
    ModelError,
    NumclipError,
    lacks_memory,
)
from numclip_runtime.files import sha256
from numclip_runtime.model_files.bundle import Artefact, Bundle
from numclip_runtime.model_files.given import BUNDLE_MANIFEST
from numclip_runtime.model_files.model_file import ModelFile
from numclip_runtime.model_files.open_model import OpenModel


class _NotOpenedError(Exception):
    """An artefact cannot be opened here: the next one is tried."""


@dataclass(frozen=True)
class Chosen:
    """The artefact that was opened."""

    candidate: Candidate
    backend: Backend
    file: ModelFile
    options: OpenOptions  # that open this file again

    @property
    def sentence(self) -> str:
        """What runs, and why."""
        bf16 = ", in bfloat16" * ("bf16" in self.backend.precision)
        return f"{self.candidate.artefact.file} of this bundle: {self.candidate.why}{bf16}"


def open_bundle(bundle: Bundle, options: OpenOptions, here: Surroundings | None = None) -> Chosen:
    """Open the first artefact in the order that can be opened; `notes` say which could not.

    Args:
        bundle: See `read_bundle`.
        options: `sha256` may be that of bundle.json or of one artefact.
        here: None: this machine.

    Raises:
        UsageError: if the options contradict each other.
        ModelError: if a file is not the one that the manifest states; the next one is not tried
            then. Or if none can be opened.
        GpuRequiredError: if none can be opened on a GPU, and one is required.
        MissingDependencyError: if none can be opened without onnxruntime.
    """
    options.check_device(bundle.folder, plan=options.backend == "tensorrt")
    here = here or read_surroundings(options)
    ways, failures = candidates(bundle, options, here), dict[str, str]()
    for way in ways:
        if way.problem is not None:
            break
        try:
            chosen = _opened(bundle, way, options)
        except _NotOpenedError as error:
            failures[way.name] = str(error)
            continue
        notes = chosen.backend.notes
        assert isinstance(notes, list)
        notes.extend(
            f"{bundle.folder}: {name} was passed over ({reason}); {way.name} runs."
            for name, reason in failures.items()
        )
        if way.device == "cpu" and here.driver.devices and options.device == "auto":
            reason = next(
                (f"{c.name}: {c.problem}" for c in ways if c.problem and c.device == "cuda"),
                "nothing in the bundle is for a GPU",
            )
            notes.append(f"{bundle.folder}: runs on the CPU: {reason}.")
        return chosen
    raise _none(bundle, ways, failures, here, options)


def _opened(bundle: Bundle, way: Candidate, options: OpenOptions) -> Chosen:
    artefact = way.artefact
    path = bundle.path(artefact)
    if not path.exists():
        raise _NotOpenedError("it is missing")
    own = replace(options, sha256=artefact.sha256)
    if artefact.engine is None:
        own = replace(own, device=way.device)
    fault = None
    try:
        with OpenModel(path) as file:
            fault = _difference(path, artefact, file.sha256())
            if fault is None:
                return Chosen(way, open_backend(file, own), ModelFile(file), own)
    except NumclipError as error:
        with suppress(OSError):  # a folder, or no permission: nobody knows its content
            fault = _difference(path, artefact, sha256(path))
        if fault is None:
            reason = str(error).removeprefix(f"{path}: ").rstrip(".")
            if artefact.built_from is not None:  # the ONNX file has another name than the plan
                reason = reason.replace(path.with_suffix(".onnx").name, artefact.built_from)
            raise _NotOpenedError(reason) from None
    except Exception as error:
        if not lacks_memory(error):
            raise
        raise _NotOpenedError("not enough memory") from None
    raise ModelError(fault)


def _difference(path: Path, artefact: Artefact, digest: str) -> str | None:
    """Return the sentence if a file is not the one that the manifest states."""
    if digest == artefact.sha256.lower():
        return None
    return (
        f"{path}: its SHA-256 is {digest}, and {BUNDLE_MANIFEST} states {artefact.sha256}; "
        "nothing was loaded. Copy the bundle again from a trusted place, or write it again."
    )


def _none(
    bundle: Bundle,
    ways: Sequence[Candidate],
    failures: dict[str, str],
    here: Surroundings,
    options: OpenOptions,
) -> NumclipError:
    """Return the error that lists why each artefact cannot run."""
    problems = {way.name: way.problem for way in ways if way.problem} | failures
    kind: type[NumclipError] = ModelError
    if here.onnxruntime is not None and here.onnxruntime in problems.values():
        kind = MissingDependencyError
    if options.require_gpu or options.device == "cuda" or options.backend in ON_A_GPU:
        kind = GpuRequiredError
    lines = ("", *(f"  {name}: {problem}" for name, problem in problems.items()))
    text = "\n".join(lines)
    error = kind(f"{bundle.folder}: nothing in this bundle can run here:{text}")
    error.lines = lines
    return error
