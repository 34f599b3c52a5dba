"""numclip in pipelines of Ray Data: `numclip_runtime.jobs.on_ray`, under a short name."""

from numclip_runtime.jobs.on_ray import PredictBatches, predict_paths

__all__ = ["PredictBatches", "predict_paths"]
