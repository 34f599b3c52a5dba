"""`numclip-run --resume`: after a crash, the same command does what is missing, and no more."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.runtime.conftest import MakeClip, invoke, records


def rows(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for part in sorted(folder.glob("part-*.jsonl"))
        for line in part.read_text("utf-8").splitlines()
    ]


def test_the_same_records_in_the_end(tiny: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "empty.jpg").touch()
    expected = records(invoke(tiny, photos))
    out = tmp_path / "made" / "out"
    first = invoke(tiny, photos / "dark.png", photos / "empty.jpg", "-o", out, "--resume")
    assert (first.exit_code, first.stdout) == (1, "")
    assert "0 images done before, 2 now; 1 of 2 failed; --retry-failed" in first.stderr
    second = invoke(tiny, photos, "-o", f"{out}/", "--resume")
    assert second.exit_code == 1  # of all, one failed
    assert "2 images done before, 2 now; 1 of 4 failed" in second.stderr
    assert sorted(map(str, rows(out))) == sorted(map(str, expected))
    third = invoke(tiny, photos, "-o", out, "--resume")
    assert (third.exit_code, len(rows(out))) == (1, 4)
    Image.new("L", (8, 8), 128).save(photos / "empty.jpg")
    again = invoke(tiny, photos, "-o", out, "--resume", "--retry-failed")
    assert again.exit_code == 0
    assert "4 images done before (1 failed before), 1 now; 0 of 4 failed." in again.stderr
    assert sorted(map(str, rows(out))) == sorted(map(str, records(invoke(tiny, photos))))


def test_csv_and_parquet(tiny: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for kind in ("csv", "parquet"):
        out = tmp_path / kind
        assert invoke(tiny, photos, "-o", out, "--resume", "--format", kind).exit_code == 0
        # the folder knows its format
        done = invoke(tiny, photos, photos / "gone.jpg", "-o", out, "--resume")
        assert "3 images done before, 1 now; 1 of 4 failed" in done.stderr
        assert sorted(path.suffix for path in out.glob("part-*")) == [f".{kind}"] * 2


def test_paths_on_standard_input_and_twice(tiny: Path, photos: Path, tmp_path: Path) -> None:
    listed = "\n".join(map(str, [photos / "dark.png", photos / "light.jpg", photos / "dark.png"]))
    out = tmp_path / "out"
    assert invoke(tiny, "-", "-o", out, "--resume", stdin=listed).exit_code == 0
    assert len(rows(out)) == 2
    listed += f"\n{photos / 'sub' / 'mid.PNG'}"
    done = invoke(tiny, "-", "-o", out, "--resume", stdin=listed)
    assert "2 images done before, 1 now; 0 of 3 failed." in done.stderr


def test_a_video_goes_on_at_its_frame(tiny: Path, make_clip: MakeClip, tmp_path: Path) -> None:
    clip, out = make_clip(), tmp_path / "out"
    every = ("-o", out, "--resume", "--every", "10")
    assert invoke(tiny, clip, *every).exit_code == 0
    (part,) = out.glob("part-*")
    lines = part.read_text().splitlines(keepends=True)
    part.write_text(lines[0])
    assert "1 images done before, 2 now" in invoke(tiny, clip, *every).stderr
    assert [row["frame"] for row in rows(out)] == [0, 10, 20]
    refused = invoke(tiny, clip, "-o", out, "--resume", "--every", "5")
    assert refused.exit_code == 2
    assert "made with --every 10, and this run has --every 5; give another" in refused.stderr


def test_another_model_is_refused(tiny: Path, photos: Path, tmp_path: Path) -> None:
    out, copy = tmp_path / "out", tmp_path / "copy.onnx"
    assert invoke(tiny, photos, "-o", out, "--resume").exit_code == 0
    shutil.copy(tiny, copy)
    assert invoke(copy, photos, "-o", out, "--resume").exit_code == 0  # the same content
    other = tmp_path / "other.onnx"
    other.write_bytes(tiny.read_bytes().replace(b"brightness", b"Brightness"))
    refused = invoke(other, photos, "-o", out, "--resume")
    assert refused.exit_code == 2
    assert "tiny.onnx (SHA-256 " in refused.stderr
    assert "this run has other.onnx (SHA-256 " in refused.stderr
    assert len(rows(out)) == 3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--resume",), "writes a folder of parts: name it, such as -o records/"),
        (("--resume", "-o", "a.csv"), "give -o a/ --format csv."),
        (("--resume", "-o", "a.json"), "give -o a/ --format jsonl."),
        (("--resume", "-o", "a", "--format", "json"), "parts of jsonl, csv or parquet"),
        (("--resume", "-o", "a", "--report", "b.html"), "--report shows the pictures of one run"),
        (("--resume", "-o", "a", "--annotate", "b"), "--annotate shows the pictures of one run"),
        (("--retry-failed", "-o", "a.csv"), "about the folder of a run with --resume"),
        (("--resume", "-o", "a", "--csv-safe"), "--csv-safe is about CSV"),
        (("--ray-address", "auto"), "add --engine ray"),
    ],
)
def test_wrong_use(
    tiny: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = invoke(tiny, photos, *args)
    assert done.exit_code == 2
    assert words in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_camera_is_refused(tiny: Path, tmp_path: Path) -> None:
    done = invoke(tiny, "camera:0", "-o", tmp_path / "out", "--resume")
    assert done.exit_code == 2
    assert "a camera has no list of pictures" in done.stderr


def test_an_output_file_beside_parts_is_refused(tiny: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    invoke(tiny, photos, "-o", out, "--resume")
    done = invoke(tiny, photos, "-o", f"{out}/")
    assert done.exit_code == 2
    assert "holds the parts of a run; add --resume" in done.stderr


def test_other_paths_are_noted(
    tiny: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert "Note" not in invoke(tiny, photos, "-o", out, "--resume").stderr
    monkeypatch.chdir(tmp_path)
    assert "none of these pictures is among the 3" in (
        invoke(tiny, "photos", "-o", out, "--resume").stderr
    )
    assert "Note" not in invoke(tiny, photos, "-o", out, "--resume").stderr


def test_killed_at_any_time_nothing_is_lost_or_doubled(tiny: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for number in range(200):
        Image.new("L", (8, 8), number).save(folder / f"{number:03}.png")
    script = (
        "from numclip_runtime.jobs import parts; parts.SHORTEST_PART_S = parts.PART_SHARE = 0.0;"
        "from numclip_runtime.cli import main; main()"
    )
    command = [sys.executable, "-c", script, str(tiny), str(folder), "-o", str(out), "--resume"]
    kills = 0
    for wanted in (20, 80):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("part-*"))) < wanted:
            time.sleep(0.002)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 1 or os.name == "nt"
    before = len(rows(out))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"{before} images done before, {200 - before} now; 0 of 200" in done.stderr
    assert sorted(row["path"] for row in rows(out)) == sorted(map(str, folder.iterdir()))


def test_progress_counts_what_was_done_before() -> None:
    from numclip_runtime.app.progress import line

    assert line(100, 600, 10.0, 200) == "300 of 600 images  50%  10.0/s  0:00:30 left"
