"""The methods compared on real image sets, and one run of one: train, calibrate, test."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.bench.realsets.image_sets import SETS, RealSet, whole_numbers
from benchmarks.bench.realsets.real_measures import measures, rounded
from numclip_runtime import Preprocessing

if TYPE_CHECKING:
    from numclip.evaluation.predictions import Predictions

Start = Literal["scratch", "pretrained"]
# Pixels of the input: from scratch, for a whole tower that is tuned, and for one that is not
SCRATCH_SIDE, TUNED_SIDE, FROZEN_SIDE = 64, 96, 128
TUNED_SHARE = 3  # a tuned tower sees a third of the epochs that training from scratch takes
MARGIN = 8 / 7  # of the images before the random crop, where the set allows one
# A small CLIP: a ResNet of 4 blocks at SCRATCH_SIDE, and a text tower of 2 layers
SCRATCH_CLIP = Path(__file__).with_name("clip.json")
RATE = "1e-3"
_RATES = [
    word for part in ("image", "context", "rank", "adapter", "regressor")
    for word in (f"--lr-{part}", RATE)
]  # fmt: skip
# For a network without trained weights
DEMO = (
    *("--batch-size", "32", "--lr-text", "0", "--optimizer", "adamw", "--weight-decay", "0.01"),
    *("--schedule", "cosine"),
    *("--warmup-steps", "50", "--regressor", "bounded", "--loss-mode", "corrected"),
    *("--regression-weight", "0.15", *_RATES),
)


@dataclass(frozen=True)
class Method:
    """One row: options of `numclip-train`, or a rival."""

    key: str
    label: str
    start: Start
    options: tuple[str, ...] = ()
    rival: Literal["coral", "corn"] | None = None
    closed: bool = False  # in closed form: no crops in training, the same result for every seed

    @property
    def side(self) -> int:
        """Side of the network's input, pixels."""
        return (
            SCRATCH_SIDE if self.start == "scratch" else FROZEN_SIDE if self.closed else TUNED_SIDE
        )


_TUNED = ("--vectors", "prototypes", "--skip-probe")
_DISTRIBUTION = ("--head", "distribution")
_LEVELS = ("--head", "probe", "--features", "levels")
METHODS = (
    Method("coral", "CORAL", "scratch", rival="coral"),
    Method("corn", "CORN", "scratch", rival="corn"),
    Method("words-demo", "words, the demo's recipe", "scratch", DEMO),
    Method("words", "words", "scratch"),
    Method("distribution", "distribution", "scratch", _DISTRIBUTION),
    Method("probe", "probe", "pretrained", ("--head", "probe", "--features", "last"), closed=True),
    Method("probe-levels", "probe of all levels", "pretrained", _LEVELS, closed=True),
    Method("tuned", "prototypes, tuned", "pretrained", _TUNED),
    Method("tuned-distribution", "distribution, tuned", "pretrained", (*_TUNED, *_DISTRIBUTION)),
    Method(
        "lora-distribution",
        "distribution, LoRA",
        "pretrained",
        (*_TUNED, *_DISTRIBUTION, "--tune", "lora"),
    ),
)


@dataclass(frozen=True)
class RealRun:
    """A method on a set with a seed."""

    image_set: str
    method: str  # key of a Method
    seed: int

    @property
    def key(self) -> str:
        """Name of the run in the results."""
        return f"{self.image_set}/{self.method}/{self.seed}"


@dataclass(frozen=True)
class Setting:
    """What all runs share."""

    work: Path  # prepared sets, see `image_sets.prepare`, and the tower's weights
    tower: Path | None  # weights of the pretrained tower
    epochs: int | None = None  # in place of each method's own, to see that it runs


def method_of(key: str) -> Method:
    """Return a method by its key."""
    return next(method for method in METHODS if method.key == key)


def set_of(name: str) -> RealSet:
    """Return an image set by its name."""
    return next(image_set for image_set in SETS if image_set.name == name)


def sides(image_set: RealSet, method: Method) -> tuple[int, int]:
    """Return the side of the images before the crop, and that of the crop, pixels."""
    moves = image_set.margin and not method.closed
    return round(method.side * MARGIN) if moves else method.side, method.side


def epochs_of(run: RealRun, setting: Setting) -> int:
    """Return the epochs of a run."""
    share = 1 if method_of(run.method).start == "scratch" else TUNED_SHARE
    return setting.epochs or max(1, round(set_of(run.image_set).epochs / share))


