"""Labelled images from CSV and Parquet tables, text lists, and folders."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from numclip.data.prepare import DataConfig, prepare_data
from numclip.data.readers import read_samples
from numclip.data.samples import Sample
from numclip.tasks import load_task
from numclip_runtime import MissingDependencyError, Task, UsageError
from numclip_runtime.images.folder import LeftOut, find_images

AGE = load_task("age")
Write = Callable[[Path], Path]
# The same two images from every source: 34 by one annotator, and 20, 60, 30 by three.
EXPECTED = [("a b.png", 34.0, ()), ("sub/c.png", 30.0, (20.0, 60.0, 30.0))]


def write_parquet(path: Path, columns: dict[str, list[object]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path)
    return path


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def csv_file(folder: Path) -> Path:
    text = "\ufeffextra,label,path\n7,34,a b.png\n8,20 60 30,sub/c.png\n"
    return written(folder / "data.CSV", text)


def list_file(folder: Path) -> Path:
    return written(folder / "train.txt", "a b.png 34.0\n\nsub/c.png\t20 60 30.0 \r\n")


def parquet_file(folder: Path) -> Path:
    return write_parquet(
        folder / "data.parquet",
        {"path": ["a b.png", "sub/c.png"], "label": [[34], [20, 60, 30]], "more": [1, 2]},
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a b.png").touch()
    (tmp_path / "sub" / "c.png").touch()
    return tmp_path


def plain(samples: list[Sample], base: Path) -> list[tuple[str, float, tuple[float, ...]]]:
    return [(s.path.relative_to(base).as_posix(), s.label, s.annotations) for s in samples]


@pytest.mark.parametrize("write", [csv_file, list_file, parquet_file])
def test_files(write: Write, images: Path) -> None:
    assert plain(read_samples(write(images), AGE), images) == EXPECTED


@pytest.mark.parametrize("write", [csv_file, list_file, parquet_file])
def test_root(write: Write, images: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = write(tmp_path_factory.mktemp("lists"))
    assert plain(read_samples(elsewhere, AGE, images), images) == EXPECTED
    with pytest.raises(UsageError, match=r"2 of 2 images do not exist, first .*a b\.png; .*--root"):
        read_samples(elsewhere, AGE)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_group_column(kind: str, images: Path) -> None:
    if kind == "csv":
        source = written(images / "d.csv", "path,label,person\na b.png,3,7\nsub/c.png,4,8\n")
    else:
        source = write_parquet(
            images / "d.parquet",
            {"path": ["a b.png", "sub/c.png"], "label": [3, 4], "person": [7, 8]},
        )
    assert [s.group for s in read_samples(source, AGE, group_column="person")] == ["7", "8"]
    assert [s.group for s in read_samples(source, AGE)] == ["", ""]
    with pytest.raises(UsageError, match=r"lacks the column\(s\) \['id'\].*found \['path'"):
        read_samples(source, AGE, group_column="id")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"lacks the column\(s\) \['label', 'path'\]"),
        ("path,label\n", "holds no images"),
        ("path,label\n,3\n", "line 2: the path is empty"),
        ("path,label\na b.png\n", "line 2: has 1 cell, the header has 2; complete the row"),
        ("path,label\na b.png,3\na b.png,x\n", "line 3: the label 'x' is not a number"),
        ("path,label,person\na b.png,3,\n", "line 2: the column 'person' of --group-column is"),
    ],
)
def test_wrong_csv(text: str, message: str, images: Path) -> None:
    group = "person" if "person" in text else None
    with pytest.raises(UsageError, match=rf"^.*d\.csv:? {message}"):
        read_samples(written(images / "d.csv", text), AGE, group_column=group)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\n", ": holds no images"),
        ("a b.png 3\na b.png\n", r" line 2: expected 'path label \[label ...\]', got 'a b.png'"),
        ("34\n", " line 1: expected 'path label"),
        ("race age filename\n", " line 1: expected 'path label"),
        ("a b.png 1.2.3\n", " line 1: the label '1.2.3' is not a number"),
        ("a b.png 3 200\n", " line 1: the label 200 is outside"),
    ],
)
def test_wrong_list(text: str, message: str, images: Path) -> None:
    with pytest.raises(UsageError, match=rf"l\.txt{message}"):
        read_samples(written(images / "l.txt", text), AGE)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a b.png"]}, r": lacks the column\(s\) \['label'\]"),
        ({"path": ["a b.png", None], "label": [1, 2]}, " row 2: the path is empty"),
        ({"path": ["a b.png"], "label": [None]}, " row 1: the label None is not a number"),
        ({"path": ["a b.png"], "label": [[]]}, " row 1: the label is empty"),
    ],
)
def test_wrong_parquet(columns: dict[str, list[object]], message: str, images: Path) -> None:
    with pytest.raises(UsageError, match=rf"d\.parquet{message}"):
        read_samples(write_parquet(images / "d.parquet", columns), AGE)


def test_no_parquet_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(UsageError, match="cannot read this Parquet file"):
        read_samples(written(tmp_path / "d.parquet", "path,label"), AGE)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'numclip\[parquet\]'"):
        read_samples(tmp_path / "d.parquet", AGE)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("d.xlsx", "not a known kind of data; give a CSV"),
        ("none", "no such file or folder; give a CSV"),
        ("none.csv", r"cannot read this CSV file \(.*No such file"),
        ("none.txt", r"cannot read this list \(.*No such file"),
    ],
)
def test_wrong_source(name: str, message: str, tmp_path: Path) -> None:
    written(tmp_path / "d.xlsx", "")
    with pytest.raises(UsageError, match=message):
        read_samples(tmp_path / name, AGE)


@pytest.mark.parametrize("name", ["l.txt", "folder"])
def test_no_group_column_in_lists_and_folders(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="--group-column needs a CSV or Parquet file"):
        read_samples(tmp_path / name, AGE, group_column="person")


def test_torch_is_not_needed_to_read() -> None:
    """Bad data must fail before seconds of imports; modules are fresh in a subprocess."""
    code = "import sys, numclip.data.prepare, numclip.cli.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def labels(folder: Path, task: Task) -> dict[str, float]:
    return {s.path.relative_to(folder).as_posix(): s.label for s in read_samples(folder, task)}


def test_numbers_and_phrases(tmp_path: Path) -> None:
    make(tmp_path, "34/a.png", "2.5/deep/b.JPG", "Young_Adult/c.png", "older-adult/d.png")
    make(tmp_path, "notes.txt", "34/notes.txt", ".cache/x.png")
    (tmp_path / "child").mkdir()  # empty: a bin without images
    assert labels(tmp_path, load_task("age")) == {
        "34/a.png": 34,
        "2.5/deep/b.JPG": 2.5,
        "Young_Adult/c.png": 26.5,  # the mean of 19 to 34
        "older-adult/d.png": 83,
    }


def test_phrases_of_classes(tmp_path: Path) -> None:
    make(tmp_path, "1930s/a.png", "1970s/b.png")
    assert labels(tmp_path, load_task("historical")) == {"1930s/a.png": 1, "1970s/b.png": 5}


def test_label_offset(tmp_path: Path) -> None:
    make(tmp_path, "flawed/a.png", "5/b.png")
    assert labels(tmp_path, load_task("aesthetics")) == {"5/b.png": 5, "flawed/a.png": 2}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("elder/a.png", "elder: neither a number nor a phrase .* 'age': 'child', 'teenager'"),
        ("a.png", "a.png: lies beside the folders of the bins; move it"),
        ("200/a.png", "200: the label 200 is outside the task's range 0 to 101"),
        ("notes.txt", "holds no images; name the subfolders by labels, or by the phrases"),
    ],
)
def test_wrong_folder(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_samples(make(tmp_path, name), load_task("age"))


def test_a_number_that_is_the_phrase_of_another_bin(tmp_path: Path) -> None:
    task = Task("grade", "", (1.0, 2.0, 3.0), ("2", "1"))
    make(tmp_path, "2/a.png")
    with pytest.raises(UsageError, match="2: is a number of bin '1' and the phrase of another"):
        read_samples(tmp_path, task)
    assert labels(tmp_path, Task("grade", "", (1.0, 2.0, 3.0), ("1", "2"))) == {"2/a.png": 2}


def test_a_folder_holds_the_same_as_in_prediction(tmp_path: Path) -> None:
    """Hidden and rubbish entries are no bins, and what a phone's copy leaves there no images."""
    image = Image.new("RGB", (8, 8))
    names = ("20/a.jfif", "20/b.MPO", "20/deep/c.apng", "60/d.jpg")
    rubbish: tuple[str, ...] = (
        "20/._a.jfif",
        "20/.ipynb_checkpoints/a.jpg",
        "60/@eaDir/d.jpg/x.jpg",
    )
    rubbish += ("__MACOSX/20/._a.jpg", "@eaDir/a.jpg", "lost+found/a.jpg", ".hidden/a.jpg")
    for name in (*names, *rubbish, "60/e.cr2"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name, "JPEG")
    (tmp_path / "40").mkdir()
    (tmp_path / "40" / ".DS_Store").touch()
    left_out = LeftOut()
    samples = read_samples(tmp_path, AGE, left_out=left_out)
    found = {sample.path.relative_to(tmp_path).as_posix(): sample.label for sample in samples}
    assert found == {name: float(name[:2]) for name in names}
    predicted = find_images([str(tmp_path)], left_out=LeftOut())
    assert sorted(str(sample.path) for sample in samples) == predicted
    assert left_out == {".cr2": 1}


