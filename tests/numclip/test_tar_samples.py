"""Tars in WebDataset's layout: read, checked and refused like tables of files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from numclip.data.checks import broken_images, find_leakage, without_broken
from numclip.data.columns import TableOptions
from numclip.data.dataset import ImageDataset, evaluation_transform
from numclip.data.prepare import DataConfig, data_report, prepare_data
from numclip.data.readers import read_samples
from numclip.data.samples import Sample, write_csv
from numclip.tasks import load_task
from numclip_runtime import UsageError
from numclip_runtime.preprocess import load_rgb
from tests.numclip.tar_files import write_tar
from tests.numclip.tiny import spec_of

AGE = load_task("age")


def png(value: int = 0, side: int = 6) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((side, side + 2, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def labels(source: Path, **more: object) -> dict[str, float]:
    samples = read_samples(source, AGE, notes=[], **more)  # type: ignore[arg-type]
    base = source.parent
    return {sample.path.relative_to(base).as_posix(): sample.label for sample in samples}


def test_each_kind_of_label(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "0.json": '{"label": 3, "caption": "x"}',
        "0.jpg": png(),
        "1.cls": "4\n",
        "1.PNG": png(),
        "in/2.txt": "\ufeff 5,5 ",
        "in/2.webp": png(),
        "3.json": '{"Label": "34 years"}',
        "3.jpeg": png(),
        "4.mask.png": png(),  # a key's mask is not its image
        "4.png": png(),
        "4.cls": "6",
        "4.json": '{"label": 6.0}',
        "5.left.png": png(),  # but its only picture is
        "5.cls": "young adult",
        "6.jpg": png(),
        "6.json": '{"label": [20, 60, 30]}',
        "6.txt": "three people",  # a caption
        "._7.jpg": b"rubbish of macOS",
        "__MACOSX/8.jpg": b"rubbish",
    }
    assert labels(write_tar(tmp_path / "a.tar", files)) == {
        "a.tar/0.jpg": 3,
        "a.tar/1.PNG": 4,
        "a.tar/in/2.webp": 5.5,
        "a.tar/3.jpeg": 34,
        "a.tar/4.png": 6,
        "a.tar/5.left.png": 26.5,
        "a.tar/6.jpg": 30,
    }


def test_columns_are_fields_of_the_json(tmp_path: Path) -> None:
    rows = [{"age": 3, "who": "x"}, {"AGE": 4, "who": 7}]
    files: dict[str, bytes | str] = {}
    for i, row in enumerate(rows):
        files |= {f"{i}.jpg": png(i), f"{i}.json": json.dumps(row), f"{i}.years": f"1{i}"}
    path = write_tar(tmp_path / "a.tar", files)
    assert list(labels(path).values()) == [3, 4], "the task's name"
    table = TableOptions(label_column="Age")
    samples = read_samples(path, AGE, table=table, group_column="who")
    assert [(s.label, s.group) for s in samples] == [(3, "x"), (4, "7")]
    assert list(labels(path, table=TableOptions(label_column="years")).values()) == [10, 11]
    with pytest.raises(UsageError, match=r"0\.json: has no field 'whom' .*is it 'who'\? .*--group"):
        read_samples(path, AGE, group_column="whom")
    with pytest.raises(UsageError, match="--path-column needs a CSV or Parquet file"):
        read_samples(path, AGE, table=TableOptions(path_column="who"))


def test_patterns_and_ranges(tmp_path: Path) -> None:
    for name in ("s-08.tar", "s-09.tar", "s-10.tar"):
        write_tar(tmp_path / name, {"0.jpg": png(), "0.cls": name[2:4]})
    whole = {"s-08.tar/0.jpg": 8, "s-09.tar/0.jpg": 9, "s-10.tar/0.jpg": 10}
    for pattern in ("*.tar", "s-{08..10}.tar", "s-*.tar", "s-[01]?.tar"):
        assert labels(tmp_path / pattern) == whole, pattern
    for pattern, message in {
        "s-{08..11}.tar": r"s-11\.tar: no such file",
        "t*.tar": r"t\*\.tar: no such file, or no file matches",
        "s-{10..08}.tar": "the range must rise",
        "none.tar": r"none\.tar: no such file",
    }.items():
        with pytest.raises(UsageError, match=message):
            labels(tmp_path / pattern)
    with pytest.raises(UsageError, match=r"holds tars; give them as '.*/\*\.tar'"):
        labels(tmp_path)
    (tmp_path / "x.tar.gz").touch()
    with pytest.raises(UsageError, match=r"compressed; unpack it to a plain \.tar"):
        labels(tmp_path / "x.tar.gz")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0.jpg": b""}, r"0\.jpg: no \.json, \.cls or \.txt with its 'label' lies beside it"),
        ({"0.jpg": b"", "0.json": '{"lable": 3}'}, r"has no field 'label' .*is it 'lable'\?"),
        ({"0.jpg": b"", "0.json": '{"label": null}'}, "the label None is not a number; leave such"),
        ({"0.jpg": b"", "0.json": '{"label": NaN}'}, "the label nan is not a number; leave such"),
        ({"0.jpg": b"", "0.json": '{"label": true}'}, "the label True is not a number"),
        ({"0.jpg": b"", "0.json": '{"label": 3, "Label": 4}'}, "has 2 fields for 'label'"),
        ({"0.jpg": b"", "0.json": '{"label": 3'}, "cannot be read as JSON"),
        ({"0.jpg": b"", "0.json": "[" * 100_000}, r"cannot be read as JSON \(nested too deeply"),
        ({"0.jpg": b"", "0.json": "[3]"}, "must be a table of fields, got a list of 1"),
        ({"0.jpg": b"", "0.json": b"\xff"}, "0.json: is not UTF-8"),
        ({"0.jpg": b"", "0.cls": "1" * (1 << 21)}, "0.cls: is larger than 1,048,576 bytes"),
        ({"0.jpg": b"", "0.cls": "1,234"}, "a.tar/0: the label '1,234' is not a number; write"),
        ({"0.jpg": b"", "0.cls": "200"}, "a.tar/0: the label 200 is outside the task's range"),
        ({"0.jpg": b"", "0.cls": "3", "0.json": '{"label": 4}'}, "has the label 4 in .*'3' beside"),
        ({"0.jpg": b"", "0.png": b"", "0.cls": "3"}, r"'0' has several images \(jpg, png\)"),
        ({"0.jpg": b"", "0.JPG": b"", "0.cls": "3"}, "has '0.jpg' and '0.JPG'; keep one"),
        ({"0.cls": "3"}, "holds no images"),
        ({}, "holds no images"),
    ],
)
def test_refused(files: dict[str, bytes | str], message: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", files)
    with pytest.raises(UsageError, match=message) as caught:
        labels(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_unlabelled_and_lonely_members_are_counted(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        **{"0.jpg": png(), "0.json": '{"label": 3}', "1.jpg": png(), "1.json": '{"label": null}'},
        **{"2.jpg": png(), "2.json": "{}", "3.json": "{}", "README.md": "x"},
    }
    path, notes = write_tar(tmp_path / "a.tar", files), list[str]()
    table = TableOptions(skip_unlabelled=True)
    (sample,) = read_samples(path, AGE, table=table, notes=notes)
    assert (sample.label, sample.path.name) == (3, "0.jpg")
    (note,) = notes
    assert "2 keys without an image left out" in note
    assert "2 of 3 images have no label, left out" in note


def test_pixels_equal_those_of_the_file(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(40 * i))
    files = {f"{i}.png": png(40 * i) for i in range(3)} | {f"{i}.cls": str(i) for i in range(3)}
    inside = read_samples(write_tar(tmp_path / "a.tar", files), AGE)
    outside = [Sample(tmp_path / f"{i}.png", float(i)) for i in range(3)]
    transform = evaluation_transform(spec_of("vit"))
    for i in range(3):
        (image, label, _), (other, wanted, _) = (
            ImageDataset(samples, AGE, transform)[i] for samples in (inside, outside)
        )
        assert (image == other).all()
        assert label == wanted


def test_broken_images_behave_like_files(tmp_path: Path) -> None:
    whole = png(7, 60)
    files = {"0.png": whole, "1.png": whole[:-30], "2.png": b"", "3.png": b"no picture at all"}
    files |= {f"{i}.cls": b"3" for i in range(4)}
    samples = read_samples(write_tar(tmp_path / "a.tar", files), AGE)
    broken = broken_images([sample.image for sample in samples], "header")
    assert [fault.split(": ")[0] for fault in broken.values()] == [
        str(tmp_path / "a.tar" / f"{i}.png") for i in (1, 2, 3)
    ]
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(files[f"{i}.png"])
    loose = broken_images([tmp_path / f"{i}.png" for i in range(4)], "header")
    assert [fault.replace("a.tar/", "") for fault in broken.values()] == [*loose.values()]
    assert broken_images([sample.image for sample in samples], "decode") == broken
    assert without_broken(samples, broken, skip=True, name="train") == samples[:1]


def test_leakage_between_tars_and_files(tmp_path: Path) -> None:
    files = {f"{i}.png": png(40 * i) for i in range(3)} | {f"{i}.cls": "3" for i in range(3)}
    train = read_samples(write_tar(tmp_path / "a.tar", files), AGE)
    copy = write_tar(tmp_path / "b.tar", {"x.png": png(40), "x.cls": "3", "y.png": png(9, 7)})
    (tmp_path / "loose.png").write_bytes(png(80))
    val = [
        Sample(copy / "x.png", 3.0, (), "", read_samples(copy, AGE, table=SKIP)[0].member),
        Sample(tmp_path / "loose.png", 3.0),
        train[0],
    ]
    found = find_leakage(val, train, contents=True)
    assert found.same_path == (tmp_path / "a.tar" / "0.png",)
    assert found.same_content == (copy / "x.png", tmp_path / "loose.png")
    assert find_leakage([Sample(tmp_path / "loose.png", 3.0)], train[:2], contents=True) == (
        find_leakage([], [], contents=True)
    )


SKIP = TableOptions(skip_unlabelled=True)


@pytest.mark.parametrize("name", ["0.png", "in/é b.png", "back\\slash.png", "a.tar/1.png"])
def test_written_samples_are_read_back(name: str, tmp_path: Path) -> None:
    """The split that training writes leads into tars; evaluation and export read it."""
    stem = name.removesuffix(".png")
    (tmp_path / "s").mkdir()
    path = write_tar(tmp_path / "s" / "a.tar", {name: png(9), f"{stem}.json": '{"label": [3, 4]}'})
    samples = read_samples(path, AGE)
    write_csv(tmp_path / "t.csv", samples)
    assert read_samples(tmp_path / "t.csv", AGE) == samples
    assert load_rgb(read_samples(tmp_path / "t.csv", AGE)[0].image).getpixel((0, 0)) == (9, 9, 9)
    (tmp_path / "r.csv").write_text(f"path,label\ns/a.tar/{name},3\n", "utf-8")
    assert read_samples(tmp_path / "r.csv", AGE)[0].member == samples[0].member
    (tmp_path / "r.csv").write_text("path,label\ns/a.tar/none.png,3\n", "utf-8")
    with pytest.raises(UsageError, match=r"1 of 1 images do not exist, first s/a\.tar/none\.png"):
        read_samples(tmp_path / "r.csv", AGE)


def test_report_and_split(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {}
    for i in range(20):
        files |= {f"{i}.png": png(i), f"{i}.json": json.dumps({"label": 20, "who": i // 4})}
    files["x.png"], files["x.json"] = png(99), "{}"
    source = write_tar(tmp_path / "a.tar", files)
    config = DataConfig(source, val_share=0.2, group_column="who", skip_unlabelled=True)
    with pytest.raises(UsageError, match="has no field 'who'"):
        prepare_data(config, AGE)
    files["x.json"] = '{"who": "x"}'
    write_tar(source, files)
    data, _ = prepare_data(config, AGE)
    assert not {sample.group for sample in data.train} & {sample.group for sample in data.val}
    assert (len(data.train), len(data.val)) == (16, 4)
    assert f"{source}: 1 of 21 images have no label, left out." in data_report(data, AGE)
