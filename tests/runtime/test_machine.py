from __future__ import annotations

from pathlib import Path

from numclip_runtime.machine import cpu_model


def test_cpu_model(tmp_path: Path) -> None:
    cpuinfo, board, missing = tmp_path / "cpuinfo", tmp_path / "model", tmp_path / "missing"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Fast: CPU 9000\nprocessor\t: 1\n")
    board.write_bytes(b"Orin Nano\0")
    assert cpu_model(cpuinfo, board) == "Fast: CPU 9000"
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 62.50\n")  # ARM names no model
    assert cpu_model(cpuinfo, board) == "Orin Nano"
    assert cpu_model(missing, missing)
