"""How the files of a bundle are named, and described in its manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from numclip_export.delivery.bundle_targets import BundleTarget
from numclip_export.engine.build import BuiltEngine
from numclip_export.options import ResolvedTarget
from numclip_runtime import ModelMetadata
from numclip_runtime.console import columns, say
from numclip_runtime.model_files.bundle import Artefact, ArtefactDevice, Bundle
from numclip_runtime.model_files.given import BUNDLE_MANIFEST


def device_of_onnx(metadata: ModelMetadata) -> ArtefactDevice:
    """Return what an ONNX file was made for."""
    if metadata.precision == "fp32":
        return "any"
    if metadata.precision == "int8" and not metadata.int8_for_engines:
        return "cpu"
    return "gpu"


def plan_path(onnx: Path, target: BundleTarget, builder: ResolvedTarget) -> Path:
    """Return where a plan goes: x.fp16.rtx-86-120.plan beside x.fp16.onnx."""
    numbers: Iterable[int | None] = target.compute_capabilities
    if target.form == "tensorrt":
        assert builder.binding is not None
        numbers = (builder.binding.compute_capability,)
    kind = "rtx" if target.form == "tensorrt-rtx" else "trt"
    return onnx.with_suffix(f".{'-'.join([kind, *map(str, numbers)])}.plan")


def plan_artefact(
    built: BuiltEngine,
    target: BundleTarget,
    onnx: str,
    metadata: ModelMetadata,
    parity: Mapping[str, float] | None = None,
) -> Artefact:
    """Describe a plan for the manifest.

    Args:
        built: The plan.
        target: That asked for it.
        onnx: Name of the file it was built from.
        metadata: Of that file.
        parity: Differences to the checkpoint; None: not compared.
    """
    return Artefact(
        built.plan.name,
        built.sha256,
        built.size,
        str(target),
        built.engine.builder,
        "gpu",
        metadata.precision,
        metadata.input,
        made_for=f"{built.engine.builder} {built.engine.builder_version}",
        engine=built.engine,
        built_from=onnx,
        verified=parity is not None,
        parity=parity,
    )


def note_all(built: BuiltEngine) -> None:
    """Print the notes of a plan."""
    for note in built.notes:
        say(f"Note: {built.plan.name}: {note}")


def bundle_summary(bundle: Bundle, seconds: float) -> Iterator[str]:
    """Yield the lines for people."""
    size = sum(artefact.size for artefact in bundle.artefacts)
    count = f"{len(bundle.artefacts)} file{'' if len(bundle.artefacts) == 1 else 's'}"
    yield f"{bundle.folder}: a bundle of {count}, {size / 1e6:.1f} MB, in {seconds:.0f} s"
    rows: list[tuple[str, ...]] = [("file", "MB", "made for", "max error")]
    for one in bundle.artefacts:
        error = (one.parity or {}).get("max_value_error")
        made = one.made_for or {"any": "any", "cpu": "CPU", "gpu": "GPU"}[one.device]
        if one.engine is not None:
            numbers = "+".join(map(str, one.engine.compute_capabilities or ())) or "80 and later"
            made += f", {numbers}"
        shown = (
            "not compared" if error is None else f"{error:.2g} {bundle.model.task.unit}".rstrip()
        )
        rows.append((one.file, f"{one.size / 1e6:.1f}", made, shown))
    yield from columns(rows, "<><<")
    for item in bundle.missing:
        yield f"left out: {item.target}: {item.reason}"
    yield f"sha256 {bundle.sha256} of {BUNDLE_MANIFEST} pins them all"
    yield f"to see what this machine would run: numclip doctor {bundle.folder}"
