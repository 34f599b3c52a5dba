"""Tables of strangers: other names of columns, units, decimal commas, rows without a label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numclip.data.columns import TableOptions
from numclip.data.numbers import commas_are_decimal
from numclip.data.readers import read_samples
from numclip.tasks import load_task
from numclip_runtime import Task, UsageError
from tests.numclip.bounded import bounded

AGE = load_task("age")
SHARE = Task("ripeness", "%", (0.0, 50.0, 100.0), ("raw", "ripe"))
SCORE = Task("score", "", (0.0, 50.0, 100.0), ("low", "high"))
UNIT_RANGE = Task("score", "", (0.0, 0.5, 1.0), ("low", "high"))
CROWD = Task("crowd", "people", (0.0, 10.0, 20_000.0), ("few", "many"))
BOUNDED = bounded(150)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def read(
    folder: Path, text: str, task: Task = AGE, *, name: str = "t.csv", **more: Any
) -> tuple[list[tuple[str, float]], str]:
    """Return the images with their labels, and what is said about the table."""
    (folder / name).write_text(text, "utf-8")
    notes: list[str] = []
    samples = read_samples(folder / name, task, notes=notes, **more)
    found = [(sample.path.name, sample.label) for sample in samples]
    return found, "".join(notes).removeprefix(f"{folder / name}: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\na.jpg,3.5\nb.jpg,12\n", ""),
        (",path,label\n0,a.jpg,3.5\n1,b.jpg,12\n", ""),
        ("Unnamed: 0,label,path\n0,3.5,a.jpg\n1,12,b.jpg\n", ""),
        ("filename,label\na.jpg,3.5\nb.jpg,12\n", "'filename' read as path."),
        ("path,age\na.jpg,3.5\nb.jpg,12\n", "'age' read as label."),
        ("path;label\na.jpg;3,5\nb.jpg;12\n", "read as ; separated, decimal commas."),
        ("path\tlabel\na.jpg\t3.5\nb.jpg\t12\n", "read as tab separated."),
        (
            '"Image Path";"Age "\n"a.jpg";"3,5"\n"b.jpg";12\n',
            "read as ; separated, decimal commas, 'age' read as label, 'image path' read as path.",
        ),
        ('path,label\na.jpg,"3,5"\nb.jpg,12\n', "read with decimal commas."),
        ('path, "label"\n"a.jpg", "3.5"\nb.jpg, 12\n', ""),
        ("path,label\na.jpg,3.5 years\nb.jpg,12years\n", ""),
        ("path,label\na.jpg,3.5 Year\nb.jpg, 12 YEARS \n", ""),
        ("id;Path;LABEL\n7;a;3,5\n8;b;12\n", "read as ; separated, decimal commas."),
        ("path,label\nA\\..\\a.jpg,3.5\n.\\b.jpg,12\n", None),
    ],
)
def test_read_as_what_it_means(text: str, said: str | None, images: Path) -> None:
    (images / "A").mkdir()
    found, note = read(images, text)
    assert found == [("a.jpg", 3.5), ("b.jpg", 12.0)]
    assert note == (said or "")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "path,lable\na.jpg,3\n",
            {},
            r"lacks the column\(s\) \['label'\].* 'lable'\? Name it with --label-column",
        ),
        (
            "path,years_old\na.jpg,3\n",
            {"label_column": "years"},
            r"\['years'\].* is it 'years_old'\? Name it with --label-column",
        ),
        ("path,n\na.jpg,3\n", {}, "name the column for 'label' with --label-column"),
        ("bild,label\na.jpg,3\n", {}, "name the column for 'path' with --path-column"),
        ("path,label\na.jpg,3\n", {"path_column": "file"}, r"lacks the column\(s\) \['file'\]"),
        ("image,file,label\na.jpg,b.jpg,3\n", {}, "has no column 'path', but 'image' and 'file'"),
        ("labels,age,path\n3,4,a.jpg\n", {}, "has no column 'label', but 'labels' and 'age'"),
        ("age,AGE,path\n3,4,a.jpg\n", {}, "has 2 columns named 'age'; keep one"),
        ("path\tlabel\n1\ta.jpg\t3\n", {}, "or name the first column, where it numbers the rows"),
        ("path,label\na.jpg,25-32\n", {}, "'25-32' is not a number, but a range; write one"),
        ('path,label\na.jpg,"(25, 32)"\n', {}, r"'\(25, 32\)' is not a number, but a range"),
        ("path,label\na.jpg,34 yrs\n", {}, "the label '34 yrs' is not a number; write the number"),
        ("path,label\na.jpg,$5\n", {}, r"the label '\$5' is not a number; write the number alone"),
        ("path,label\na.jpg,34%\n", {}, "the label '34%' is not a number; write the number alone"),
        ("path,label\na.jpg,\n", {}, "line 2: the label is empty; leave .* --skip-unlabelled"),
        ("path,label\na.jpg,NaN\n", {}, "the label 'NaN' is not a number; leave .* --skip-unl"),
        ("path,label\nhttps://x.y/a.jpg,3\n", {}, "these are addresses; download the images"),
        ("path,label\nA.JPG,3\n", {}, "first A.JPG; a.jpg is there; write names as"),
        ("path,label\nsub/C,3\n", {}, "first sub/C; c.jpg is there"),
        ("path,label\n/home/x/a.jpg,3\n", {}, "paths of another machine; give .* --root"),
        ("path,label\nD:/x/a.jpg,3\n", {}, "paths of another machine; give .* --root"),
    ],
)
def test_refused(text: str, options: dict[str, str], message: str, images: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read(images, text, table=TableOptions(**options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(images))


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_named_columns(kind: str, images: Path) -> None:
    table = TableOptions(path_column=" Bild", label_column="alter")
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {"bild": ["a.jpg", "b.jpg"], "label": [1, 2], "Alter": [3.5, 12]}
        parquet.write_table(pyarrow.table(columns), images / "t.parquet")
        samples = read_samples(images / "t.parquet", AGE, table=table)
        assert [sample.label for sample in samples] == [3.5, 12]
        return
    text = "path,Bild,label,Alter\nx,a.jpg,1,3.5\ny,b.jpg,2,12\n"
    text = text.replace(",", "\t") if kind == "tsv" else text
    found, _ = read(images, text, name=f"t.{kind}", table=table)
    assert found == [("a.jpg", 3.5), ("b.jpg", 12.0)]


@pytest.mark.parametrize("option", ["path_column", "label_column"])
def test_lists_and_folders_have_no_columns(option: str, images: Path) -> None:
    table = TableOptions(**{option: "x"})  # type: ignore[arg-type]
    (images / "t.txt").write_text("a.jpg 3\n")
    flag = f"--{option}".replace("_", "-")
    for source in (images, images / "t.txt"):
        with pytest.raises(UsageError, match=f"{flag} needs a CSV or Parquet file"):
            read_samples(source, AGE, table=table)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["3,5", "10,25", "1,234"], [3.5, 10.25, 1.234]),
        (["0,125", "12,5", "-1,000"], None),  # outside the task
        (["3,5", "1,234", "2,345"], None),  # not the rule
        (["3,5", "1,234"], None),
        (["3,5", "4,5", "1,234", "7.5"], None),  # points as well
        (["1,234"], None),
        (["3,5", "7.5"], [3.5, 7.5]),
        (["3,5 4,5", "2,125 7,5"], [4.5, 7.5]),
    ],
)
def test_decimal_commas_as_the_rule_of_a_column(
    cells: list[str], expected: list[float] | None, images: Path
) -> None:
    text = "path;label\n" + "".join(f"a.jpg;{cell}\n" for cell in cells)
    if expected is None:
        with pytest.raises(UsageError, match=r"the label .* is (not a number; write it|outside)"):
            read(images, text, CROWD)
    else:
        assert [label for _, label in read(images, text, CROWD)[0]] == expected


@given(values=st.lists(st.decimals(0, 9999, places=3), min_size=1, max_size=30))
@BOUNDED
def test_any_column_of_decimal_commas(values: list[Any], images: Path) -> None:
    """A spreadsheet's column is read as its numbers, or refused: never as a thousand times them."""
    cells = [f"{value.normalize():f}".replace(".", ",") for value in values]
    text = "path;label\n" + "".join(f"a.jpg;{cell}\n" for cell in cells)
    _, rule = commas_are_decimal(cells)
    try:
        found = [label for _, label in read(images, text, CROWD)[0]]
    except UsageError:
        assert not rule
        return
    assert found == [float(value) for value in values]


