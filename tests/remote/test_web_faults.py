"""Faults of a web server: tried again, one failed record, or the end of the run."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from numclip_runtime import ImageError, Predictor, StoreError
from numclip_runtime.images import decode
from numclip_runtime.remote import fetch, prefetch, stores
from numclip_runtime.remote.fetch import Retries
from numclip_runtime.remote.prefetch import prefetched
from tests.remote.conftest import picture
from tests.remote.faulty_server import FaultyServer
from tests.runtime.conftest import invoke, records


def expected(grey: int, probs_of: Callable[[float, float, float], list[float]]) -> float:
    return sum(c * p for c, p in zip((5, 15, 25), probs_of(grey, grey, grey), strict=True))


@pytest.mark.parametrize(
    "faults",
    [
        ["500"],
        ["502", "503", "504", "429"],
        ["503 1"],
        ["408"],
        ["truncated"],
        ["cut chunks", "truncated"],
        ["reset", "reset"],
        ["slow"],
        ["chunked"],
        ["302 /other.png"],
    ],
)
def test_what_passes_is_read(tiny: Path, web: FaultyServer, faults: list[str]) -> None:
    web.files = {"/a.png": picture(200), "/other.png": picture(200), "/plain.png": picture(200)}
    web.faults["/a.png"] = list(faults)
    result = invoke(tiny, f"{web.url}/a.png", f"{web.url}/plain.png")
    assert result.exit_code == 0, result.output
    hard, plain = records(result)
    assert hard["value"] == plain["value"]
    assert hard["path"] == f"{web.url}/a.png"
    once = faults[0] in ("slow", "chunked") or faults[0].startswith("302")
    assert web.asked["/a.png"] == (1 if once else len(faults) + 1)


@pytest.mark.parametrize(
    ("fault", "tries", "reason"),
    [
        ("403", 1, "cannot be fetched (403 Forbidden)"),
        ("401", 1, "cannot be fetched (401 Unauthorized)"),
        ("404", 1, "no such object"),
        ("410", 1, "no such object"),
        ("501", 1, "cannot be fetched (501 Not Implemented)"),
        ("500", 5, "not fetched in 5 tries (500 Internal Server Error)"),
        ("truncated", 5, "not fetched in 5 tries (the connection ended before the content did)"),
        ("reset", 10, "not fetched in 5 tries ("),  # aiohttp tries each a second time at once
        ("302 ~", 5, "cannot be fetched (too many redirects)"),
        ("302 file:///etc/hostname", 1, "cannot be fetched (redirected to something that is no"),
        ("304", 1, "cannot be fetched (304 Not Modified)"),
    ],
)
def test_what_stays_is_one_failed_record(
    tiny: Path, web: FaultyServer, fault: str, tries: int, reason: str
) -> None:
    web.files = {"/a.png": picture(9), "/b.png": picture(9)}
    web.always["/a.png"] = fault
    result = invoke(tiny, f"{web.url}/a.png", f"{web.url}/b.png")
    assert result.exit_code == 1
    failed, read = records(result)
    assert failed["error"].startswith(f"{web.url}/a.png: {reason}")
    assert failed["path"] == f"{web.url}/a.png"
    assert "value" in read
    assert web.asked["/a.png"] == tries


def test_an_endless_body_ends_at_the_limit(
    tiny: Path, web: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MAX_CONTENT", 3_000_000)
    web.always["/a.png"] = "endless"
    (record,) = records(invoke(tiny, f"{web.url}/a.png"))
    assert record["error"] == f"{web.url}/a.png: is larger than 3,000,000 bytes, the limit."
    assert web.asked["/a.png"] == 1


def test_a_size_beyond_the_limit_is_refused_before_it_is_read(
    tiny: Path, web: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MAX_CONTENT", 50)
    web.files["/a.png"] = picture(9)
    (record,) = records(invoke(tiny, f"{web.url}/a.png"))
    assert "is larger than 50 bytes" in record["error"]


def test_silence_is_tried_again(
    tiny: Path, web: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "SILENCE_S", 0.3)
    web.files["/a.png"] = picture(9)
    web.faults["/a.png"] = ["silent"]
    assert invoke(tiny, f"{web.url}/a.png").exit_code == 0
    assert web.asked["/a.png"] == 2


def test_nobody_listens(tiny: Path, web: FaultyServer) -> None:
    web.close()
    (record,) = records(invoke(tiny, f"{web.url}/a.png"))
    assert record["error"].startswith(f"{web.url}/a.png: not fetched in 5 tries (")


def test_secrets_are_shown_nowhere(tiny: Path, web: FaultyServer) -> None:
    web.files["/a.png"] = picture(9)
    web.always["/b.png"] = "302 ~"
    web.always["/c.png"] = "403"
    query = "?id=7&X-Amz-Signature=SECRET1&sig=SECRET2&plain=" + "SECRET3" * 8
    inputs = [f"{web.url}/{name}.png{query}" for name in "abc"]
    listed = invoke(tiny, "-", stdin="\n".join(inputs))
    result = invoke(tiny, *inputs)
    assert "SECRET" not in result.output + result.stderr + listed.output + listed.stderr
    for found in (records(result), records(listed)):
        assert [r["path"] for r in found] == [
            f"{web.url}/{name}.png?id=7&X-Amz-Signature=***&sig=***&plain=***" for name in "abc"
        ]
        assert ["error" in r for r in found] == [False, True, True]


def test_a_store_that_gives_nothing_ends_the_run(
    tiny: Path, web: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expired signatures: a million failed records would help nobody."""
    monkeypatch.setattr(fetch, "RETRIES", Retries(give_up_after=10))
    web.files = {f"/{i}.png": picture(9) for i in range(500)}
    web.always = {f"/{i}.png": "403" for i in range(100, 500)}
    inputs = "\n".join(f"{web.url}/{i}.png" for i in range(500))
    output = tmp_path / "a.jsonl"
    result = invoke(tiny, "-", "-o", output, stdin=inputs)
    assert result.exit_code == 2
    given_up = re.search(r"gave none of the last (\d+) objects", result.stderr)
    assert given_up is not None, result.stderr
    # An object of the first 100 that comes late begins the count anew, and up to AHEAD were asked
    # for before it; the first one in order says the count, which may have come last
    assert 10 <= int(given_up[1]) <= 10 + prefetch.AHEAD
    assert "images done and kept" in result.stderr
    kept = output.read_text().splitlines()
    assert 100 <= len(kept) <= 100 + 10 + prefetch.AHEAD
    assert sum(web.asked.values()) <= 100 + 10 + 2 * prefetch.AHEAD


