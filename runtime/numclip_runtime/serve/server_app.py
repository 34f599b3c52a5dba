"""The server's answers: which request gets which, and when it is refused."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from numclip_runtime import __version__
from numclip_runtime.console import json_text, say
from numclip_runtime.errors import (
    ImageError,
    MissingDependencyError,
    NumclipError,
    causes,
    import_extra,
    lacks_memory,
)
from numclip_runtime.images.formats import ForeignFormatError
from numclip_runtime.images.memory import RefusedError
from numclip_runtime.results.records import record_of
from numclip_runtime.serve.guard import FAULT, Asgi, Guard
from numclip_runtime.serve.openapi import openapi
from numclip_runtime.serve.predict_line import Job, LateError, PredictLine, Upload
from numclip_runtime.serve.serve_options import ServeOptions
from numclip_runtime.serve.server_metrics import ServerMetrics
from numclip_runtime.serve.server_monitor import MonitorCollector, ServerMonitor, monitor_of
from numclip_runtime.serve.static_files import page_files
from numclip_runtime.serve.uploads import Body, BodyBuffer, ClientGoneError, HttpRefusal

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class ServerApp:
    """The state of a server: its model, whether it is ready, and what it holds.

    Args:
        line: The model; the server closes it, and those that replace it.
        options: The flags.
        metrics: Of the line as well.
    """

    def __init__(self, line: PredictLine, options: ServeOptions, metrics: ServerMetrics) -> None:
        self.line, self.options, self.metrics = line, options, metrics
        self.warm = self.draining = False
        self.monitor: ServerMonitor | None = None
        self._buffer = BodyBuffer(options.max_buffer)
        self._jobs: set[Job] = set()
        self._files = page_files()
        self.asgi = Guard(
            self._routes(),
            metrics,
            token=options.token(),
            local=options.is_local,
            open_paths=frozenset(self._files),
            quiet=options.quiet,
        )
        for name, text, value in (
            ("numclip_requests_in_flight", "Requests.", lambda: self.asgi.requests),
            ("numclip_images_waiting", "Pictures in the queue.", lambda: self.line.waiting),
            ("numclip_images_running", "Pictures worked on.", lambda: self.line.running),
            ("numclip_body_bytes", "Bodies in memory, bytes.", lambda: self._buffer.used),
            ("numclip_images_per_second", "The speed that decides who is refused.", self._rate),
        ):
            metrics.gauge(name, text, value)
        metrics.add(MonitorCollector(lambda: self.monitor))
        self.monitor = monitor_of(line, options.monitoring)
        self.use(line)

    def is_warm(self) -> None:
        """Answer from now on, and let the monitor follow the pictures."""
        self.warm = True
        if self.monitor is not None:
            self.line.monitor = self.monitor.take

    def replace(self, line: PredictLine) -> PredictLine:
        """Use this model from now on, with a monitor of its own; return the one before."""
        if self.monitor is not None:
            self.monitor.save()
        try:
            self.monitor = monitor_of(line, self.options.monitoring)
        except (OSError, NumclipError) as error:
            say(f"Note: {line.name} has no monitor: {error}")
            self.monitor = None
        before = self.use(line)
        self.is_warm()
        return before

    def use(self, line: PredictLine) -> PredictLine:
        """Answer with this model from now on; return the one before, which still has work."""
        before, self.line = self.line, line
        backend, metadata = line.predictor.backend, line.predictor.metadata
        self.metrics.model(
            line.name,
            line.digest,
            metadata.task.name,
            backend.precision,
            backend.name,
            backend.device,
        )
        return before

    def _rate(self) -> float:
        return self.line.pace.rate

    def _routes(self) -> Asgi:
        import_extra("serve", "starlette.applications")
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route

        routes = [
            Route("/predict", self._predict, methods=["POST"]),
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/metrics", self._metrics),
            Route("/model", self._model),
            Route("/openapi.json", self._openapi),
            *(Route(path, self._file) for path in self._files),
        ]
        handlers: dict[Any, Any] = {
            HTTPException: _http_error,
            HttpRefusal: _refused,
            Exception: _failed,
        }
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False
        return app

    async def _predict(self, request: Request) -> Response:
        self._admit()  # before the body is read
        # not dict(request.headers), which looks each one up among all
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in request.scope["headers"]}
        body = Body(request.receive, headers, self.options, self._buffer)
        try:
            uploads, several = await body.uploads()
            job = await self._worked(uploads, request)
        except ClientGoneError:
            return _answer(499, {"error": "the client hung up."})  # nobody reads it
        finally:
            body.release()
        records, status = [], 200
        for upload, result in zip(uploads, job.results, strict=True):
            assert result is not None
            records.append(record_of(upload.path, result))
            if isinstance(result, ImageError) and not several:
                status = _status_of(result)
        return _answer(status, records if several else records[0])

    def _admit(self) -> PredictLine:
        """Return the line that takes a request.

        Raises:
            HttpRefusal: if there is none, or the wait would be too long.
        """
        if not self.warm:
            raise HttpRefusal(503, "the model is being warmed up.", {"Retry-After": "1"})
        line = self.line
        if (excess := line.wait_s - self.options.max_wait) > 0:
            raise _busy(f"the wait would be {line.wait_s:.1f} s", excess)
        return line

    async def _worked(self, uploads: list[Upload], request: Request) -> Job:
        """Return a job with its results.

        Raises:
            HttpRefusal: if there is no room, or its turn came too late.
            ClientGoneError: if the client hung up meanwhile.
        """
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def finished() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(done.set)

        line = self._admit()
        job = Job(uploads, wait_s=line.longest(self.options.max_wait), finished=finished)
        line.add(job)
        gone = asyncio.create_task(_hung_up(request))
        waited = asyncio.create_task(done.wait())
        try:
            await asyncio.wait({gone, waited}, return_when=asyncio.FIRST_COMPLETED)
        finally:  # also if the server ends the request
            gone.cancel()
            waited.cancel()
            if not done.is_set():
                line.drop(job)
        if not done.is_set():
            raise ClientGoneError
        if job.fault is None:
            return job
        if isinstance(job.fault, LateError):
            raise _busy(str(job.fault).rstrip("."), line.wait_s)
        if lacks_memory(job.fault):
            raise HttpRefusal(503, "not enough memory; try again later.", {"Retry-After": "5"})
        raise job.fault

    async def _healthz(self, request: Request) -> Response:
        return _answer(200, {"status": "alive"})

    async def _readyz(self, request: Request) -> Response:
        if self.draining:
            return _answer(503, {"status": "draining"})
        if not self.warm:
            return _answer(503, {"status": "warming up"})
        if self.line.fault:
            return _answer(503, {"status": "the network fails"})
        return _answer(200, {"status": "ready"})

    async def _metrics(self, request: Request) -> Response:
        from starlette.responses import Response

        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _model(self, request: Request) -> Response:
        line = self.line
        metadata = line.predictor.metadata
        facts = {
            "file": line.name,
            "sha256": line.digest,
            "task": metadata.task.to_dict(),
            "precision": line.predictor.backend.precision,
            "calibrated": line.predictor.calibrated,
            "version": __version__,
        }
        return _answer(200, facts)

    async def _openapi(self, request: Request) -> Response:
        return _answer(200, openapi(self.options))

    async def _file(self, request: Request) -> Response:
        from starlette.responses import Response

        file = self._files[request.url.path]
        return Response(file.content, headers=file.headers)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _busy(why: str, excess_s: float) -> HttpRefusal:
    seconds = max(1, math.ceil(min(excess_s, 600)))
    return HttpRefusal(429, f"busy: {why}; try again later.", {"Retry-After": str(seconds)})


def _status_of(error: ImageError) -> int:
    """Return the status of a picture that cannot be read, by what its error was made from."""
    for cause in causes(error):
        if isinstance(cause, RefusedError):
            return 413
        if isinstance(cause, (ForeignFormatError, MissingDependencyError)):
            return 415
        if isinstance(cause, MemoryError):
            return 503
    return 422


def _answer(status: int, value: object, headers: Mapping[str, str] | None = None) -> Response:
    from starlette.responses import Response

    return Response(
        _json(value),
        status,
        {"Cache-Control": "no-store", **(headers or {})},
        media_type="application/json",
    )


def _json(value: object) -> bytes:
    try:
        return json_text(value).encode()
    except UnicodeEncodeError:  # half of a surrogate pair in a phrase
        return json_text(value, encoding=None).encode()


async def _http_error(request: Request, error: Any) -> Response:
    sentence = {404: "no such path; see /openapi.json.", 405: "no such method for this path."}
    return _answer(
        error.status_code, {"error": sentence.get(error.status_code, error.detail)}, error.headers
    )


async def _refused(request: Request, refusal: Any) -> Response:
    return _answer(refusal.status, {"error": str(refusal)}, refusal.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return _answer(500, {"error": FAULT})  # the guard prints it
