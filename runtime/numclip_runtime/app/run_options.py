"""The flags of `numclip-run`, and the checks of its outputs before the work."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from numclip_runtime.app.monitoring.monitor_options import NO_MONITOR, MonitorOptions
from numclip_runtime.app.video import Every, is_video
from numclip_runtime.backends import DEFAULTS, OpenOptions
from numclip_runtime.errors import UsageError
from numclip_runtime.files import refuse_overwriting, refuse_twice, require_writable
from numclip_runtime.images.formats import IMAGE_SUFFIXES
from numclip_runtime.model_files.given import kind_of
from numclip_runtime.model_files.model_file import files_of_model
from numclip_runtime.remote.addresses import refuse_address
from numclip_runtime.results.columns import import_pyarrow
from numclip_runtime.results.records import Format, PartFormat

Engine = Literal["local", "ray"]
SHORTEST_POLL_S, LONGEST_POLL_S = 0.05, 3600.0
_SUFFIXES = {f".{kind}" for kind in get_args(Format)}

if TYPE_CHECKING:
    from numclip_runtime.remote.upload import RemoteOutput


@dataclass(frozen=True)
class RunOptions:
    """The flags of `numclip-run`."""

    opening: OpenOptions = DEFAULTS  # of the model; `run` sets `optimize_for` by the inputs
    kind: Format = "jsonl"
    output: Path | None = None  # None: stdout; a folder if the run has parts
    remote: RemoteOutput | None = None  # the object that the output becomes, in place of a file
    csv_safe: bool = False  # see `RecordWriter`
    annotate: Path | None = None  # folder of annotated copies
    report: Path | None = None  # HTML page
    monitoring: MonitorOptions = NO_MONITOR  # a monitor, and the reference of one
    every: Every | None = None  # frames of videos; None: all
    null: bool = False  # paths of the list on standard input end with NUL
    batch_size: int | None = None  # None: automatic, see `plan_stream`
    workers: int | None = None  # decoding threads; None: automatic
    resume: bool = False  # write a folder of parts, and leave out what it has
    retry_failed: bool = False  # do pictures again whose record there is an error
    watched: bool = False  # the input is a folder to watch; it always writes parts
    poll_s: float = 1.0  # between two looks at it
    engine: Engine = "local"  # "ray": a cluster; it always writes parts
    ray_address: str | None = None  # None: a cluster of this machine alone
    verbose: bool = False  # describe what runs the model even if stderr is not a terminal

    @property
    def talkative(self) -> bool:
        """Whether to describe what runs the model, and how fast it was."""
        return self.verbose or sys.stderr.isatty()

    @property
    def has_parts(self) -> bool:
        """Whether the output is a folder of parts."""
        return self.resume or self.watched or self.engine == "ray"

    @property
    def folder(self) -> Path:
        """The folder of parts; only if `has_parts`."""
        assert self.output is not None
        return self.output

    @property
    def part_format(self) -> PartFormat:
        """The format of parts; only if `has_parts`."""
        assert self.kind in ("jsonl", "csv", "parquet")
        return self.kind

    def check(self) -> None:
        """Refuse at once what would fail at the end.

        Raises:
            UsageError: if a file cannot be written, or Parquet would go to stdout.
            MissingDependencyError: if pyarrow is needed and missing.
        """
        self._check_engine()
        if self.watched:
            self._check_watch()
        self.monitoring.check()
        if self.has_parts:
            self._check_parts()
            return
        if self.output is not None:
            from numclip_runtime.jobs.manifest import MANIFEST

            if (self.output.parent / MANIFEST).exists():
                raise UsageError(
                    f"{self.output.parent}: holds the parts of a run; add --resume to go on with "
                    "it, or give another folder."
                )
        self._check_format()
        if self.output is None and sys.stdout is None:
            raise UsageError("standard output is closed; name a file with --output.")
        if self.report is not None:
            refuse_address(self.report, "--report writes to a file of this machine")
            if self.report.suffix.lower() not in (".html", ".htm"):  # `--report *.jpg`
                raise UsageError(f"{self.report}: the report is a page; give a name with .html.")
            require_writable(self.report)
        if self.output is not None:
            require_writable(self.output)
        own = {"--output": self.output, "--report": self.report, "--annotate": self.annotate}
        refuse_twice({**own, **self.monitoring.outputs})
        if (folder := self.annotate) is not None:
            refuse_address(folder, "--annotate takes a folder of this machine")
            if folder.exists() and not folder.is_dir():
                raise UsageError(f"{folder}: is a file; --annotate takes a folder for the copies.")
            if not folder.exists() and kind_of(folder) is not None:
                raise UsageError(
                    f"{folder}: has the name of a file; --annotate takes a folder for the copies, "
                    "also for the frames of a video."
                )

    def _check_engine(self) -> None:
        if self.retry_failed and not self.has_parts:
            raise UsageError("--retry-failed is about the folder of a run with --resume; add that.")
        if self.ray_address is not None and self.engine != "ray":
            raise UsageError("--ray-address is about a cluster of Ray; add --engine ray.")
        if self.monitoring.active and self.engine == "ray":
            flag = next(flag for flag, path in self.monitoring.outputs.items() if path)
            raise UsageError(f"{flag} follows the images of one process; leave --engine ray out.")

    def _check_watch(self) -> None:
        if self.engine == "ray":
            raise UsageError("--watch runs on this machine alone; leave --engine ray out.")
        if self.every is not None or self.null:
            flag = "--null" if self.null else "--every"
            raise UsageError(f"{flag} has no use with --watch, which reads pictures; leave it out.")

    def _check_parts(self) -> None:
        option = "--resume" if self.resume else "--watch" if self.watched else "--engine ray"
        output = self.output
        if output is None:
            raise UsageError(f"{option} writes a folder of parts: name it, such as -o records/.")
        if self.kind not in get_args(PartFormat):
            raise UsageError(
                f"--format {self.kind}: {option} writes parts of jsonl, csv or parquet."
            )
        suffix = output.suffix.lower()
        if suffix in _SUFFIXES and not output.is_dir():
            kind = suffix[1:] if suffix[1:] in get_args(PartFormat) else "jsonl"
            raise UsageError(
                f"{output}: {option} writes a folder of parts, because a single file would be lost "
                f"with a run that is killed; give -o {output.with_suffix('')}/ --format {kind}."
            )
        for flag, value in (("--report", self.report), ("--annotate", self.annotate)):
            if value is not None:
                raise UsageError(
                    f"{flag} shows the pictures of one run, and {option} makes a folder of records "
                    f"in one or several runs; leave one of them out."
                )
        self._check_format()

    def _check_format(self) -> None:
        if self.csv_safe and self.kind != "csv":
            raise UsageError("--csv-safe is about CSV; give --format csv or a name with .csv.")
        if self.kind == "parquet":
            if self.output is None:
                raise UsageError("Parquet is not text: name a file with --output.")
            import_pyarrow()

    def check_overwriting(self, model: Path, files: Sequence[str], *, listed: bool) -> None:
        """Refuse outputs that are files which the run reads.

        Args:
            model: Model file, whose `.sha256` is kept as well, or bundle.
            files: Images and videos that are known beforehand.
            listed: Whether standard input is a list of more.

        Raises:
            UsageError: naming the file.
        """
        written = (self.output, self.report, *self.monitoring.outputs.values())
        for output in filter(None, written):
            refuse_overwriting(output, files_of_model(model), "the model")
            refuse_overwriting(output, files, "an input")
            if listed:
                refuse_overwriting(output, [0], "the list")
                # its images come later; no output has such a name by intention
                if output.suffix.lower() in IMAGE_SUFFIXES or is_video(str(output)):
                    raise UsageError(f"{output}: has the name of a picture; give another name.")
