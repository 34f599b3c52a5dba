"""The flags of `numclip-run`, and the checks of its outputs before the work."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from numclip_runtime.app.monitoring.following import NOTHING, Following
from numclip_runtime.app.video import Every, is_video
from numclip_runtime.backends import DEFAULTS, OpenOptions
from numclip_runtime.errors import UsageError
from numclip_runtime.files import refuse_overwriting, refuse_twice, require_writable
from numclip_runtime.images.formats import IMAGE_SUFFIXES
from numclip_runtime.model_files.given import kind_of
from numclip_runtime.results.records import Format, import_pyarrow


@dataclass(frozen=True)
class RunOptions:
    """The flags of `numclip-run`."""

    opening: OpenOptions = DEFAULTS  # of the model; `run` sets `optimize_for` by the inputs
    kind: Format = "jsonl"
    output: Path | None = None  # None: stdout
    csv_safe: bool = False  # see `RecordWriter`
    annotate: Path | None = None  # folder of annotated copies
    report: Path | None = None  # HTML page
    following: Following = NOTHING  # a monitor, and the reference of one
    every: Every | None = None  # frames of videos; None: all
    null: bool = False  # paths of the list on standard input end with NUL
    batch_size: int | None = None  # None: automatic, see `plan_stream`
    workers: int | None = None  # decoding threads; None: automatic
    verbose: bool = False  # describe what runs the model even if stderr is not a terminal

    @property
    def talkative(self) -> bool:
        """Whether to describe what runs the model, and how fast it was."""
        return self.verbose or sys.stderr.isatty()

    def check(self) -> None:
        """Refuse at once what would fail at the end.

        Raises:
            UsageError: if a file cannot be written, or Parquet would go to stdout.
            MissingDependencyError: if pyarrow is needed and missing.
        """
        if self.csv_safe and self.kind != "csv":
            raise UsageError("--csv-safe is about CSV; give --format csv or a name with .csv.")
        if self.kind == "parquet":
            if self.output is None:
                raise UsageError("Parquet is not text: name a file with --output.")
            import_pyarrow()
        if self.output is None and sys.stdout is None:
            raise UsageError("standard output is closed; name a file with --output.")
        if self.report is not None:
            if self.report.suffix.lower() not in (".html", ".htm"):  # `--report *.jpg`
                raise UsageError(f"{self.report}: the report is a page; give a name with .html.")
            require_writable(self.report)
        if self.output is not None:
            require_writable(self.output)
        self.following.check()
        own = {"--output": self.output, "--report": self.report, "--annotate": self.annotate}
        refuse_twice({**own, **self.following.outputs})
        if (folder := self.annotate) is not None:
            if folder.exists() and not folder.is_dir():
                raise UsageError(f"{folder}: is a file; --annotate takes a folder for the copies.")
            if not folder.exists() and kind_of(folder) is not None:
                raise UsageError(
                    f"{folder}: has the name of a file; --annotate takes a folder for the copies, "
                    "also for the frames of a video."
                )

    def check_overwriting(self, model: Path, files: Sequence[str], *, listed: bool) -> None:
        """Refuse outputs that are files which the run reads.

        Args:
            model: Model file; its `.sha256` is kept as well.
            files: Images and videos that are known beforehand.
            listed: Whether standard input is a list of more.

        Raises:
            UsageError: naming the file.
        """
        written = (self.output, self.report, *self.following.outputs.values())
        for output in filter(None, written):
            refuse_overwriting(output, (model, f"{model}.sha256"), "the model")
            refuse_overwriting(output, files, "an input")
            if listed:
                refuse_overwriting(output, [0], "the list")
                # its images come later; no output has such a name by intention
                if output.suffix.lower() in IMAGE_SUFFIXES or is_video(str(output)):
                    raise UsageError(f"{output}: has the name of a picture; give another name.")
