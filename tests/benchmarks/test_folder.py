from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import folder
from benchmarks.bench.folder_runners import (
    Program,
    StreamOf,
    TextbookLoop,
    stream_shares,
    time_chunks,
)
from benchmarks.folder import StreamSpeed
from numclip_runtime import ImageError, Prediction, load
from numclip_runtime.pipeline import plan_stream
from numclip_runtime.preprocess import ImageLike, InputArray
from tests.benchmarks.conftest import Clock

ARGV = ["folder.py", "a.onnx", "b.onnx"]


def paths_in(photos: Path) -> list[str]:
    return sorted(map(str, photos.iterdir()))


def test_rates_are_compared_with_the_slowest_and_with_what_shared_cores_allow() -> None:
    slowest, shared = stream_shares(stream=20, decode=100, infer=25)
    assert slowest == pytest.approx(0.8)
    assert shared == pytest.approx(20 / (1 / (1 / 100 + 1 / 25)))


def test_programs_take_turns_on_the_same_images(clock: Clock) -> None:
    calls: list[tuple[str, str]] = []

    def program(name: str, seconds: float) -> Program:
        def run(paths: object) -> None:
            assert isinstance(paths, str)
            calls.append((name, paths))
            clock.wait(seconds * len(paths))

        return run

    seconds = time_chunks(
        {"a": program("a", 1), "b": program("b", 2)},
        "abcdefg",
        chunk=3,
        clock=lambda: clock.now / 1e9,
    )
    warm, timed = calls[:2], calls[2:]
    assert warm == [("a", "abc"), ("b", "abc")]
    assert timed == [
        *[("a", "abc"), ("b", "abc")],
        *[("b", "def"), ("a", "def")],
        *[("a", "g"), ("b", "g")],
    ]
    assert seconds == {"a": [3, 3, 1], "b": [6, 6, 2]}


def test_the_loop_and_the_stream_read_the_same_values(tiny: Path, photos: Path) -> None:
    Image.new("L", (31, 9), 120).save(photos / "wide.jpg", exif=_rotated())
    paths = paths_in(photos)
    with load(tiny) as predictor:
        loop = TextbookLoop(tiny, predictor.metadata)
        stream = StreamOf(predictor)
        expected = [predictor.predict(path).value for path in paths]
        assert loop(paths) == pytest.approx(expected, abs=1e-4)
        assert stream(paths) == pytest.approx(expected, abs=1e-4)


def _rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("batch_size", [1, 3])
def test_stages_do_all_images(
    tiny: Path, photos: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = paths_in(photos) * 2
    with load(tiny, threads=1) as predictor:
        stream = StreamOf(predictor, batch_size=batch_size, workers=2)
        stream.prepare(paths[:3])
        ran: list[int] = []
        decoded: list[object] = []
        run, preprocess = predictor.predict_inputs, predictor.preprocess

        def running(inputs: InputArray) -> list[Prediction]:
            ran.append(len(inputs))
            return run(inputs)

        def decoding(path: ImageLike) -> InputArray:
            decoded.append(path)
            return preprocess(path)

        monkeypatch.setattr(predictor, "predict_inputs", running)
        monkeypatch.setattr(predictor, "preprocess", decoding)
        stream.infer(paths)
        assert (sum(ran), decoded) == (10, [])
        ran.clear()
        stream.decode(paths)
        assert ran == []
        assert sorted(map(str, decoded)) == sorted(paths)


def test_an_unreadable_image_is_no_result(tiny: Path, photos: Path) -> None:
    (photos / "2.png").write_bytes(b"")
    with load(tiny) as predictor, pytest.raises(ImageError, match=r"2\.png"):
        StreamOf(predictor)(paths_in(photos))


def test_run(tiny: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "folder.json"
    rows = folder.measure_folder(
        tiny, tiny, images=photos, repeat_to=12, fast_decode=True, json_path=out, argv=ARGV
    )
    report = json.loads(out.read_text())
    assert [asdict(row) for row in rows] == report["rows"]
    assert report["images"]["predicted"] == 12
    loop, *streams = rows
    assert (loop.name, loop.ratio) == (folder.LOOP, 1)
    for row in streams:
        assert isinstance(row, StreamSpeed)
        assert row.ratio_min <= row.ratio_median <= row.ratio_max
        assert row.images_per_s == pytest.approx(loop.images_per_s * row.ratio)
        assert row.share_of_slowest_stage == pytest.approx(
            row.images_per_s / min(row.decode_images_per_s, row.infer_images_per_s)
        )
        with load(tiny, optimize_for="throughput") as predictor:
            plan = plan_stream(predictor.backend)
            assert (row.threads, row.workers, row.lanes) == (1, plan.workers, plan.lanes)
    assert all(value < 1e-3 for value in report["largest_difference_to_loop"].values())
    said = capsys.readouterr().out
    assert "| stream, best |" in said
    assert "12 predicted" in said


def test_fast_decode_is_one_more_stream(
    tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def loading(model: Path, *, fast_decode: bool = False, **options: object) -> object:
        asked.append(fast_decode)
        return load(model, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(folder, "load", loading)
    rows = folder.measure_folder(
        tiny, tiny, images=photos, repeat_to=4, fast_decode=True, argv=ARGV
    )
    assert asked == [False, False, True]
    assert [row.name for row in rows][-1] == "stream, best, fast decode"
