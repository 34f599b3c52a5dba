"""From a checkpoint to verified ONNX files, an engine, and the report of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import onnx

from numclip.checkpoint import Checkpoint, load_checkpoint, package_versions
from numclip_export.exported_file import Draft, ExportedFile, write_fp16, write_fp32
from numclip_export.fold import FoldedModel
from numclip_export.graph.onnx_model import DEFAULT_OPSET, FUSED_ATTENTION_OPSET, onnx_from_folded
from numclip_export.images import verify_images
from numclip_export.int8.calibration import int8_data
from numclip_export.int8.quantize import STATIC_INT8_OPSET
from numclip_export.int8.write import int8_form, write_int8
from numclip_export.options import ExportOptions
from numclip_export.parity import Parity, Reference
from numclip_export.report import export_report, write_card, write_report
from numclip_export.verified_engine import VerifiedEngine, verified_engine
from numclip_export.vision import is_common_transformer
from numclip_runtime import MissingDependencyError, ModelMetadata, UsageError
from numclip_runtime.files import (
    atomic_path,
    atomic_text,
    naming,
    open_text,
    refuse_overwriting,
    require_writable,
    sha256,
)
from numclip_runtime.model_files.pin import checksum_line, path_beside


@dataclass(frozen=True)
class ExportResult:
    """Files on disk, and how they were proved."""

    files: tuple[ExportedFile, ...]  # the float32 ONNX file first: the others are made from it
    report: Path
    details: dict[str, Any]  # the report's content
    card: Path | None  # the model card, if asked for
    engine: VerifiedEngine | None = None
    engine_missing: str | None = None  # why no engine was built, though the target found a builder

    @property
    def onnx(self) -> Path:
        """The float32 ONNX file."""
        return self.files[0].path

    @property
    def parity(self) -> Parity | None:
        """Parity of the last file, which is of the precision asked for."""
        return self.files[-1].parity


class LoadedCheckpoint:
    """A checkpoint that was loaded once, for one export or several.

    Args:
        path: Checkpoint of `numclip-train`.

    Raises:
        ModelError: if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = load_checkpoint(path)
        self._reference: Reference | None = None
        self._graphs: dict[int, onnx.ModelProto] = {}

    @cached_property
    def metadata(self) -> ModelMetadata:
        """Metadata of a file without parity, and with the packages that make it."""
        return replace(
            self.checkpoint.metadata,
            checkpoint_sha256=sha256(self.path),
            versions=package_versions("torch", "open_clip_torch", "onnx"),
        )

    def reference(self, options: ExportOptions) -> Reference | None:
        """Return the checkpoint's results, computed at the first call; None: not asked for.

        Args:
            options: Images, largest batch and tolerance, which are those of all exports.
        """
        if self._reference is None and options.verify:
            images = verify_images(self.checkpoint, options.verify_data, options.table)
            self._reference = Reference(
                self.checkpoint, images, max_batch=options.max_batch, atol=options.atol
            )
        return self._reference

    def graph(self, opset: int) -> onnx.ModelProto:
        """Return the folded model's float32 graph, exported once for each opset."""
        if opset not in self._graphs:
            checkpoint, fused = self.checkpoint, opset >= FUSED_ATTENTION_OPSET
            self._graphs[opset] = onnx_from_folded(
                FoldedModel(checkpoint.model, checkpoint.temperature, fused_attention=fused),
                checkpoint.preprocessing.crop,
                opset=opset,
            )
        return self._graphs[opset]


def run_export(
    options: ExportOptions,
    on_files: Callable[[ExportResult], None] | None = None,
    loaded: LoadedCheckpoint | None = None,
) -> ExportResult:
    """Fold a checkpoint, write it as ONNX, run what was written, and keep it only if it agrees.

    Report and card appear together with the files. The engine, if the target has one, is built
    from the finished files, and report and card follow it; if the build fails, they describe the
    files alone.

    Args:
        options: Which checkpoint, and what to write.
        on_files: Called when the ONNX files are finished: an engine may take minutes.
        loaded: The options' checkpoint; None loads it.

    Raises:
        ModelError: if the checkpoint cannot be read, or the engine cannot be built.
        UsageError: if the output cannot be written or the verification data is unusable.
        ParityError: if a file differs from the checkpoint, or an INT8 file is not worth its while;
            nothing is left behind, nor replaced. If it is the engine, only the engine is deleted.
        KeyboardInterrupt: after Ctrl-C or another signal to stop; during the build of an engine the
            ONNX files stay.
    """
    # held by nobody while an engine is built, which needs the memory
    result, reference = _export_files(options, loaded or LoadedCheckpoint(options.ckpt))
    try:
        if on_files is not None:
            on_files(result)
        if options.target.builds:
            source = result.files[-1]
            try:
                engine = verified_engine(source, result.onnx, options.target, reference)
            except (UsageError, MissingDependencyError) as error:  # a TensorRT that cannot start
                if options.target.required:
                    raise
                result = replace(result, engine_missing=str(error))
            else:
                result.details["engine"] = engine.to_dict()
                result = replace(result, engine=engine)
    finally:
        if options.target.builds:
            _describe(result, lambda place: atomic_text(place, sync=True))
    return result


