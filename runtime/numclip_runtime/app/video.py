"""Frames of video files, cameras and network streams, decoded with PyAV (extra `video`)."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from numclip_runtime.errors import ImageError, UsageError, first_line, import_extra
from numclip_runtime.files import open_regular
from numclip_runtime.remote.addresses import is_web_picture

# A file with one of these suffixes is read as a video; folders are searched for images only.
VIDEO_SUFFIXES = frozenset(
    (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts")
) | {".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"}
# FFmpeg's readers of those. It judges by the content, and playlists of other kinds name addresses:
# PyAV 14.2 opened the URL inside a DASH manifest called clip.mp4, even with `protocol_whitelist`.
FORMATS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "asf", "flv", "mpeg"),
    *("mpegts", "mpegvideo", "mxf", "ogg", "yuv4mpegpipe"),
)
CAMERA = "camera:"
STREAMS = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://", "srt://")
OPEN_S, READ_S = 10.0, 30.0  # timeouts of cameras and network streams

# PIL turns counter-clockwise, like a frame's `rotation` (degrees)
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class Every:
    """The frames to read: every N-th, or the first one in each period of time."""

    frames: int = 1
    seconds: float | None = None  # if given, `frames` does not count

    def __str__(self) -> str:
        return str(self.frames) if self.seconds is None else f"{self.seconds:g}s"

    @classmethod
    def parse(cls, text: str) -> Every:
        """Read "10" (frames) or "0.5s" (seconds).

        Raises:
            UsageError: if it is neither, or not above 0.
        """
        try:
            every = cls(seconds=float(text[:-1])) if text.endswith("s") else cls(int(text))
        except ValueError:
            every = cls(0)
        if every.frames < 1 or not 0 < (1.0 if every.seconds is None else every.seconds) < math.inf:
            raise UsageError(f"--every {text}: give frames, such as 10, or seconds, such as 0.5s.")
        return every


@dataclass(frozen=True)
class Frame:
    """One decoded frame."""

    index: int  # 0, 1, 2, ... counts all decoded frames, also those not chosen
    time_s: float  # since the first frame
    image: Image.Image  # RGB, upright


def is_video(path: str) -> bool:
    """Return whether a path is read as a video, judged by its suffix; TypeScript ends in .ts."""
    suffix = Path(path).suffix.lower()
    return suffix in VIDEO_SUFFIXES and (suffix != ".ts" or _is_transport_stream(path))


def _is_transport_stream(path: str) -> bool:
    try:
        with open_regular(path) as file:
            head = file.read(197)
    except OSError:
        return True  # one failed record, which says so
    # packets of 188 bytes, of which Blu-ray puts 4 more in front
    return head[::188][:2] == b"GG" or head[4::192][:2] == b"GG"


def is_live(item: str) -> bool:
    """Return whether an input is a camera (`camera:0`), or the address of a stream.

    On the web, what is not by its name a picture is a stream.
    """
    return item.lower().startswith((CAMERA, *STREAMS)) and not is_web_picture(item)


def import_av() -> Any:
    """Import PyAV, which videos and cameras need.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    return import_extra("video", "av")


def frames_of(source: str, every: Every | None = None, *, live: bool = False) -> Iterator[Frame]:
    """Yield the frames of a video, the chosen ones only.

    An error is raised after all frames that can be decoded.

    Args:
        source: Path; with `live` a camera or the address of a stream, see `is_live`.
        every: Default: all frames.
        live: Allows addresses; never set it for names from others, such as those of a list.

    Raises:
        ImageError: if it cannot be opened, holds no picture, is damaged or truncated.
        MissingDependencyError: if PyAV is not installed.
    """
    av = import_av()
    target, options = _live_target(source) if live else _file_target(source)
    try:
        if not live:
            open_regular(source).close()  # a pipe would wait
        container = av.open(target, **options)
    except Exception as error:  # FFmpegError, ValueError (option), UnicodeError (name)
        raise ImageError(f"{source}: {_reason(error, source)}.") from None
    with container:
        reader = _Reader(source, container, every or Every())
        yield from reader.read(av.FFmpegError)
        if not live:
            reader.check_complete()


