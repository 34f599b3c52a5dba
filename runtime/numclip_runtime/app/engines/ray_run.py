"""`--engine ray`: paths go to actors, records come back, and this process writes the parts.

Only the driver writes, so that the output folder needs no shared storage, each picture has one
record however often Ray repeats work on lost machines, and a folder can be gone on with by any run.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

from numclip_runtime.app.engines.ray_actor import FATAL, ChunkReader, Work
from numclip_runtime.app.engines.ray_cluster import Needs, connected, ended, room_for_actors
from numclip_runtime.app.engines.resuming import job_summary, open_job, still_to_do
from numclip_runtime.app.inputs import Inputs, Item
from numclip_runtime.app.interrupt import Interrupt
from numclip_runtime.app.progress import Progress, progress_file, summary
from numclip_runtime.app.run_options import RunOptions
from numclip_runtime.app.video import is_video
from numclip_runtime.console import say
from numclip_runtime.errors import NumclipError, UsageError
from numclip_runtime.jobs.job_model import JobModel
from numclip_runtime.jobs.parts import Parts
from numclip_runtime.jobs.worker import WorkerModel
from numclip_runtime.model_files.open_model import is_plan
from numclip_runtime.results.records import record_of

CHUNK = 128  # pictures of one call: what is done again if a machine is lost
CHUNKS_EACH = 4  # per actor at least, so that all end at about the same time
SILENT_S = 60.0  # without a record, after which the state of the cluster is said


def run_on_ray(model: JobModel, source: Inputs, options: RunOptions) -> int:
    """Predict all inputs with the actors of a cluster.

    Args:
        model: The model.
        source: Of the pictures.
        options: The flags.

    Returns:
        Exit code, as of `numclip_runtime.app.run.run`.

    Raises:
        NumclipError: wrong use, no room in the cluster, a model that an actor cannot open.
        OSError: if a part cannot be written.
    """
    if any(map(is_video, source.files)):
        raise UsageError("--engine ray is for pictures; run videos without it.")
    needs = Needs.of(model.path, options.opening)
    with Interrupt() as interrupt, closing(source):
        return _RayRun(model, source, options, interrupt, needs).run()


class _RayRun:
    def __init__(
        self,
        model: JobModel,
        source: Inputs,
        options: RunOptions,
        interrupt: Interrupt,
        needs: Needs,
    ) -> None:
        self.model, self.source, self.options = model, source, options
        self.interrupt, self.needs = interrupt, needs
        self.last_s = self.start_s = time.monotonic()  # of the last records
        self.seconds = 0.0
        self.not_found_said = False
        self.failure: OSError | NumclipError | MemoryError | None = None

    def run(self) -> int:
        options = self.options
        backend = options.opening.backend or ("tensorrt" if is_plan(self.model.path) else None)
        made_for = self.model.metadata.backend or "onnxruntime"
        backend = backend or ("openvino" if options.opening.bf16 else made_for)
        runs_on = f"{backend} on {'gpu' if self.needs.gpus else 'cpu'}"
        with ExitStack() as outputs:
            parts = outputs.enter_context(open_job(self.model, options, self.source.files, runs_on))
            try:
                with self.interrupt.ends_block():
                    items = list(chain.from_iterable(still_to_do(parts, self.source.ready)))
                    if not items and not parts.skipped:
                        raise UsageError("-: no path came in on standard input.")
                    if items:
                        self._read(items, parts)
            except (OSError, NumclipError, MemoryError) as error:
                if parts.now == 0:
                    raise
                self.failure = error
            with self.interrupt.ends_block(), self.interrupt.held():
                outputs.close()
        return self._conclude(parts)

    def _read(self, items: list[Item], parts: Parts) -> None:
        to_read = []
        for item in items:
            if item.image is not None:
                raise UsageError(f"{item.path}: --engine ray is for pictures; run videos without.")
            if item.error is not None:  # a folder that cannot be read
                parts.write(record_of(item.path, item.error))
            else:
                to_read.append(item)
        if not to_read:
            return
        wanted = self.options.workers
        with connected(self.options.ray_address, self.needs, wanted) as ray:
            have, free = ray.cluster_resources(), ray.available_resources()
            actors = room_for_actors(have, free, self.needs, wanted)
            if wanted is not None and actors < wanted:
                say(f"Note: the cluster has room for {actors} of {wanted} actors.")
            if not self.needs.gpus and have.get("GPU"):
                say(f"Note: the cluster has {have['GPU']:g} GPUs; --device cuda uses them.")
            if self.options.talkative:
                say(f"Ray: {actors} actor{'' if actors == 1 else 's'} of {self.needs}")
            work = self._work(to_read, cpus_each=int(have.get("CPU", 1)) // actors)
            rows = _rows(ray, to_read, work, self.needs, actors)
            shown = Progress(progress_file(self.options.output), parts.skipped + len(items))
            self.start_s = self.last_s = time.monotonic()
            with shown as progress, self._watched(ray), closing(rows):
                for index, text in rows:
                    with self.interrupt.held():
                        self._take(index, text, to_read, parts)
                        progress.update(parts.now, parts.skipped)
                        self.seconds = progress.seconds

    def _work(self, items: Sequence[Item], cpus_each: int) -> Work:
        """Return what the actors have to know."""
        options, gpu = self.options, self.needs.gpus > 0
        opening = replace(
            self.model.opening,
            optimize_for="throughput",
            threads=None if gpu else self.needs.cpus,
            device="cuda" if gpu else "cpu",
        )
        model = WorkerModel(
            model=self.model.name,
            options=opening,
            batch_size=options.batch_size,
            workers=max(1, cpus_each) if gpu else 1,
        )
        local = (item.path for item in items if item.remote is None)
        relative = any(not os.path.isabs(path) for path in local)  # noqa: PTH117
        return Work(model, os.getcwd() if relative else None)  # noqa: PTH109

    def _take(self, index: int, text: str, items: Sequence[Item], parts: Parts) -> None:
        self.last_s = time.monotonic()
        if index == FATAL:
            raise NumclipError(f"Ray: an actor cannot go on, {text}")
        record = json.loads(text)
        if record.get("interval") is not None:
            record["interval"] = tuple(record["interval"])
        path = items[index].path
        if "error" in record and not self.not_found_said and "no such file" in record["error"]:
            self.not_found_said = True
            if os.path.exists(path):  # noqa: PTH110
                say(
                    f"Note: {path} is here, and a machine of the cluster does not have it: all "
                    "need the pictures under the same paths. --retry-failed does such ones again."
                )
        parts.write(record)

    @contextmanager
    def _watched(self, ray: Any) -> Iterator[None]:
        """Say the state of the cluster when no record comes for long."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(SILENT_S / 4):
                silent_s = time.monotonic() - self.last_s
                if silent_s >= SILENT_S:
                    have = ray.cluster_resources()
                    say(
                        f"Note: no record for {silent_s:.0f} s; the cluster has "
                        f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs, and an "
                        f"actor needs {self.needs.cpus} and {self.needs.gpus}."
                    )
                    self.last_s = time.monotonic()

        thread = threading.Thread(target=watch, name="numclip-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(1.0)

    def _conclude(self, parts: Parts) -> int:
        total = self.source.total
        of_all = "" if total is None else f" of {total}"
        kept = f"{parts.skipped + parts.now}{of_all} images done and kept."
        if self.options.talkative and parts.now:
            say(summary(parts.now, self.seconds))
        if self.failure is not None:
            say(f"Stopped: {kept}")
            raise self.failure
        if self.interrupt.came is not None:
            say(f"{self.interrupt.came.word}: {kept}")
            return self.interrupt.came.exit_code
        say(job_summary(parts, self.options))
        return 1 if parts.failed else 0


def _rows(
    ray: Any, items: Sequence[Item], work: Work, needs: Needs, actors: int
) -> Generator[tuple[int, str], None, None]:
    """Yield (index, record as JSON) as actors finish their chunks; each index once.

    Raises:
        NumclipError: if Ray gives up.
    """
    import pyarrow as arrow

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    size = max(1, min(CHUNK, len(items) // (CHUNKS_EACH * actors)))
    # an address with its signature, which records do not show
    places = (item.path if item.remote is None else item.remote.address for item in items)
    paths = [os.fsencode(place) for place in places]
    chunks = [
        arrow.table(
            {
                "index": arrow.array(range(start, min(start + size, len(items))), arrow.int64()),
                "path": arrow.array(paths[start : start + size], arrow.binary()),
            }
        )
        for start in range(0, len(items), size)
    ]
    found = ray.data.from_arrow(chunks).map_batches(
        ChunkReader,
        fn_constructor_args=(work,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
        num_cpus=needs.cpus,
        num_gpus=needs.gpus or None,
    )
    left = set(range(len(items)))
    try:
        for batch in found.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            columns = batch["index"].to_pylist(), batch["record"].to_pylist()
            for index, text in zip(*columns, strict=True):
                if index == FATAL or index in left:  # Ray repeats work that was lost with a machine
                    left.discard(index)
                    yield index, text
    except (ray.exceptions.RayError, ray.data.exceptions.UserCodeException) as error:
        raise ended(error) from None
    if left:
        raise NumclipError(
            f"Ray returned no record for {len(left)} pictures, such as {items[min(left)].path}; "
            "the same command does them."
        )
