"""The benchmark of decoding: times in the right place, fidelity by hand, a run on tiny files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.bench import decode_paths
from benchmarks.bench.decode_paths import SAME, Ways, psnr, time_ways, ways
from benchmarks.bench.images import write_synthetic
from benchmarks.decode import main, measure_decoding
from numclip_runtime import Preprocessing
from tests.benchmarks.conftest import ROOT, Clock

SPEC = Preprocessing(crop=14, resize=16)


@pytest.fixture
def jpegs(tmp_path: Path) -> Path:
    """Return a folder of two small JPEGs, and one of more than a megapixel."""
    folder = tmp_path / "jpegs"
    (folder / "large").mkdir(parents=True)
    write_synthetic(folder, count=2, size=(30, 25))
    write_synthetic(folder / "large", count=1, size=(1300, 900))
    return folder


def test_measure(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_paths, "perf_counter_ns", clock)
    turns = iter([0.1, 0.01, 0.02, 0.04])  # seconds the first way decodes; the first turn is lost
    array = np.zeros((3, 2, 2), np.float32)

    def wait(seconds: float) -> np.ndarray:
        clock.wait(seconds)
        return array

    by: Ways = {
        "first": (lambda _: wait(next(turns)), lambda _: wait(0.0)),
        "second": (lambda _: wait(0.004), lambda _: wait(0.001)),
    }
    timings = time_ways("", by, rounds=3)
    assert vars(timings["first"]) == pytest.approx(
        {"decode_ms": 20, "preprocess_ms": 0, "ratio": 1}
    )
    assert vars(timings["second"]) == pytest.approx(
        {"decode_ms": 4, "preprocess_ms": 1, "ratio": 4}
    )


def test_psnr_by_hand() -> None:
    a = np.zeros((3, 2, 2), np.float32)
    b = a.copy()
    b[0, 0, 0] = 6 / 255 / SPEC.std[0]  # 6 levels of red in 1 of 12 numbers: error 3
    assert psnr(a, b, SPEC) == pytest.approx(10 * np.log10(255**2 / 3))
    assert psnr(a, a + np.float32(1e-6), SPEC) == SAME  # rounding is no difference


def test_exact_input_is_the_textbooks(jpegs: Path) -> None:
    by = ways(SPEC)
    path = str(next((jpegs / "large").iterdir()))
    got = {name: finish(decoder(path)) for name, (decoder, finish) in by.items()}
    np.testing.assert_allclose(got["exact"], got["textbook"], atol=1e-5)
    assert 30 < psnr(got["fast"], got["textbook"], SPEC) < SAME


def test_run(jpegs: Path, tmp_path: Path) -> None:
    out = tmp_path / "decode.json"
    done = CliRunner().invoke(
        main,
        [str(jpegs), "--resize", "16", "--crop", "14", "--rounds", "2", "--json", str(out)],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    document = json.loads(out.read_text())
    assert document["environment"]["preprocessing"]["crop"] == 14
    assert document["environment"]["images"] == {"name": "jpegs", "count": 3}
    rows = document["results"]
    names = ["textbook", "exact", "fast"]
    assert [(r["size"], r["images"], r["way"]) for r in rows] == [
        *(("below 1", 2, name) for name in names),
        *(("1 to 4", 1, name) for name in names),
    ]
    assert [r["scaled"] for r in rows] == [0, 0, 0, 0, 0, 1]
    assert [r["psnr_db"] == SAME for r in rows] == [True] * 5 + [False]
    assert all(r["decode_ms"] > 0 and r["preprocess_ms"] > 0 for r in rows)
    assert [r["speed"] for r in rows if r["way"] == "textbook"] == [1, 1]
    lines = done.output.split("\n\n")[1].splitlines()
    assert len(lines) == 7
    assert lines[1].split()[-2:] == ["equal", "equal"]
    assert lines[6].split()[-1] == f"{rows[5]['worst_psnr_db']:.1f}"


def test_without_a_folder_three_sizes_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.decode.SYNTHETIC", {"small": (40, 30), "large": (1200, 900)})
    rows = measure_decoding(None, SPEC, rounds=1)
    assert [(r.size, r.images) for r in rows[::3]] == [("below 1", 4), ("1 to 4", 4)]


def test_a_broken_image_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no")
    done = CliRunner().invoke(main, [str(tmp_path)])
    assert done.exit_code == 2
    assert "a.jpg: not an image that Pillow can read." in done.output


def test_runs_as_a_script(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.jpg")
    command = [sys.executable, "benchmarks/decode.py", str(tmp_path), "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "textbook" in done.stdout
