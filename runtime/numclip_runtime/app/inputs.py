"""The inputs of `numclip-run` as one sequence: files, folders, patterns, lists, videos, cameras."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain, takewhile
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from PIL import Image

from numclip_runtime.app.copy_names import inside
from numclip_runtime.app.readers import BackgroundReader, read_paths, standard_input
from numclip_runtime.app.video import (
    VIDEO_SUFFIXES,
    Every,
    frames_of,
    import_av,
    is_live,
    is_video,
)
from numclip_runtime.errors import ImageError, MissingDependencyError, UsageError
from numclip_runtime.images.folder import LeftOut, find_images
from numclip_runtime.preprocess import ImageLike
from numclip_runtime.remote.addresses import masked, scheme_of

if TYPE_CHECKING:  # most runs have no remote pictures
    from numclip_runtime.remote.prefetch import Fetched, Prefetcher
    from numclip_runtime.remote.stores import RemoteObject

LIST = "-"


@dataclass(frozen=True, slots=True)
class Item:
    """One picture to read, which becomes one record."""

    path: str  # of the image or video, as in the record
    name: str  # relative path without "..", for files made from it
    image: Image.Image | None = None  # a video's frame; None: the file is the image
    frame: int | None = None  # index in the video
    time_s: float | None = None  # since the video's first frame
    error: ImageError | None = None  # the reason if there is no picture
    remote: RemoteObject | None = None  # of a store
    fetched: Fetched | None = None  # its content

    @property
    def picture(self) -> ImageLike | ImageError:
        """The picture, as `Predictor.stream` takes it."""
        return self.error or self.fetched or (self.path if self.image is None else self.image)

    @property
    def source(self) -> str | bytes | Image.Image:
        """The picture once more, after it was read."""
        return self.image or (self.path if self.fetched is None else self.fetched.read())


@dataclass(frozen=True)
class Inputs:
    """Items in groups; within a group, none waits for its source. See `BackgroundReader`.

    Remote pictures are fetched for those who ask for it: `fetched(group)` yields the same items.
    """

    ready: Iterator[Iterator[Item]]
    total: int | None  # items, if known beforehand
    close: Callable[[], None] = lambda: None
    files: Sequence[str] = ()  # paths of the items that are known beforehand
    left_out: LeftOut = field(default_factory=LeftOut)  # pictures of other kinds in the folders
    fetched: Callable[[Iterable[Item]], Iterator[Item]] = iter  # with their content, in order


def open_inputs(
    inputs: Sequence[str], *, every: Every | None = None, null: bool = False, keep: bool = False
) -> Inputs:
    """Expand the inputs of the command line; lists, videos and cameras are read lazily.

    Args:
        inputs: Files, folders, patterns, addresses of these in a store, "-" for a list on standard
            input; or one camera.
        every: Frames of videos that are read; None: all.
        null: The list's paths end with NUL.
        keep: Whether the content of remote pictures stays with their items, see `Item.source`.

    Raises:
        UsageError: see `find_images` and `find_objects`; or if inputs cannot go together.
        StoreError: if a store cannot be listed.
        MissingDependencyError: if a video or a store is among them, and its package is not
            installed.
    """
    if any(map(is_live, inputs)):
        if len(inputs) > 1:
            raise UsageError("a camera or stream has no end: give it as the only input.")
        import_av()
        frames = _pictures([Item(inputs[0], "frames")], every, live=True)
        camera = BackgroundReader(frames, capacity=1, newest_only=True)
        return Inputs(camera.ready(), None, camera.close)
    if list(inputs).count(LIST) > 1:
        raise UsageError("-: standard input can be read once only.")
    if null and LIST not in inputs:
        raise UsageError("--null is about the list on standard input; give - as an input.")

    left_out = LeftOut()
    parts = [_from_list(null) if item == LIST else list(_expand(item, left_out)) for item in inputs]
    known = [item for part in parts if isinstance(part, list) for item in part]
    files = [item.path for item in known]
    videos = {item.path for item in known if item.remote is None and is_video(item.path)}
    # A file that only a pattern matched may be no video, and never refuses a run
    if not videos.isdisjoint(inputs):
        import_av()
    items = _pictures((item for part in parts for item in part), every)
    if every is not None and not videos and LIST not in inputs:
        raise UsageError("--every is about videos and cameras, and no input is one; leave it out.")
    listed, closing = LIST in inputs, ExitStack()
    reader = BackgroundReader(items) if listed else None
    if reader is not None:
        closing.callback(reader.close)

    @cache
    def prefetcher() -> Prefetcher:
        from numclip_runtime.remote.prefetch import Prefetcher

        made = Prefetcher(keep=keep)
        closing.callback(made.close)
        return made

    ready = iter([items]) if reader is None else reader.ready()
    total = None if videos or listed else len(known)
    fetched = partial(_ahead, prefetcher)
    return Inputs(ready, total, closing.close, files, left_out, fetched)


def _ahead(prefetcher: Callable[[], Prefetcher], items: Iterable[Item]) -> Iterator[Item]:
    """Fetch remote pictures ahead of their decoding."""
    rest = iter(items)
    for first in rest:
        if first.remote is None:
            yield first
            continue
        for item, fetched in prefetcher().ahead(chain([first], rest), lambda item: item.remote):
            if fetched is None:
                yield item
                continue
            error = fetched.wait()
            error = error if isinstance(error, ImageError) else None
            yield replace(item, fetched=None if error else fetched, error=error)


def _expand(item: str, left_out: LeftOut) -> Iterator[Item]:
    """Yield the files of one input, each named by its path relative to the input."""
    if scheme_of(item) is not None:
        from numclip_runtime.remote.listing import find_objects

        for name, wanted in find_objects(item, left_out):
            yield _remote(name, wanted)
        return
    base = Path(item)
    if not os.path.isdir(item):  # noqa: PTH112 (pathlib raises on a name that is too long)
        base = Path(*takewhile(lambda part: not glob.has_magic(part), base.parts[:-1]))
    closed: dict[str, ImageError] = {}

    def unreadable(error: OSError) -> None:
        path = str(error.filename)
        closed[path] = ImageError(f"{path}: cannot read this folder ({error.strerror}).")

    for path in find_images([item], unreadable, left_out):
        name = inside(os.path.relpath(path, base) if path else "")
        yield Item(path, name, error=closed.get(path))


def _remote(name: str, wanted: RemoteObject) -> Item:
    path, error = wanted.name, None
    if PurePath(wanted.path).suffix.lower() in VIDEO_SUFFIXES:
        error = ImageError(f"{path}: videos are read from this machine only; download it first.")
    return Item(path, inside(name), error=error, remote=None if error else wanted)


def _from_list(null: bool) -> Iterator[Item]:
    for path in read_paths(standard_input(), null=null):
        if scheme_of(path) is None:
            yield Item(path, inside(path))
            continue
        from numclip_runtime.remote.fetch import object_or_error

        wanted = object_or_error(path)
        if isinstance(wanted, ImageError):
            yield Item(masked(path), "image", error=wanted)
        else:
            yield _remote(path.partition("://")[2].partition("?")[0], wanted)


def _pictures(files: Iterable[Item], every: Every | None, *, live: bool = False) -> Iterator[Item]:
    for item in files:
        path, name = item.path, item.name
        if item.error or item.remote or not (live or is_video(path)):
            yield item
            continue
        try:
            for frame in frames_of(path, every, live=live):
                place = str(PurePath(name, f"frame-{frame.index:06d}"))
                yield Item(path, place, frame.image, frame.index, frame.time_s)
        # PyAV is checked beforehand, except for a list: there it is one failed record
        except (ImageError, MissingDependencyError) as error:
            yield Item(path, name, error=ImageError(str(error)))
