"""The manifest of an output folder: what made its records, so that no run mixes others in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from numclip_runtime.errors import UsageError
from numclip_runtime.fields import parse_json, read_fields
from numclip_runtime.files import atomic_text, read_limited
from numclip_runtime.results.records import PartFormat

# pandas, Spark and DuckDB read a folder of parts as one table, and leave out names with "_" or "."
MANIFEST = "_manifest.json"
VERSION = 1  # of the folder; a new field that changes records needs a new one
_LIMIT = 1 << 16  # bytes


@dataclass(frozen=True)
class Manifest:
    """The model and the options that made the records of a folder.

    Raises:
        UsageError: if its version is unknown.
    """

    model: str  # name of the file, for people
    sha256: str  # of the file, hexadecimal
    task: str  # name of the model's task, for people
    format: PartFormat
    every: str | None = None  # frames of videos, as typed
    fast_decode: bool = False
    csv_safe: bool = False
    bf16: bool = False  # whether the model computed in bfloat16
    backend: str = ""  # what ran the model at first; the last digits depend on it
    numclip: str = ""  # version that began the folder, for information
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise UsageError(
                f"version {self.version} is unknown, this numclip reads version {VERSION}; update "
                "numclip, or give another folder"
            )

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Return the manifest of a folder; None: it has none.

        Raises:
            UsageError: if it cannot be read.
        """
        path = folder / MANIFEST
        try:
            text = read_limited(path, _LIMIT).decode()
            return read_fields(cls, parse_json(text), str(path), newer=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UsageError:
            raise
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(
                f"{path}: cannot read this manifest ({reason}); give another folder."
            ) from None

    @staticmethod
    def format_in(folder: Path, default: PartFormat) -> PartFormat:
        """Return the format of a folder's parts, or that of a new folder.

        Raises:
            UsageError: if the folder's manifest cannot be read.
        """
        begun = Manifest.read(folder)
        return default if begun is None else begun.format

    def write(self, folder: Path) -> None:
        """Write it into a folder, which is made if it is missing.

        Raises:
            UsageError: if the folder cannot be made or written.
        """
        with atomic_text(folder / MANIFEST, sync=True) as file:
            file.write(json.dumps(asdict(self), indent=2) + "\n")

    def check(self, now: Manifest, folder: Path) -> None:
        """Refuse to add the records of a run to a folder that another kind of run began.

        Args:
            now: Of the run.
            folder: With this manifest; named in the error.

        Raises:
            UsageError: naming all that differs, and the way out.
        """
        differences = list(self._differences(now))
        if differences:
            raise UsageError(
                f"{folder}: holds records made with {' and '.join(d[0] for d in differences)}, and "
                f"this run has {' and '.join(d[1] for d in differences)}; give another folder, or "
                "run as before."
            )

    def _differences(self, now: Manifest) -> Iterator[tuple[str, str]]:
        if self.sha256 != now.sha256:
            yield self._named_model(), now._named_model()
        for name, flag in (
            ("format", "--format"),
            ("every", "--every"),
            ("fast_decode", "--fast-decode"),
            ("csv_safe", "--csv-safe"),
            ("bf16", "--bf16"),
        ):
            old, new = getattr(self, name), getattr(now, name)
            if old != new:
                yield _option(flag, old), _option(flag, new)

    def _named_model(self) -> str:
        return f"{self.model} (SHA-256 {self.sha256[:12]}...)"


def _option(flag: str, value: str | bool | None) -> str:
    if not value:
        return f"no {flag}"
    return flag if value is True else f"{flag} {value}"
