"""The files of a checkpoint's bundle: one load of the checkpoint, one proof, several exports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from numclip_export.delivery.bundle_artefacts import note_all, plan_artefact, plan_path
from numclip_export.delivery.bundle_targets import BundleTarget
from numclip_export.export import ExportResult, LoadedCheckpoint, run_export
from numclip_export.exported_file import ExportedFile
from numclip_export.int8.acceptance import NotWorthItError
from numclip_export.int8.write import NothingToQuantiseError
from numclip_export.options import FOR_CPU, ONNX_ONLY, ExportOptions, ResolvedTarget
from numclip_export.parity import Parity, ParityError
from numclip_export.report import write_report
from numclip_export.verified_engine import verified_engine
from numclip_runtime import ModelMetadata, NumclipError
from numclip_runtime.files import atomic_text
from numclip_runtime.metadata import Precision
from numclip_runtime.model_files.bundle import BUNDLE_REPORT, Artefact, ArtefactDevice, Missing
from numclip_runtime.model_files.pin import path_beside

# Of `Parity`, for the manifest; the report has all
PARITY = ("max_value_error", "mean_value_error", "p99_value_error", "max_prob_error")


class CheckpointBundle:
    """The files, while they are made.

    Args:
        folder: Where they are written.
        options: The checkpoint, and how files are proved.
        targets: With their builders.
        allow_missing: List what cannot be built as missing.
    """

    def __init__(
        self,
        folder: Path,
        options: ExportOptions,
        targets: dict[BundleTarget, ResolvedTarget],
        allow_missing: bool,
    ) -> None:
        self._folder, self._options, self._targets = folder, options, targets
        self._allow_missing = allow_missing
        self._loaded = LoadedCheckpoint(options.ckpt)
        self._files: dict[str, ExportedFile] = {}  # by name
        self._reports: list[dict[str, Any]] = []  # of the exports
        self._engines: list[dict[str, Any]] = []
        self.artefacts: list[Artefact] = []
        self.missing: list[Missing] = []

    @property
    def metadata(self) -> ModelMetadata:
        """What all files share."""
        return self._loaded.metadata

    def write(self) -> None:
        """Write and prove all files, and the report."""
        stem = self._options.ckpt.stem
        cpu = [target for target in self._targets if target.form == "cpu"]
        if cpu:
            self._export_for_cpu(self._folder / f"{stem}.cpu.onnx", cpu)
        onnx = self._folder / f"{stem}.onnx"
        others = [target for target in self._targets if target.form != "cpu"]
        for precision in self._precisions(others):
            asked = [target for target in others if target.needs == precision]
            self._optional(asked, precision, onnx)
        for target, builder in self._targets.items():
            name = self._name(onnx, target.needs)
            if target.builds and name in self._files:
                self._build(target, builder, self._files[name], onnx)
        self._keep_what_was_asked_for()
        self._write_report()

    @staticmethod
    def _name(onnx: Path, precision: Precision) -> str:
        return onnx.name if precision == "fp32" else onnx.with_suffix(f".{precision}.onnx").name

    @staticmethod
    def _precisions(targets: list[BundleTarget]) -> Iterator[Precision]:
        """Yield the exports: that of fp16 or int8 writes the fp32 file as well."""
        needed = {target.needs for target in targets}
        for precision in ("fp16", "int8"):
            if precision in needed:
                yield precision
        if needed == {"fp32"}:
            yield "fp32"

    def _export_for_cpu(self, path: Path, targets: list[BundleTarget]) -> None:
        asked = {target.precision for target in targets}
        if asked != {"fp32"}:
            try:
                self._export(path, "int8", FOR_CPU)
            except (NotWorthItError, NothingToQuantiseError) as error:
                if "int8" in asked and not self._allow_missing:
                    raise
                self.missing.append(self._missing("cpu-int8", error))
            else:
                return
        if asked != {"int8"}:
            self._export(path, "fp32", FOR_CPU)

    def _optional(self, targets: list[BundleTarget], precision: Precision, path: Path) -> None:
        try:
            self._export(path, precision, ONNX_ONLY)
        except (NotWorthItError, NothingToQuantiseError) as error:
            if not self._allow_missing:
                raise
            self.missing += [self._missing(target, error) for target in targets]

    def _export(self, path: Path, precision: Precision, target: ResolvedTarget) -> None:
        base, kind = self._options, self._options.input
        if precision == "fp32":
            kind = "auto"
        elif kind == "auto" and any(t.builds and t.needs == precision for t in self._targets):
            kind = "uint8"  # plans are built from it
        if precision != "int8":
            base = replace(base, calib_data=None, calib_cache=None)
        options = replace(base, onnx_path=path, precision=precision, target=target, input=kind)
        result: ExportResult = run_export(options, loaded=self._loaded)
        result.report.unlink()
        self._reports.append(result.details)
        self._files |= {file.path.name: file for file in result.files}

    def _missing(self, target: object, error: NumclipError) -> Missing:
        # the manifest is handed out, so it names no folder of this machine
        return Missing(str(target), str(error).replace(f"{self._folder}{os.sep}", ""))

    def _build(
        self, target: BundleTarget, builder: ResolvedTarget, source: ExportedFile, fp32: Path
    ) -> None:
        plan = plan_path(source.path, target, builder)
        reference = self._loaded.reference(self._options)
        try:
            engine = verified_engine(source, fp32, builder, reference, plan)
        except NumclipError as error:
            differs = isinstance(error, ParityError) and not isinstance(error, NotWorthItError)
            if differs or not self._allow_missing:
                raise
            self.missing.append(self._missing(target, error))
            return
        note_all(engine.built)
        self._engines.append(engine.to_dict())
        parity = parity_of(engine.parity)
        self.artefacts.append(
            plan_artefact(engine.built, target, source.path.name, source.metadata, parity)
        )

    def _keep_what_was_asked_for(self) -> None:
        """Delete the other files, and describe these, ONNX files before plans."""
        kept, stem = [], self._options.ckpt.stem
        for name, file in self._files.items():
            for_cpu = name.startswith(f"{stem}.cpu.")
            asked = [
                str(target)
                for target in self._targets
                if (target.form == "cpu") == for_cpu
                and file.metadata.precision in target.precisions
            ]
            if asked:
                kept.append(onnx_artefact(file, ", ".join(asked), for_cpu=for_cpu))
            else:
                path_beside(file.path).unlink()
                file.path.unlink()
        self.artefacts = kept + self.artefacts

    def _write_report(self) -> None:
        names = {artefact.file for artefact in self.artefacts}
        details = self._reports[0] | {
            "artefacts": [file.details for name, file in self._files.items() if name in names],
            "engines": self._engines,
            "missing": [vars(item) for item in self.missing],
            "seconds": round(sum(report["seconds"] for report in self._reports), 2),
        }
        with atomic_text(self._folder / BUNDLE_REPORT, sync=True) as file:
            write_report(details, file)


def onnx_artefact(file: ExportedFile, target: str, *, for_cpu: bool) -> Artefact:
    """Describe an ONNX file for the manifest.

    Args:
        file: The file.
        target: That asked for it, or several.
        for_cpu: Whether it is onnxruntime's on a CPU.
    """
    metadata, details = file.metadata, file.details
    device: ArtefactDevice = "cpu" if for_cpu else "any" if metadata.precision == "fp32" else "gpu"
    calibration = details.get("calibration")
    return Artefact(
        file.path.name,
        file.sha256,
        details["bytes"],
        target,
        "onnxruntime",
        device,
        metadata.precision,
        metadata.input,
        made_for=metadata.optimized_by,
        opset=details["opset"],
        verified=metadata.verified,
        parity=parity_of(file.parity),
        int8_images=None if calibration is None else calibration["images"],
    )


def parity_of(parity: Parity | None) -> dict[str, float] | None:
    """Return the differences that the manifest states."""
    return None if parity is None else {name: getattr(parity, name) for name in PARITY}
