"""numclip in Spark: `numclip_runtime.jobs.on_spark`, under a short name."""

from numclip_runtime.jobs.on_spark import Mapper, mapper

__all__ = ["Mapper", "mapper"]
