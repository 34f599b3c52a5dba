"""Checks of a weights file before anything in it is unpickled: what it claims must be in it."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from numclip_runtime.errors import ModelError
from numclip_runtime.files import open_regular
from numclip_runtime.model_files.open_model import LFS_POINTER, is_web_page

MAX_PICKLE = 64 << 20  # bytes; the largest of OpenAI has less than 1 MB
MAX_DIRECTORY = 16 << 20  # bytes of an archive's table of contents; Python needs ten times that
MAX_HEADER = 16 << 20  # bytes of the header of a safetensors file
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")
# torch allows bytearray(n), which fills n bytes; nothing of ours or of Lightning's needs it.
_REFUSED = ("builtins bytearray", "__builtin__ bytearray")
_LEGACY_PICKLES = 5  # magic number, protocol, system, content, keys; then the numbers


def check_kind(path: Path) -> None:
    """Refuse a file that evidently holds no weights, with a sentence about what it is.

    Raises:
        ModelError: if it is missing, a folder, pipe or device, empty, a web page, or the pointer
            that Git LFS puts in place of a file.
    """
    try:
        with open_regular(path) as file:
            head = file.read(512)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file.") from None
    except OSError as error:
        raise ModelError(f"{path}: no such file of weights ({error.strerror}).") from None
    if not head.strip():
        raise ModelError(f"{path}: not a readable checkpoint (it is empty).")
    if head.lstrip().startswith(LFS_POINTER):
        raise ModelError(
            f"{path}: is a pointer of Git LFS, not the file itself; get it with `git lfs pull`."
        )
    if is_web_page(head):
        raise ModelError(f"{path}: is a web page, not weights; download the file itself.")


def check_archive(path: Path) -> None:
    """Check a zip archive of torch: its pickles and numbers need no more than is there.

    Code in it, which is never opened, may be compressed.

    Raises:
        pickle.UnpicklingError: if a pickle names what weights do not need.
        Exception: of several types, if it claims more than is there, or is damaged.
    """
    with open_regular(path) as file:
        size = file.seek(0, 2)
        if (directory := _directory_size(file, size)) > MAX_DIRECTORY:
            raise ValueError(f"its table of contents has {directory:,} bytes")
        with zipfile.ZipFile(file) as archive:
            entries = [e for e in archive.infolist() if "/code/" not in e.filename]
            claimed = sum(entry.file_size for entry in entries)
            if claimed > size or any(e.compress_type != zipfile.ZIP_STORED for e in entries):
                raise ValueError("it is compressed, which files of torch are not")
            for entry in entries:
                if entry.filename.endswith(".pkl"):
                    if entry.file_size > MAX_PICKLE:
                        raise ValueError(f"it has a pickle of {entry.file_size:,} bytes")
                    check_pickle(archive.read(entry))


def _directory_size(file: BinaryIO, size: int) -> int:
    file.seek(max(0, size - (1 << 16) - 100))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    stated = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if stated == 0xFFFFFFFF:  # an archive of more than 4 GiB
        end = tail.rfind(b"PK\x06\x06")
        stated = int.from_bytes(tail[end + 40 : end + 48], "little")
    return stated


def check_pickle(content: bytes | BinaryIO) -> None:
    """Check the opcodes of a pickle without running it.

    A memo index is a promise of memory: one of 2^30 costs Python's unpickler 16 GiB. Lengths are
    checked against what is there by `pickletools` itself.

    Raises:
        pickle.UnpicklingError: if it names what plain weights do not need.
        ValueError: if it is damaged, or an index is too large.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        # Pickle numbers the memo as it goes
        if opcode.name in _MEMO and isinstance(argument, int) and argument > count:
            raise ValueError("it claims more memory than its content needs")
        if opcode.name == "GLOBAL" and argument in _REFUSED:
            raise pickle.UnpicklingError(f"it names {str(argument).replace(' ', '.')}")


def check_legacy(path: Path) -> None:
    """Check a file of torch before 1.6: pickles, then the numbers.

    Raises:
        pickle.UnpicklingError: if it names what plain weights do not need.
    """
    with open_regular(path) as file, suppress(ValueError):  # damaged: torch says it
        for _ in range(_LEGACY_PICKLES):
            check_pickle(file)


def check_safetensors(path: Path) -> None:
    """Check the length of a safetensors file's header.

    Raises:
        ValueError: if it is longer than any real one, or than the file.
    """
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER, file.seek(0, 2) - 8):
            raise ValueError(f"its header claims {length:,} bytes")
