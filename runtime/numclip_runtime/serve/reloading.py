"""A model file that is replaced takes the place of the one before, without a pause."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from numclip_runtime.console import say
from numclip_runtime.errors import NumclipError, first_line
from numclip_runtime.files import sha256
from numclip_runtime.model_files.given import BUNDLE_MANIFEST, is_bundle
from numclip_runtime.model_files.pin import path_beside
from numclip_runtime.serve.predict_line import PredictLine
from numclip_runtime.serve.server_app import ServerApp
from numclip_runtime.serve.warm import open_line, warm_up

_Seen: TypeAlias = tuple[tuple[int, int, int] | None, ...]


async def watch_model(app: ServerApp, model: Path) -> None:
    """Look at a model file for ever, and use what takes its name.

    A file is opened when it looks the same twice: a copy may be under way. Its checksum file is
    looked at as well, since it may come second.
    """
    tried, before = None, _look(model)  # it may have been replaced while it was warmed up
    while True:
        await asyncio.sleep(app.options.reload_every)
        now = _look(model)
        if now == before and now != tried and now[0] is not None:
            tried = now
            await _try(app, model)
        before = now


async def _try(app: ServerApp, model: Path) -> None:
    """Use a new file, or say in one line why not."""
    try:
        if await asyncio.to_thread(sha256, _content(model)) == app.line.content:
            return
        line = await asyncio.to_thread(_opened, app, model)
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError):
            raise
        known = isinstance(error, (NumclipError, OSError))
        reason = str(error) if known else f"{type(error).__name__}: {first_line(error)}"
        say(f"The new {model.name} was refused, the one before answers: {reason}")
        app.metrics.reload("refused")
        return
    old = app.replace(line)
    app.metrics.reload("loaded")
    say(f"{model.name} was replaced: {old.digest[:12]} -> {line.digest[:12]}.")
    await asyncio.to_thread(old.close)


def _opened(app: ServerApp, model: Path) -> PredictLine:
    line = open_line(model, app.options, app.metrics)
    try:
        warm_up(line)
    except BaseException:
        line.close()
        raise
    return line


def _content(model: Path) -> Path:
    """Return the file that tells which model it is."""
    return model / BUNDLE_MANIFEST if is_bundle(model) else model


def _look(model: Path) -> _Seen:
    found: list[tuple[int, int, int] | None] = []
    paths = [_content(model)]
    if paths[0] is model:
        paths.append(path_beside(model))
    else:  # also while the manifest is being written, when it names no files
        with suppress(OSError):
            paths += sorted(model.iterdir())
    for path in paths:
        status = None
        with suppress(OSError):
            status = os.stat(path)  # noqa: PTH116 (one call for all three)
        found.append(status and (status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)