@pytest.mark.parametrize(
    ("task", "cell", "label"),
    [
        (SHARE, "34%", 34.0),
        (SHARE, "%", None),
        (AGE, "many years", None),
        (SHARE, "34,5 %", 34.5),
        (SHARE, "34 percent", 34.0),
        (SCORE, "34%", 34.0),
        (UNIT_RANGE, "34%", None),
        (AGE, "Young_Adult", 26.5),
        (load_task("historical"), "1950s", 3.0),
        (load_task("aesthetics"), "flawed", 2.0),
        (load_task("adience"), "middle aged adult", 5.0),
        (AGE, "adult", None),
    ],
)
def test_units_and_names_of_bins(task: Task, cell: str, label: float | None, images: Path) -> None:
    if label is None:
        with pytest.raises(UsageError, match="is not a number"):
            read(images, f'path,label\na.jpg,"{cell}"\n', task)
    else:
        assert read(images, f'path,label\na.jpg,"{cell}"\n', task)[0] == [("a.jpg", label)]


MISSING = ("", " ", "NaN", "NA", "n/a", "#N/A", "null", "None", "<NA>")


@pytest.mark.parametrize("cell", MISSING)
def test_skip_unlabelled(cell: str, images: Path) -> None:
    text = f"path,label\na.jpg,3.5\ngone.jpg,{cell}\nb.jpg,12\n"
    found, note = read(images, text, table=TableOptions(skip_unlabelled=True))
    assert found == [("a.jpg", 3.5), ("b.jpg", 12.0)]
    assert note == "1 of 3 images have no label, left out."
    with pytest.raises(UsageError, match=r"line 3: the label .*; leave .* out with --skip-unlab"):
        read(images, text)
    with pytest.raises(UsageError, match="holds no images with a label"):
        read(images, f"path,label\na.jpg,{cell}\n", table=TableOptions(skip_unlabelled=True))


