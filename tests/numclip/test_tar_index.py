"""The index of a tar equals Python's own, and hostile or damaged archives are refused."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numclip.data.tar_index import TarMember, member_at, tar_index
from numclip_runtime import UsageError
from numclip_runtime.preprocess import load_rgb
from tests.numclip.bounded import bounded
from tests.numclip.tar_files import tar_of_info, write_tar

FORMATS: dict[str, Literal[0, 1, 2]] = {
    "ustar": tarfile.USTAR_FORMAT,
    "gnu": tarfile.GNU_FORMAT,
    "pax": tarfile.PAX_FORMAT,
}
FILES = {"a.jpg": b"1" * 513, "sub/b.jpg": b"", "sub/deep/c.json": b"{}", "d": b"x" * 512}
BOUNDED = bounded(100)


def contents(path: Path) -> dict[str, bytes]:
    return {name: member.read() for name, member in tar_index(path).items()}


def by_tarfile(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        files = ((info.name, tar.extractfile(info)) for info in tar if info.isreg())
        return {name: file.read() for name, file in files if file is not None}


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format(kind: str, tmp_path: Path) -> None:
    long = {"n" * 90 + "/" + "m" * 90 + ".jpg": b"long"}  # ustar splits it
    longer = {} if kind == "ustar" else {"x" * 200 + "/é" + "y" * 50: b"longer"}
    path = write_tar(tmp_path / "a.tar", FILES | long | longer, format=FORMATS[kind])
    assert contents(path) == by_tarfile(path) == FILES | long | longer


@given(data=st.data())
@BOUNDED
def test_any_tar_is_read_as_python_reads_it(data: st.DataObject, tmp_path: Path) -> None:
    parts = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
    names = st.lists(parts.filter(lambda text: text not in (".", "..")), min_size=1, max_size=4)
    files = data.draw(st.dictionaries(names.map("/".join), st.binary(max_size=1100), min_size=1))
    kind = data.draw(st.sampled_from(["gnu", "pax"]))
    path = write_tar(tmp_path / "a.tar", files, format=FORMATS[kind])
    assert contents(path) == by_tarfile(path)


def test_the_systems_own_tar(tmp_path: Path) -> None:
    """Folders, "./" before names, a time in pax attributes."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.json"):
        (tmp_path / "in" / name).write_text(name)
    for kind in ("gnu", "pax", "ustar", "v7"):
        command = ["tar", f"--format={kind}", "-cf", "a.tar", "-C", "in", "."]
        subprocess.run(command, check=True, cwd=tmp_path)
        found = {name: data.decode() for name, data in contents(tmp_path / "a.tar").items()}
        assert found == {name: name for name in ("a.jpg", "sub/b.json")}


