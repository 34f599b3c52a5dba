"""The report of an export: its checkpoint, its files, their cost and their proof."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import onnx

from numclip.checkpoint import Checkpoint
from numclip.evaluation.costs import parameter_counts
from numclip.evaluation.timing import images_per_run
from numclip_export.exported_file import ExportedFile
from numclip_export.graph.costs import graph_macs, text_macs
from numclip_runtime import ModelMetadata
from numclip_runtime.console import columns, json_text, plain
from numclip_runtime.system import cpu_name


def export_report(
    checkpoint: Checkpoint,
    ckpt: Path,
    metadata: ModelMetadata,
    graph: onnx.ModelProto,
    files: Sequence[ExportedFile],
) -> dict[str, Any]:
    """Collect the report as plain data."""
    image, text = graph_macs(graph), text_macs(checkpoint.model)
    return {
        "task": metadata.task.to_dict(),
        "preprocessing": metadata.preprocessing.to_dict(),
        "checkpoint": {
            "file": ckpt.name,
            "bytes": ckpt.stat().st_size,
            "sha256": metadata.checkpoint_sha256,
            "parameters": parameter_counts(checkpoint.model),
            "metrics": dict(checkpoint.metrics),
            "calibration": checkpoint.calibration and asdict(checkpoint.calibration),
        },
        # multiply-accumulate operations of one image; the checkpoint encodes its sentences as well
        "macs": {"checkpoint": image + text, "folded": image},
        "artefacts": [file.details for file in files],
        "machine": f"{cpu_name()}, {os.cpu_count()} logical cores",
        "versions": dict(metadata.versions),
    }


def write_report(details: dict[str, Any], file: IO[str]) -> None:
    """Write the report as JSON; NaN and infinity, which JSON lacks, become null."""
    file.write(json_text(plain(details), indent=2) + "\n")


def write_card(details: dict[str, Any], file: IO[str]) -> None:
    """Write the model card of a report."""
    from numclip_export.card import model_card

    file.write(model_card(plain(details)))


def summary(details: dict[str, Any]) -> Iterator[str]:
    """Yield the lines for people."""
    before = details["checkpoint"]
    total = sum(before["parameters"].values())
    text = before["parameters"].get("text_encoder", 0)  # none with prototypes
    yield (
        f"{before['file']}: {total / 1e6:.2f} M parameters "
        f"({text / 1e6:.2f} M in the text tower), "
        f"{before['bytes'] / 1e6:.1f} MB"
    )
    macs = details["macs"]
    yield (
        f"folded: {macs['checkpoint'] / 1e9:.3g} -> {macs['folded'] / 1e9:.3g} GMACs for one image"
    )
    rows = [("file", "MB", "nodes", "max error", "allowed", "probabilities", "features")]
    for item in details["artefacts"]:
        parity = item["parity"]
        rows.append(
            (
                item["file"],
                f"{item['bytes'] / 1e6:.1f}",
                " + ".join(f"{n} {kind}" for kind, n in item["nodes"].items()),
                *(_errors(parity) if parity else ("not verified", "-", "-", "-")),
            )
        )
    yield from columns(rows)
    for item in details["artefacts"]:
        yield from _notes(item)


def _errors(parity: dict[str, Any]) -> tuple[str, ...]:
    cosine = parity["min_feature_cosine"]
    largest, allowed = f"{parity['max_value_error']:.2g}", f"{parity['value_tolerance']:.2g}"
    if parity["judged_by"] == "mean":
        largest, allowed = f"{largest}, mean {parity['mean_value_error']:.2g}", f"mean {allowed}"
    return (
        largest,
        allowed,
        f"{parity['max_prob_error']:.2g}",
        "-" if cosine is None else f"{cosine:.5f}",
    )


def _notes(item: dict[str, Any]) -> Iterator[str]:
    if parity := item["parity"]:
        sizes = ", ".join(map(str, parity["batch_sizes"]))
        synthetic = parity["images"] - parity["photos"]
        photos = f"{parity['photos']} {parity['source']} and " if parity["photos"] else ""
        if item["precision"] == "fp32":
            yield (
                f"compared on {photos}{synthetic} synthetic images, batch sizes {sizes}; "
                "errors in label units, lowest mean-centred cosine of the features"
            )
    if bf16 := item.get("bf16"):
        found, speed = bf16["parity"], bf16["speed"]
        errors = (
            f"{name} {found[f'{name}_value_error']:.2g} (allowed {found[allowed]:.2g})"
            for name, allowed in (("mean", "value_tolerance"), ("max", "max_value_tolerance"))
            if found[allowed] is not None
        )
        what = "" if item["precision"] == "fp32" else "beside INT8 "
        yield f"{item['file']}: {what}in bfloat16 value error {', '.join(errors)}; " + (
            f"{speed['bf16_ms']:.2f} ms in place of {speed['fp32_ms']:.2f} "
            f"({images_per_run(speed['batch'])}, one thread)"
            if speed
            else f"by {bf16['by']}"
        )
    if note := item.get("bf16_note"):
        yield f"{item['file']}: {note}"
    if parts := item.get("fp32_nodes"):
        yield f"{item['file']}: in float32 {', '.join(parts)}"
    for step in item.get("widening", [])[:-1]:
        yield f"  was not enough: {step['step']} (max error {step['max_value_error']:.2g})"
