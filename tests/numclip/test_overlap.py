"""What two sets share: files, contents under other names, groups."""

from __future__ import annotations

from pathlib import Path

from numclip.data.checks import Overlap, overlap
from numclip.data.samples import Sample


def test_overlap(tmp_path: Path) -> None:
    contents = {"a": "one", "b": "two", "copy": "one", "same-size": "six", "other": "longer"}
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "sub").mkdir()
    train = [Sample(tmp_path / "a", 0.0, (), "x"), Sample(tmp_path / "b", 0.0, (), "y")]
    again = tmp_path / "sub" / ".." / "b"  # another name of the same file
    val = [
        Sample(again, 0.0, (), "z"),
        *(Sample(tmp_path / name, 0.0, (), "y") for name in ("copy", "same-size", "other")),
        Sample(tmp_path / "other", 0.0),
    ]
    assert overlap(val, train, contents=True) == Overlap((again,), (tmp_path / "copy",), ("y",))
    assert overlap(val, train, contents=False) == Overlap((again,), (), ("y",))
    assert overlap(val[2:3], train[:1], contents=True) == Overlap((), (), ())


def test_unknown_groups_are_not_shared(tmp_path: Path) -> None:
    train, val = [Sample(tmp_path / "a", 0.0)], [Sample(tmp_path / "b", 0.0)]
    assert overlap(val, train, contents=False).groups == ()
