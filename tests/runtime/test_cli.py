"""`numclip-run` on good input: formats, outputs, and how images are found."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from numclip_runtime import Predictor, __version__, load
from numclip_runtime.app.cli import main
from numclip_runtime.app.progress import chosen
from numclip_runtime.backends import OpenOptions
from numclip_runtime.pipeline import StreamPlan
from tests.runtime.conftest import SEPARATE


def invoke(*args: object) -> Result:
    return CliRunner(**SEPARATE).invoke(main, [str(arg) for arg in args])


@pytest.fixture
def expected(predictor: Predictor, photos: Path) -> list[dict[str, Any]]:
    """Return the records of the folder `photos`, in the order of their paths."""
    paths = [photos / "dark.png", photos / "light.jpg", photos / "sub" / "mid.PNG"]
    return [{"path": str(path), **predictor.predict(path).to_dict()} for path in paths]


def from_csv(text: str) -> list[dict[str, Any]]:
    records = []
    for row in csv.DictReader(io.StringIO(text)):
        assert row["error"] == row["interval"] == ""
        numbers = {"value": float(row["value"]), "bin_probs": json.loads(row["bin_probs"])}
        records.append({k: row[k] for k in ("path", "unit", "bin")} | {"interval": None} | numbers)
    return records


PARSERS: dict[str, Callable[[str], list[dict[str, Any]]]] = {
    "json": json.loads,
    "jsonl": lambda text: [json.loads(line) for line in text.splitlines()],
    "csv": from_csv,
}


@pytest.mark.parametrize("kind", list(PARSERS))
def test_formats_on_stdout(
    tiny: Path, photos: Path, expected: list[dict[str, Any]], kind: str
) -> None:
    result = invoke(tiny, photos, "--format", kind)
    assert result.exit_code == 0
    assert PARSERS[kind](result.output) == expected


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("kind", list(PARSERS))
def test_output_file(
    tiny: Path,
    photos: Path,
    tmp_path: Path,
    expected: list[dict[str, Any]],
    kind: str,
    explicit: bool,
) -> None:
    out = tmp_path / ("records.txt" if explicit else f"records.{kind}")
    result = invoke(tiny, photos, "-o", out, *(["--format", kind] if explicit else []))
    assert (result.exit_code, result.output) == (0, "")
    assert PARSERS[kind](out.read_text()) == expected
    assert out.stat().st_mode & 0o044, "others may read it, unlike a temporary file"


def test_table(tiny: Path, photos: Path) -> None:
    result = invoke(tiny, photos, "--format", "table")
    head, dark, light, _ = result.output.splitlines()
    assert head.split() == ["value", "bin", "path"]
    assert dark.split() == ["5.29", "points", "dark", "97%", str(photos / "dark.png")]
    assert light.split()[2] == "bright"
    assert head.index("path") == dark.index(str(photos)) == light.index(str(photos))


def test_pipe_default_is_jsonl(tiny: Path, photos: Path, expected: list[dict[str, Any]]) -> None:
    assert PARSERS["jsonl"](invoke(tiny, photos).output) == expected


@pytest.mark.parametrize("flags", [["--batch-size", 2], ["--workers", 3], ["--threads", 1]])
def test_speed_flags_change_nothing(
    tiny: Path, photos: Path, expected: list[dict[str, Any]], flags: list[object]
) -> None:
    records = PARSERS["jsonl"](invoke(tiny, photos, *flags).output)
    assert [record["path"] for record in records] == [record["path"] for record in expected]
    for record, other in zip(records, expected, strict=True):
        assert record["value"] == pytest.approx(other["value"], abs=1e-5)


def test_files_folders_and_patterns_keep_the_order_given(tiny: Path, photos: Path) -> None:
    result = invoke(
        tiny, photos / "sub", photos / "*.jpg", photos / "**/*.p*g", photos / "dark.png"
    )
    names = [Path(record["path"]).name for record in PARSERS["jsonl"](result.output)]
    assert names == ["mid.PNG", "light.jpg", "dark.png", "dark.png"]


def test_folder_is_sorted(tiny: Path, tmp_path: Path) -> None:
    names = ["a/z.png", "b.png", "c/a.png", "d.png"]
    for name in reversed(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    records = PARSERS["jsonl"](invoke(tiny, tmp_path).output)
    assert [record["path"] for record in records] == [str(tmp_path / name) for name in names]


def test_a_name_with_pattern_characters_is_a_file_first(tiny: Path, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a[1].png")
    result = invoke(tiny, tmp_path / "a[1].png")
    assert json.loads(result.output)["path"] == str(tmp_path / "a[1].png")


def test_one_bad_image_does_not_stop_the_others(tiny: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    bad = [photos / "notes.txt", photos / "gone.jpg", photos / ("n" * 300)]
    result = invoke(tiny, photos / "dark.png", *bad, photos / "light.jpg", "-o", out)
    assert (result.exit_code, result.stderr) == (1, "3 of 5 images failed.\n")
    records = json.loads(out.read_text())
    assert [set(record) == {"path", "error"} for record in records] == [False, *[True] * 3, False]
    assert records[2]["error"] == f"{photos / 'gone.jpg'}: no such file."


def test_failures_in_table_and_csv(tiny: Path, photos: Path) -> None:
    gone = photos / "gone.jpg"
    table = invoke(tiny, gone, "--format", "table").output
    assert table.splitlines()[1].split(maxsplit=1) == ["failed", f"{gone}: no such file."]
    text = invoke(tiny, gone, "--format", "csv").output
    assert f"\n{gone},,,,,,{gone}: no such file.,,\n" in text


@pytest.mark.parametrize(
    ("inputs", "flags", "aim", "threads"),
    [
        (["dark.png"], [], "latency", None),
        (["dark.png", "light.jpg"], [], "throughput", 1),
        (["."], [], "throughput", 1),
        (["-"], [], "throughput", 1),
        (["."], ["--threads", "2"], "throughput", 2),
    ],
)
def test_cores_go_to_one_image_or_to_many(
    tiny: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    inputs: list[str],
    flags: list[str],
    aim: str,
    threads: int | None,
) -> None:
    opened: list[Predictor] = []
    asked: list[object] = []

    def loading(model: Path, options: OpenOptions) -> Predictor:
        asked.append(options.optimize_for)
        opened.append(really_open(model, options))
        return opened[-1]

    really_open = Predictor.open

    monkeypatch.chdir(photos)
    monkeypatch.setattr(Predictor, "open", loading)
    monkeypatch.setattr("numclip_runtime.backends.onnxruntime.threads_of_a_run", lambda: None)
    CliRunner().invoke(main, [str(tiny), *inputs, *flags], input="dark.png\n")
    assert asked == [aim]
    assert opened[0].backend.threads == threads


def test_what_was_chosen_is_said(tiny: Path) -> None:
    with load(tiny, threads=2) as predictor:
        predictor.backend.lanes = 3
        head = "onnxruntime: CPUExecutionProvider on cpu, fp32"
        assert chosen(predictor, StreamPlan(1, 4, 3, True)) == (
            f"{head}, batch 1, 3 inferences at a time of 2 threads, 4 workers"
        )
        predictor.backend.threads = None
        assert chosen(predictor, StreamPlan(8, 1, 1, False)) == (
            f"{head}, batch 8, 1 inference at a time of all cores, 1 worker"
        )
        predictor.backend.device = "A GPU"
        assert chosen(predictor, StreamPlan(16, 4, 2, False)).endswith(
            "on A GPU, fp32, batch 16, 2 inferences at a time, 4 workers"
        )


def test_automatic_is_the_default_that_help_names() -> None:
    text = " ".join(invoke("-h").output.split())
    assert text.count("[default: (automatic") == 3


def test_help_and_version() -> None:
    assert "Exit codes: 0 all read, 1 some images failed, 2 wrong use" in invoke("-h").output
    assert __version__ in invoke("--version").output


def test_a_row_of_the_table_is_one_line(tiny: Path, photos: Path) -> None:
    """Found: a line break in a name broke the table, and an escape code reached the terminal."""
    for name in ("new\nline.png", "\x1b[31mred.png"):
        (photos / name).write_bytes((photos / "dark.png").read_bytes())
    result = invoke(tiny, photos, photos / "gone\n.png", "--format", "table")
    lines = result.stdout.splitlines()
    assert len(lines) == 1 + 5 + 1
    assert lines[1].endswith("/\\x1b[31mred.png")
    assert lines[4].endswith("/new\\nline.png")
    assert lines[6].endswith("/gone\\n.png: no such file.")
