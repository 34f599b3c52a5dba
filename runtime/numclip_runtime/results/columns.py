"""Records as columns of Arrow, the form of Parquet files, Ray and Spark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numclip_runtime.errors import import_extra
from numclip_runtime.task import Task


def import_pyarrow() -> Any:
    """Import pyarrow with its Parquet module.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    import_extra("parquet", "pyarrow.parquet")
    return import_extra("parquet", "pyarrow")


class RecordColumns:
    """Turns records into tables of Arrow.

    The columns are the fields of the records. `interval` is a struct of low and high, `bin_probs` a
    struct with one field per phrase, lowest bin first.

    Args:
        task: Gives the phrases.

    Raises:
        MissingDependencyError: if pyarrow is not installed.
    """

    def __init__(self, task: Task) -> None:
        self._arrow = arrow = import_pyarrow()
        number, text = arrow.float64(), arrow.string()
        self._phrases = {phrase: utf8(phrase) for phrase in task.phrases}
        self.schema = arrow.schema(
            [
                ("path", text),
                ("frame", arrow.int64()),
                ("time_s", number),
                ("value", number),
                ("unit", text),
                ("interval", arrow.struct([("low", number), ("high", number)])),
                ("bin", text),
                ("bin_probs", arrow.struct([(name, number) for name in self._phrases.values()])),
                ("error", text),
            ]
        )

    def row(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return a record as a row of `table`."""
        row = {"interval": None, **record}
        if row["interval"] is not None:
            row["interval"] = dict(zip(("low", "high"), row["interval"], strict=True))
        row |= {name: utf8(cell) for name, cell in row.items() if isinstance(cell, str)}
        if "bin_probs" in row:
            row["bin_probs"] = {self._phrases[k]: p for k, p in row["bin_probs"].items()}
        return row

    def table(self, rows: Sequence[dict[str, Any]]) -> Any:
        """Return a pyarrow.Table of rows."""
        return self._arrow.Table.from_pylist(rows, schema=self.schema)


def utf8(text: str) -> str:
    """Return a text without the surrogates of a name that is not UTF-8: as in the text formats."""
    return text.encode("utf-8", "backslashreplace").decode()
