"""Against a server of S3 (moto), with faults: `make s3-test`, in an environment of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

from numclip_runtime.remote import fetch, stores
from numclip_runtime.remote.fetch import Retries
from tests.remote.conftest import picture
from tests.remote.s3_server import S3Server
from tests.runtime.conftest import invoke, records

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return s3fs on an empty server that has the bucket "pics"."""
    import fsspec
    import requests

    server.faults.clear()
    server.always, server.of_all, server.after = {}, "", 0
    requests.post(f"{server.url}/moto-api/reset", timeout=30)
    server.asked.clear()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    stores._opened_store.cache_clear()
    fs = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    fs.mkdir("pics")
    yield fs
    stores._opened_store.cache_clear()


@pytest.fixture
def ten(s3: Any) -> Any:
    """Return s3fs, with ten pictures and others under s3://pics/photos."""
    for i in range(10):
        s3.pipe_file(f"pics/photos/{i % 2}/{i} ü#?.png", picture(25 * i))
    for name in (".hidden/x.png", "notes.txt", "raw.psd", "@eadir/x.png"):
        s3.pipe_file(f"pics/photos/{name}", b"x")
    s3.pipe_file("pics/photos2/z.png", picture(1))
    s3.touch("pics/photos/0/")  # a marker of a folder, as consoles make it
    return s3


def names(ten: Any) -> list[str]:
    return sorted(f"s3://pics/photos/{i % 2}/{i} ü#?.png" for i in range(10))


@pytest.mark.parametrize("given", ["photos", "photos/", "photos/**", "photos/**/*.png"])
def test_prefixes_and_patterns(tiny: Path, ten: Any, given: str) -> None:
    result = invoke(tiny, f"s3://pics/{given}")
    if given.endswith("**"):  # takes what it matches, as on a disk
        found = [r["path"] for r in records(result) if "error" not in r]
        assert found == names(ten)
        return
    assert result.exit_code == 0, result.output
    assert [r["path"] for r in records(result)] == names(ten)
    assert ("left out: 1 .psd" in result.stderr) == ("*" not in given)


def test_one_level_and_a_list(tiny: Path, ten: Any) -> None:
    one = records(invoke(tiny, "s3://pics/photos/0/*.png"))
    assert [r["path"] for r in one] == names(ten)[:5]
    listed = records(invoke(tiny, "-", stdin="\n".join(names(ten))))
    whole = records(invoke(tiny, "s3://pics"))
    assert [r["path"] for r in listed] == names(ten)
    assert [r["path"] for r in whole] == [*names(ten), "s3://pics/photos2/z.png"]
    assert listed[:10] == whole[:10]


def test_a_listing_spares_the_question_for_the_size(tiny: Path, ten: Any, server: S3Server) -> None:
    server.asked.clear()
    invoke(tiny, "s3://pics/photos/")
    assert {word.split()[0] for word in server.asked} == {"GET"}
    assert sum(server.asked.values()) <= 10 + 2


@pytest.mark.parametrize(
    "faults",
    [["500 InternalError", "503 SlowDown"], ["truncated"], ["400 RequestTimeout"], ["429 X"]],
)
def test_what_passes_is_read(tiny: Path, ten: Any, server: S3Server, faults: list[str]) -> None:
    server.faults["/pics/photos2/z.png"] = list(faults)
    for given in ("s3://pics/photos2/", "s3://pics/photos2/z.png"):
        (record,) = records(invoke(tiny, given))
        assert "value" in record, record
    assert not server.faults["/pics/photos2/z.png"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("403 AccessDenied", "cannot be fetched (AccessDenied: AccessDenied it is)"),
        ("503 SlowDown", "not fetched in 5 tries (SlowDown: SlowDown it is)"),
        ("truncated", "not fetched in 5 tries ("),
    ],
)
def test_what_stays_is_one_failed_record(
    tiny: Path, ten: Any, server: S3Server, fault: str, reason: str
) -> None:
    place = "s3://pics/photos2/z.png"
    server.always[place.removeprefix("s3:/")] = fault
    for given in ("s3://pics/photos2/", place):
        result = invoke(tiny, given)
        assert result.exit_code == 1
        (failed,) = records(result)
        if fault.startswith("503") and given == place:
            reason = "not fetched in 5 tries ("  # the answer about the size has no words
        assert failed["error"].startswith(f"{place}: {reason}")