def test_refusals_among_answers_end_nothing(
    tiny: Path, web: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "RETRIES", Retries(give_up_after=10))
    monkeypatch.setattr(prefetch, "FETCHERS", 1)
    web.files = {f"/{i}.png": picture(9) for i in range(0, 60, 2)}
    web.always = {f"/{i}.png": "403" for i in range(1, 60, 2)}
    result = invoke(tiny, "-", stdin="\n".join(f"{web.url}/{i}.png" for i in range(60)))
    assert result.exit_code == 1
    assert len(records(result)) == 60


def test_many_are_fetched_at_a_time_and_come_in_order(tiny: Path, web: FaultyServer) -> None:
    web.delay_s = 0.05
    web.files = {f"/{i:03}.png": picture(i) for i in range(100)}
    inputs = [f"{web.url}/{i:03}.png" for i in range(100)]
    found = records(invoke(tiny, "-", stdin="\n".join(inputs)))
    assert [r["path"] for r in found] == inputs
    values = [r["value"] for r in found]
    assert values == sorted(values)
    assert web.most_open > 8


def test_patterns_in_a_page_of_links(tiny: Path, web: FaultyServer) -> None:
    names = ("a.png", "b.png", "c.txt", ".hidden.png")
    links = "".join(f'<a href="{name}">{name}</a>' for name in names)
    web.files = {f"/d/{name}": picture(9) for name in names}
    web.files["/d/"] = links.encode()
    found = records(invoke(tiny, f"{web.url}/d/*.png"))
    assert [r["path"] for r in found] == [f"{web.url}/d/a.png", f"{web.url}/d/b.png"]
    nothing = invoke(tiny, f"{web.url}/e/*.png")
    assert nothing.exit_code == 2
    assert nothing.stderr.count("\n") == 1


