"""The training benchmark runs, and counts as documented."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.numclip.tiny import TOWERS

ROOT = Path(__file__).parent.parent.parent


def test_command(tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    arguments = ("--batch", 2, "--steps", 2, "--turns", 1, "--json", tmp_path / "out.json")
    script = ROOT / "benchmarks" / "training.py"
    command = [sys.executable, script, tmp_path / "tiny.json", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text("utf-8"))
    (row,) = report["results"]
    assert report["environment"]["cpu"]
    assert (row["backbone"], row["batch"], row["steps"]) == ("tiny.json", 2, 2)
    plain, lightning = (row["seconds_per_step"][name] for name in ("plain", "lightning"))
    assert 0 < plain < 60
    assert 0 < lightning < 60
    assert 0 < row["trained_parameters"] < row["parameters"]
    assert row["peak_rss_mb"] > 100
    assert "tiny.json" in done.stdout
