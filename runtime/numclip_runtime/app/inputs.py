"""The inputs of `numclip-run` as one sequence: files, folders, patterns, lists, videos, cameras."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePath
from urllib.parse import urlsplit

from PIL import Image

from numclip_runtime.app.copy_names import inside
from numclip_runtime.app.readers import BackgroundReader, read_paths, standard_input
from numclip_runtime.app.video import Every, frames_of, import_av, is_live, is_video
from numclip_runtime.errors import ImageError, MissingDependencyError, UsageError
from numclip_runtime.images.folder import LeftOut, find_images
from numclip_runtime.model_files.given import kind_of
from numclip_runtime.preprocess import ImageLike

LIST = "-"
WEB = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class Item:
    """One picture to read, which becomes one record."""

    path: str  # of the image or video, as in the record
    name: str  # relative path without "..", for files made from it
    image: Image.Image | None = None  # a video's frame; None: the file is the image
    frame: int | None = None  # index in the video
    time_s: float | None = None  # since the video's first frame
    error: ImageError | None = None  # the reason if there is no picture

    @property
    def picture(self) -> ImageLike | ImageError:
        """The picture, as `Predictor.stream` takes it."""
        return self.error or (self.path if self.image is None else self.image)


@dataclass(frozen=True)
class Inputs:
    """Items in groups; within a group, none waits for its source. See `BackgroundReader`."""

    ready: Iterator[Iterator[Item]]
    total: int | None  # items, if known beforehand
    close: Callable[[], None] = lambda: None
    files: Sequence[str] = ()  # paths of the items that are known beforehand
    left_out: LeftOut = field(default_factory=LeftOut)  # pictures of other kinds in the folders


def open_inputs(inputs: Sequence[str], *, every: Every | None = None, null: bool = False) -> Inputs:
    """Expand the inputs of the command line; lists, videos and cameras are read lazily.

    Args:
        inputs: Files, folders, patterns, "-" for a list on standard input; or one camera.
        every: Frames of videos that are read; None: all.
        null: The list's paths end with NUL.

    Raises:
        UsageError: see `find_images`; or if inputs cannot go together.
        MissingDependencyError: if a video is among them and PyAV is not installed.
    """
    for item in inputs:
        if item.startswith(WEB) and kind_of(urlsplit(item).path) == "a picture":
            raise UsageError(f"{item}: is an address on the web; download the picture first.")
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
    videos = set(filter(is_video, files))
    # A file that only a pattern matched may be no video, and never refuses a run
    if not videos.isdisjoint(inputs):
        import_av()
    items = _pictures((item for part in parts for item in part), every)
    if every is not None and not videos and LIST not in inputs:
        raise UsageError("--every is about videos and cameras, and no input is one; leave it out.")
    if LIST not in inputs:
        total = None if videos else len(known)
        return Inputs(iter([items]), total, files=files, left_out=left_out)
    reader = BackgroundReader(items)
    return Inputs(reader.ready(), None, reader.close, files, left_out)


def _expand(item: str, left_out: LeftOut) -> Iterator[Item]:
    """Yield the files of one input, each named by its path relative to the input."""
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


def _from_list(null: bool) -> Iterator[Item]:
    return (Item(path, inside(path)) for path in read_paths(standard_input(), null=null))


def _pictures(files: Iterable[Item], every: Every | None, *, live: bool = False) -> Iterator[Item]:
    for item in files:
        path, name = item.path, item.name
        if item.error is not None or not (live or is_video(path)):
            yield item
            continue
        try:
            for frame in frames_of(path, every, live=live):
                place = str(PurePath(name, f"frame-{frame.index:06d}"))
                yield Item(path, place, frame.image, frame.index, frame.time_s)
        # PyAV is checked beforehand, except for a list: there it is one failed record
        except (ImageError, MissingDependencyError) as error:
            yield Item(path, name, error=ImageError(str(error)))
