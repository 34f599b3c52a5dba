"""What the flags of `numclip-run` say, checked before anything slow."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from numclip_runtime.app.parquet import import_pyarrow
from numclip_runtime.app.records import Format
from numclip_runtime.app.video import Every
from numclip_runtime.backends import BackendName, DeviceKind
from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_path


@dataclass(frozen=True)
class RunOptions:
    """What the flags say."""

    kind: Format = "jsonl"
    output: Path | None = None  # None: stdout
    annotate: Path | None = None  # folder of annotated copies
    report: Path | None = None  # HTML page
    every: Every | None = None  # frames of videos; None: all
    null: bool = False  # the list on standard input ends paths with NUL
    batch_size: int | None = None  # None: automatic, see `plan_stream`
    threads: int | None = None  # CPU threads inside one inference; None: by the inputs
    workers: int | None = None  # decoding threads; None: automatic
    device: DeviceKind = "auto"  # where to run
    backend: BackendName | None = None  # None: by the kind of model
    sha256: str | None = None  # of the model file
    require_gpu: bool = False  # refuse to run on the CPU
    fast_decode: bool = False  # large JPEGs at a smaller size, see `load`
    verbose: bool = False  # say what runs the model, also where stderr is no terminal

    @property
    def talkative(self) -> bool:
        """Whether to say what runs, and how fast it was."""
        return self.verbose or sys.stderr.isatty()

    def check(self) -> None:
        """Refuse at once what would fail at the end.

        Raises:
            UsageError: if a file cannot be written, or Parquet would go to stdout.
            MissingDependencyError: if pyarrow is needed and missing.
        """
        if self.kind == "parquet":
            if self.output is None:
                raise UsageError("Parquet is no text: name a file with --output.")
            import_pyarrow()
        if self.output is None and sys.stdout is None:
            raise UsageError("standard output is closed; name a file with --output.")
        if self.report is not None:
            if self.report.suffix.lower() not in (".html", ".htm"):  # `--report *.jpg`
                raise UsageError(f"{self.report}: the report is a page; give a name with .html.")
            with suppress(_NotWrittenError), atomic_path(self.report):
                raise _NotWrittenError


class _NotWrittenError(Exception):
    """Ends `atomic_path` without a file."""