class _Reader:
    def __init__(self, source: str, container: Any, every: Every) -> None:
        self.source = source
        self.container = container
        self.every = every
        if not container.streams.video:
            raise ImageError(f"{source}: holds no pictures, only sound or data.")
        self.stream = container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.count = 0  # frames decoded
        self.damaged = 0  # packets that could not be
        self.first: float | None = None  # time of the first frame, seconds
        self.last = 0.0  # time since then
        self._due = 0.0

    def read(self, failure: type[Exception]) -> Iterator[Frame]:
        """Yield the chosen frames; `failure` is FFmpeg's class of errors."""
        packets = iter(self.container.demux(self.stream))
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except failure as error:
                raise ImageError(f"{self._place()} ({_reason(error, self.source)}).") from None
            try:
                frames = packet.decode()
            except failure:
                self.damaged += 1
                continue
            for frame in frames:
                yield from self._take(frame)

    def _take(self, frame: Any) -> Iterator[Frame]:
        time = frame.time
        if time is None:  # raw streams carry no times
            time = self.count / float(self.stream.average_rate or 25)
        if self.first is None:
            self.first = time
        self.last = time - self.first
        index, self.count = self.count, self.count + 1
        if self._chosen(index):
            image: Image.Image = frame.to_image()
            if turn := _TURNS.get(frame.rotation % 360):
                image = image.transpose(turn)
            yield Frame(index, round(self.last, 6), image)

    def _chosen(self, index: int) -> bool:
        step = self.every.seconds
        if step is None:
            return index % self.every.frames == 0
        if self.last < self._due - 1e-6:
            return False
        self._due = step * (math.floor(self.last / step + 1e-6) + 1)
        return True

    def check_complete(self) -> None:
        """Raise ImageError if frames are missing."""
        if not self.count:
            raise ImageError(f"{self.source}: holds no frame that can be decoded.")
        if self.damaged:
            raise ImageError(f"{self.source}: {self.damaged} damaged packets were left out.")
        stream, expected = self.stream, 0.0
        if stream.duration is not None:
            expected = float(stream.duration * stream.time_base)
        elif self.container.duration and len(self.container.streams) == 1:  # sound may be longer
            expected = self.container.duration / 1e6
        rate = float(stream.average_rate or 25)
        # 5 %, and 3 frames: edit lists and rounded headers
        if expected - self.last > 0.05 * expected + 3 / rate:
            raise ImageError(f"{self._place()} of {expected:.1f} s, the file is truncated.")

    def _place(self) -> str:
        return f"{self.source}: ends after {self.last:.1f} s"


def _file_target(path: str) -> tuple[str, dict[str, Any]]:
    # "file:" because FFmpeg reads a colon in a name as the end of a protocol
    return f"file:{path}", {"options": {"format_whitelist": ",".join(FORMATS)}}


def _live_target(source: str) -> tuple[str, dict[str, Any]]:
    if not source.startswith(CAMERA):
        # over UDP, FFmpeg's default, lost packets smear the picture
        rtsp = {"rtsp_transport": "tcp"} if source.startswith("rtsp") else {}
        return source, {"timeout": (OPEN_S, READ_S), "options": rtsp}
    name = source.removeprefix(CAMERA)
    if sys.platform == "darwin":
        return name, {"format": "avfoundation", "options": {"framerate": "30"}}
    if sys.platform == "win32":
        return f"video={name}", {"format": "dshow"}
    return f"/dev/video{name}" if name.isdecimal() else name, {"format": "v4l2"}


def _reason(error: Exception, source: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such camera" if source.startswith(CAMERA) else "no such file"
    return f"cannot be decoded ({getattr(error, 'strerror', None) or first_line(error)})"
