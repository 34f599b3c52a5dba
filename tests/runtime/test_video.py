"""Videos as inputs: made, read and damaged with PyAV itself."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from numclip_runtime import Predictor, UsageError
from numclip_runtime.app.video import CAMERA, Every, frames_of, is_live, is_video
from tests.runtime.conftest import MakeClip, invoke, records

av: Any = pytest.importorskip("av")


def test_frames_are_records_in_order(tiny: Path, make_clip: MakeClip, photos: Path) -> None:
    clip = make_clip()
    result = invoke(tiny, photos / "dark.png", clip, photos / "light.jpg", "--every", 10)
    assert result.exit_code == 0
    got = records(result)
    assert [(r["path"], r.get("frame"), r.get("time_s")) for r in got] == [
        (str(photos / "dark.png"), None, None),
        (str(clip), 0, 0.0),
        (str(clip), 10, 1.0),
        (str(clip), 20, 2.0),
        (str(photos / "light.jpg"), None, None),
    ]
    assert list(got[1])[:3] == ["path", "frame", "time_s"]


def test_a_frame_reads_as_its_picture_does(
    tiny: Path, make_clip: MakeClip, predictor: Predictor
) -> None:
    clip = make_clip()
    got = records(invoke(tiny, clip))
    for record, frame in zip(got, frames_of(str(clip)), strict=True):
        assert record["value"] == predictor.predict(frame.image).value
        level = np.asarray(frame.image).mean()
        assert level == pytest.approx(8 * record["frame"], abs=5)  # YUV, lossy


@pytest.mark.parametrize(
    ("every", "indices"),
    [
        ("1", range(30)),
        ("7", range(0, 30, 7)),
        ("0.5s", range(0, 30, 5)),
        ("1s", range(0, 30, 10)),
        ("0.25s", [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28]),
        ("0.01s", range(30)),
        ("9s", [0]),
    ],
)
def test_every(make_clip: MakeClip, every: str, indices: list[int]) -> None:
    frames = frames_of(str(make_clip()), Every.parse(every))
    assert [frame.index for frame in frames] == list(indices)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "0s", "-1s", "nans", "infs", "s", "1m"])
def test_wrong_every(tiny: Path, text: str) -> None:
    with pytest.raises(UsageError, match="give frames, such as 10, or seconds"):
        Every.parse(text)
    result = invoke(tiny, "clip.mp4", "--every", text)
    assert result.exit_code == 2
    assert "give frames, such as 10" in result.stderr


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
def test_frames_are_upright(make_clip: MakeClip, turned: int) -> None:
    """The display matrix turns counter-clockwise: the white upper edge goes left at 90 degrees."""
    image = next(frames_of(str(make_clip(turned=turned)))).image
    assert image.size == ((64, 48) if turned % 180 == 0 else (48, 64))
    grey = np.asarray(image.convert("L"), np.float64)
    edges = {0: grey[:4], 90: grey[:, :4], 180: grey[-4:], 270: grey[:, -4:]}
    assert [edge for edge, pixels in edges.items() if pixels.mean() > 200] == [turned]


def test_videos_of_a_list(tiny: Path, make_clip: MakeClip, photos: Path) -> None:
    clip = make_clip()
    lines = f"{clip}\n{photos / 'dark.png'}\nhttp://127.0.0.1:9/x.mp4\ncamera:0\n"
    got = records(invoke(tiny, "-", "--every", "20", stdin=lines))
    assert [(r["path"], r.get("frame")) for r in got] == [
        (str(clip), 0),
        (str(clip), 20),
        (str(photos / "dark.png"), None),
        ("http://127.0.0.1:9/x.mp4", None),
        ("camera:0", None),
    ]
    assert [r["error"] for r in got[3:]] == [  # a list opens no stream and no camera
        "http://127.0.0.1:9/x.mp4: videos are read from this machine only; download it first.",
        "camera:0: no such file.",
    ]


@pytest.mark.parametrize("name", ["a:b.mp4", "50%d.mp4", "ü \u4e2d.mp4"])
def test_names_that_ffmpeg_would_interpret(
    make_clip: MakeClip, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_clip(name).parent)
    assert sum(1 for _ in frames_of(name)) == 30


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file."),
        (b"", "cannot be decoded (Invalid data"),
        (b"hello" * 99, "cannot be decoded (Invalid data"),
    ],
)
def test_no_video(tiny: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    result = invoke(tiny, path)
    assert result.exit_code == 1
    (record,) = records(result)
    assert record["error"].startswith(f"{path}: {message}")


def test_sound_only(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate, frame.time_base = 8000, Fraction(1, 8000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (record,) = records(invoke(tiny, path))
    assert record["error"] == f"{path}: holds no pictures, only sound or data."


@pytest.mark.parametrize("name", ["cut.mkv", "cut.mp4"])
def test_truncated_video_says_so_after_its_frames(
    tiny: Path, make_clip: MakeClip, name: str
) -> None:
    path = make_clip(name, **({"movflags": "faststart"} if name.endswith("mp4") else {}))
    content = path.read_bytes()
    path.write_bytes(content[: int(0.7 * len(content))])
    *read, last = records(invoke(tiny, path))
    assert 3 < len(read) < 28
    assert [r["frame"] for r in read] == list(range(len(read)))
    assert last["error"].startswith(f"{path}: ")


def test_damaged_packets_are_left_out_and_counted(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)  # each packet is a picture of its own
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        for i in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    first, *pictures = path.read_bytes().split(b"\x89PNG")
    damaged = first + b"".join(
        (b"JUNK" if i in (2, 3) else b"\x89PNG") + picture for i, picture in enumerate(pictures)
    )
    path.write_bytes(damaged)
    *read, last = records(invoke(tiny, path))
    assert len(read) == 4
    assert last["error"] == f"{path}: 2 damaged packets were left out."


def test_missing_av(
    tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, make_clip: MakeClip
) -> None:
    clip = make_clip()
    monkeypatch.setitem(sys.modules, "av", None)
    for given in (clip, "camera:0", "rtsp://127.0.0.1/x"):
        result = invoke(tiny, given)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.endswith("pip install 'numclip[video]'\n")
    listed = records(invoke(tiny, "-", stdin=f"{clip}\n{photos / 'dark.png'}\n"))
    assert ["error" in record for record in listed] == [True, False]


def test_what_is_a_video_and_what_is_live() -> None:
    assert is_video("a/B.MP4")
    assert not is_video("a.gif")
    assert is_live("camera:0")
    assert is_live("rtsp://host/stream")
    assert not is_live("./camera:0")
    assert not is_live("clip.mp4")


def test_no_camera(tiny: Path) -> None:
    if sys.platform != "linux" or Path("/dev/video63").exists():
        pytest.skip("the message is Linux's")
    (record,) = records(invoke(tiny, f"{CAMERA}63"))
    assert record["error"] == "camera:63: no such camera."
    result = invoke(tiny, "camera:0", "a.jpg")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "give it as the only input" in result.stderr


def test_report_shows_frames(tiny: Path, make_clip: MakeClip, tmp_path: Path) -> None:
    clip, page = make_clip(), tmp_path / "r.html"
    result = invoke(tiny, clip, tmp_path / "gone.mp4", "--every", "15", "--report", page)
    assert result.exit_code == 1
    text = page.read_text()
    assert text.count('<li class="card"') == text.count("data:image/png") == 2
    assert "clip.mp4 frame 15 (1.50 s)" in text
    assert "no preview" not in text
    assert "gone.mp4: no such file." in text


def test_csv_and_table_of_a_video(tiny: Path, make_clip: MakeClip) -> None:
    clip = make_clip()
    head, *rows = invoke(tiny, clip, "--every", 15, "--format", "csv").stdout.splitlines()
    assert head.endswith(",error,frame,time_s")
    assert [row.rpartition(",,")[2] for row in rows] == ["0,0.0", "15,1.5"]
    table = invoke(tiny, clip, "--every", 15, "--format", "table").stdout
    assert table.endswith(f"{clip} frame 15 (1.50 s)\n")


def test_annotated_frames(tiny: Path, make_clip: MakeClip, tmp_path: Path) -> None:
    clip, out = make_clip(), tmp_path / "out"
    assert invoke(tiny, clip, "--every", 15, "--annotate", out).exit_code == 0
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
    assert names == ["clip.mp4", "clip.mp4/frame-000000.jpg", "clip.mp4/frame-000015.jpg"]
    with Image.open(out / names[1]) as image:
        assert image.width >= 64
