"""What a training is asked for: the options of `numclip-train` as one object; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from numclip.data.prepare import DataConfig
from numclip.model.architectures import is_convolutional
from numclip.model.model_config import (
    DEFAULT_BACKBONE,
    PLAIN,
    Features,
    HeadKind,
    ModelConfig,
    PromptConfig,
    PrototypeStart,
    RegressorForm,
    Vectors,
)
from numclip.model.preprocessing import PAPER_PREPROCESSING, PreprocessingConfig
from numclip.training.config import TrainConfig
from numclip.training.loggers import LoggerName
from numclip.training.recipes import RecipeName, recipe_of
from numclip_runtime import Task


@dataclass(frozen=True)
class TrainOptions:
    """The model to train, its data, and the output."""

    task: Task
    data: DataConfig
    output: Path = Path("checkpoint.pt")
    backbone: str = DEFAULT_BACKBONE  # open_clip architecture or configuration file (.json)
    pretrained: str | None = None  # open_clip tag or weights file; None: random weights
    quick_gelu: bool | None = None  # None: the backbone's
    # Of a tower of timm: its own, or those of all its levels; None: those of a probe of a
    # convolutional tower, else its own
    features: Features | None = None
    image_size: int | None = None  # side, pixels, of a tower of timm; None: timm's record
    recipe: RecipeName = "auto"  # auto: "finetune" with `pretrained`, "scratch" without
    training: TrainConfig | None = None  # how to train; None: as the recipe says
    regressor: RegressorForm | None = None  # None: the recipe's
    label_offset: float | None = None  # of the task; None: the recipe's, or else the task's own
    adapter_width: int | None = ModelConfig.adapter_width
    prompts: PromptConfig = PLAIN
    head: HeadKind = ModelConfig.head
    grid_points: int | None = ModelConfig.grid_points
    vectors: Vectors = ModelConfig.vectors
    prototypes: PrototypeStart | None = None  # None: text where there are pretrained words
    skip_probe: bool = False  # do not measure, with `pretrained`, what a linear probe reaches
    logit_scale: float | None = None  # initial scale of the cosine similarities; None: backbone's
    preprocessing: PreprocessingConfig = PAPER_PREPROCESSING
    run_dir: Path | None = None  # logs and resume files; None: `output` with the suffix .run
    resume: bool = False  # go on from the last finished epoch of the run
    restart: bool = False  # discard an unfinished run and start anew
    loggers: tuple[LoggerName, ...] = ()  # log to these as well
    tensorboard: bool = False  # the same as "tensorboard" among `loggers`

    def __post_init__(self) -> None:
        for name in ("output", "run_dir"):
            if isinstance(place := getattr(self, name), str):  # from a notebook, say
                object.__setattr__(self, name, Path(place))

    def resolved(self) -> TrainOptions:
        """Return the options with what the recipe sets in place of None."""
        recipe = recipe_of(self.recipe, self.pretrained, self.backbone, self.head)
        offset = self.label_offset
        return replace(
            self,
            task=replace(
                self.task, label_offset=recipe.label_offset(self.task) if offset is None else offset
            ),
            training=self.training or recipe.training,
            regressor=self.regressor or recipe.regressor,
            features=self.features or self._features(),
        )

    def _features(self) -> Features:
        # Test MAE, MobileNetV2: tomatoes 1.95 (last) and 1.64, solar cells (RMSE) 1.23 and 1.15,
        # blood 3.73 and 3.05; towers without convolutions are unmeasured
        probe = self.head == "probe" and is_convolutional(self.backbone)
        return "levels" if probe else "last"
