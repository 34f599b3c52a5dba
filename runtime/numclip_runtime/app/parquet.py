"""Record writer for Parquet (extra `parquet`)."""

from __future__ import annotations

from types import TracebackType
from typing import IO, Any

from numclip_runtime.app.records import Record
from numclip_runtime.errors import MissingDependencyError
from numclip_runtime.task import Task

ROW_GROUP = 4096  # records: held in memory until written


def import_pyarrow() -> Any:
    """Import pyarrow with its Parquet module.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(
            "Parquet needs pyarrow; install it with: pip install 'numclip[parquet]'"
        ) from None
    return pyarrow


class ParquetWriter:
    """Write records in row groups; the file can be read once this is closed.

    The columns are the fields of the records. `interval` is a struct of low and high, `bin_probs` a
    struct with one field per phrase, lowest bin first.

    Args:
        file: Binary file open for writing; stays open.
        task: Gives the phrases.

    Raises:
        MissingDependencyError: if pyarrow is not installed.
    """

    def __init__(self, file: IO[bytes], task: Task) -> None:
        self._arrow = arrow = import_pyarrow()
        number, text = arrow.float64(), arrow.string()
        self._schema = arrow.schema(
            [
                ("path", text),
                ("frame", arrow.int64()),
                ("time_s", number),
                ("value", number),
                ("unit", text),
                ("interval", arrow.struct([("low", number), ("high", number)])),
                ("bin", text),
                ("bin_probs", arrow.struct([(phrase, number) for phrase in task.phrases])),
                ("error", text),
            ]
        )
        self._rows: list[Record] = []
        self._writer = arrow.parquet.ParquetWriter(file, self._schema)

    def write(self, record: Record) -> None:
        """Take one record; every `ROW_GROUP`-th call writes."""
        row = {"interval": None, **record}
        if row["interval"] is not None:
            row["interval"] = dict(zip(("low", "high"), row["interval"], strict=True))
        for field in ("path", "error"):  # a name that is no UTF-8: as in the text formats
            if field in row:
                row[field] = row[field].encode("utf-8", "backslashreplace").decode()
        self._rows.append(row)
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            table = self._arrow.Table.from_pylist(self._rows, schema=self._schema)
            self._writer.write_table(table)
            self._rows = []

    def __enter__(self) -> ParquetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()