def test_large_numbers(tmp_path: Path) -> None:
    """Sizes beyond 8 GB are in base 256 or in pax attributes; the file is one hole."""
    for kind in ("gnu", "pax"):
        info = tarfile.TarInfo("large")
        info.size = 9 << 30
        header = info.tobuf(FORMATS[kind])
        with (tmp_path / "a.tar").open("wb") as file:
            file.write(header)
            file.seek(len(header) + info.size)
            file.write(bytes(1024))
        (member,) = tar_index(tmp_path / "a.tar").values()
        assert (member.size, member.offset) == (9 << 30, len(header))
        assert member.read(3) == bytes(3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "'x.jpg' is a link; put plain"),
        ({"type": tarfile.LNKTYPE, "linkname": "y.jpg"}, "'x.jpg' is a link"),
        ({"type": tarfile.CHRTYPE}, "'x.jpg' is a device"),
        ({"type": tarfile.FIFOTYPE}, "'x.jpg' is a pipe"),
        ({"type": b"S"}, "'x.jpg' is a sparse file"),
        ({"type": b"Z"}, "'x.jpg' is no plain file"),
        ({"pax_headers": {"GNU.sparse.major": "1"}}, "'x.jpg' is a sparse file"),
        ({"name": "../x.jpg"}, "'../x.jpg' has a name outside the archive"),
        ({"name": "/x.jpg"}, "'/x.jpg' has a name outside the archive"),
        ({"name": "."}, "'.' has a name outside the archive"),
    ],
)
def test_refused_members(fields: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tar_of_info(tmp_path / "a.tar", str(fields.pop("name", "x.jpg")), **fields)
    with pytest.raises(UsageError, match=rf"^{tmp_path}/a\.tar: the member {message}"):
        tar_index(path)


def changed(place: int, new: bytes, *, checksum: bool = True) -> bytes:
    """Return a tar of two files whose second header (at 1024) has other bytes at a place."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("a.jpg", "b.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 5
            tar.addfile(info, io.BytesIO(b"12345"))
    data = bytearray(file.getvalue())
    data[1024 + place : 1024 + place + len(new)] = new
    if checksum:
        header = data[1024:1536]
        total = sum(header[:148] + header[156:]) + 8 * 32
        data[1024 + 148 : 1024 + 156] = b"%06o\0 " % total
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"x", "is not a tar"),
        (b"path,label\n" * 100, "is not a tar"),
        (b"\x1f\x8b" + bytes(600), r"is compressed \(gzip\); .* unpack it"),
        (b"BZh9" + bytes(600), r"is compressed \(bzip2\)"),
        (changed(0, b"c.jpg", checksum=False), "is damaged or cut off at byte 1,024"),
        (changed(124, b"77777777777"), "is cut off: 'b.jpg' would end behind it"),
        (changed(124, b"\xff" * 12), "is cut off: 'b.jpg'"),  # negative, which loops in others
        (changed(124, b"0000000000x"), "is cut off: 'b.jpg'"),
        (changed(124, b"\x80" + b"\xff" * 11), "is cut off: 'b.jpg'"),
        (changed(0, b"a.jpg"), "has two members 'a.jpg'; keep one"),
        (changed(156, b"L"), None),  # a long name of nothing
        (changed(156, b"x"), "has damaged pax attributes"),
        (changed(0, b"a.jpg")[:1024], "has no end mark, so it may have been cut off"),
        (changed(0, b"c.jpg")[:1600], "has no end mark"),
        (changed(0, b"c.jpg")[:1500], "is damaged or cut off at byte 1,024"),
        (changed(0, b"c.jpg")[:1540], "is cut off: 'c.jpg'"),
        (changed(0, b"c.jpg") + changed(0, b"d.jpg"), "goes on behind its end mark"),
    ],
)
def test_damaged(data: bytes, message: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    if message is None:
        assert [*tar_index(tmp_path / "a.tar")] == ["a.jpg"]
        return
    with pytest.raises(UsageError, match=message) as caught:
        tar_index(tmp_path / "a.tar")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "attributes", [b"0 path=x\n", b"1 a=b\n", b"99 path=x\n", b"path=x\n", b"8 pathx\n", b"9"]
)
def test_damaged_attributes(attributes: bytes, tmp_path: Path) -> None:
    """The length of an attribute leads to the next one, and never back."""
    info = tarfile.TarInfo("x")
    info.type, info.size = b"x", len(attributes)
    content = info.tobuf(tarfile.USTAR_FORMAT) + attributes.ljust(512, b"\0") + bytes(1024)
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UsageError, match="has damaged pax attributes"):
        tar_index(tmp_path / "a.tar")


def test_a_long_name_takes_no_memory(tmp_path: Path) -> None:
    """A header may announce a name of gigabytes; the file is a hole."""
    info = tarfile.TarInfo("x")
    info.type, info.size = b"L", 1 << 34
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(info.size + 4096)
    with pytest.raises(UsageError, match="has 17,179,869,184 bytes of a name or attributes"):
        tar_index(tmp_path / "a.tar")


@given(data=st.data())
@BOUNDED
def test_any_mutation_is_refused_or_inside(data: st.DataObject, tmp_path: Path) -> None:
    kind = data.draw(st.sampled_from([*FORMATS]))
    path = write_tar(
        tmp_path / "a.tar", FILES | {"sub/" * 20 + "é" * 40: b"2"}, format=FORMATS[kind]
    )
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        members = tar_index(path)
    except UsageError:
        return
    for name, member in members.items():
        assert 0 <= member.offset <= member.offset + member.size <= path.stat().st_size
        assert ".." not in name.split("/")
        assert not name.startswith("/")


def test_members_are_read_by_threads_and_copies(tmp_path: Path) -> None:
    files = {f"{i}": os.urandom(700) for i in range(200)}
    index = tar_index(write_tar(tmp_path / "a.tar", files))
    copies = pickle.loads(pickle.dumps(list(index.values())))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(TarMember.read, copies * 5)) == list(files.values()) * 5


def test_an_archive_stays_open_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two threads that open it at once, the cache keeps one file; it may also lose both."""
    from numclip.data import tar_index as module

    monkeypatch.setattr(module, "_opened", module._opened.__wrapped__)
    assert contents(write_tar(tmp_path / "a.tar", FILES)) == FILES


@pytest.mark.parametrize("pread", [True, False])
def test_with_and_without_pread(
    pread: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not pread:
        monkeypatch.delattr(os, "pread", raising=False)
    path = write_tar(tmp_path / "a.tar", FILES)
    assert contents(path) == FILES
    member = tar_index(path)["a.jpg"]
    assert (member.read(3), member.read(10**6)) == (b"111", b"1" * 513)


def test_a_changed_archive_gives_no_other_picture(tmp_path: Path) -> None:
    member = tar_index(write_tar(tmp_path / "a.tar", {"a.jpg": b"one"}))["a.jpg"]
    write_tar(tmp_path / "a.tar", {"long name.jpg": b"other", "a.jpg": b"two" * 5000})
    from numclip_runtime import ImageError

    with pytest.raises(ImageError, match=r"a\.tar/a\.jpg: cannot be read \(.*has changed since"):
        load_rgb(member)


def test_a_path_into_a_tar(tmp_path: Path) -> None:
    (tmp_path / "folder.tar").mkdir()
    write_tar(tmp_path / "folder.tar" / "b.TAR", {"x/y.tar/z.jpg": b"1"})
    indices: dict[Path, dict[str, TarMember]] = {}
    found = member_at(tmp_path / "folder.tar" / "b.TAR" / "x/y.tar/z.jpg", indices)
    assert found is not None
    assert found.path == tmp_path / "folder.tar" / "b.TAR" / "x/y.tar/z.jpg"
    assert len(indices) == 1
    assert member_at(tmp_path / "folder.tar" / "b.TAR" / "z.jpg", indices) is None
    assert member_at(tmp_path / "none.tar" / "z.jpg", indices) is None
