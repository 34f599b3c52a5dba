"""Standard streams that the caller closed, as cron, services and `2>&-` do."""

from __future__ import annotations

import json
import shlex
import subprocess
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.posix("a shell closes the streams")
COMMAND = Path(sysconfig.get_path("scripts")) / "numclip-run"


def shell(closed: str, *args: str | Path) -> tuple[int, str]:
    line = f"{shlex.join(map(str, (COMMAND, *args)))} {closed}"
    done = subprocess.run(["sh", "-c", line], stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 2>&-"])
def test_records_come_without_stderr(tiny: Path, photos: Path, closed: str) -> None:
    """Found: closed stderr ended the run with exit code 1 and no record."""
    code, out = shell(closed, tiny, photos / "dark.png")
    assert (code, json.loads(out)["unit"]) == (0, "points")
    code, out = shell(closed, tiny, photos / "dark.png", photos / "none.png")
    assert (code, len(out.splitlines())) == (1, 2)


@pytest.mark.parametrize("closed", ["0<&-", ">&-", "2>&-", ">&- 2>&-", "0<&- >&- 2>&-"])
def test_no_output_takes_the_place_of_a_stream(
    tiny: Path, photos: Path, tmp_path: Path, closed: str
) -> None:
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    args: list[str | Path] = [
        tiny,
        photos / "dark.png",
        photos / "none.png",
        "-v",
        "-o",
        out,
        "--report",
        page,
    ]
    assert shell(closed, *args) == (1, "")
    assert [("error" in record) for record in json.loads(out.read_text())] == [False, True]
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_wrong_use_without_streams(tiny: Path, photos: Path) -> None:
    assert shell(">&- 2>&-", tiny, photos / "dark.png") == (2, "")
    assert shell("0<&- 2>&-", tiny, "-") == (2, "")
