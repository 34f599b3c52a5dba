"""Tables as the world writes them: each row is read as what it means, or refused with its line."""

from __future__ import annotations

import os
import time
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from numclip.data.numbers import number
from numclip.data.prepare import disagreement_warnings
from numclip.data.readers import read_samples
from numclip.data.samples import Sample, write_csv
from numclip_runtime import Task, UsageError
from tests.numclip.bounded import bounded

TASK = Task("crowd", "people", (0.0, 10.0, 2000.0), ("few", "many"))
BOUNDED = bounded(150)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, text: str | bytes, name: str = "t.csv", **more: Any) -> list[Sample]:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_samples(path, TASK, **more)


def labels(samples: list[Sample]) -> list[tuple[str, float]]:
    return [(sample.path.name, sample.label) for sample in samples]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,label\na.jpg,3,5\n",
            r'line 2: has 3 cells, the header has 2; quote a comma .*"3,5"',
        ),
        ("path,label,x\n\na.jpg,3,\nb.jpg,4\n", "line 4: has 2 cells, the header has 3; complete"),
        ("path;label\na.jpg;3;5\n", "line 2: has 3 cells.*quote a semicolon"),
        ('path,label\na.jpg,3\n"b.jpg,4\nc.jpg,5\n', "line 3: the quote that opens here never"),
        ('path,label\n"a.jpg"x,3\n', "line 2: cannot be read as CSV"),
        (
            'path,label,x\na.jpg,3,"hi\nb.jpg,4,"\nc.jpg,5,\n',
            "line 2: .* closes only after the row",
        ),
        ("path,label,label\na.jpg,3,4\n", "has 2 columns named 'label'; keep one"),
        ("path,label, Label\na.jpg,3,4\n", "has 2 columns named 'label'"),
        ("path|label\na.jpg|3\n", r"lacks the column\(s\).*commas, semicolons or tabs"),
        ('path,label\na.jpg,"1,234"\n', "line 2: the label '1,234' is not a number; write it with"),
        ('path,label\na.jpg,"1.234,5"\n', "line 2: the label '1.234,5' is not a number; write"),
        ("path,label\na.jpg,1\u202f23\n", "line 2: the label .* is not a number; write it without"),
        ("path,label\na.jpg,1 234\n", "may be 1234, or the labels of 2 annotators; .* 1.0 234.0"),
        ("path,label\na.jpg,1 234 5\n", None),
        ("path,label\na.jpg," + "9" * 5000 + "\n", "line 2: the label .* is not a number"),
        ("path,label\na.jpg,\0\n", "line 2: holds a NUL character; save it as UTF-8"),
        ("path,label\n" + "a" * (1 << 20) + ",3\n", "line 2: longer than 1,048,576 characters"),
        ("path,label\n" + "a" * 200_000 + ",3\n", "line 2: cannot be read as CSV .*limit"),
        ("path,label\na.jpg," + "3 " * 1001 + "\n", "line 2: has 1,001 labels, at most 1000"),
        (
            "path,label\nC:\\x\\a.jpg,3\n",
            r"1 of 1 images .*C:\\x\\a.jpg; these are paths of another",
        ),
        ("path,label\n\x1b[31m.jpg,3\n", r"first '\\x1b\[31m.jpg'; paths are relative"),
        ("path,label\n" + "a" * 5000 + ",3\n", "1 of 1 images do not exist, first 'aaa"),
        ("path,label\n" + "a" * 300 + ",3\n", "1 of 1 images do not exist, first 'aaa"),
    ],
)
def test_refused(text: str, message: str | None, images: Path) -> None:
    if message is None:
        assert read(images, text)[0].annotations == (1, 234, 5)
        return
    with pytest.raises(UsageError, match=message) as caught:
        read(images, text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(images))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\na.jpg,3\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("path,label\na.jpg,3\n".encode("utf-16-le"), "is UTF-16 text; save it as UTF-8"),
        ("path,label\na.jpg,3\n".encode("utf-16-be"), "is UTF-16 text; save it as UTF-8"),
        ("path,label\na.jpg,3\nMüller.jpg,4".encode("cp1252"), r"line 3: is not UTF-8 \(byte 0xfc"),
        (b"path,label\n" + b"a.jpg,3\n" * 9000 + b"\xe9,1", r"line 9002: is not UTF-8 \(byte 0xe9"),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.txt"])