def test_a_missing_object_and_a_missing_bucket(tiny: Path, ten: Any) -> None:
    gone = invoke(tiny, "s3://pics/gone.png", names(ten)[0])
    assert gone.exit_code == 1
    assert records(gone)[0]["error"] == "s3://pics/gone.png: no such object."
    for given in ("s3://nobucket/", "s3://nobucket/a.png", "s3://nobucket/*.png"):
        result = invoke(tiny, given)
        assert result.exit_code == 2
        assert result.stderr.startswith("Error: s3://nobucket")
        assert "NoSuchBucket" in result.stderr
        assert result.stderr.count("\n") == 1
    nothing = invoke(tiny, "s3://pics/nothing/")
    assert "no images under this prefix" in nothing.stderr


@pytest.mark.parametrize(
    "code", ["400 ExpiredToken", "403 InvalidAccessKeyId", "403 SignatureDoesNotMatch"]
)
@pytest.mark.parametrize(
    "given", ["s3://pics/photos/", "s3://pics/photos/a.png", "s3://pics/*/*.png"]
)
def test_credentials_that_are_no_good(
    tiny: Path, ten: Any, server: S3Server, code: str, given: str
) -> None:
    server.of_all = code
    result = invoke(tiny, given)
    assert result.exit_code == 2
    assert code.split()[1] in result.stderr
    assert "aws sso login" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_bucket_that_may_not_be_listed(tiny: Path, ten: Any, server: S3Server) -> None:
    server.of_all = "403 AccessDenied"
    for given in ("s3://pics/photos/", "s3://pics/photos/*.png"):
        result = invoke(tiny, given)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "cannot be read (AccessDenied" in result.stderr


def test_no_credentials(tiny: Path, ten: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    stores._opened_store.cache_clear()
    result = invoke(tiny, "s3://pics/photos/")
    assert result.exit_code == 2
    assert "Unable to locate credentials" in result.stderr


def test_a_profile_that_is_not_there(tiny: Path, ten: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    stores._opened_store.cache_clear()
    result = invoke(tiny, "s3://pics/photos/")
    assert result.exit_code == 2
    assert "nobody" in result.stderr
    assert result.stderr.count("\n") == 1


def test_credentials_that_expire(tiny: Path, ten: Any, server: S3Server, tmp_path: Path) -> None:
    """Two of ten were read; the others are no failed records."""
    server.of_all, server.after = "400 ExpiredToken", 2
    server.faults["/pics"] = [""]
    output = tmp_path / "a.jsonl"
    result = invoke(tiny, "-", "-o", output, stdin="\n".join(names(ten)))
    assert result.exit_code == 2
    assert "ExpiredToken" in result.stderr
    kept = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    assert all("value" in record for record in kept)
    assert [r["path"] for r in kept] == names(ten)[: len(kept)]


@pytest.mark.parametrize("name", ["records.jsonl", "records.csv", "records.parquet", "r.json"])
def test_an_output_appears_whole(tiny: Path, ten: Any, tmp_path: Path, name: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    local = tmp_path / name
    assert invoke(tiny, "s3://pics/photos/", "-o", local).exit_code == 0
    result = invoke(tiny, "s3://pics/photos/", "-o", f"s3://pics/out/{name}")
    assert (result.exit_code, result.stdout) == (0, "")
    assert ten.cat_file(f"pics/out/{name}") == local.read_bytes()
    assert invoke(tiny, "s3://pics/photos2/z.png", "-o", f"s3://pics/out/{name}").exit_code == 0
    assert ten.cat_file(f"pics/out/{name}") != local.read_bytes()


def test_an_output_that_cannot_be_sent_stays(
    tiny: Path, ten: Any, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server.always["/pics/out.jsonl"] = "503 SlowDown"
    monkeypatch.setattr(fetch, "RETRIES", Retries(tries=2, first_s=0.01))
    refused = invoke(tiny, "s3://pics/photos/", "-o", "s3://pics/out.jsonl")
    assert refused.exit_code == 2
    assert "SlowDown" in refused.stderr
    server.faults["/pics/out.jsonl"] = ["404 NoSuchKey"]
    result = invoke(tiny, "s3://pics/photos/", "-o", "s3://pics/out.jsonl")
    assert result.exit_code == 2
    assert "s3://pics/out.jsonl: cannot be written (" in result.stderr
    (kept,) = tmp_path.glob("numclip-*/out.jsonl")
    assert f"the records are in {kept}." in result.stderr
    assert len(kept.read_text().splitlines()) == 10


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3://nobucket/a.csv", "NoSuchBucket"),
        ("s3://pics", "names no object"),
        ("s3://pics/a.png", "has the name of a picture"),
        ("https://a.org/a.csv", "nothing is sent to web servers"),
        ("ftp://a.org/a.csv", "ftp:// is not read"),
    ],
)
def test_outputs_that_are_refused_at_once(tiny: Path, ten: Any, place: str, message: str) -> None:
    result = invoke(tiny, "s3://pics/photos/", "-o", place, "--format", "csv")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
