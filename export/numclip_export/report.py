"""The report of an export: what went in, what came out, what it costs, how it was proved."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from numclip.checkpoint import Checkpoint
from numclip_export.card import model_card
from numclip_export.exported_file import Artefact
from numclip_export.fold import parameter_counts
from numclip_export.graph.costs import graph_macs, text_macs
from numclip_runtime import ModelMetadata
from numclip_runtime.files import atomic_path, atomic_text
from numclip_runtime.system import cpu_name

if TYPE_CHECKING:
    from numclip_export.engine.build import BuiltEngine
    from numclip_export.export import Exported
    from numclip_export.parity import Parity


def export_report(
    checkpoint: Checkpoint,
    ckpt: Path,
    metadata: ModelMetadata,
    graph: onnx.ModelProto,
    artefacts: Sequence[Artefact],
    seconds: float,
) -> dict[str, Any]:
    """Collect the report as plain data."""
    image, text = graph_macs(graph), text_macs(checkpoint.model)
    return {
        "task": metadata.task.to_dict(),
        "preprocessing": asdict(metadata.preprocessing),
        "checkpoint": {
            "file": ckpt.name,
            "bytes": ckpt.stat().st_size,
            "sha256": metadata.checkpoint_sha256,
            "parameters": parameter_counts(checkpoint.model),
            "metrics": dict(checkpoint.metrics),
            "calibration": checkpoint.calibration and asdict(checkpoint.calibration),
        },
        # multiply-accumulate operations of one image; the checkpoint encodes its sentences too
        "macs": {"checkpoint": image + text, "folded": image},
        "artefacts": [artefact.details for artefact in artefacts],
        "machine": f"{cpu_name()}, {os.cpu_count()} logical cores",
        "versions": dict(metadata.versions),
        "seconds": round(seconds, 2),
    }


def write_report(details: dict[str, Any], path: Path) -> None:
    """Write the report as JSON, numbers that JSON does not know (NaN, infinity) as null."""
    text = json.dumps(plain(details), indent=2, ensure_ascii=False, allow_nan=False)
    # a name that is no UTF-8 becomes \udcXX, which JSON reads back
    path.write_text(text + "\n", "utf-8", errors="backslashreplace")


def add_engine(
    done: Exported, built: BuiltEngine, parity: Parity | None, verification: str
) -> None:
    """Add an engine, and how it was verified, to the report and the card of its export."""
    engine = {
        "file": built.plan.name,
        "bytes": built.size,
        "sha256": built.sha256,
        "built_from": done.artefacts[-1].path.name,
        **asdict(built.engine),
        "parity": parity and parity.to_dict(),
        # the report may be published, so it names no folder of this machine
        "verification": verification.replace(str(built.plan), built.plan.name),
        "notes": list(built.notes),
        "seconds": round(built.seconds, 2),
    }
    details = done.details | {"engine": engine}
    with atomic_path(done.report) as temporary:
        write_report(details, temporary)
    if done.card is not None:
        with atomic_text(done.card) as file:
            file.write(model_card(plain(details)))


def plain(value: Any) -> Any:
    """Return what JSON gives back: lists for tuples, None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary(details: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that a person reads."""
    before = details["checkpoint"]
    total = sum(before["parameters"].values())
    yield (
        f"{before['file']}: {total / 1e6:.2f} M parameters "
        f"({before['parameters']['text_encoder'] / 1e6:.2f} M in the text tower), "
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
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
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
    if parts := item.get("fp32_nodes"):
        yield f"{item['file']}: in float32 {', '.join(parts)}"
    for step in item.get("widening", [])[:-1]:
        yield f"  was not enough: {step['step']} (max error {step['max_value_error']:.2g})"