def test_skip_unlabelled_in_parquet(images: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for labels in ([3.5, None], [3.5, float("nan")], [[3.5], []], [[3.5], None], ["3.5", "NA"]):
        table = pyarrow.table({"path": ["a.jpg", "b.jpg"], "label": labels})
        parquet.write_table(table, images / "t.parquet")
        (sample,) = read_samples(
            images / "t.parquet", AGE, table=TableOptions(skip_unlabelled=True), notes=[]
        )
        assert sample.label == 3.5


def test_said_on_stderr(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "t.csv").write_text("file;label\na.jpg;3,5\n")
    read_samples(images / "t.csv", AGE)
    note = f"Note: {images}/t.csv: read as ; separated, decimal commas, 'file' read as path.\n"
    assert capsys.readouterr().err == note


@pytest.mark.parametrize(
    "prefix", ["C:\\data\\set\\", "\\\\server\\share\\", "/home/x/set/", "D:/x/", "/"]
)
def test_paths_of_another_machine(prefix: str, images: Path) -> None:
    """Below --root the same folders are left out of all paths."""
    separator = "\\" if "\\" in prefix else "/"
    names = ["a.jpg", f"sub{separator}c.jpg"]
    text = "path,label\n" + "".join(f"{prefix}{name},3\n" for name in names)
    found, note = read(images, text, root=images)
    assert [name for name, _ in found] == ["a.jpg", "c.jpg"]
    assert note.startswith(f"paths read below {images} in place of ")
    with pytest.raises(UsageError, match="2 of 2 images do not exist"):
        read(images, text, root=images / "sub")
    (images / "other").mkdir()
    text = f"path,label\n{prefix}x{separator}a.jpg,3\n{prefix}y{separator}a.jpg,4\n"
    with pytest.raises(UsageError, match="2 of 2 images do not exist"):
        read(images, text, root=images)  # two images would become one


def test_a_path_without_suffix(images: Path) -> None:
    assert read(images, "path,label\na,3\n")[0] == [("a.jpg", 3.0)]
    (images / "a.png").touch()
    with pytest.raises(UsageError, match=r"images do not exist, first a; a\.jpg is there"):
        read(images, "path,label\na,3\n")


NAMES = st.sampled_from(["path", "Label", "file", " image ", "age", "years", "", "x;y", '"q"'])


@given(header=st.lists(NAMES, min_size=1, max_size=5), separator=st.sampled_from(",;\t"))
@BOUNDED
def test_any_header_is_read_by_one_meaning(header: list[str], separator: str, images: Path) -> None:
    """Whatever the names, a row's image and label come from one column each, or it is refused."""
    cells = [
        "a.jpg" if name.strip().lower() in ("path", "file", "image") else "3" for name in header
    ]
    text = f"{separator.join(header)}\n{separator.join(cells)}\n"
    try:
        found, _ = read(images, text)
    except UsageError:
        return
    assert found == [("a.jpg", 3.0)]
