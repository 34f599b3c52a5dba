"""The methods compared on real image sets, and one run of one: train, calibrate, test."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.bench.realsets.image_sets import SETS, RealSet, whole_numbers
from numclip_runtime import Preprocessing
from numclip_runtime.calibration import DEFAULT_COVERAGE

if TYPE_CHECKING:
    from numclip.evaluation.predictions import Predictions

Start = Literal["scratch", "pretrained"]
SCRATCH_SIDE, TOWER_SIDE = 96, 128  # pixels of the network's input
MARGIN = 8 / 7  # of the images before the random crop, where the set allows one
# The demo's small CLIP at another size: a ResNet of 4 blocks, and a text tower of 2 layers
SCRATCH_CLIP: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": SCRATCH_SIDE,
        "layers": [1, 1, 1, 1],
        "width": 24,
        "head_width": 32,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
RATE = "1e-3"
_RATES = [
    word for part in ("image", "context", "rank", "adapter", "regressor")
    for word in (f"--lr-{part}", RATE)
]  # fmt: skip
DEMO = (
    *("--epochs", "40", "--optimizer", "adamw", "--weight-decay", "0.01", "--schedule", "cosine"),
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


_SHORT = ("--epochs", "40")
_FINETUNE = ("--vectors", "prototypes", "--skip-probe", "--epochs", "8")
METHODS = (
    Method("coral", "CORAL", "scratch", rival="coral"),
    Method("corn", "CORN", "scratch", rival="corn"),
    Method("words-demo", "words, the demo's recipe", "scratch", DEMO),
    Method("words", "words", "scratch", _SHORT),
    Method("prototypes", "prototypes", "scratch", (*_SHORT, "--vectors", "prototypes")),
    Method("distribution", "distribution", "scratch", (*_SHORT, "--head", "distribution")),
    Method(
        "distribution-rps",
        "distribution, ranked probability score",
        "scratch",
        (*_SHORT, "--head", "distribution", "--loss-mode", "rps"),
    ),
    Method("probe", "probe", "pretrained", ("--head", "probe"), closed=True),
    Method(
        "probe-levels",
        "probe of all levels",
        "pretrained",
        ("--head", "probe", "--features", "levels"),
        closed=True,
    ),
    Method("tuned", "prototypes, whole tower tuned", "pretrained", _FINETUNE),
    Method(
        "tuned-distribution",
        "distribution, whole tower tuned",
        "pretrained",
        (*_FINETUNE, "--head", "distribution"),
    ),
    Method(
        "lora-distribution",
        "distribution, LoRA",
        "pretrained",
        (*_FINETUNE, "--head", "distribution", "--tune", "lora"),
    ),
    Method(
        "tuned-levels",
        "probe of all levels, then whole tower tuned",
        "pretrained",
        (
            *("--head", "probe", "--features", "levels", "--tune", "all", "--skip-probe"),
            *("--epochs", "8"),
        ),
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
    crop = SCRATCH_SIDE if method.start == "scratch" else TOWER_SIDE
    return round(crop * MARGIN) if image_set.margin and not method.closed else crop, crop


def command(run: RealRun, setting: Setting) -> list[str]:
    """Return the arguments of `numclip-train` of a run; files are named without their folder."""
    image_set, method = set_of(run.image_set), method_of(run.method)
    task = image_set.task
    resize, _ = sides(image_set, method)
    epochs = () if setting.epochs is None else ("--epochs", str(setting.epochs))
    backbone = (
        ("--backbone", "scratch.json")
        if method.start == "scratch"
        else (
            *("--backbone", "timm/mobilenetv2_100", "--image-size", str(TOWER_SIDE)),
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
    backbone.write_text(json.dumps(SCRATCH_CLIP), "utf-8")
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
    from numclip.evaluation.predictions import Predictions, log_softmax
    from numclip.model.backbone import build_clip
    from numclip.training.config import LearningRates, TrainConfig

    image_set, method = set_of(run.image_set), method_of(run.method)
    assert method.rival is not None
    task = whole_numbers(image_set.task)
    config = TrainConfig(
        epochs=setting.epochs or 40,
        rates=LearningRates(image=float(RATE)),
        weight_decay=0.01,
        schedule="cosine",
        warmup_steps=50,
        seed=run.seed,
    )
    torch.manual_seed(run.seed)
    tower = build_clip(SCRATCH_CLIP).get_submodule("visual")
    net = ordinal_net(tower, int(SCRATCH_CLIP["embed_dim"]), task.num_bins, method.rival)
    resize, crop = sides(image_set, method)
    preprocessing = Preprocessing(crop=crop, resize=resize)
    parts = {part: _samples(folder, part, image_set) for part in ("train", "val", "test")}
    expected = image_set.judged_by == "rmse"
    train_rival(net, parts, task, preprocessing, config, method.rival, expected=expected)
    outputs = {
        part: predict_rival(net, parts[part], task, preprocessing, method.rival, expected=expected)
        for part in ("val", "test")
    }
    labels = {part: np.array([sample.label for sample in parts[part]]) for part in outputs}
    calibration = fit_calibration(*outputs["val"], labels["val"], task)
    values, logits = outputs["test"]
    bin_probs = np.exp(log_softmax(logits / calibration.temperature))
    return Predictions(task, calibration, labels["test"], values, bin_probs)


def measures(found: Predictions, groups: list[str]) -> dict[str, Any]:
    """Return MAE, RMSE, Spearman's correlation; coverage and width of the 90 % intervals.

    Args:
        found: Predictions of N images.
        groups: Their groups.
    """
    error = found.values - found.labels
    result: dict[str, Any] = {
        "mae": _rounded(np.abs(error)),
        "rmse": round(float(np.sqrt(np.square(error).mean())), 4),
        "spearman": round(spearman(found.values, found.labels), 4),
    }
    if found.calibration is None or DEFAULT_COVERAGE not in found.calibration.coverages:
        return result
    ends = found.intervals(DEFAULT_COVERAGE)
    inside = (ends[:, 0] <= found.labels) & (found.labels <= ends[:, 1])
    names = np.array(groups)
    by_group = {name: _rounded(inside[names == name]) for name in sorted(set(groups))}
    return result | {
        "coverage": _rounded(inside),
        "coverage_by_group": by_group,
        "interval_width": _rounded(ends[:, 1] - ends[:, 0]),
    }


def constant(image_set: RealSet, folder: Path) -> dict[str, float]:
    """Return the errors of the training labels' median (MAE) and mean (RMSE) on the test part."""
    train, test = (
        np.array([sample.label for sample in _samples(folder, part, image_set)])
        for part in ("train", "test")
    )
    rmse = float(np.sqrt(np.square(test - train.mean()).mean()))
    return {"mae": _rounded(np.abs(test - np.median(train))), "rmse": round(rmse, 4)}


def spearman(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation, ties sharing their mean rank; 0 where one is constant."""
    a, b = (_ranks(numbers) for numbers in (first, second))
    spread = float(a.std() * b.std())
    return 0.0 if spread == 0 else float(((a - a.mean()) * (b - b.mean())).mean() / spread)


def _ranks(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, which, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[which]
    return ranks


def _rounded(numbers: npt.NDArray[Any]) -> float:
    return round(float(np.mean(numbers)), 4)
