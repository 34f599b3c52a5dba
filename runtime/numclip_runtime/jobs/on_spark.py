"""numclip in Spark (extra `spark`): a function for `DataFrame.mapInPandas`.

>>> from numclip_runtime.spark import mapper
>>> read = mapper("model.onnx")  # doctest: +SKIP
>>> spark.createDataFrame([("a.jpg",)], ["path"]).mapInPandas(read, read.schema)  # doctest: +SKIP

Feed paths. Spark's reader `binaryFile` leaves out empty files without a word (SPARK-26161), so that
they get no record.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from numclip_runtime.backends import OpenOptions, device_of
from numclip_runtime.errors import import_extra
from numclip_runtime.jobs.job_model import JobModel
from numclip_runtime.jobs.worker import WorkerModel, contents_of, paths_of
from numclip_runtime.results.columns import RecordColumns, utf8
from numclip_runtime.task import Task


@dataclass(frozen=True)
class Mapper:
    """The function that `mapper` returns; Spark sends it to its workers."""

    model: WorkerModel
    task: Task

    @property
    def schema(self) -> str:
        """The columns of the result, in Spark's DDL: those of `numclip-run`'s Parquet files."""
        names = (utf8(phrase).replace("`", "``") for phrase in self.task.phrases)
        probs = ", ".join(f"`{name}`: double" for name in names)
        return (
            "path string, frame bigint, time_s double, value double, unit string, "
            f"interval struct<low: double, high: double>, bin string, bin_probs struct<{probs}>, "
            "error string"
        )

    def __call__(self, frames: Iterable[Any]) -> Iterator[Any]:
        """Yield a pandas.DataFrame of records for each one of pictures, in the same order.

        Args:
            frames: With the column "path", and maybe "content": the bytes of the file, as Spark's
                `binaryFile` gives them.

        Raises:
            NumclipError: if the model cannot be opened on this worker, or there is no "path".
        """
        pandas = import_extra("spark", "pandas")
        columns = RecordColumns(self.task)
        names = columns.schema.names
        for frame in frames:
            contents = contents_of(frame["content"]) if "content" in frame else None
            records = self.model.records(paths_of(frame), contents)
            cells = [[columns.row(one).get(name) for name in names] for one in records]
            # as objects: pandas would make NaN of what is missing
            yield pandas.DataFrame(cells, columns=names, dtype=object)


def mapper(
    model: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    threads: int = 1,
    device: str = "cpu",
    fast_decode: bool = False,
    bf16: bool = False,
    batch_size: int | None = None,
) -> Mapper:
    """Return a function for `DataFrame.mapInPandas`, which has its `schema`.

    Each worker process of Spark opens the model once, and refuses another file of that name.

    Args:
        model: As for `load`; each machine needs it under this name.
        sha256: Of the file; None: that of the file here.
        threads: CPUs of a task, as `spark.task.cpus` states them to Spark.
        device: "cuda": a GPU, which Spark has to give to each task.
        fast_decode: See `OpenOptions`.
        bf16: Compute in bfloat16, or fail; see `OpenOptions`. Unasked, machines would differ in it.
        batch_size: Pictures per run of the network; None: 1 on a CPU, at most 16 on a GPU.

    Raises:
        ModelError: if the model is missing here, or is not the pinned one.
        UsageError: if an option is out of range.
    """
    options = OpenOptions(
        threads=threads,
        device=device_of(device),
        sha256=sha256,
        fast_decode=fast_decode,
        optimize_for="throughput",
        bf16=bf16,
    )
    found = JobModel.read(model, options)
    worker = WorkerModel(found.name, found.opening, batch_size, workers=threads)
    return Mapper(worker, found.metadata.task)
