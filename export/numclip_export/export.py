"""From a checkpoint to verified ONNX files and their report."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numclip.checkpoint import load_checkpoint, package_versions
from numclip_export.card import model_card
from numclip_export.exported_file import Artefact, write_fp16, write_fp32
from numclip_export.fold import FoldedModel
from numclip_export.graph.onnx_model import DEFAULT_OPSET, FUSED_ATTENTION_OPSET, onnx_from_folded
from numclip_export.images import verify_images
from numclip_export.int8.calibration import int8_data
from numclip_export.int8.quantize import STATIC_INT8_OPSET
from numclip_export.int8.write import write_int8
from numclip_export.parity import DEFAULT_MAX_BATCH, Gate, Parity
from numclip_export.report import export_report, plain, write_report
from numclip_export.vision import is_common_transformer
from numclip_runtime.files import atomic_path, sha256
from numclip_runtime.metadata import InputKind, Precision


@dataclass(frozen=True)
class Exported:
    """What an export left on disk."""

    artefacts: tuple[Artefact, ...]  # the float32 ONNX file first: the others are made from it
    report: Path
    details: dict[str, Any]  # the report's content
    gate: Gate | None = None  # for what is built from the files; None: not verified
    card: Path | None = None  # the model card, if asked for

    @property
    def onnx(self) -> Path:
        """The float32 ONNX file."""
        return self.artefacts[0].path

    @property
    def parity(self) -> Parity | None:
        """How the last artefact, the one asked for, compares with the checkpoint."""
        return self.artefacts[-1].parity


@dataclass(frozen=True)
class Options:
    """What to export, and how it is proved."""

    precision: Precision = "fp32"  # "fp16" and "int8" write a second file
    for_cpu: bool = False  # for onnxruntime on a CPU, in place of an engine
    # Of the second file; the float32 file takes float32 planes. A CPU's INT8 file takes pixels only
    # where it begins with a patch embedding.
    input: InputKind = "float32"
    # ONNX operator set. None: 18, which TensorRT 10.3 reads (its INT8 needs 19); transformers for a
    # CPU 23: attention is one node there.
    opset: int | None = None
    atol: float | None = None  # largest difference of a value, label units; None: see BUDGETS
    verify: bool = True  # False writes without comparing, and says so in file and report
    verify_data: Path | None = None  # images to compare on, see `verify_images`
    max_batch: int = DEFAULT_MAX_BATCH  # largest batch size compared
    calib_data: Path | None = None  # images INT8 is calibrated with, see `int8_data`
    calib_cache: Path | None = None  # keeps what the calibration measured
    card: bool = False  # whether to write a model card


def export(ckpt: Path, onnx_path: Path, options: Options | None = None) -> Exported:
    """Fold a checkpoint, write it as ONNX, run what was written, and keep it only if it agrees.

    Args:
        ckpt: Checkpoint of `numclip-train`.
        onnx_path: Where the float32 ONNX file goes. Beside x.onnx go x.fp16.onnx or x.int8.onnx, if
            asked for, x.report.json, and x.card.md, if asked for.
        options: What to write; None: the float32 file.

    Raises:
        ModelError: if the checkpoint cannot be read.
        UsageError: if the output cannot be written or the verification data is unusable.
        ParityError: if a file differs from the checkpoint, or an INT8 file is not worth its while;
            nothing is left behind, nor replaced.
    """
    started, chosen = time.perf_counter(), options or Options()
    precision = chosen.precision
    checkpoint = load_checkpoint(ckpt)
    opset = chosen.opset or DEFAULT_OPSET
    if (
        chosen.opset is None
        and chosen.for_cpu
        and is_common_transformer(checkpoint.model.image_encoder)
    ):
        opset = FUSED_ATTENTION_OPSET
    if precision == "int8" and not chosen.for_cpu:
        opset = max(opset, STATIC_INT8_OPSET)
    gate = None
    if chosen.verify:
        images = verify_images(checkpoint, chosen.verify_data)
        gate = Gate(checkpoint, images, max_batch=chosen.max_batch, atol=chosen.atol)
    data = None
    if precision == "int8":
        data = int8_data(checkpoint, chosen.calib_data, chosen.calib_cache, chosen.verify_data)
    metadata = replace(
        checkpoint.metadata,
        checkpoint_sha256=sha256(ckpt),
        versions=package_versions("torch", "open_clip_torch", "onnx"),
    )
    report, second = (
        onnx_path.with_suffix(".report.json"),
        onnx_path.with_suffix(f".{precision}.onnx"),
    )
    card = onnx_path.with_suffix(".card.md") if chosen.card else None
    models = [onnx_path, *([second] if precision != "fp32" else [])]
    paths = [*([card] if card else []), report, *reversed(models)]
    with ExitStack() as files:  # all appear, or none; the last entered is the first to appear
        temporary = {path: files.enter_context(atomic_path(path)) for path in paths}
        graph = onnx_from_folded(
            FoldedModel(
                checkpoint.model,
                checkpoint.temperature,
                fused_attention=opset >= FUSED_ATTENTION_OPSET,
            ),
            checkpoint.preprocessing.crop,
            opset=opset,
        )
        artefacts = [write_fp32(graph, metadata, temporary[onnx_path], onnx_path, gate)]
        metadata = replace(
            metadata,
            precision=precision,
            source_sha256=artefacts[0].sha256,
            input=chosen.input,
        )
        if precision == "fp16":
            artefacts.append(write_fp16(graph, metadata, temporary[second], second, gate))
        elif data is not None:
            artefacts.append(
                write_int8(
                    graph,
                    metadata,
                    temporary[second],
                    second,
                    gate,
                    form="dynamic" if chosen.for_cpu else "static",
                    data=data,
                    fp32_file=temporary[onnx_path],
                )
            )
        seconds = time.perf_counter() - started
        details = export_report(checkpoint, ckpt, metadata, graph, artefacts, seconds)
        write_report(details, temporary[report])
        if card is not None:
            temporary[card].write_text(model_card(plain(details)), "utf-8")
    return Exported(tuple(artefacts), report, details, gate, card)
