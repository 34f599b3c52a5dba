"""numclip in pipelines of Ray Data (extra `ray`); `numclip-run --engine ray` needs none of this.

>>> from numclip_runtime.ray import predict_paths
>>> dataset = predict_paths(["a.jpg", "b.jpg"], "model.onnx")  # doctest: +SKIP
>>> dataset.write_parquet("records")  # doctest: +SKIP

Feed paths rather than `ray.data.read_binary_files`: its read tasks starve where actors take all
CPUs, without an error, and Ray's own checkpoints filter only behind such reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from numclip_runtime.backends import OpenOptions, device_of
from numclip_runtime.errors import UsageError, import_extra
from numclip_runtime.jobs.job_model import JobModel
from numclip_runtime.jobs.worker import WorkerModel, contents_of, paths_of
from numclip_runtime.results.columns import RecordColumns


class PredictBatches:
    """A callable class for `Dataset.map_batches`: pictures in, records out.

        dataset.map_batches(PredictBatches, fn_constructor_args=("model.onnx",), batch_size=64,
                            num_cpus=1, compute=ray.data.ActorPoolStrategy(size=2))

    A batch has the column "path", and may have "bytes" with the content of each file. The result
    has the columns of `numclip-run`'s Parquet files, in the same order; pictures that cannot be
    read have an error. Other columns of the batch are kept behind them, but not "bytes".

    Args:
        model: As for `load`; each machine needs it under this name.
        sha256: Of the file, so that all actors have the same model; None: not checked.
        threads: CPUs of an actor, as `num_cpus` states them to Ray.
        device: "cuda" with `num_gpus=1`.
        fast_decode: See `OpenOptions`.
        bf16: Compute in bfloat16, or fail; see `OpenOptions`. Unasked, machines would differ in it.
        batch_size: Pictures per run of the network; None: 1 on a CPU, at most 16 on a GPU.

    Raises:
        NumclipError: in the actor; see `load`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        sha256: str | None = None,
        threads: int = 1,
        device: str = "auto",
        fast_decode: bool = False,
        bf16: bool = False,
        batch_size: int | None = None,
    ) -> None:
        options = OpenOptions(
            threads=threads,
            device=device_of(device),
            sha256=sha256,
            fast_decode=fast_decode,
            optimize_for="throughput",
            bf16=bf16,
        )
        self._model = WorkerModel(os.fspath(model), options, batch_size, threads)
        predictor = self._model.predictor()
        self._columns = RecordColumns(predictor.metadata.task)

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """Return a pyarrow.Table of records.

        Args:
            batch: Columns by name: the arrays of numpy that Ray gives by default, or a table of
                pyarrow or pandas.

        Raises:
            UsageError: if it has no column "path".
        """
        arrow = import_extra("ray", "pyarrow")
        if isinstance(batch, arrow.Table):
            batch = {name: batch[name].to_pylist() for name in batch.column_names}
        contents = contents_of(batch["bytes"]) if "bytes" in batch else None
        records = self._model.records(paths_of(batch), contents)
        table = self._columns.table([self._columns.row(record) for record in records])
        for name in batch:
            if name not in table.column_names and name != "bytes":
                table = table.append_column(name, arrow.array(list(batch[name])))
        return table


def predict_paths(
    paths: Iterable[str | os.PathLike[str]],
    model: str | os.PathLike[str],
    *,
    actors: int | None = None,
    gpus: int = 0,
    chunk: int = 128,
    **options: Any,
) -> Any:
    """Return a Dataset of records of pictures, which is computed when it is used.

    Args:
        paths: Of pictures that each machine sees; relative ones start in the folder of its actors.
        model: See `PredictBatches`.
        actors: At most so many; None: as many as the cluster has room for.
        gpus: Of each actor, 0 or 1.
        chunk: Pictures of one call, which Ray repeats if it loses a machine.
        options: Of `PredictBatches`. The SHA-256 is that of the file here unless it is given.

    Raises:
        ModelError: if the model is missing here.
        UsageError: if there are no paths, or one is not valid Unicode.
        MissingDependencyError: if Ray is not installed.
    """
    arrow, data = import_extra("ray", "pyarrow"), import_extra("ray", "ray.data")
    texts = [os.fspath(path) for path in paths]
    if not texts:
        raise UsageError("paths: there are none.")
    try:
        chunks = [
            arrow.table({"path": texts[start : start + chunk]})
            for start in range(0, len(texts), chunk)
        ]
    except UnicodeEncodeError:
        raise UsageError(
            "paths: one is not valid Unicode; `numclip-run --engine ray` takes such ones."
        ) from None
    if gpus:
        options.setdefault("device", "cuda")
    pinned, device = options.pop("sha256", None), device_of(options.get("device", "cpu"))
    opening = OpenOptions(sha256=pinned, device=device, bf16=options.get("bf16", False))
    shared = JobModel.read(model, opening)
    return data.from_arrow(chunks).map_batches(
        PredictBatches,
        fn_constructor_args=(shared.name,),
        fn_constructor_kwargs={**options, "sha256": shared.sha256},
        batch_size=None,
        # Ray makes more of them while there is work and room
        compute=data.ActorPoolStrategy(min_size=1, max_size=actors),
        num_cpus=options.get("threads", 1),
        num_gpus=gpus or None,
    )
