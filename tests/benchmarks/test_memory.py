from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import memory
from benchmarks.bench.results import from_plain
from numclip_runtime import ModelError, UsageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ARGV = ["memory.py", "a.onnx"]


def test_samples(
    tiny: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "memory.json"
    samples = memory.measure_memory(
        tiny, images=photos, count=70, every=20, json_path=out, argv=ARGV
    )
    report = json.loads(out.read_text())
    assert [from_plain(memory.Sample, sample) for sample in report["samples"]] == samples
    assert set(report) == {"environment", "images", "model", "samples", "growth"}
    assert [sample.images for sample in samples] == [20, 40, 60, 70]
    for sample in samples:
        assert 10_000 < sample.rss_kib <= sample.peak_kib
    assert report["growth"] == samples[-1].rss_kib / samples[0].rss_kib - 1
    assert "RSS after 20 images" in capsys.readouterr().out


def test_growth_is_seen(
    tiny: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaking = (
        "from benchmarks.bench.processes import programs\n"
        "from numclip_runtime import Predictor\n"
        "stream, kept = Predictor.stream, []\n"
        "def leak(self, *arguments, **options):\n"
        "    for result in stream(self, *arguments, **options):\n"
        "        kept.append(b'x' * 100_000)\n"
        "        yield result\n"
        "Predictor.stream = leak\n"
        "stream_images = programs.stream_images\n"
    )
    (tmp_path / "leaking.py").write_text(leaking)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(memory, "STREAMER", "leaking:stream_images")
    first, *_, last = memory.measure_memory(tiny, images=photos, count=1000, every=100, argv=ARGV)
    assert last.rss_kib - first.rss_kib > 0.9 * 900 * 100_000 / 1024
    assert last.rss_kib > 1.5 * first.rss_kib


def test_failures(tiny: Path, photos: Path) -> None:
    with pytest.raises(UsageError, match="--every 9 leaves one sample of 9"):
        memory.measure_memory(tiny, images=photos, count=9, every=9, argv=ARGV)
    foreign = tiny.with_name("foreign.onnx")
    with pytest.raises(ModelError, match=r"foreign\.onnx: "):
        memory.measure_memory(foreign, images=photos, count=20, every=5, argv=ARGV)
