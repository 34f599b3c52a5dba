from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.latency import main
from benchmarks.plot import save_plot
from benchmarks.stages import Row, Timings

pytest.importorskip("matplotlib")


def row_of(totals_ms: list[float], *, batch: int = 1) -> Row:
    stamps = np.zeros((len(totals_ms), 5), np.int64)
    stamps[:, 3:] = np.array(totals_ms)[:, None] * 1e6
    timings = Timings.from_stamps(stamps, batch=batch)
    return Row("m.onnx", "0" * 64, "onnxruntime", "cpu", "fp32", batch, None, timings)


@pytest.mark.parametrize("suffix", [".png", ".SVG"])
def test_command_draws_a_picture(suffix: str, tiny: Path, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / f"latency{suffix}"
    arguments = [tiny, "--images", photos, "--plot", output, "--iterations", 5, "--warmup", 1]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    start = output.read_bytes()[:60]
    assert start.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")


def test_picture_names_the_slowest_batch(tmp_path: Path) -> None:
    output = tmp_path / "latency.svg"
    # matplotlib leaves the text of each label in a comment beside its outlines
    save_plot(output, [row_of([2.0] * 99 + [1234.0]), row_of([16.0] * 5, batch=8)], kind="svg")
    text = output.read_text(encoding="utf-8")
    assert "<!-- max 1234 -->" in text
    assert "<!-- p50 16 -->" in text
    assert "<!-- 500 img/s -->" in text


def test_equal_times_can_be_drawn(tmp_path: Path) -> None:
    save_plot(tmp_path / "one.png", [row_of([3.0])], kind="png")


def test_missing_matplotlib_is_told_before_measuring(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(main, [str(tiny), "--plot", str(tmp_path / "a.png")])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        "Error: matplotlib is not installed; install it with: pip install 'numclip[plot]'\n"
    )
