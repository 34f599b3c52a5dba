"""The work of one process of a cluster: paths or contents in, records out."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from typing import TypeAlias

from numclip_runtime.backends import OpenOptions
from numclip_runtime.errors import ImageError, UsageError
from numclip_runtime.predictor import Predictor
from numclip_runtime.preprocess import ImageLike
from numclip_runtime.remote.addresses import masked, scheme_of
from numclip_runtime.results.prediction import finite
from numclip_runtime.results.records import Record, record_of

Content: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True)
class WorkerModel:
    """How a process opens a model and uses its cores; small, so that it can be sent to each."""

    # absolute path, which is the same on each machine; or a name that means the same on each
    model: str
    options: OpenOptions  # with the SHA-256, so that all processes have the same model
    batch_size: int | None = None  # see `Predictor.stream`
    workers: int | None = None  # see `Predictor.stream`

    def predictor(self) -> Predictor:
        """Return this process's predictor, which is opened at the first call.

        A cluster calls a function anew for each piece of work in processes that stay.

        Raises:
            NumclipError: see `load`.
        """
        with _opening:
            if self not in _predictors:
                for other in _predictors.values():
                    other.close()
                _predictors.clear()  # one model takes memory enough
                _predictors[self] = Predictor.open(self.model, self.options)
            return _predictors[self]

    def records(
        self, paths: Sequence[str], contents: Sequence[Content | None] | None = None
    ) -> list[Record]:
        """Return one record per picture, in order, as `numclip-run` writes them.

        Args:
            paths: Of the pictures, or addresses; records show these without secrets.
            contents: The bytes of their files, None for those that are missing; None: the files
                are read.

        Raises:
            NumclipError: if the model cannot be opened. Pictures that cannot be read are records.
            StoreError: if a store can be read no longer.
        """
        stream = self.predictor().stream(
            _pictures(paths, contents), batch_size=self.batch_size, workers=self.workers
        )
        with closing(stream):
            return [
                record_of(path, finite(path, result))
                for path, result in zip(map(masked, paths), stream, strict=True)
            ]


def paths_of(batch: Mapping[str, Iterable[object]]) -> list[str]:
    """Return the column "path" of a batch; a missing one is "".

    Raises:
        UsageError: if there is none.
    """
    if "path" not in batch:
        raise UsageError(
            f"the batch has the columns {', '.join(map(str, batch)) or 'of nothing'}, and no "
            "'path'; rename the one that names the pictures."
        )
    return ["" if path is None else str(path) for path in batch["path"]]


def contents_of(column: Iterable[object]) -> list[Content | None]:
    """Return the contents of files; pandas gives NaN for those that are missing."""
    return [one if isinstance(one, (bytes, bytearray, memoryview)) else None for one in column]


_opening = threading.Lock()
_predictors: dict[WorkerModel, Predictor] = {}  # of this process


class _NamedContent(BytesIO):
    """The content of a file, whose messages give its name."""

    def __init__(self, content: Content, name: str) -> None:
        super().__init__(content)
        self.name = name


def _pictures(
    paths: Sequence[str], contents: Sequence[Content | None] | None
) -> Iterator[ImageLike | ImageError]:
    if contents is None and any(map(scheme_of, paths)):
        from numclip_runtime.remote.prefetch import prefetched

        yield from prefetched(paths)
        return
    if contents is None:
        yield from paths
        return
    for path, content in zip(paths, contents, strict=True):
        if content is None:
            yield ImageError(f"{path}: has no content; give the bytes of its file.")
        else:
            yield _NamedContent(content, path)
