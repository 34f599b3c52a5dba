"""Tars for tests, written by Python's own `tarfile`."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_tar(path: Path, files: Mapping[str, bytes | str], **options: Any) -> Path:
    """Write a tar of these files, in their order."""
    with tarfile.open(path, "w", **options) as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def tar_of_info(path: Path, name: str, **fields: Any) -> Path:
    """Write a tar whose only member has these fields of `tarfile.TarInfo`."""
    with tarfile.open(path, "w", format=fields.pop("format", tarfile.PAX_FORMAT)) as tar:
        info = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(info, field, value)
        tar.addfile(info)
    return path
