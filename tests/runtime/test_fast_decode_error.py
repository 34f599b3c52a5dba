"""The error of fast decoding: measured on scaled JPEGs only, right, and printed once at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from numclip_runtime import Predictor, Preprocessing, load
from numclip_runtime.app.fast_decode_error import (
    Deviation,
    ScaledSample,
    is_scaled,
    measure_deviation,
)
from tests.runtime.conftest import invoke, records

RNG = np.random.default_rng(0)


def checked(path: Path, size: tuple[int, int] = (97, 61)) -> Path:
    """Write colour noise, darker to the right: the crop and the scale matter."""
    noise = RNG.integers(0, 256, (size[1], size[0], 3)) * np.linspace(1, 0, size[0])[:, None]
    Image.fromarray(noise.astype(np.uint8)).save(path, quality=95)
    return path


@pytest.fixture
def large(tmp_path: Path) -> list[Path]:
    """Return three JPEGs that tiny.onnx, which resizes to 10 pixels, takes at a smaller size."""
    return [checked(tmp_path / f"{i}.jpg") for i in range(3)]


@pytest.fixture
def others(tmp_path: Path) -> list[Path]:
    """Return files that are always decoded exactly, or not at all."""
    small, png = checked(tmp_path / "small.jpg", (39, 39)), checked(tmp_path / "large.png")
    (tmp_path / "text.jpg").write_text("not an image")
    return [small, png, tmp_path / "text.jpg", tmp_path / "missing.jpg"]


@pytest.fixture
def fast(tiny: Path) -> Iterator[Predictor]:
    with load(tiny, threads=1, fast_decode=True) as opened:
        yield opened


def test_only_scaled_jpegs_change(
    predictor: Predictor, fast: Predictor, large: list[Path], others: list[Path]
) -> None:
    for path in large:
        assert 0 < abs(predictor.predict(path).value - fast.predict(path).value) < 1
        with Image.open(path) as image:  # the caller's image is not a file
            assert fast.predict(image).value == predictor.predict(path).value
    for path in others[:2]:
        assert fast.predict(path) == predictor.predict(path)


@pytest.mark.parametrize("workers", [1, 3])
def test_deviation(
    predictor: Predictor, fast: Predictor, large: list[Path], others: list[Path], workers: int
) -> None:
    changes = [abs(predictor.predict(p).value - fast.predict(p).value) for p in large]
    for one in (predictor, fast):  # what it decodes by itself plays no part
        got = measure_deviation(one, others + large, workers=workers)
        assert got.mean == pytest.approx(sum(changes) / 3)
        assert replace(got, mean=0.0) == Deviation(3, 0.0, max(changes), 30.0, "points")


def test_deviation_of_nothing(predictor: Predictor, others: list[Path]) -> None:
    assert measure_deviation(predictor, others) == Deviation(0, 0.0, 0.0, 30.0, "points")


def test_a_damaged_image_is_left_out(predictor: Predictor, large: list[Path]) -> None:
    large[1].write_bytes(large[1].read_bytes()[:-300])  # its header is fine
    assert measure_deviation(predictor, large).compared == 2


@pytest.mark.parametrize(
    ("deviation", "text"),
    [
        (
            Deviation(16, 0.01234, 0.0567, 80.0, "years"),
            "moved the value by 0.012 years on average and by 0.057 years at most "
            "(0.02% and 0.07% of the label range), in 16 JPEGs decoded both ways.",
        ),
        (
            Deviation(1, 1234.0, 1234.0, 1e5, ""),
            "moved the value by 1200 on average and by 1200 at most "
            "(1.23% and 1.23% of the label range), in 1 JPEG decoded both ways.",
        ),
    ],
)
def test_the_sentence(deviation: Deviation, text: str) -> None:
    assert str(deviation) == f"--fast-decode {text}"


def test_sample_holds_scaled_images_from_the_whole_run(
    predictor: Predictor, large: list[Path], others: list[Path]
) -> None:
    """Names of one file, told apart by a number of slashes."""
    sample = ScaledSample(predictor.metadata.preprocessing)
    names = [f"{large[0].parent}{'/' * (i + 1)}{large[0].name}" for i in range(3000)]
    for i, name in enumerate(names):
        sample.offer(str(others[i % 4]))
        sample.offer(name)
        if i == 3:
            assert set(sample.paths) == set(names[:4])
        if i == 300:  # 602 images offered
            assert len(sample.paths) == 6
    chosen = [names.index(str(path)) for path in sample.paths]
    assert len(set(chosen)) == 16
    assert min(chosen) < 1000  # from each third; the sample is the same in every run
    assert max(chosen) > 2000


def test_most_images_are_not_opened_again(
    predictor: Predictor, large: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []

    def counted(path: str, spec: Preprocessing) -> bool:
        opened.append(path)
        return is_scaled(path, spec)

    monkeypatch.setattr("numclip_runtime.app.fast_decode_error.is_scaled", counted)
    sample = ScaledSample(predictor.metadata.preprocessing)
    for _ in range(5000):
        sample.offer(str(large[0]))
    assert len(opened) < 200  # 16 (1 + ln(5000 / 16)) = 108 are expected


def test_interrupted_while_comparing(
    tiny: Path, large: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> Deviation:
        raise KeyboardInterrupt

    monkeypatch.setattr("numclip_runtime.app.fast_decode_error.measure_deviation", interrupt)
    result = invoke(tiny, *large, "--fast-decode")
    assert (result.exit_code, len(records(result))) == (130, 3)
    assert result.stderr == "Interrupted: 3 of 3 images done and kept.\n"


def test_run_says_it_once_and_last(tiny: Path, large: list[Path], others: list[Path]) -> None:
    result = invoke(tiny, *large, *others, "--fast-decode")
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(
        r"Note: --fast-decode moved the value by [\d.]+ points on average .* in 3 JPEGs .*\.",
        lines[0],
    )
    assert lines[1] == "2 of 7 images failed."
    exact = records(invoke(tiny, *large, *others))
    moved = [a["path"] for a, b in zip(records(result), exact, strict=True) if a != b]
    assert moved == [str(path) for path in large]


def test_run_is_silent_where_nothing_was_scaled(
    tiny: Path, large: list[Path], others: list[Path]
) -> None:
    assert invoke(tiny, *others[:2], "--fast-decode").stderr == ""
    assert invoke(tiny, *large).stderr == ""
