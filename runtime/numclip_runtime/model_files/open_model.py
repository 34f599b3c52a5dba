"""A model file, opened once: its hash, metadata, graph and weights come from the same open file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TypeAlias

from numclip_runtime.errors import ModelError
from numclip_runtime.files import open_regular, sha256_of
from numclip_runtime.model_files.given import (
    MODEL_SUFFIXES,
    PLAN_SUFFIXES,
    is_model_name,
    kind_of,
    such_as,
)
from numclip_runtime.model_files.names import address_text, is_served
from numclip_runtime.posix import place_of_open_file

Buffer: TypeAlias = "mmap | bytes"
# Device, inode, size, modified, changed (ns). The last one cannot be set by hand, so even a copy
# with the original's time differs.
Stamp: TypeAlias = tuple[int, int, int, int, int]

HEAD = 512  # bytes that tell what a file is
READ_BYTES = 1 << 20  # bytes read at a time
LFS_POINTER = b"version https://git-lfs"
# How other files begin, what they are, and the way out
OTHER_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (LFS_POINTER, "a Git LFS pointer", "fetch the file with `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"\x80\x02", "a PyTorch checkpoint", "export it with `numclip-export --ckpt`"),
    (b"\x89HDF", "an HDF5 file", "export a model with `numclip-export --ckpt x.pt`"),
    (b"\x89PNG", "a picture", "give the model first, and then the pictures"),
    (b"\xff\xd8\xff", "a picture", "give the model first, and then the pictures"),
    (b"MZ", "a program", "give a model file"),
    (b"\x7fELF", "a program", "give a model file"),
)


def is_plan(path: Path) -> bool:
    """Return whether a file's name is that of a TensorRT plan."""
    return path.suffix.lower() in PLAN_SUFFIXES


def check_model_path(model: Path) -> None:
    """Refuse a path that is not a model file.

    Raises:
        ModelError: if there is no such file, or its suffix is not that of an exported model.
    """
    if is_served(model):
        raise ModelError(
            f"{address_text(model)}: a model on a server can only be run; give the file that it "
            "was made from."
        )
    try:
        exists, folder = model.exists(), model.is_dir()
    except OSError as error:  # no permission to look into the folder, a name that is too long
        raise ModelError(f"{model}: cannot read this model ({error.strerror}).") from None
    if folder:
        inside = such_as(model, MODEL_SUFFIXES)
        raise ModelError(f"{model}: is a folder; give the model file inside it{inside}.")
    kind = kind_of(model)
    if not exists and kind in (None, "an exported model", "a checkpoint"):
        raise ModelError(f"{model}: no such file; export one with `numclip-export --ckpt x.pt`.")
    if kind == "a checkpoint":
        raise ModelError(
            f"{model}: is a checkpoint, not an exported model; export it with "
            f"`numclip-export --ckpt {model.name}`."
        )
    if not is_model_name(model):
        what = "unknown kind of model" if kind is None else f"is {kind}, not a model"
        raise ModelError(f"{model}: {what}, expected a .onnx or .plan file.")


