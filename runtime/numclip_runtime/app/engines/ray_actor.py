"""The work of an actor of `--engine ray`."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import Any

from numclip_runtime.errors import NumclipError, UsageError, import_extra
from numclip_runtime.jobs.worker import WorkerModel

FATAL = -1  # index of a row that is no record, but the reason why the job cannot go on


@dataclass(frozen=True)
class Work:
    """What an actor has to know; a small object, which Ray sends to each."""

    model: WorkerModel
    folder: str | None  # that relative paths start from; None: all are absolute


class ChunkReader:
    """Turns chunks of paths into records, in JSON: the form in which nothing of them is lost.

    Args:
        work: The same for all actors.
    """

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, chunk: Any) -> Any:
        """Return a table of index and record for one of index and path (bytes of the system).

        What would end the job is a row as well: Ray would show a traceback of each actor.
        """
        arrow = import_extra("ray", "pyarrow")
        indices = chunk["index"].to_pylist()
        try:
            self._enter()
            paths = [os.fsdecode(path) for path in chunk["path"].to_pylist()]
            texts = [json.dumps(record) for record in self._work.model.records(paths)]
        except NumclipError as error:
            indices, texts = [FATAL], [f"on {socket.gethostname()}: {error}"]
        return arrow.table({"index": arrow.array(indices, arrow.int64()), "record": texts})

    def _enter(self) -> None:
        folder = self._work.folder
        if folder is None:
            return
        try:
            os.chdir(folder)
        except OSError as error:
            raise UsageError(
                f"{folder}: cannot enter this folder ({error.strerror}), from which the relative "
                "paths start; give absolute paths, or run from a folder that all machines share."
            ) from None
