"""Bundles of tiny.onnx: files that really run, and a manifest that says what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numclip_runtime import ModelMetadata, read_metadata
from numclip_runtime.metadata import Precision
from numclip_runtime.model_files.bundle import Artefact, ArtefactDevice, Bundle, Missing
from numclip_runtime.model_files.given import BUNDLE_MANIFEST
from numclip_runtime.model_files.onnx_file import message
from numclip_runtime.model_files.plan import EngineFacts, encode_metadata
from tests.runtime.plans import plan_bytes

PRODUCER_NAME = 2  # field of ONNX's ModelProto
FILES: Mapping[str, tuple[ArtefactDevice, Precision]] = {
    "m.onnx": ("any", "fp32"),
    "m.fp16.onnx": ("gpu", "fp16"),
    "m.cpu.onnx": ("cpu", "fp32"),
    "m.cpu.int8.onnx": ("cpu", "int8"),
}
PLANS: Mapping[str, tuple[int, ...]] = {"m.rtx-86.plan": (86,), "m.rtx-120.plan": (120,)}


def make_bundle(
    folder: Path,
    tiny: Path,
    files: Mapping[str, tuple[ArtefactDevice, Precision]] = FILES,
    plans: Mapping[str, tuple[int, ...]] = PLANS,
    version: str = "1.7.1.116",
) -> Bundle:
    """Write a bundle whose ONNX files all are tiny.onnx with another producer's name."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = read_metadata(tiny)
    artefacts = []
    for name, (device, precision) in files.items():
        content = tiny.read_bytes() + message(PRODUCER_NAME, name.encode())
        (folder / name).write_bytes(content)
        artefacts.append(
            Artefact(
                *(name, _sha256(content), len(content), "cpu", "onnxruntime", device, precision),
                *("float32", None, 18),
            )
        )
    for name, capabilities in plans.items():
        facts = EngineFacts("tensorrt-rtx", version, capabilities, 1, 4, 8, "ab" * 32)
        content = plan_of(metadata, facts)
        (folder / name).write_bytes(content)
        artefacts.append(
            Artefact(
                *(name, _sha256(content), len(content), "tensorrt-rtx", "tensorrt-rtx", "gpu"),
                *("fp16", "float32", f"tensorrt-rtx {version}", None, facts, "m.fp16.onnx"),
            )
        )
    bundle = Bundle(
        "0.1.0",
        replace(metadata, parity=None),
        tuple(artefacts),
        (Missing("tensorrt", "no GPU here"),),
        folder,
    )
    (folder / BUNDLE_MANIFEST).write_text(bundle.to_json(), "utf-8")
    return bundle


def plan_of(metadata: ModelMetadata, facts: EngineFacts) -> bytes:
    """Return a plan of TensorRT-RTX that a stand-in runs."""
    version = bytes(map(int, facts.builder_version.split(".")))
    return plan_bytes(encode_metadata(metadata, facts), version=version)


def change_manifest(folder: Path, **changes: Any) -> None:
    """Change fields of the first artefact in the manifest."""
    data = json.loads((folder / BUNDLE_MANIFEST).read_text("utf-8"))
    data["artefacts"][0] |= changes
    (folder / BUNDLE_MANIFEST).write_text(json.dumps(data), "utf-8")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
