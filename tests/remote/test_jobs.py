"""Jobs with addresses: finished ones are not fetched again, and secrets stay out of records."""

from __future__ import annotations

from pathlib import Path

import pytest

from numclip_runtime import StoreError
from numclip_runtime.backends import DEFAULTS
from numclip_runtime.jobs.worker import WorkerModel
from tests.remote.conftest import picture
from tests.remote.faulty_server import FaultyServer
from tests.runtime.conftest import invoke, records

COUNT = 10
SECRET = "X-Amz-Signature=0123456789abcdef"


@pytest.fixture
def addresses(web: FaultyServer) -> list[str]:
    web.files = {f"/{number}.png": picture(20 * number) for number in range(COUNT)}
    return [web.url + path for path in web.files]


def test_finished_ones_are_not_fetched_again(
    tiny: Path, web: FaultyServer, addresses: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = invoke(tiny, *addresses[:6], "-o", out, "--resume")
    assert "0 images done before, 6 now" in first.stderr
    assert web.asked.total() == 6
    second = invoke(tiny, *addresses, "-o", out, "--resume")
    assert "6 images done before, 4 now" in second.stderr
    assert set(web.asked.values()) == {1}
    assert web.asked.total() == COUNT
    listed = invoke(tiny, "-", "-o", out, "--resume", stdin="\n".join(addresses))
    assert "10 images done before, 0 now" in listed.stderr
    assert web.asked.total() == COUNT


def test_a_worker_fetches_ahead_and_hides_secrets(
    tiny: Path, web: FaultyServer, addresses: list[str]
) -> None:
    web.delay_s = 0.05
    worker = WorkerModel(str(tiny), DEFAULTS, workers=1)
    signed = [f"{address}?{SECRET}" for address in [*addresses, f"{web.url}/gone.png"]]
    found = worker.records(signed)
    *read, gone = found
    assert web.most_open > 3
    assert "0123456789abcdef" not in str(found)
    assert [one["path"] for one in read] == [f"{a}?X-Amz-Signature=***" for a in addresses]
    local = {one["path"]: one["value"] for one in records(invoke(tiny, *addresses))}
    assert [one["value"] for one in read] == list(local.values())
    assert gone["path"] == f"{web.url}/gone.png?X-Amz-Signature=***"
    assert "no such object" in gone["error"]


def test_a_store_that_nobody_can_read_ends_the_work(tiny: Path, web: FaultyServer) -> None:
    """Fifty failures in a row are no accident of fifty pictures."""
    addresses = [f"{web.url}/{number}.png" for number in range(60)]
    web.always = {f"/{number}.png": "403" for number in range(60)}
    with pytest.raises(StoreError, match="403 Forbidden"):
        WorkerModel(str(tiny), DEFAULTS, workers=1).records(addresses)
