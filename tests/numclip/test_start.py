"""The first second of a training: wrong use is refused before images are read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from numclip import DataConfig, TrainOptions, load_task, train
from numclip.cli.train import main
from numclip.model.architectures import architectures, check_backbone, check_pretrained
from numclip.model.backbone import build_clip, open_clip
from numclip.training.config import TrainConfig
from numclip.training.recipes import RecipeName
from numclip.training.start import check_start, random_start_warning
from numclip_runtime import UsageError
from numclip_runtime.cuda.probe import CudaDriver
from tests.numclip.test_resume import environment
from tests.numclip.tiny import TOWERS, write_photos

TASK = 'name = "b"\nunit = ""\nbin_edges = [0, 15, 30]\nphrases = ["dark", "bright"]\n'
READ = """
import sys
from PIL import Image
from numclip.cli.train import main
opened = []
before = Image.open
Image.open = lambda *args, **options: opened.append(args) or before(*args, **options)
try:
    main(sys.argv[1:])
finally:
    print(*({"torch"} & set(sys.modules)), len(opened))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory; its only readable data are labels: the images are broken."""
    for name in ("train", "val"):
        for sample in write_photos(tmp_path, name, 6):
            sample.path.write_bytes(b"no image")
    (tmp_path / "tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    (tmp_path / "resnet.json").write_text(json.dumps(TOWERS["resnet"]), "utf-8")
    (tmp_path / "task.toml").write_text(TASK, "utf-8")
    torch.save(build_clip(TOWERS["resnet"]).state_dict(), tmp_path / "resnet.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


DATA = ("--train", "train.csv", "--val", "val.csv", "--task", "task.toml")
CPU = "the precision 16-mixed needs a GPU, and this machine shows none; give --precision 32-true"


def command(*args: str) -> Result:
    return CliRunner().invoke(main, [*DATA, *args])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--precision", "16-mixed", "--backbone", "tiny.json"), CPU),
        (("--recipe", "morph", "--backbone", "tiny.json"), CPU),
        (("--backbone", "ViT-H14"), "'ViT-H14': give an open_clip architecture such as ViT-H-14"),
        (("--backbone", "gone.json"), "gone.json: cannot read this configuration"),
        (
            ("--pretrained", "opneai"),
            "'opneai' is neither a file nor a tag of open_clip (similar",
        ),
    ],
)
def test_refused_without_torch_or_images(
    args: tuple[str, ...], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ, *DATA, *args],
        env=environment(CUDA_VISIBLE_DEVICES=""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == "0\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--backbone", "ViT-B-16", "--pretrained", "dfn5b"), "neither a file nor a tag"),
        (
            ("--backbone", "tiny.json", "--pretrained", "resnet.pt"),
            "does not fit this",
        ),
        (("--backbone", "tiny.json", "--resize", "16"), "crop (32) must be between 1 and resize"),
        (
            ("--backbone", "tiny.json", "--head", "distribution", "--regressor", "bounded"),
            "--regressor has an effect with --head numclip only; leave it out.",
        ),
        (
            ("--backbone", "tiny.json", "--tune", "none", "--lora-rank", "4"),
            "--lora-rank has an effect with --tune lora only",
        ),
        (
            ("--backbone", "tiny.json", "--head", "distribution", "--loss-mode", "released"),
            "--loss-mode released has an effect with --head numclip only; leave it out, or",
        ),
    ],
)
def test_refused_before_images(args: tuple[str, ...], message: str, folder: Path) -> None:
    result = command(*args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "broken" not in result.stderr
    assert "broken" in command("--backbone", "tiny.json").stderr  # the images' turn


def test_labels_come_before_the_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numclip.training.run.initial_model", lambda _: pytest.fail("too early"))
    (folder / "val.csv").write_text("path,label\ntrain/0.png,31\n")
    assert "val.csv line 2: the label 31 is outside" in command("--backbone", "tiny.json").stderr


def test_half_precision_passes_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    half = TrainConfig(precision="16-mixed")
    monkeypatch.setattr("numclip.training.start.probe_cuda", CudaDriver)  # a driver without fault
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_start("ViT-B-16", None, half, [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a torch for the CPU only
    with pytest.raises(UsageError, match="needs a GPU"):
        check_start("ViT-B-16", None, half, [])


def test_a_rank_alone_asks_for_low_rank_updates(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[TrainOptions] = []
    monkeypatch.setattr("numclip.cli.train.train", lambda options, **_: given.append(options))
    assert command("--backbone", "tiny.json", "--lora-rank", "4").exit_code == 0
    assert given[0].training is not None
    assert (given[0].training.tune, given[0].training.lora_rank) == ("lora", 4)


def test_what_exists_passes() -> None:
    for name in open_clip.list_models():
        check_backbone(name)
        for tag in open_clip.list_pretrained_tags_by_model(name):
            check_pretrained(tag)
    check_pretrained("laion2b-s34b-b88k")  # open_clip takes it for laion2b_s34b_b88k
    check_backbone("hf-hub:owner/name")
    assert architectures() == sorted(open_clip.list_models())


def test_a_random_large_backbone_is_said() -> None:
    assert random_start_warning("small.json", None, "auto") is None
    assert random_start_warning("small.json", None, "scratch") is None
    assert random_start_warning("ViT-B-16", "openai", "auto") is None
    warning = random_start_warning("ViT-B-16", None, "auto")
    assert warning is not None
    assert warning.startswith("ViT-B-16 starts from random weights")
    assert "--pretrained (such as openai, or a file of weights)" in warning
    assert "openai" not in (random_start_warning("timm/mobilenetv2_100", None, "auto") or "openai")


@pytest.mark.parametrize("recipe", ["finetune", "morph"])
def test_a_recipe_for_pretrained_weights_is_said_to_be_one(recipe: RecipeName) -> None:
    assert random_start_warning("small.json", "weights.pt", recipe) is None
    warning = random_start_warning("small.json", None, recipe)
    assert warning is not None
    assert warning.startswith(f"the recipe {recipe} is for pretrained weights")


def test_the_command_warns_of_a_random_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: TrainOptions) -> None:
        raise UsageError("stopped here.")

    monkeypatch.setattr("numclip.training.run.initial_model", stop)
    assert command().stderr.startswith("Warning: ViT-B-16 starts from random weights, and needs ")
    assert command("--backbone", "tiny.json").stderr == "Error: stopped here.\n"


def test_names_of_files_may_be_texts() -> None:
    data = DataConfig("a.csv", val="b.csv", root="c")  # type: ignore[arg-type]
    assert data == DataConfig(Path("a.csv"), val=Path("b.csv"), root=Path("c"))
    task = load_task("age")
    options = TrainOptions(task, data, output="d.pt", run_dir="e")  # type: ignore[arg-type]
    assert options == TrainOptions(task, data, output=Path("d.pt"), run_dir=Path("e"))


def test_training_from_python_passes_callbacks_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pytorch_lightning as pl

    class Count(pl.Callback):
        epochs = 0

        def on_train_epoch_end(self, *_: object) -> None:
            self.epochs += 1

    for name in ("train", "val"):
        write_photos(tmp_path, name, 6)
    (tmp_path / "tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    (tmp_path / "task.toml").write_text(TASK.replace("30", "31"), "utf-8")
    monkeypatch.chdir(tmp_path)
    count = Count()
    data = DataConfig(Path("train.csv"), val=Path("val.csv"))
    config = TrainConfig(epochs=2, workers=0)
    task = load_task("task.toml")
    result = train(
        TrainOptions(task, data, backbone="tiny.json", training=config), callbacks=[count]
    )
    assert result is not None
    assert count.epochs == 2
    assert Path("checkpoint.pt").is_file()
    assert "epoch   2/2" in capsys.readouterr().out
    assert not Path("checkpoint.run/run.toml").exists()  # a command repeats, not a program