def test_what_a_folder_leaves_out_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "20").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "20" / "a.png")
    (tmp_path / "20" / "b.psd").touch()
    read_samples(tmp_path, AGE)
    assert capsys.readouterr().err == "Note: left out: 1 .psd; PSD: export it as PNG.\n"
    config = DataConfig(train=tmp_path, val=tmp_path)
    _, warnings = prepare_data(config, AGE)
    assert "pictures in the folders were left out: 2 .psd; PSD: export it as PNG." in warnings


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            "01234",
            "0 .* classes 1 to 5; correct it, give --label-offset 0 for a list of 0 to 4, or",
        ),
        ("13054", "0 .* the list goes from 0 to 5, which fits neither these nor 0 to 4 "),
        ("13954", "9 .* the list goes from 1 to 9, which fits neither these nor 0 to 4 "),
    ],
)
def test_a_list_that_counts_otherwise_gets_one_way_out(
    labels: str, message: str, tmp_path: Path
) -> None:
    make(tmp_path, "a.png")
    rows = "".join(f"a.png,{label}\n" for label in labels)
    (tmp_path / "all.csv").write_text(f"path,label\n{rows}", "utf-8")
    with pytest.raises(UsageError, match=rf"line \d: the label {message}"):
        read_samples(tmp_path / "all.csv", load_task("historical"))
