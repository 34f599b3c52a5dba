"""A fleet bundle: every artefact of a model in one folder, with a manifest of what runs where."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from numclip_export.delivery.bundle_artefacts import (
    device_of_onnx,
    note_all,
    plan_artefact,
    plan_path,
)
from numclip_export.delivery.bundle_folder import atomic_folder, refuse_folder
from numclip_export.delivery.bundle_targets import (
    EXAMPLE,
    BundleTarget,
    ResolvedTargets,
    parse_targets,
    resolve_targets,
)
from numclip_export.engine.build import engine_from_onnx
from numclip_export.engine.build_options import EngineOptions
from numclip_export.options import ExportOptions
from numclip_runtime import ModelMetadata, NumclipError, UsageError, __version__, load
from numclip_runtime.files import atomic_text, sha256
from numclip_runtime.metadata import Precision
from numclip_runtime.model_files.bundle import (
    Artefact,
    ArtefactDevice,
    Bundle,
    Missing,
    read_bundle,
)
from numclip_runtime.model_files.given import BUNDLE_MANIFEST
from numclip_runtime.model_files.onnx_file import read_onnx_metadata
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.operators import check_graph
from numclip_runtime.model_files.pin import checksum_line, compared, path_beside


@dataclass(frozen=True)
class FleetBundle:
    """A bundle that will be written."""

    folder: Path  # made whole; an older bundle there is replaced
    targets: tuple[BundleTarget, ...]
    allow_missing: bool = False  # list what cannot be built here as missing, and write the rest

    @classmethod
    def of(
        cls, folder: Path | None, targets: str | None, allow_missing: bool
    ) -> FleetBundle | None:
        """Return what the options ask for; None: no bundle.

        Raises:
            UsageError: if one is missing or has no use, or the folder holds something else.
        """
        if folder is None:
            if targets is not None or allow_missing:
                name = "--allow-missing" if targets is None else "--targets"
                raise UsageError(f"{name} is for --bundle DIR; leave it out, or add --bundle.")
            return None
        if targets is None:
            raise UsageError(f"--bundle needs its --targets, such as {EXAMPLE}.")
        refuse_folder(folder)
        return cls(folder, parse_targets(targets), allow_missing)

    @property
    def precision(self) -> Precision:
        """The one that needs most: INT8 images to calibrate with."""
        needed = {precision for target in self.targets for precision in target.precisions}
        order: tuple[Precision, ...] = ("int8", "fp16")
        return next((precision for precision in order if precision in needed), "fp32")

    def resolve(self, engine: EngineOptions) -> ResolvedTargets:
        """Find the builders, before the minutes of an export; see `resolve_targets`."""
        return resolve_targets(self.targets, engine, allow_missing=self.allow_missing)

    def of_checkpoint(self, options: ExportOptions, resolved: ResolvedTargets) -> Bundle:
        """Write the bundle of a checkpoint; each file is compared with it.

        Args:
            options: The checkpoint, and how files are proved; the targets choose the rest.
            resolved: See `resolve`.

        Raises:
            ParityError: if a file differs from the checkpoint; nothing is left behind, nor
                replaced.
            NumclipError: see `run_export` and `atomic_folder`.
        """
        from numclip_export.delivery.checkpoint_bundle import CheckpointBundle  # torch

        with atomic_folder(self.folder) as folder, named_as(self.folder, folder):
            made = CheckpointBundle(folder, options, resolved.targets, self.allow_missing)
            made.write()
            missing = (*resolved.missing, *made.missing)
            write_manifest(folder, made.metadata, made.artefacts, missing)
        return read_bundle(self.folder)

    def of_onnx(self, onnx: Path, engine: EngineOptions) -> Bundle:
        """Write the bundle of an ONNX file: the file as it is, and plans built from it.

        Raises:
            UsageError: if a target needs the checkpoint.
            NumclipError: see `engine_from_onnx`, `resolve_targets` and `atomic_folder`.
        """
        with OpenModel(onnx) as file:
            with compared(file, None):
                metadata = read_onnx_metadata(file)
                check_graph(file)
            digest, size = file.sha256(), file.size
        device = device_of_onnx(metadata)
        fitting, unfit = [], []
        for target in self.targets:
            if reason := _needs_checkpoint(target, onnx, metadata, device):
                if not self.allow_missing:
                    raise UsageError(f"target {target}: {reason}")
                unfit.append(Missing(str(target), reason))
            else:
                fitting.append(target)
        if not fitting:
            raise UsageError(unfit[0].reason)
        # an engine's precision is the file's
        asked = {
            replace(target, precision=metadata.precision) if target.builds else target: target
            for target in fitting
        }
        resolved = resolve_targets(tuple(asked), engine, allow_missing=self.allow_missing)
        with atomic_folder(self.folder) as folder, named_as(self.folder, folder):
            copy = folder / onnx.name
            shutil.copyfile(onnx, copy)
            if sha256(copy) != digest:
                raise UsageError(f"{onnx}: was written to while it was copied; try again.")
            path_beside(copy).write_text(
                checksum_line(digest, copy.name), "utf-8", "surrogateescape", ""
            )
            _require_numbers(copy)
            artefacts = [
                Artefact(
                    copy.name,
                    digest,
                    size,
                    ", ".join(str(asked[target]) for target in resolved.targets),
                    "onnxruntime",
                    device,
                    metadata.precision,
                    metadata.input,
                    made_for=metadata.optimized_by,
                    verified=metadata.verified,
                    parity=metadata.parity,
                )
            ]
            for target, builder in resolved.targets.items():
                if target.builds:
                    plan = plan_path(copy, target, builder)
                    built = engine_from_onnx(
                        copy, plan, builder.engine, binding=builder.binding, metadata=metadata
                    )
                    note_all(built)
                    artefacts.append(plan_artefact(built, asked[target], copy.name, metadata))
            write_manifest(folder, metadata, artefacts, (*unfit, *resolved.missing))
        return read_bundle(self.folder)


def _needs_checkpoint(
    target: BundleTarget, onnx: Path, metadata: ModelMetadata, device: ArtefactDevice
) -> str | None:
    """Return why a target cannot be made of an ONNX file; None: it can."""
    other = "gpu" if target.form == "cpu" else "cpu"
    if target.precision in (None, metadata.precision) and device != other:
        return None
    kind = metadata.precision + ("" if device == "any" else f" for a {device.upper()}")
    return (
        f"{onnx.name} is {kind}, and files of other kinds are made from the checkpoint, and "
        "compared with it; give the checkpoint, or leave the target out."
    )


def _require_numbers(onnx: Path) -> None:
    """Run a file on a grey image, on the CPU.

    Raises:
        ModelError: if it does not run.
        UsageError: if it gives no number.
    """
    with load(onnx, device="cpu") as predictor:
        side = predictor.metadata.preprocessing.crop
        found = predictor.predict(np.full((side, side, 3), 128, np.uint8)).value
    if not np.isfinite(found):
        raise UsageError(f"{onnx}: gives no number for a grey image, but {found}.")


def write_manifest(
    folder: Path, model: ModelMetadata, artefacts: Iterable[Artefact], missing: Iterable[Missing]
) -> None:
    """Write bundle.json."""
    model = replace(model, parity=None, verified=None, bf16=None)  # of one file
    bundle = Bundle(__version__, model, tuple(artefacts), tuple(missing), folder)
    with atomic_text(folder / BUNDLE_MANIFEST, sync=True) as file:
        file.write(bundle.to_json())


@contextmanager
def named_as(folder: Path, temporary: Path) -> Iterator[None]:
    """Let errors name the folder that the user knows, in place of the temporary one."""
    try:
        yield
    except NumclipError as error:
        text = str(error)
        if str(temporary) not in text:
            raise
        raise type(error)(text.replace(str(temporary), str(folder))) from None