class OpenModel:
    """A model file that was opened once.

    Everything is read from the same open file, so another file that takes its name meanwhile
    changes nothing.

    Args:
        path: A `.onnx`, `.plan` or `.engine` file.

    Raises:
        ModelError: if it is missing, no regular file, or of an evidently different kind.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        check_model_path(self.path)
        try:
            self._file = open_regular(self.path)
        except OSError as error:
            raise ModelError(f"{self.path}: cannot read this model ({error.strerror}).") from None
        self.content: Buffer = b""
        self.digest: str | None = None  # once `sha256` was called
        try:
            with self._reading():
                self.stamp = stamp_of(os.fstat(self._file.fileno()))
                self.content = self._map()
            self._check_kind()
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.content)

    def sha256(self) -> str:
        """Return the SHA-256 of the content, in hexadecimal; computed once."""
        if self.digest is None:
            self.digest = self._hashed()
        return self.digest

    @property
    def place(self) -> str | None:
        """A name under which libraries open this very file; None: the system has none (Linux)."""
        return place_of_open_file(self._file.fileno())

    def now(self) -> Stamp:
        """Return the stamp that the open file has now, whatever its name."""
        return stamp_of(os.fstat(self._file.fileno()))

    def check_unchanged(self) -> None:
        """Refuse a file that was written to while it was loaded.

        Raises:
            ModelError: if it was.
        """
        now = self.now()
        if now == self.stamp:
            return
        # Another file that took its name changes the last number, as writing does
        written = now[:4] != self.stamp[:4]
        if written or (self.digest is not None and self._hashed() != self.digest):
            raise ModelError(f"{self.path}: was written to while it was loaded; load it again.")

    def find(self, text: bytes) -> int:
        """Return where a text stands first, -1 if nowhere; memory stays small."""
        place, before = 0, b""
        with self._reading():
            while (start := self._data_after(place)) is not None:
                if start > place:  # a hole of zeros, in which it cannot stand
                    place, before = start, b""
                self._file.seek(place)
                if not (block := self._file.read(READ_BYTES)):  # truncated meanwhile
                    return -1
                found = (before + block).find(text)
                if found >= 0:
                    return place - len(before) + found
                place += len(block)
                before = (before + block)[1 - len(text) :]
        return -1

    def _data_after(self, place: int) -> int | None:
        """Return where a file's data go on: 4 GB of holes take a minute to read."""
        if place >= self.size:
            return None
        with suppress(AttributeError):  # Windows
            try:
                return os.lseek(self._file.fileno(), place, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole
                    return None
        return place  # a file system without holes

    def close(self) -> None:
        """Close the file; idempotent."""
        if not isinstance(self.content, bytes):
            self.content.close()
        with suppress(OSError):  # nothing was written, so nothing is lost
            self._file.close()

    def __enter__(self) -> OpenModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _map(self) -> Buffer:
        with suppress(OSError, ValueError):  # a file system that maps nothing; an empty file
            return mmap(self._file.fileno(), 0, access=ACCESS_READ)
        return self._file.read()

    def _hashed(self) -> str:
        with self._reading():
            self._file.seek(0)
            return sha256_of(self._file)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ModelError(f"{self.path}: cannot read this model ({error.strerror}).") from None

    def _check_kind(self) -> None:
        found = other_kind(self.content[:HEAD], self.path.suffix)
        if found is not None:
            kind = "a TensorRT plan" if is_plan(self.path) else "an ONNX model"
            raise ModelError(f"{self.path}: not {kind}, but {found[0]}; {found[1]}.")


def other_kind(head: bytes, suffix: str = "") -> tuple[str, str] | None:
    """Return what a file is if it cannot be a model, and the way out; None: it may be one.

    Args:
        head: Its first bytes, `HEAD` of them if it has as many.
        suffix: Of its name.
    """
    if not head:
        return "an empty file", "copy or export it again"
    for beginning, kind, remedy in OTHER_KINDS:
        if head.startswith(beginning):
            return kind, remedy
    if is_web_page(head):
        return "a web page", "the download failed, so download the file itself"
    if head.startswith(b"PK"):
        if b"data.pkl" in head or b"/byteorder" in head:
            return "a PyTorch checkpoint", "export it with `numclip-export --ckpt`"
        return "a zip archive", "unpack it first"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27:
        return "a safetensors file", "export it with `numclip-export --ckpt`"
    if head[4:8] in (b"ORTM", b"TFL3"):
        return "a model in another format", "export one with `numclip-export --ckpt x.pt`"
    if head[:4] in (b"ftrt", b"vtrt") and suffix.lower() not in PLAN_SUFFIXES:
        return "a TensorRT plan", "its name has to end in .plan"
    if _without_blanks(head).startswith((b"{", b"[")) and _is_text(head):
        return "JSON text", "give the model file"
    if len(head) > 20 and _is_text(head):
        return "a text file", "copy or export the model again"
    return None


def is_web_page(head: bytes) -> bool:
    """Return whether a file begins as HTML or XML does: what a failed download leaves."""
    return _without_blanks(head).lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))


def _without_blanks(head: bytes) -> bytes:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")


def _is_text(head: bytes) -> bool:
    return all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)


@contextmanager
def opened(model: Path | OpenModel) -> Iterator[OpenModel]:
    """Yield an open model: the one given, which stays open, or the file of a path."""
    if isinstance(model, OpenModel):
        yield model
        return
    with OpenModel(model) as file:
        yield file


def stamp_of(found: os.stat_result) -> Stamp:
    """Return what identifies a file and its content."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
