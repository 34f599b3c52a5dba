"""Training on tars is training on the files in them: splits, weights, resumed runs, readers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from numclip.checkpoint import load_checkpoint
from numclip.cli import evaluate
from numclip.cli.train import main
from numclip.data.columns import TableOptions
from numclip.data.dataset import ImageDataset, training_batches, training_transform
from numclip.data.readers import read_samples
from numclip.data.samples import Sample
from numclip_export.images import verify_images
from numclip_export.int8.calibration import int8_data
from numclip_export.options import ExportOptions
from numclip_runtime import load
from tests.numclip.tar_files import write_tar
from tests.numclip.tiny import TASK, TOWERS, spec_of, write_photos

FLAGS = "--epochs 3 --batch-size 4 --lr-image 1e-3 --workers 0 --backbone tiny.json"
SPLIT = "--val-share 0.25 --group-column who --calibration-share 0"
COUNT = 16
LEVEL = TableOptions(label_column="level")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory: 16 photos as train.csv and in two tars, model and task."""
    monkeypatch.chdir(tmp_path)
    samples = write_photos(tmp_path, "train", COUNT)
    with Path("train.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "level", "who"))
        rows.writerows((f"train/{i}.png", s.label, i // 2) for i, s in enumerate(samples))
    Path("shards").mkdir()
    for shard, part in enumerate((range(COUNT // 2), range(COUNT // 2, COUNT))):
        files: dict[str, bytes | str] = {}
        for i in part:
            files[f"{i:04}.png"] = samples[i].path.read_bytes()
            files[f"{i:04}.json"] = json.dumps({"level": samples[i].label, "who": i // 2})
        write_tar(Path(f"shards/{shard}.tar"), files)
    Path("tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    lines = (f"{key} = {json.dumps(value)}" for key, value in TASK.to_dict().items())
    Path("task.toml").write_text("\n".join(lines), "utf-8")
    return tmp_path


def train(source: str, output: str, *flags: str) -> Result:
    given = f"--train {source} --task task.toml --label-column level -o {output} {FLAGS} {SPLIT}"
    return CliRunner().invoke(main, [*given.split(), *flags])


def weights(file: str) -> dict[str, torch.Tensor]:
    return load_checkpoint(Path(file)).model.state_dict()


def numbers(samples: Sequence[Sample]) -> list[tuple[int, float, str]]:
    return [(int(s.path.stem), s.label, s.group) for s in samples]


def test_tars_train_as_files_do(folder: Path) -> None:
    for source, output in (("train.csv", "files.pt"), ("shards/*.tar", "tars.pt")):
        result = train(source, output)
        assert result.exit_code == 0, result.output
        assert f"train: {COUNT * 3 // 4} images" in result.output
    files, tars = weights("files.pt"), weights("tars.pt")
    assert all(torch.equal(tars[name], tensor) for name, tensor in files.items())
    split = [
        read_samples(folder / f"{name}.val.csv", TASK, group_column="group")
        for name in ("files", "tars")
    ]
    assert numbers(split[0]) == numbers(split[1])
    assert {s.file.suffix for s in split[1]} == {".tar"}

    def metrics(checkpoint: str, data: str) -> str:
        given = f"--ckpt {checkpoint} --data {data}"
        result = CliRunner().invoke(evaluate.main, given.split())
        assert result.exit_code == 0, result.output
        return result.output

    assert metrics("tars.pt", "tars.val.csv") == metrics("files.pt", "files.val.csv")
    checkpoint = load_checkpoint(Path("tars.pt"))
    images, others = (verify_images(load_checkpoint(Path(f"{n}.pt"))) for n in ("tars", "files"))
    assert (images.source, images.photos) == ("validation", 4)
    assert (images.pixels == others.pixels).all()
    options = ExportOptions(Path("tars.pt"), Path("x.onnx"), precision="int8")
    data = int8_data(checkpoint, options)
    assert (data.source, len(data.calibration), len(data.labels)) == ("validation", 4, 4)


def test_validation_tars_and_their_field_are_known_to_the_export(folder: Path) -> None:
    flags = "--val shards/1.tar --calibration-share 0 --group-column who"
    given = f"--train shards/0.tar --task task.toml --label-column level -o a.pt {FLAGS} {flags}"
    result = CliRunner().invoke(main, given.split())
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(Path("a.pt"))
    assert checkpoint.validation_table.label_column == "level"
    images = verify_images(checkpoint)
    assert (images.source, images.photos) == ("validation", COUNT // 2)
    Path("shards/1.tar").rename("shards/moved.tar")
    assert verify_images(checkpoint).source == "synthetic"


def test_a_resumed_run_ends_with_the_same_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("shards/*.tar", "whole.pt").exit_code == 0
    read, epochs = ImageDataset.__getitem__, iter(range(20))

    def interrupted(data: ImageDataset, index: int) -> object:
        if next(epochs, None) is None:
            raise KeyboardInterrupt
        return read(data, index)

    monkeypatch.setattr(ImageDataset, "__getitem__", interrupted)
    stopped = train("shards/*.tar", "cut.pt")
    assert (stopped.exit_code, Path("cut.pt").exists()) == (130, False), stopped.output
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    result = train("shards/*.tar", "cut.pt", "--resume")
    assert result.exit_code == 0, result.output
    assert "epoch   1/3" not in result.output
    whole, resumed = weights("whole.pt"), weights("cut.pt")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_share_tars_as_they_share_files(workers: int, folder: Path) -> None:
    """Each of two training processes gets the batches that it gets of files, pixel by pixel."""
    spec, seen = spec_of("vit"), []
    for rank in range(2):
        batches = []
        for source in ("train.csv", "shards/*.tar"):
            samples = read_samples(Path(source), TASK, table=LEVEL)
            data = ImageDataset(samples, TASK, training_transform(spec))
            batches.append([*training_batches(data, 4, 7, workers, rank, 2)])
        for (images, labels, bins), (others, wanted, right) in zip(*batches, strict=True):
            assert torch.equal(images, others)
            assert torch.equal(labels, wanted)
            assert torch.equal(bins, right)
            seen += labels.tolist()
    assert sorted(seen) == sorted(sample.label for sample in samples)


def test_an_exported_model_reads_members(folder: Path) -> None:
    members = read_samples(Path("shards/0.tar"), TASK, table=LEVEL)
    paths = [folder / "train" / f"{i}.png" for i in range(COUNT // 2)]
    with load(Path(__file__).parents[1] / "data" / "tiny.onnx") as predictor:
        found = list(predictor.stream([sample.image for sample in members]))
        assert found == list(predictor.stream(paths))


def test_the_output_is_no_shard(folder: Path) -> None:
    Path("out.pt").symlink_to("shards/1.tar")
    before = Path("shards/1.tar").read_bytes()
    result = train("shards/*.tar", "out.pt")
    assert result.exit_code == 2
    assert "is also an image, " in result.output
    assert Path("shards/1.tar").read_bytes() == before


def test_skip_broken_leaves_broken_members_out(folder: Path) -> None:
    whole = io.BytesIO()
    Image.new("RGB", (40, 40)).save(whole, "PNG")
    files: dict[str, bytes | str] = {"x.png": whole.getvalue()[:-40], "x.json": '{"level": 3}'}
    files["x.json"] = '{"level": 3, "who": "x"}'
    write_tar(Path("shards/2.tar"), files)
    refused = train("shards/*.tar", "b.pt")
    assert refused.exit_code == 2
    assert "1 of 17 train images are broken:" in refused.output
    assert "shards/2.tar/x.png: cannot be decoded" in refused.output
    result = train("shards/*.tar", "b.pt", "--skip-broken")
    assert result.exit_code == 0, result.output
    assert "1 of 17 train images are broken, left out." in result.output
