"""What a distillation is asked for: the options of `numclip-distill`; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from numclip.data.checks import ImageCheck
from numclip.data.columns import TableOptions
from numclip.model.model_config import Features, HeadKind
from numclip.model.preprocessing import Statistics
from numclip.training.config import TrainConfig
from numclip.training.recipes import recipe_of
from numclip_runtime import NumclipError, UsageError
from numclip_runtime.model_files.given import CHECKPOINT_SUFFIXES

LARGE_FILE = 50_000_000  # bytes of a checkpoint whose network learns at the rates of large ones


class TradeError(NumclipError, ArithmeticError):
    """The student is no faster than its teacher, or loses more than is allowed."""


@dataclass(frozen=True)
class DistillOptions(TableOptions):
    """Teacher, student, images, and the trade that is still one.

    Raises:
        UsageError: if there are no images to learn from.
    """

    teacher: Path  # checkpoint
    student: str  # what numclip-train calls a backbone, or a checkpoint of the same task
    images: Path | None = None  # folder (searched recursively) or pattern of unlabelled images
    data: Path | None = None  # labelled images to learn from, see `read_samples`
    val: Path | None = None  # labelled images, none of which the student learns from
    test: Path | None = None  # the same, on which the student is judged
    root: Path | None = None  # where relative paths of labelled images start
    val_share: float = 0.2  # without `val`: share of `data`, or else `images`, that is held out
    calibration_share: float | None = None  # of the held-out images, see `calibration_split`
    group_column: str | None = None  # column whose values must not be in two sets
    image_check: ImageCheck = "header"
    skip_broken: bool = False  # leave broken images out; False refuses them
    output: Path = Path("student.pt")
    pretrained: str | None = None  # of a student by name: open_clip tag or weights file
    quick_gelu: bool | None = None  # None: the backbone's
    head: HeadKind | None = None  # None: the teacher's
    features: Features | None = None  # of a tower of timm; None: last
    image_size: int | None = None  # side, pixels, of a tower of timm; None: timm's record
    resize: int | None = None  # pixels before the crop; None: in the teacher's ratio to it
    normalize: Statistics | None = None  # pixel statistics; None: the teacher's
    training: TrainConfig | None = None  # how to train; None: as the recipe says
    # Both sides' logits are divided by it in the Kullback-Leibler divergence
    temperature: float = 1.0
    # Of |student - teacher| over the label range, against that. So both are about as large: on the
    # demo's images after 4 epochs .49 and 10 x .12, after 12 .20 and 10 x .06
    value_weight: float = 10.0
    # Of the losses of numclip-train on labelled images, against both: students were better with 3
    # than with 0.3 in 5 of the 6 pairs in docs/distill.md
    label_weight: float = 3.0
    max_loss: float | None = None  # label units, see `numclip.distillation.trade.limit_of`
    run_dir: Path | None = None  # logs and resume files; None: `output` with the suffix .run
    resume: bool = False  # go on from the last finished epoch of the run
    restart: bool = False  # discard an unfinished run and start anew

    def __post_init__(self) -> None:
        for name in ("teacher", "images", "data", "val", "test", "root", "output", "run_dir"):
            if isinstance(place := getattr(self, name), str):  # from a notebook, say
                object.__setattr__(self, name, Path(place))
        if self.images is None and self.data is None:
            raise UsageError(
                "there is nothing to learn from: give --images with a folder of images, --data "
                "with labelled ones, or both."
            )

    @property
    def student_checkpoint(self) -> Path | None:
        """The student's checkpoint; None where it is a backbone."""
        path = Path(self.student)
        return path if path.suffix.lower() in CHECKPOINT_SUFFIXES else None

    @property
    def run_folder(self) -> Path:
        """Folder of logs and resume files."""
        return self.run_dir or self.output.with_suffix(".run")

    @property
    def report(self) -> Path:
        """The report, beside the checkpoint."""
        return self.output.with_suffix(".distill.json")

    def recipe(self) -> TrainConfig:
        """Return how the student is trained unless the user says otherwise.

        As numclip-train would train it: `finetune` from weights, `scratch` from none; all of the
        tower learns.
        """
        started, backbone = self.pretrained, self.student
        if (file := self.student_checkpoint) is not None:
            small = not file.is_file() or file.stat().st_size < LARGE_FILE
            started, backbone = str(file), "network.json" if small else "ViT-B-16"
        return recipe_of("auto", started, backbone, tune="all").training
