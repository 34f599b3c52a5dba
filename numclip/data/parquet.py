"""Parquet files as tables of images and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numclip.data.columns import Alternative, column_places
from numclip.data.tables import Row, readable
from numclip_runtime import UsageError
from numclip_runtime.console import visible
from numclip_runtime.errors import first_line, require
from numclip_runtime.files import open_regular

MAX_CELL = 1 << 16  # bytes of one text; paths end at 4,096
MAX_GROUP = 1 << 28  # bytes of the columns that are read, in one row group
BATCH = 4096  # rows in memory


def read_parquet(
    path: Path,
    needed: Sequence[str],
    *,
    instead: Mapping[str, Alternative] | None = None,
    notes: list[str] | None = None,
) -> Iterator[Row]:
    """Yield the rows of a file, `BATCH` of them in memory; other columns are not read.

    For the arguments, see `read_csv`.

    Raises:
        UsageError: if it cannot be read, or a needed column is missing, there twice, too large, or
            of another type.
        MissingDependencyError: if pyarrow is not installed.
    """
    require("parquet", "pyarrow")
    import pyarrow
    import pyarrow.parquet

    name, count = visible(path), 0
    try:
        with readable(path, "Parquet file"), open_regular(path) as binary:
            with pyarrow.parquet.ParquetFile(binary) as file:
                places = column_places(
                    path, file.schema_arrow.names, needed, instead=instead, notes=notes
                )
                columns, texts = _parquet_columns(path, file, places)
            # A text that every row repeats is in memory once, and so cannot fill it.
            with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
                for batch in file.iter_batches(BATCH, columns=[*columns.values()]):
                    for column in batch.columns:
                        _check_texts(path, column)
                    lists = [batch.column(found).to_pylist() for found in columns.values()]
                    for cells in zip(*lists, strict=True):
                        count += 1
                        yield Row(f"{name} row {count}", dict(zip(columns, cells, strict=True)))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        near = f" after row {count}" if count else ""
        raise UsageError(
            f"{name}: cannot read this Parquet file{near} ({first_line(error)[:300]})."
        ) from None


def _parquet_columns(
    path: Path, file: Any, places: Mapping[str, int]
) -> tuple[dict[str, str], list[str]]:
    """Return the names of the needed columns in a Parquet file, and the paths of their texts."""
    schema = file.schema_arrow
    columns = {name: schema.names[i] for name, i in places.items()}
    for found in columns.values():
        kind = schema.field(found).type
        if not _is_plain_type(kind):
            raise UsageError(
                f"{visible(path)}: the column {found!r} is of type {visible(kind)[:100]}; it must "
                "be made of texts, numbers, or lists of numbers."
            )
    leaves = [file.schema.column(i) for i in range(len(file.schema))]
    ours = [i for i, leaf in enumerate(leaves) if leaf.path.split(".")[0] in columns.values()]
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        # The columns are asked only where it matters: pyarrow 26 ends the process when it reads
        # the statistics of a damaged one.
        if group.total_byte_size <= MAX_GROUP:
            continue
        if (size := sum(group.column(i).total_uncompressed_size for i in ours)) > MAX_GROUP:
            raise UsageError(
                f"{visible(path)}: has a row group of {size >> 20:,} MiB, more than the limit of "
                f"{MAX_GROUP >> 20}; write it anew with smaller row groups, or as CSV."
            )
    return columns, [leaves[i].path for i in ours if leaves[i].physical_type == "BYTE_ARRAY"]


def _is_plain_type(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    return any(
        test(kind)
        for test in (
            types.is_string,
            types.is_large_string,
            types.is_integer,
            types.is_floating,
            types.is_decimal,
            types.is_null,
        )
    )


def _check_texts(path: Path, column: Any) -> None:
    """Refuse texts longer than any path or label, before they become Python's."""
    from pyarrow import compute, types

    while types.is_list(column.type) or types.is_large_list(column.type):
        column = column.values
    if types.is_dictionary(column.type):
        column = column.dictionary
    if types.is_string(column.type) or types.is_large_string(column.type):
        longest = compute.max(compute.binary_length(column)).as_py() or 0
        if longest > MAX_CELL:
            raise UsageError(
                f"{visible(path)}: holds a text of {longest:,} bytes, more than the limit of "
                f"{MAX_CELL:,}."
            )
