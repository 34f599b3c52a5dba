"""Stores by fsspec's own one in memory: what an address stands for, and outputs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from numclip_runtime.app.video import is_live
from numclip_runtime.images.folder import LeftOut, find_images
from numclip_runtime.remote.addresses import masked
from numclip_runtime.remote.listing import find_objects
from tests.remote.conftest import picture
from tests.runtime.conftest import invoke, records

Put = Callable[[dict[str, bytes]], Any]
TREE = (
    "a.png",
    "B.PNG",
    "sub/c.jpg",
    "sub/deep/d.png",
    "sub/.hidden.png",
    ".folder/e.png",
    "@eaDir/f.png",
    "raw.nef",
    "x.heic",
    "notes.txt",
    "_SUCCESS",
)


@pytest.fixture
def tree(store: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, which memory://tree equals."""
    store({f"/tree/{name}": picture(9) for name in TREE})
    for name in TREE:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(picture(9) if name != "_SUCCESS" else b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tree"


@pytest.mark.parametrize(
    "given",
    [
        *("", "/", "/*.png", "/**/*.png", "/**/d.png", "/*/*.jpg", "/sub/**", "/[ab].png"),
        *("/?.png", "/.folder/*.png", "/**/deep/*.png", "/sub/deep"),
    ],
)
def test_the_same_as_on_a_disk(tree: Path, given: str) -> None:
    here, there = LeftOut(), LeftOut()
    expected = find_images([f"tree{given}"], left_out=here)
    found = [wanted.name for _, wanted in find_objects(f"memory://tree{given}", there)]
    assert found == [f"memory://{path}" for path in expected]
    assert there == here


def test_names_are_relative(tree: Path) -> None:
    assert [name for name, _ in find_objects("memory://tree/sub/", LeftOut())] == [
        "c.jpg",
        "deep/d.png",
    ]
    assert [name for name, _ in find_objects("memory://tree/**/d.png", LeftOut())] == [
        "sub/deep/d.png"
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("memory://none/", "memory://none/: no images under this prefix (looked for .apng"),
        ("memory://tree/*.gif", "memory://tree/*.gif: the pattern matches no object."),
        ("ftp://h/a.png", "ftp://h/a.png: ftp:// is not read (but s3:// "),
        ("file:///tmp/a.png", "give the path alone: /tmp/a.png"),
        ("s3://id:SECRET@b/a.png", "s3://...@b: holds a user's name or password"),
        ("https://u:SECRET@h/a.png", "https://...@h: holds a user's name or password"),
        ("https://SECRET@h/a.png", "https://...@h: holds a user's name or password"),
        ("s3:///a.png", "s3:///a.png: names no bucket."),
    ],
)
def test_addresses_that_are_refused(tiny: Path, tree: Path, given: str, message: str) -> None:
    result = invoke(tiny, given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "SECRET" not in result.stderr
    assert result.stderr.count("\n") == 1
    if not given.startswith("memory"):  # from a list, one failed record
        listed = invoke(tiny, "-", stdin=f"{given}\nmemory://tree/a.png\n")
        assert "SECRET" not in listed.output + listed.stderr
        assert ["error" in r for r in records(listed)] == [True, False]


@pytest.mark.parametrize(
    ("module", "given", "command"),
    [
        ("fsspec", "s3://b/a.png", "pip install 'numclip[remote]'"),
        ("s3fs", "s3://b/a.png", "pip install s3fs"),
        ("gcsfs", "gs://b/", "pip install gcsfs"),
        ("adlfs", "az://c/*.png", "pip install adlfs"),
        ("aiohttp", "https://h/a.jpg", "pip install aiohttp"),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_a_missing_package_is_one_sentence(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, module: str, given: str, command: str, listed: bool
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    result = invoke(tiny, "-" if listed else given, stdin=f"{given}\n" * 3)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {module} is not installed")
    assert result.stderr.endswith(f"install with: {command}\n")


def test_what_is_a_stream_stays_one() -> None:
    assert is_live("https://h/live")
    assert is_live("http://h:8080/")
    assert is_live("https://h/clip.mp4")
    assert not is_live("https://h/a.JPG?x=1")
    assert not is_live("https://h/*.jpg")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://h/a.jpg?id=3&page=2", "https://h/a.jpg?id=3&page=2"),
        ("https://h/a.jpg?X-Amz-Credential=AK%2F1&v=1", "https://h/a.jpg?X-Amz-Credential=***&v=1"),
        ("https://h/a.jpg?se=2026&sp=r&sig=abc", "https://h/a.jpg?se=***&sp=r&sig=***"),
        (f"https://h/a.jpg?q={'x' * 32}", "https://h/a.jpg?q=***"),
        (f"https://h/a.jpg?{'x' * 40}", "https://h/a.jpg?***"),
        ("https://h/a.jpg#access_token=x", "https://h/a.jpg"),
        ("https://h/a.jpg?a=1#access_token=x", "https://h/a.jpg?a=1"),
        ("s3://b/a?token=1.jpg", "s3://b/a?token=1.jpg"),
        ("abfs://box@account.dfs.core.windows.net/a", "abfs://box@account.dfs.core.windows.net/a"),
        ("https://u:p@h/a.jpg", "https://***@h/a.jpg"),
        ("a/b?token=1.jpg", "a/b?token=1.jpg"),
    ],
)
def test_secrets_in_addresses(address: str, expected: str) -> None:
    assert masked(address) == expected


def test_report_copies_and_fast_decoding(tiny: Path, store: Put, tmp_path: Path) -> None:
    """They need the picture a second time, which is not fetched again."""
    store({"/p/a.jpg": picture(200, 900, "JPEG"), "/p/sub/b.png": picture(3), "/p/c.png": b"no"})
    drawn, page = tmp_path / "drawn", tmp_path / "page.html"
    result = invoke(tiny, "memory://p/", "--annotate", drawn, "--report", page, "--fast-decode")
    assert result.exit_code == 1
    copies = sorted(path.relative_to(drawn).as_posix() for path in drawn.rglob("*.*"))
    assert copies == ["a.jpg", "sub/b.png"]
    html = page.read_text("utf-8")
    assert html.count("data:image") == 2
    assert "memory://p/a.jpg" in html
    assert "1 JPEG decoded both ways" in result.stderr


def test_one_object_and_a_missing_one(tiny: Path, store: Put) -> None:
    store({"/p/a.png": picture(9), "/p/empty.png": b""})
    result = invoke(tiny, *(f"memory://p/{name}.png" for name in ("a", "gone", "empty")))
    assert [r.get("error") for r in records(result)] == [
        None,
        "memory://p/gone.png: no such object.",
        "memory://p/empty.png: the file is empty.",
    ]


def test_a_list_of_all_kinds(tiny: Path, store: Put, photos: Path) -> None:
    store({"/p/a.png": picture(9)})
    lines = f"memory://p/a.png\n{photos / 'dark.png'}\nmemory://p/clip.mp4\nmemory://p/a.png\n"
    found = records(invoke(tiny, "-", stdin=lines))
    assert [r["path"] for r in found] == lines.splitlines()
    assert ["error" in r for r in found] == [False, False, True, False]


@pytest.mark.parametrize("name", ["out/r.jsonl", "out/"])
def test_outputs(tiny: Path, store: Put, name: str) -> None:
    fs = store({"/p/a.png": picture(9), "/p/b.png": b"no"})
    result = invoke(tiny, "memory://p/", "-o", f"memory://{name}")
    assert (result.exit_code, result.stdout) == (1, "")
    text = fs.cat_file(f"/{name}" if name[-1] != "/" else "/out/records.jsonl").decode()
    assert [json.loads(line)["path"] for line in text.splitlines()] == [
        "memory://p/a.png",
        "memory://p/b.png",
    ]


def test_no_output_appears_without_a_record(tiny: Path, store: Put) -> None:
    fs = store({"/p/a.png": picture(9)})
    assert invoke(tiny, "memory://none/", "-o", "memory://out/r.csv").exit_code == 2
    assert fs.find("/out") == []


@pytest.mark.parametrize("option", ["--report", "--annotate"])
def test_other_outputs_stay_here(tiny: Path, photos: Path, tmp_path: Path, option: str) -> None:
    result = invoke(tiny, photos, option, "s3://b/x.html")
    assert result.exit_code == 2
    assert f"s3://b/x.html: is an address; {option} " in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_model_at_an_address(tiny: Path, photos: Path) -> None:
    result = invoke("s3://b/model.onnx", photos)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "s3://b/model.onnx: is an address; a model is a file of this machine" in result.stderr
