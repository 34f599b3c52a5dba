"""The JSON text inside a model file. Metadata that are accepted survive their own round trip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from numclip_runtime.metadata import METADATA_KEY, ModelMetadata
from numclip_runtime.model_files.onnx_file import metadata_props
from tests.fuzz.harness import FindingError, refusals

TINY = Path(__file__).parents[2] / "data/tiny.onnx"


def target(data: bytes) -> None:
    with refusals():
        metadata = ModelMetadata.from_json(data.decode("utf-8", "backslashreplace"))
        if ModelMetadata.from_json(metadata.to_json()) != metadata:
            raise FindingError(f"another one after its round trip: {metadata.to_json()}")


def seeds() -> Iterator[bytes]:
    text = metadata_props(TINY)[METADATA_KEY]
    yield text.encode()
    plain = json.loads(text)
    plain["calibration"] = {
        "temperature": 1.5,
        "scale_floor": 0.1,
        "coverages": [0.5, 0.9],
        "factors": [0.7, 2.0],
        "images": 100,
    }
    plain |= {
        "precision": "int8",
        "input": "uint8",
        "verified": True,
        "source_sha256": "ab" * 32,
        "checkpoint_sha256": "cd" * 32,
        "fp32_nodes": ["head"],
        "parity": {"max": 1e-5},
        "versions": {"torch": "2.13.0"},
        "optimized_by": "onnxruntime 1.32.0",
        "backend": "openvino",
    }
    yield json.dumps(plain).encode()
    for change in ({"crop": 1e400}, {"std": [float("nan"), -1, 0]}, {"resize": 10**30}):
        yield json.dumps(plain | {"preprocessing": plain["preprocessing"] | change}).encode()
    yield b"[" * 500 + b"]" * 500
    yield b'{"schema_version":' + b"9" * 4400 + b"}"
