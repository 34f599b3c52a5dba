"""Train CLIP to read ordered numbers off images (NumCLIP, arXiv 2408.03574).

>>> from numclip import load_task
>>> load_task("age").unit
'years'

Names are imported at first use: `import numclip` is cheap and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numclip.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from numclip.data.columns import TableOptions
    from numclip.data.prepare import DataConfig
    from numclip.data.readers import read_samples
    from numclip.data.samples import Sample
    from numclip.distillation.distill_options import DistillOptions
    from numclip.distillation.distillation import DistillResult, distill
    from numclip.evaluation.calibration import calibrate
    from numclip.evaluation.metrics import evaluate_predictions
    from numclip.evaluation.predictions import EvaluationSource, Predictions
    from numclip.importers.pretrained import zero_shot
    from numclip.importers.released import convert
    from numclip.model.model_config import ModelConfig, PromptConfig
    from numclip.model.numclip import NumClip
    from numclip.model.preprocessing import PreprocessingConfig
    from numclip.tasks import load_task
    from numclip.training.config import LearningRates, TrainConfig
    from numclip.training.fit import fit
    from numclip.training.recipes import Recipe, recipe_of
    from numclip.training.run import TrainOptions, TrainResult, train
    from numclip_runtime import Preprocessing, Task

__all__ = [
    "Checkpoint",
    "DataConfig",
    "DistillOptions",
    "DistillResult",
    "EvaluationSource",
    "LearningRates",
    "ModelConfig",
    "NumClip",
    "Predictions",
    "Preprocessing",
    "PreprocessingConfig",
    "PromptConfig",
    "Recipe",
    "Sample",
    "TableOptions",
    "Task",
    "TrainConfig",
    "TrainOptions",
    "TrainResult",
    "calibrate",
    "convert",
    "distill",
    "evaluate_predictions",
    "fit",
    "load_checkpoint",
    "load_task",
    "read_samples",
    "recipe_of",
    "save_checkpoint",
    "train",
    "zero_shot",
]
_HOMES = {
    "numclip.checkpoint": ("Checkpoint", "load_checkpoint", "save_checkpoint"),
    "numclip.data.columns": ("TableOptions",),
    "numclip.data.prepare": ("DataConfig",),
    "numclip.data.readers": ("read_samples",),
    "numclip.data.samples": ("Sample",),
    "numclip.distillation.distillation": ("DistillResult", "distill"),
    "numclip.distillation.distill_options": ("DistillOptions",),
    "numclip.evaluation.calibration": ("calibrate",),
    "numclip.evaluation.metrics": ("evaluate_predictions",),
    "numclip.evaluation.predictions": ("EvaluationSource", "Predictions"),
    "numclip.importers.pretrained": ("zero_shot",),
    "numclip.importers.released": ("convert",),
    "numclip.model.model_config": ("ModelConfig", "PromptConfig"),
    "numclip.model.numclip": ("NumClip",),
    "numclip.model.preprocessing": ("PreprocessingConfig",),
    "numclip.tasks": ("load_task",),
    "numclip.training.config": ("LearningRates", "TrainConfig"),
    "numclip.training.fit": ("fit",),
    "numclip.training.recipes": ("Recipe", "recipe_of"),
    "numclip.training.run": ("TrainOptions", "TrainResult", "train"),
    "numclip_runtime": ("Preprocessing", "Task"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
