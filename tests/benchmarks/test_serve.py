"""The load on a server: rows that add up, and a verdict that sees growth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.bench.serving.http_client import form_request, raw_request
from benchmarks.bench.serving.offered_load import percentile
from benchmarks.bench.serving.soak import Minute, verdict

pytest.importorskip("uvicorn", reason="pip install 'numclip[serve]'")
TINY = Path(__file__).parents[1] / "data/tiny.onnx"
FLAT = [
    Minute(n, 100, 50, 10.0, 30.0, {"200": 50, "400": 50}, 150.0, 9, 5, 0.2) for n in range(1, 13)
]


def test_loads_are_measured(tmp_path: Path) -> None:
    from benchmarks.serve import main

    out = tmp_path / "loads.json"
    done = CliRunner().invoke(main, [str(TINY), "--seconds", "0.2", "--json", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text("utf-8"))
    assert found["capacity_per_s"] > 0
    rows = found["loads"]
    assert [(row["loop"], row["times"]) for row in rows] == [
        (loop, times) for loop in ("closed", "open") for times in (0.5, 1.0, 1.5, 3.0)
    ]
    for row in rows:
        assert set(row["statuses"]) <= {"200", "429"}
        sent = row["offered_per_s"] * row["seconds"]
        assert sum(row["statuses"].values()) + row["unsent"] == pytest.approx(sent)
        assert row["p50_ms"] <= row["p99_ms"]


def test_percentiles_are_values() -> None:
    assert percentile([3, 1, 2, 4], 0.5) == 2
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([7], 0.5) == percentile([7], 0.99) == 7


def test_requests_tell_their_length() -> None:
    for request in (raw_request(b"abc"), form_request([b"abc", b"d" * 500])):
        head, _, body = request.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}" in head.decode().split("\r\n")
    assert raw_request(b"abcd", chunked=True).endswith(b"1\r\nd\r\n0\r\n\r\n")


def test_a_flat_soak_is_flat() -> None:
    assert verdict(FLAT).flat


@pytest.mark.parametrize(
    "change",
    [
        {"rss_mib": 160.0},
        {"descriptors": 12},
        {"p50_ms": 13.0},
        {"statuses": {"200": 99, "500": 1}},
        {"statuses": {"200": 99, "no answer": 1}},
    ],
    ids=str,
)
def test_growth_and_faults_are_not_flat(change: dict[str, object]) -> None:
    later = [replace(m, **change) for m in FLAT[9:]]  # type: ignore[arg-type]
    assert not verdict([*FLAT[:9], *later]).flat
    warm = [replace(m, rss_mib=100.0, descriptors=3) for m in FLAT[:3]]  # the first quarter
    assert verdict([*warm, *FLAT[3:]]).flat