def _describe(
    result: ExportResult, opened: Callable[[Path], AbstractContextManager[IO[str]]]
) -> None:
    """Write the report and, where it has a place, the model card, each into `opened(place)`."""
    with opened(result.report) as file:
        write_report(result.details, file)
    if result.card is not None:
        with opened(result.card) as file:
            write_card(result.details, file)


def _export_files(
    options: ExportOptions, loaded: LoadedCheckpoint
) -> tuple[ExportResult, Reference | None]:
    """Write and verify the ONNX files; return them with the reference, if they were verified."""
    started = time.perf_counter()
    path, precision = options.onnx_path, options.precision
    checkpoint = loaded.checkpoint
    opset = _opset(options, checkpoint)
    data = int8_data(checkpoint, options) if precision == "int8" else None
    reference, metadata = loaded.reference(options), loaded.metadata
    if options.target.target == "openvino":
        metadata = replace(metadata, backend="openvino")
    second = path.with_suffix(f".{precision}.onnx")
    report = path.with_suffix(".report.json")
    card = path.with_suffix(".card.md") if options.card else None
    last = path if precision == "fp32" else second
    plan = last.with_suffix(".plan")
    engine = [plan, path_beside(plan)]
    for place in (report, *([card] if card else []), *(engine if options.target.builds else [])):
        require_writable(place)
    given = [options.ckpt, options.verify_data, options.calib_data, options.calib_cache]
    for place in (path, second, report, *([card] if card else []), *engine):
        refuse_overwriting(place, filter(None, given), "an input")
    # Report and card appear with the files, or after the engine that they describe as well.
    described = () if options.target.builds else tuple(filter(None, (card, report)))
    models = dict.fromkeys((last, path))
    checksums = {model: path_beside(model) for model in models}
    with ExitStack() as files:  # all appear, or none; the last entered is the first to appear
        places = (*described, *checksums.values(), *models)
        temporary = {place: files.enter_context(atomic_path(place, sync=True)) for place in places}
        graph = loaded.graph(opset)
        fp32 = write_fp32(
            Draft(path, temporary[path]), graph, metadata, reference, bf16=options.bf16
        )
        written = [fp32]
        metadata = replace(
            metadata, precision=precision, source_sha256=fp32.sha256, input=options.second_input
        )
        if precision == "fp16":
            draft = Draft(second, temporary[second])
            written.append(write_fp16(draft, graph, metadata, reference))
        elif data is not None:
            int8 = write_int8(
                Draft(second, temporary[second]),
                graph,
                metadata,
                reference,
                form=int8_form(graph, options.target.target),
                data=data,
                fp32_file=temporary[path],
            )
            written.append(int8)
        details = export_report(checkpoint, options.ckpt, metadata, graph, written)
        details["seconds"] = round(time.perf_counter() - started, 2)
        result = ExportResult(tuple(written), report, details, card)
        if described:
            _describe(result, lambda place: _text_for(place, temporary[place]))
        for file in written:
            line = checksum_line(file.sha256, file.path.name)
            with naming(place := checksums[file.path]):
                temporary[place].write_text(line, "utf-8", "surrogateescape", "")
        # First no checksums, then the models, then their checksums: a kill in between leaves models
        # that are whole and run. With another order it leaves one that its checksum refuses.
        for checksum in checksums.values():
            checksum.unlink(missing_ok=True)
    return result, reference


@contextmanager
def _text_for(place: Path, temporary: Path) -> Iterator[IO[str]]:
    with naming(place), open_text(temporary) as file:
        yield file


def _opset(options: ExportOptions, checkpoint: Checkpoint) -> int:
    """Return the ONNX operator set."""
    opset = options.opset or DEFAULT_OPSET
    transformer = is_common_transformer(checkpoint.model.image_encoder)
    if options.opset is None and options.for_cpu and transformer:
        opset = FUSED_ATTENTION_OPSET
    static_int8 = options.precision == "int8" and not options.for_cpu
    return max(opset, STATIC_INT8_OPSET) if static_int8 else opset