def command(run: RealRun, setting: Setting) -> list[str]:
    """Return the arguments of `numclip-train` of a run; files are named without their folder."""
    image_set, method = set_of(run.image_set), method_of(run.method)
    task = image_set.task
    resize, _ = sides(image_set, method)
    epochs = () if method.closed else ("--epochs", str(epochs_of(run, setting)))
    backbone = (
        ("--backbone", "scratch.json")
        if method.start == "scratch"
        else (
            *("--backbone", "timm/mobilenetv2_100", "--image-size", str(method.side)),
            *("--pretrained", str(setting.tower)),
        )
    )
    return [
        *("--train", "train.csv", "--val", "val.csv", "--group-column", "group"),
        *("--name", task.name, "--unit", task.unit, "--context", task.context),
        *("--bin-edges", ",".join(f"{edge:g}" for edge in task.bin_edges)),
        *("--phrases", ",".join(task.phrases), "--prediction", task.prediction),
        *(*backbone, "--resize", str(resize), *method.options, *epochs),
        *("--seed", str(run.seed), "--workers", "0"),
    ]


def execute(run: RealRun, setting: Setting) -> dict[str, Any]:
    """Train and test; return `measures` and the seconds, of the clock and of the processor."""
    started, worked = time.perf_counter(), time.process_time()
    image_set, method = set_of(run.image_set), method_of(run.method)
    resize, _ = sides(image_set, method)
    folder = setting.work / image_set.name / str(resize)
    output = setting.work / "runs" / run.key.replace("/", "-")
    output.mkdir(parents=True, exist_ok=True)
    with (
        (output / "log.txt").open("w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        found = (_rival if method.rival else _numclip)(run, setting, folder, output)
    groups = [sample.group for sample in _samples(folder, "test", image_set)]
    return {
        **measures(found, groups),
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time() - worked, 1),
    }


def _samples(folder: Path, part: str, image_set: RealSet) -> Any:
    from numclip.data.readers import read_samples

    return read_samples(folder / f"{part}.csv", image_set.task, group_column="group")


def _numclip(run: RealRun, setting: Setting, folder: Path, output: Path) -> Predictions:
    from numclip.checkpoint import load_checkpoint
    from numclip.cli.train import main
    from numclip.evaluation.predictions import predictions_of_checkpoint

    backbone = output / "scratch.json"
    shutil.copyfile(SCRATCH_CLIP, backbone)
    places = {"train.csv": folder, "val.csv": folder, "scratch.json": output}
    words = [str(places[word] / word) if word in places else word for word in command(run, setting)]
    checkpoint = output / "checkpoint.pt"
    main.main([*words, "--restart", "-o", str(checkpoint)], standalone_mode=False)
    loaded = load_checkpoint(checkpoint)
    checkpoint.unlink()
    return predictions_of_checkpoint(loaded, _samples(folder, "test", set_of(run.image_set)))


def _rival(run: RealRun, setting: Setting, folder: Path, output: Path) -> Predictions:
    import torch

    from benchmarks.bench.realsets.ordinal_rivals import ordinal_net, predict_rival, train_rival
    from numclip.evaluation.calibration import fit_calibration
    from numclip.evaluation.predictions import Predictions, labels_of, log_softmax
    from numclip.model.backbone import build_clip
    from numclip.training.config import LearningRates, TrainConfig

    image_set, method = set_of(run.image_set), method_of(run.method)
    assert method.rival is not None
    task = whole_numbers(image_set.task)
    config = TrainConfig(
        epochs=epochs_of(run, setting),
        rates=LearningRates(image=float(RATE)),
        weight_decay=0.01,
        schedule="cosine",
        warmup_steps=50,
        seed=run.seed,
    )
    torch.manual_seed(run.seed)
    clip = json.loads(SCRATCH_CLIP.read_text("utf-8"))
    tower = build_clip(clip).get_submodule("visual")
    net = ordinal_net(tower, int(clip["embed_dim"]), task.num_bins, method.rival)
    resize, crop = sides(image_set, method)
    preprocessing = Preprocessing(crop=crop, resize=resize)
    parts = {part: _samples(folder, part, image_set) for part in ("train", "val", "test")}
    expected = image_set.judged_by == "rmse"
    train_rival(net, parts, task, preprocessing, config, method.rival, expected=expected)
    outputs = {
        part: predict_rival(net, parts[part], task, preprocessing, method.rival, expected=expected)
        for part in ("val", "test")
    }
    labels = {part: labels_of(parts[part]) for part in outputs}
    calibration = fit_calibration(*outputs["val"], labels["val"], task)
    values, logits = outputs["test"]
    bin_probs = np.exp(log_softmax(logits / calibration.temperature))
    return Predictions(task, calibration, labels["test"], values, bin_probs)


def constant(image_set: RealSet, folder: Path) -> dict[str, float]:
    """Return the errors of the training labels' median (MAE) and mean (RMSE) on the test part."""
    from numclip.evaluation.predictions import labels_of

    train, test = (labels_of(_samples(folder, part, image_set)) for part in ("train", "test"))
    rmse = float(np.sqrt(np.square(test - train.mean()).mean()))
    return {"mae": rounded(np.abs(test - np.median(train))), "rmse": round(rmse, 4)}