def test_other_encodings(name: str, content: bytes, message: str, images: Path) -> None:
    if name == "t.txt" and b"\0" not in content:
        content = content.replace(b"path,label", b"a.jpg 3").replace(b",", b" ")
    with pytest.raises(UsageError, match=message):
        read(images, content, name)


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.jpg,3.5\n\n,\nb.jpg,1234\n",
        "\ufeff Path ;LABEL\na.jpg;3,5\nb.jpg;1'234\n",
        "sep=;\npath;label\na.jpg;3,5\nb.jpg;1\u202f234\n",
        "path\tlabel\r\na.jpg\t3,5\r\nb.jpg\t1\u00a0234\r\n",
        "path,label\ra.jpg,3.5\rb.jpg,1234",
        'path,label,\na.jpg,"3,5",\n"b.jpg","1\u2009234",\n',
        'path,label,more\n a.jpg ,3.5,"two\nlines, one row"\nb.jpg\t, 1234 ,\n',
        "path,label\n.\\a.jpg,3.5\nb.jpg,1234,,\n",
        "path,label\na.jpg,\u0663.5\nb.jpg,\u0661\u0662\u0663\u0664\n",  # Arabic-Indic digits
        "path,label\na.jpg,\uff13.\uff15\nb.jpg,1.234e3\n",
    ],
)
def test_read_as_what_it_means(text: str, images: Path) -> None:
    assert labels(read(images, text)) == [("a.jpg", 3.5), ("b.jpg", 1234.0)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3,5", 3.5),
        ("0,125", 0.125),
        ("-12,25", -12.25),
        ("\u22123.5", -3.5),
        ("1\u202f234,5", 1234.5),
        ("1\u202f234\u202f567", 1234567.0),
        ("1'234", 1234.0),
        ("1\u2019234", 1234.0),
        (Decimal("3.5"), 3.5),
        (3, 3.0),
        *((text, None) for text in ("1,234", "1,2,3", "1.234.567", "1_000", "0x10", "nan", "inf")),
        *((text, None) for text in ("", "3 5", "1'23", "1\u202f234'567", "3;5", "3.5%", "9" * 400)),
        *((other, None) for other in (None, True, [3], float("nan"), Decimal("NaN"), 10**400)),
    ],
)
def test_numbers(text: object, value: float | None) -> None:
    assert number(text) == value


def test_accents_are_found_in_both_forms_and_groups_are_one(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    (tmp_path / composed).touch()
    rows = f"path,label,who\n{apart},3, {apart} \n{composed},4,{composed}\n"
    first, second = read(tmp_path, rows, group_column=" Who")
    assert (first.path, first.group) == (second.path, second.group)
    assert second.path == tmp_path / composed


@pytest.mark.parametrize("name", ["t.csv", "t.txt", "t.parquet"])
def test_a_pipe_is_no_table(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match=r"cannot read this .* \(is a pipe, socket or device"):
        read_samples(tmp_path / name, TASK)


@pytest.mark.parametrize(
    "line",
    [
        "a b" * 333_000,
        "1 " * 500_000 + "x",
        "a" + " " * 1_000_000 + "1",
        "a " + "1" * 1_000_000 + "x",
        "a " + "1." * 500_000,
        "a" + "\u202f1" * 500_000,
    ],
)
def test_a_long_line_takes_no_time(line: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(f"{line}\n", "utf-8")
    took = []
    for _ in range(3):
        start = time.thread_time()
        with pytest.raises(UsageError):
            read_samples(tmp_path / "t.txt", TASK)
        took.append(time.thread_time() - start)
    assert min(took) < 0.5  # 0.01 to 0.06 s of a core


def test_annotators_far_apart_are_reported(tmp_path: Path) -> None:
    close = Sample(tmp_path / "a.jpg", 5, (4, 5))
    far = Sample(tmp_path / "b.jpg", 1500, (1, 1500))
    (warning,) = disagreement_warnings({"train": [close, far], "val": [close]}, TASK)
    assert "annotators of 1 of 2 train images differ" in warning
    assert "b.jpg (1 1500)" in warning


def parquet(folder: Path, columns: dict[str, Any], **more: Any) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    writer.write_table(pyarrow.table(columns), folder / "t.parquet", **more)
    return folder / "t.parquet"


def test_parquet_types(images: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path = parquet(
        images,
        {
            "Path": pyarrow.array(["a.jpg", "b.jpg", "a.jpg"]).dictionary_encode(),
            "label": [Decimal("3.5"), Decimal("4.0"), Decimal("1234.0")],
            "person": [1.0, None, 3.0],
        },
    )
    assert [s.label for s in read_samples(path, TASK)] == [3.5, 4.0, 1234.0]
    with pytest.raises(UsageError, match="row 2: the column 'person' of --group-column is empty"):
        read_samples(path, TASK, group_column="person")
    path = parquet(images, {"path": ["a.jpg"] * 2, "label": ["3,5", "3 4 5"], "person": [1.0, 3.0]})
    samples = read_samples(path, TASK, group_column="person")
    assert [(s.label, s.annotations, s.group) for s in samples] == [
        (3.5, (), "1"),
        (4.0, (3.0, 4.0, 5.0), "3"),
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [{"a": 1}]}, "the column 'label' is of type struct<a: int64>; it must"),
        ({"label": [[[1]]]}, "the column 'label' is of type list<.*; it must"),
        ({"label": [True]}, "the column 'label' is of type bool; it must"),
        ({"path": [b"a.jpg"]}, "the column 'path' is of type binary; it must"),
        ({"path": ["a\0.jpg"]}, r"1 of 1 images do not exist, first 'a\\x00.jpg'"),
        ({"Path": ["a.jpg"]}, "has 2 columns named 'path'"),
        ({"path": ["a" * 70_000]}, "holds a text of 70,000 bytes, more than the limit of 65,536"),
        ({"path": [3]}, "row 1: the path is empty"),
    ],
)
def test_odd_parquet(columns: dict[str, Any], message: str, images: Path) -> None:
    path = parquet(images, {"path": ["a.jpg"], "label": [3], **columns})
    with pytest.raises(UsageError, match=message):
        read_samples(path, TASK)