def test_predictor_takes_addresses(
    predictor: Predictor,
    web: FaultyServer,
    probs_of: Callable[[float, float, float], list[float]],
) -> None:
    web.files = {f"/{i}.png": picture(i) for i in (10, 120, 250)}
    urls = [f"{web.url}/{i}.png?token=SECRET" for i in (10, 120, 250)]
    masked = [url.replace("SECRET", "***") for url in urls]
    truth = [expected(grey, probs_of) for grey in (10, 120, 250)]
    one = predictor.predict(urls[0])
    assert (one.path, math.isclose(one.value, truth[0], rel_tol=1e-4)) == (masked[0], True)
    for found in (
        predictor.predict_batch(urls),
        list(predictor.stream(urls)),
        list(predictor.stream(prefetched(urls))),
    ):
        assert [p.path for p in found] == masked
        assert [p.value for p in found if not isinstance(p, ImageError)] == pytest.approx(truth)
    with pytest.raises(ImageError, match=r"/gone\.png: no such object"):
        predictor.predict(f"{web.url}/gone.png")
    assert predictor.preprocess(urls[0]).shape == predictor.preprocess(picture(3)).shape


def test_a_stream_takes_nothing_ahead(predictor: Predictor, web: FaultyServer) -> None:
    web.files["/a.png"] = picture(9)
    taken = 0

    def images() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield f"{web.url}/a.png"

    results = predictor.stream(images(), workers=1)  # type: ignore[arg-type]
    next(results)
    assert taken <= 8
    results.close()


def test_a_stream_ends_where_a_store_fails(
    predictor: Predictor, web: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "RETRIES", Retries(give_up_after=3))
    web.always = {"/a.png": "403"}
    found: list[object] = []
    with pytest.raises(StoreError, match="gave none of the last"):
        found.extend(predictor.stream([f"{web.url}/a.png"] * 50))
    assert len(found) < 20


def test_waits_grow_and_differ() -> None:
    retries = Retries(first_s=1, most_s=16)
    waits = [[retries.wait_s(n) for n in range(1, 8)] for _ in range(200)]
    for n, column in enumerate(zip(*waits, strict=True)):
        mean = min(2**n, 16)
        assert 0.5 * mean <= min(column) < 0.7 * mean
        assert 1.3 * mean < max(column) <= 1.5 * mean
    assert Retries().wait_s(1, asked_s=30) == 30
    assert Retries().wait_s(1, asked_s=9999) == 60


def test_memory_ahead_is_bounded(web: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader is slow: what was fetched and not read stays within the limit."""
    size = len(picture(9, 500, "BMP"))
    monkeypatch.setattr(prefetch, "AHEAD_BYTES", 4 * size)
    web.files = {f"/{i}.bmp": picture(9, 500, "BMP") for i in range(20)}
    web.delay_s = 0.5  # the others are asked for while the first one is waited for
    pictures = prefetched([f"{web.url}/{i}.bmp" for i in range(20)])
    first = next(pictures)
    web.delay_s = 0.0
    budget, deadline = first._budget, time.monotonic() + 60  # type: ignore[union-attr]
    while budget._used < 4 * size and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # in which more would come
    assert budget._used == 4 * size
    assert len(first.read(-1)) == size  # type: ignore[union-attr]
    assert [len(one.read(-1)) for one in pictures] == [size] * 19  # type: ignore[union-attr]
    assert budget._used == 0
    assert not budget._held


def test_threads_end(web: FaultyServer) -> None:
    web.files["/a.png"] = picture(9)
    before = set(threading.enumerate())
    pictures = prefetched([f"{web.url}/a.png"] * 3)
    next(pictures)
    mine = [t for t in set(threading.enumerate()) - before if t.name == "numclip-fetcher"]
    assert mine
    pictures.close()
    for thread in mine:
        thread.join(20)
    assert not any(thread.is_alive() for thread in mine)
