"""Rows of bfloat16: one for a float32 file where this machine can, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from benchmarks.bench import systems
from benchmarks.bench.systems import Choice, Family, choose_systems
from numclip_export.graph.onnx_model import save_with_metadata
from numclip_runtime import UsageError, read_metadata


def test_a_row_beside_float32(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(systems, "why_no_bf16", lambda: None)
    choice = Choice(backends=("onnxruntime", "openvino"))
    found = choose_systems(Family((exported,)), choice, [])
    opened = {system.name: system.open() for system in found.systems}
    assert {name: backend.precision for name, backend in opened.items()} == {
        "numclip fp32, onnxruntime": "fp32",
        "numclip fp32, OpenVINO": "fp32",
        "numclip bf16, OpenVINO": "bf16",
    }
    assert [s.precision(opened[s.name].metadata) for s in found.systems] == ["fp32"] * 2 + ["bf16"]
    for backend in opened.values():
        backend.close()
    assert any("bfloat16 is not proved of this file" in note for note in found.notes)
    monkeypatch.setattr(systems, "_facts", lambda path, notes: (None, "features"))
    only = choose_systems(Family((exported,)), Choice(("openvino",), precisions=("bf16",)), [])
    assert [system.name for system in only.systems] == ["numclip bf16, OpenVINO"]
    monkeypatch.setattr(systems, "why_no_bf16", lambda: "no instructions")
    with pytest.raises(UsageError, match="nothing is left to measure"):
        choose_systems(Family((exported,)), Choice(("openvino",), precisions=("bf16",)), [])


def test_rows_of_files_that_were_made_for_one_backend(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(systems, "why_no_bf16", lambda: None)
    known = replace(read_metadata(exported), precision="int8")
    made = {
        "x.int8.onnx": replace(known, optimized_by="onnxruntime 1.32.0"),
        "x.openvino.int8.onnx": replace(known, backend="openvino"),
    }
    for name, metadata in made.items():
        save_with_metadata(onnx.load(exported), metadata, tmp_path / name)
    family = Family(tuple(tmp_path / name for name in made))
    found = choose_systems(family, Choice(("onnxruntime", "openvino")), [])
    assert {system.name: system.precision(known) for system in found.systems} == {
        "numclip INT8, onnxruntime": "int8",
        "numclip INT8, OpenVINO": "int8",
        "numclip INT8 + bf16, OpenVINO": "int8",
    }
    for system in found.systems[1:]:
        backend = system.open()
        assert backend.precision == ("int8+bf16" if system.bf16 else "int8")
        backend.close()
