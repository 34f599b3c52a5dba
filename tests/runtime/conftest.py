"""Fixtures of the bare wheel's tests: numpy, Pillow, click and onnxruntime, no torch, no onnx."""

from __future__ import annotations

import gc
import inspect
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from numclip_runtime import Predictor, load
from tests.runtime.opener import Opener
from tests.runtime.standin import StandinDriver, compile_standin

# These tests are about machines without a GPU, so they hide one that is there; the stand-in driver
# is found all the same.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
from numclip_runtime.app.cli import main

MakeClip = Callable[..., Path]
DATA = Path(__file__).parents[1] / "data"
# click 8.1 mixes stderr into stdout unless told; 8.2 has no such argument
SEPARATE: dict[str, Any] = (
    {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
)


def invoke(*args: object, stdin: str | bytes = b"") -> Result:
    """Run `numclip-run` in this process."""
    return CliRunner(**SEPARATE).invoke(main, [str(arg) for arg in args], input=stdin)


def records(result: Result) -> list[dict[str, Any]]:
    """Return the JSON lines that a run printed."""
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def tiny() -> Path:
    """Return the committed model: mean brightness -> 3 bins -> a number from 5 to 25."""
    return DATA / "tiny.onnx"


@pytest.fixture
def foreign() -> Path:
    """Return the same graph without metadata."""
    return DATA / "foreign.onnx"


@pytest.fixture
def predictor(tiny: Path) -> Iterator[Predictor]:
    with load(tiny, threads=1) as opened:
        yield opened


@pytest.fixture
def probs_of() -> Callable[[float, float, float], list[float]]:
    """Return tiny.onnx as a formula: pixel values R, G, B of an even image -> bin_probs."""

    def formula(r: float, g: float, b: float) -> list[float]:
        m = sum(w * (p / 127.5 - 1) for w, p in zip((0.5, 0.3, 0.2), (r, g, b), strict=True))
        powers = [math.exp(-6 * m), math.exp(2), math.exp(6 * m)]
        return [power / sum(powers) for power in powers]

    return formula


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder: dark.png, light.jpg, sub/mid.PNG, and a text file beside them."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    Image.new("L", (20, 14), 10).save(folder / "dark.png")
    Image.new("RGB", (9, 31), (250, 250, 250)).save(folder / "light.jpg")
    Image.new("L", (8, 8), 128).save(folder / "sub" / "mid.PNG")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="session")
def compiled_standin(tmp_path_factory: pytest.TempPathFactory) -> StandinDriver:
    """Return the stand-in for NVIDIA's driver library."""
    return compile_standin(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def standin(compiled_standin: StandinDriver) -> Iterator[StandinDriver]:
    """Return the stand-in driver; at the end all must be freed, and each push popped."""
    compiled_standin.forget()
    yield compiled_standin
    assert compiled_standin.faults == 0
    compiled_standin.forget()
    compiled_standin.kernels.clear()  # they refer to what the test made
    gc.collect()
    assert (compiled_standin.alive, compiled_standin.pushed) == ({}, 0)


@pytest.fixture
def open_plan(
    tmp_path: Path, tiny: Path, standin: StandinDriver, monkeypatch: pytest.MonkeyPatch
) -> Opener:
    """Return a function that opens a plan of tiny.onnx with stand-ins."""
    return Opener(tmp_path, tiny, standin, monkeypatch)


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    """Return a function that writes a clip whose frame i has brightness 8 * i."""

    av: Any = pytest.importorskip("av")

    def make(name: str = "clip.mp4", turned: int | None = None, **options: str) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            if turned is not None:
                if not hasattr(stream, "set_display_rotation"):
                    pytest.skip("this PyAV reads rotations, and cannot write them")
                stream.set_display_rotation(turned)
            for i in range(30):
                pixels = np.full((48, 64, 3), min(8 * i, 255), np.uint8)
                if turned is not None:
                    pixels[:8] = 255  # the upper edge
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return make
