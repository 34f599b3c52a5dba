"""CSV files of labelled images: what is read, and each way that it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from numclip.data.dataset import ImageDataset, evaluation_transform, training_transform
from numclip.data.readers import read_csv
from numclip.data.samples import Sample
from numclip_runtime import ImageError, Preprocessing, UsageError
from tests.numclip.tiny import TASK, write_photos

SPEC = Preprocessing(crop=8, resize=10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the image a.png."""
    Image.new("RGB", (12, 9), (255, 0, 0)).save(tmp_path / "a.png")
    return tmp_path


def csv_of(folder: Path, content: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_good_file(folder: Path) -> None:
    content = "\ufeffwho,label,path\nx, 3.5,a.png\n\ny,30,a.png\n"  # as Excel writes it
    expected = [Sample(folder / "a.png", 3.5), Sample(folder / "a.png", 30.0)]
    assert read_csv(csv_of(folder, content), TASK) == expected


def test_root(folder: Path) -> None:
    (folder / "lists").mkdir()
    path = csv_of(folder / "lists", "path,label\na.png,1\n")
    assert read_csv(path, TASK, root=folder) == [Sample(folder / "a.png", 1.0)]
    with pytest.raises(UsageError, match="1 of 1 images do not exist"):
        read_csv(path, TASK)
    path = csv_of(folder / "lists", f"path,label\n{folder / 'a.png'},1\n")  # absolute
    assert read_csv(path, TASK) == [Sample(folder / "a.png", 1.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"lacks the column\(s\) \['label', 'path'\]; it must name .*\(found \[\]"),
        ("path,age\na.png,1\n", r"lacks the column\(s\) \['label'\].*found \['path', 'age'\]"),
        ("path,label\n", "holds no images"),
        ("path,label\na.png,1\na.png,old\n", r"line 3: the label 'old' is not a number"),
        ("path,label\n\n\na.png,nan\n", r"line 4: the label 'nan' is not a number"),
        ("path,label\na.png\n", r"line 2: the label is empty"),
        (
            "path,label\na.png,30.5\n",
            r"line 2: the label 30\.5 is outside the task's range 0 to 30",
        ),
        ("path,label\na.png,-1\n", r"the label -1 is outside .* widen bin_edges of task 'bright"),
        ("path,label\na.png,inf\n", r"the label 'inf' is not a number"),
        ("path,label\nb.png,1\na.png,1\nc.png,1\n", r"2 of 3 images do not exist, first .*b\.png"),
        ("label,path\n1\n", "line 2: the path is empty"),
        ("path,label\n,1\n", "line 2: the path is empty"),
        (b"path,label\na.png,\xff\n", r"cannot read this CSV file \(.*utf-8"),
    ],
)
def test_bad_file(folder: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UsageError, match=rf"labels\.csv:? .*{message}"):
        read_csv(csv_of(folder, content), TASK)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.csv", tmp_path):
        with pytest.raises(UsageError, match=r"cannot read this CSV file"):
            read_csv(path, TASK)


def test_range_in_the_message_is_that_of_the_labels(folder: Path) -> None:
    task = replace(TASK, label_offset=100)
    with pytest.raises(UsageError, match="the label 30 is outside the task's range 100 to 130"):
        read_csv(csv_of(folder, "path,label\na.png,30\n"), task)


def test_dataset(tmp_path: Path) -> None:
    samples = write_photos(tmp_path, "train", 4)
    assert read_csv(tmp_path / "train.csv", TASK) == samples
    data = ImageDataset(samples, TASK, evaluation_transform(SPEC))
    assert len(data) == 4
    image, label, bin_index = data[2]
    assert (image.shape, image.dtype) == ((3, 8, 8), torch.float32)
    assert (label.shape, label.dtype, label.item()) == ((), torch.float32, 20)
    assert (bin_index.shape, bin_index.dtype, bin_index.item()) == ((), torch.int64, 2)
    (tmp_path / "train" / "0.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"0\.png: not an image"):
        data[0]


def test_training_crops_and_flips_at_random() -> None:
    image = Image.new("RGB", (10, 10))
    image.putpixel((4, 5), (255, 255, 255))
    spots = set()
    for _ in range(200):
        out = training_transform(SPEC)(image)
        assert out.shape == (3, 8, 8)
        spots.add(divmod(int(out[0].argmax()), 8))
    # Crops start at 0, 1 or 2: rows 3 to 5, columns 2 to 4, and 3 to 5 when flipped.
    assert spots == {(y, x) for y in (3, 4, 5) for x in (2, 3, 4, 5)}
