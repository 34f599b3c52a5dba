"""Rows of bfloat16: one for a float32 file where this machine can, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench import systems
from benchmarks.bench.systems import Choice, Family, choose_systems
from numclip_runtime import UsageError


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
