"""A plan of tiny.onnx, opened with stand-ins for the driver and for TensorRT."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from numclip_runtime import ModelMetadata
from numclip_runtime.backends.tensorrt.backend import TensorRTBackend
from numclip_runtime.metadata import METADATA_KEY
from numclip_runtime.model_files.onnx_file import metadata_props
from numclip_runtime.model_files.plan import EngineFacts, encode_metadata
from tests.runtime.plans import plan_bytes
from tests.runtime.standin import StandinDriver
from tests.runtime.standin_tensorrt import Behaviour, DataType, standin_tensorrt

RTX = EngineFacts("tensorrt-rtx", "1.7.1.116", (86, 89), 1, 4, 8, "ab" * 32)
TENSORRT = EngineFacts("tensorrt", "10.3.0", (86,), 1, 4, 8, "ab" * 32)


@dataclasses.dataclass
class Opener:
    """Writes a plan and opens it."""

    folder: Path
    onnx: Path
    driver: StandinDriver
    monkeypatch: pytest.MonkeyPatch

    def write(self, facts: EngineFacts, **changes: Any) -> Path:
        """Write a plan of tiny.onnx; `changes` are of its metadata."""
        text = metadata_props(self.onnx)[METADATA_KEY]
        metadata = dataclasses.replace(ModelMetadata.from_json(text), **changes)
        rtx = facts.builder == "tensorrt-rtx"
        magic, version = (b"vtrt", (1, 7, 1, 116)) if rtx else (b"ftrt", (10, 3, 0, 26))
        path = self.folder / "x.plan"
        path.write_bytes(plan_bytes(encode_metadata(metadata, facts), magic, bytes(version)))
        return path

    def install(self, name: str, version: str, **behaviour: Any) -> Behaviour:
        """Install a stand-in for a TensorRT package."""
        chosen = Behaviour(self.driver, self.onnx, **{"batches": (1, 8), **behaviour})
        self.monkeypatch.setitem(sys.modules, name, standin_tensorrt(name, version, chosen))
        return chosen

    def __call__(
        self, facts: EngineFacts = RTX, *, uint8: bool = False, lanes: int = 2, **behaviour: Any
    ) -> tuple[TensorRTBackend, Behaviour]:
        """Write, install and open; the batches of the plan are those of the engine."""
        if uint8:
            behaviour["input_type"] = DataType.UINT8
        behaviour.setdefault("batches", (facts.min_batch, facts.max_batch))
        path = self.write(facts, input="uint8" if uint8 else "float32")
        rtx = facts.builder == "tensorrt-rtx"
        name, version = ("tensorrt_rtx", "1.7.1.116") if rtx else ("tensorrt", "10.3.0")
        chosen = self.install(name, version, **behaviour)
        return TensorRTBackend(path, library=self.driver.path, lanes=lanes), chosen