def test_dates_and_broken_text_in_parquet(images: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path = parquet(images, {"path": ["a.jpg"], "label": pyarrow.array([1], pyarrow.date32())})
    with pytest.raises(UsageError, match="'label' is of type date32"):
        read_samples(path, TASK)
    buffers = [pyarrow.py_buffer(data) for data in (bytes([0, 0, 0, 0, 2, 0, 0, 0]), b"\xed\xa0")]
    broken = pyarrow.StringArray.from_buffers(1, *buffers)
    with pytest.raises(UsageError, match="cannot read this Parquet file"):
        read_samples(parquet(images, {"path": broken, "label": [3]}), TASK)


def test_a_text_that_every_row_repeats_fills_no_memory(images: Path) -> None:
    """Two million rows of one text of 60 kB are 120 GB, in a file of less than 1 MB."""
    pyarrow = pytest.importorskip("pyarrow")
    rows = 2_000_000
    text = pyarrow.DictionaryArray.from_arrays(
        pyarrow.repeat(0, rows).cast("int32"), ["a" * 60_000]
    )
    path = parquet(images, {"path": text, "label": pyarrow.repeat(3, rows)})
    assert path.stat().st_size < 1 << 20
    from numclip.data.parquet import read_parquet

    row = next(read_parquet(path, ["path", "label"]))
    assert row.cells["label"] == 3


FEW = st.text(max_size=20)
PLAIN_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(
    name=PLAIN_TEXT.filter(
        lambda text: text.strip() and "/" not in text and text not in (".", "..")
    ),
    group=PLAIN_TEXT,
    values=st.lists(st.floats(0, 2000).map(lambda value: value + 0.0), min_size=1, max_size=3),
)
@BOUNDED
def test_written_samples_are_read_back(
    name: str, group: str, values: list[float], tmp_path: Path
) -> None:
    image = tmp_path / name
    assume(len(os.fsencode(name)) < 200)
    image.touch()
    annotations = tuple(values) if len(values) > 1 else ()
    written = [Sample(image.resolve(), sorted(values)[len(values) // 2], annotations, group)]
    write_csv(tmp_path / "table of all.csv", written)
    wanted = unicodedata.normalize("NFC", group.strip())
    if not wanted:
        assert read_samples(tmp_path / "table of all.csv", TASK)[0].path == image.resolve()
        return
    (got,) = read_samples(tmp_path / "table of all.csv", TASK, group_column="group")
    assert got == Sample(written[0].path, written[0].label, annotations, wanted)


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_names_that_are_not_utf8_are_read_back(tmp_path: Path) -> None:
    image = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    image.touch()
    write_csv(tmp_path / "t.csv", [Sample(image, 3.0)])
    assert read_samples(tmp_path / "t.csv", TASK)[0].path == image.resolve()


SOURCES = [
    ("t.csv", b'path,label,group\r\na.jpg,3.5,x\r\n"b.jpg","4 5",y\r\n'),
    ("t.txt", b"a.jpg 3.5\nb.jpg 4 5\n"),
]


@given(data=st.data())
@BOUNDED
def test_any_mutation_is_refused_or_valid(data: st.DataObject, images: Path) -> None:
    name, content = data.draw(st.sampled_from(SOURCES))
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 6, len(content))))
    odd = st.sampled_from(
        [b'"', b",", b"\0", b"\xff", b"\r", b"\n", b";", b"\xe2\x80\xaf", b"sep="]
    )
    new = b"".join(data.draw(st.lists(odd | st.binary(max_size=3), max_size=4)))
    try:
        samples = read(images, content[:start] + new + content[end:], name)
    except UsageError:
        return
    assert samples
    assert all(sample.path.is_file() and TASK.contains(sample.label) for sample in samples)


@given(data=st.data())
@BOUNDED
def test_any_mutated_parquet_is_refused_or_valid(data: st.DataObject, images: Path) -> None:
    whole = parquet(images, {"path": ["a.jpg", "b.jpg"], "label": [3.5, 4.0]}).read_bytes()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        samples = read(images, bytes(content), "m.parquet")
    except UsageError:
        return
    assert all(TASK.contains(sample.label) for sample in samples)
