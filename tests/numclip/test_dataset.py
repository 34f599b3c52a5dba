"""Data sets, seeded augmentation, and transforms that equal the runtime's preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from numclip.data.dataset import (
    ImageDataset,
    SeededDataset,
    evaluation_transform,
    training_transform,
)
from numclip.data.readers import read_samples
from numclip.data.samples import Sample
from numclip.model.preprocessing import STATISTICS
from numclip_runtime import ImageError, Preprocessing, UsageError
from numclip_runtime.metadata import Interpolation, ResizeMode
from numclip_runtime.preprocess import load_rgb, preprocess
from tests.numclip.tiny import TASK, spec_of, write_photos

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
    assert read_samples(csv_of(folder, content), TASK) == expected


def test_root(folder: Path) -> None:
    (folder / "lists").mkdir()
    path = csv_of(folder / "lists", "path,label\na.png,1\n")
    assert read_samples(path, TASK, root=folder) == [Sample(folder / "a.png", 1.0)]
    with pytest.raises(UsageError, match="1 of 1 images do not exist"):
        read_samples(path, TASK)
    path = csv_of(folder / "lists", f"path,label\n{folder / 'a.png'},1\n")  # absolute
    assert read_samples(path, TASK) == [Sample(folder / "a.png", 1.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"lacks the column\(s\) \['label', 'path'\]; it must name .*\(found \[\]"),
        ("path,age\na.png,1\n", r"lacks the column\(s\) \['label'\].*found \['path', 'age'\]"),
        ("path,label\n", "holds no images"),
        ("path,label\na.png,1\na.png,old\n", r"line 3: the label 'old' is not a number"),
        ("path,label\n\n\na.png,nan\n", r"line 4: the label 'nan' is not a number"),
        ("path,label\na.png\n", "line 2: has 1 cell, the header has 2; complete the row"),
        (
            "path,label\na.png,30.5\n",
            r"line 2: the label 30\.5 is outside the task's range 0 to 30",
        ),
        ("path,label\na.png,-1\n", r"the label -1 is outside .* widen bin_edges of task 'bright"),
        ("path,label\na.png,inf\n", r"the label 'inf' is not a number"),
        ("path,label\nb.png,1\na.png,1\nc.png,1\n", r"2 of 3 images do not exist, first .*b\.png"),
        ("label,path\n1\n", "line 2: has 1 cell, the header has 2; complete the row"),
        ("path,label\n,1\n", "line 2: the path is empty"),
        (b"path,label\na.png,\xff\n", r"line 2: is not UTF-8 \(byte 0xff\).* save it as UTF-8"),
    ],
)
def test_bad_file(folder: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UsageError, match=rf"labels\.csv:? .*{message}"):
        read_samples(csv_of(folder, content), TASK)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read this CSV file"):
        read_samples(tmp_path / "gone.csv", TASK)
    with pytest.raises(UsageError, match=r"holds no images; name the subfolders"):
        read_samples(tmp_path, TASK)


def test_range_in_the_message_is_that_of_the_labels(folder: Path) -> None:
    task = replace(TASK, label_offset=100)
    with pytest.raises(UsageError, match="the label 30 is outside the task's range 100 to 130"):
        read_samples(csv_of(folder, "path,label\na.png,30\n"), task)


def test_dataset(tmp_path: Path) -> None:
    samples = write_photos(tmp_path, "train", 4)
    assert read_samples(tmp_path / "train.csv", TASK) == samples
    data = ImageDataset(samples, TASK, evaluation_transform(SPEC))
    assert len(data) == 4
    image, label, bin_index = data[2]
    assert (image.shape, image.dtype) == ((3, 8, 8), torch.float32)
    assert (label.shape, label.dtype, label.item()) == ((), torch.float32, 20)
    assert (bin_index.shape, bin_index.dtype, bin_index.item()) == ((), torch.int64, 2)
    (tmp_path / "train" / "0.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"0\.png: not an image"):
        data[0]


def test_many_images_in_a_row_that_vanished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More than Python allows calls inside each other."""
    photo(40, 30).save(tmp_path / "last.png")
    gone = [Sample(tmp_path / f"{number}.png", 10.0) for number in range(1500)]
    samples = [*gone, Sample(tmp_path / "last.png", 90.0)]
    data = ImageDataset(samples, TASK, evaluation_transform(SPEC), broken="replace")
    assert data[0][1] == 90
    assert capsys.readouterr().err.count("It is left out from here on.") == 1500


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
    kept = [training_transform(SPEC, flip=False)(image)[0].argmax() for _ in range(200)]
    assert {int(spot) % 8 for spot in kept} == {2, 3, 4}


def test_draws_what_its_seed_says_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = write_photos(tmp_path, "train", 4)
    data = ImageDataset(samples, TASK, training_transform(spec_of("vit")), draw=True)
    indices = (0, 1, 5, 4 * 10**9 + 1)  # the last three are one image in three epochs
    wanted = []
    for index in indices:
        torch.manual_seed((7 << 40) + index)
        wanted.append(data[index % 4][0])
    assert not torch.equal(wanted[1], wanted[2]), "the augmentation must draw"

    def touched(seed: int) -> None:
        raise AssertionError("a GPU's own random numbers would begin anew at every image")

    monkeypatch.setattr("torch.cuda.manual_seed_all", touched)
    before = torch.get_rng_state()
    seeded = SeededDataset(data, seed=7)
    for index, want in zip(indices, wanted, strict=True):
        assert torch.equal(seeded[index][0], want)
    assert torch.equal(torch.get_rng_state(), before)


Maker = Callable[[Image.Image], Image.Image]


def photo(width: int, height: int) -> Image.Image:
    """Return an image of smooth colours and noise."""
    rng = np.random.default_rng(width * height)
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 / width, y * 255 / height, rng.uniform(0, 255, x.shape)]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def see_through_palette(image: Image.Image) -> Image.Image:
    image = image.quantize(16)
    image.info["transparency"] = 3
    return image


def sixteen_bits(image: Image.Image) -> Image.Image:
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    return Image.frombytes("I;16", image.size, grey.tobytes())


def turned(image: Image.Image) -> Image.Image:
    image.getexif()[0x0112] = 6  # orientation: turn clockwise
    return image


KINDS: dict[str, tuple[str, Maker]] = {  # file name, how it is made of an RGB image
    "rgb": ("a.png", lambda image: image),
    "jpeg": ("a.jpg", lambda image: image),
    "grey": ("a.png", lambda image: image.convert("L")),
    "rgba": ("a.png", lambda image: image.convert("RGBA")),
    "palette": ("a.png", lambda image: image.quantize(16)),
    "see-through palette": ("a.png", see_through_palette),
    "cmyk": ("a.jpg", lambda image: image.convert("CMYK")),
    "16 bit": ("a.png", sixteen_bits),
    "turned": ("a.jpg", turned),
}


def check(path: Path, spec: Preprocessing) -> None:
    expected = evaluation_transform(spec)(load_rgb(path)).numpy()
    got = preprocess(path, spec)
    assert got.shape == expected.shape == (3, spec.crop, spec.crop)
    np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize_mode", ["squash", "shortest"])
@pytest.mark.parametrize(
    "size", [(1, 1), (7, 5), (31, 97), (97, 31), (33, 33), (36, 36), (40, 36), (36, 41), (200, 151)]
)
def test_sizes(
    tmp_path: Path, size: tuple[int, int], resize_mode: ResizeMode, interpolation: Interpolation
) -> None:
    photo(*size).save(tmp_path / "a.png")
    for crop, resize in ((32, 36), (33, 36), (36, 36)):
        check(tmp_path / "a.png", Preprocessing(crop, resize, resize_mode, interpolation))


@pytest.mark.parametrize("size", [(1, 1), (7, 50), (36, 36), (200, 151)])
def test_fragments_are_the_same_pixels_in_training_and_in_the_runtime(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    photo(*size).save(tmp_path / "a.png")
    for fragments in (1, 3):
        check(
            tmp_path / "a.png",
            Preprocessing(36, 36, "fragments", "bilinear", fragments=fragments),
        )


def test_training_takes_fragments_from_random_places_and_flips_them() -> None:
    image = Image.new("RGB", (6, 6))
    image.putpixel((2, 1), (255, 255, 255))
    spec, spots = Preprocessing(4, 4, "fragments", fragments=2), set()
    torch.manual_seed(0)
    for _ in range(300):
        out = training_transform(spec)(image)[0]
        spots |= {divmod(int(place), 4) for place in (out > 1).flatten().nonzero()}
    # Pieces of 2 pixels start at 0 or 1 in cells of 3, so the point is in the first piece's row 0
    # or 1, and in its column 1, mirrored 2, or cut off
    assert spots == {(0, 1), (1, 1), (0, 2), (1, 2)}


@pytest.mark.parametrize("resize_mode", ["squash", "shortest"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_kinds_of_image(tmp_path: Path, kind: str, resize_mode: ResizeMode) -> None:
    name, make = KINDS[kind]
    image = make(photo(61, 45))
    image.save(tmp_path / name, exif=image.getexif())
    mean, std = STATISTICS["clip"]
    check(tmp_path / name, Preprocessing(32, 37, resize_mode, "bicubic", mean, std))
    assert load_rgb(tmp_path / name).size == ((45, 61) if kind == "turned" else (61, 45))
