"""The rows of a parquet file that make documents, through pyarrow (`puna[data]`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from puna.data.document import LICENCE_KEYS, TEXT_KEYS
from puna.errors import DataError, missing_package

_ROWS_AT_ONCE = 256


Row = dict[str, Any]


def read_rows(file: BinaryIO, name: str) -> Iterator[tuple[int, int, Row | DataError]]:
    """Each row's number (from 1), the number of rows, and the row or what is wrong with it.

    A row has the columns of text, source and licence. A file that is damaged, or has no text
    column, gives one error as the last item.
    Raises MachineError when pyarrow is missing.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise missing_package("pyarrow", "data", f"reading {name}") from None
    number = rows = 0
    try:
        table = parquet.ParquetFile(file)
        rows = table.metadata.num_rows
        names = table.schema_arrow.names
        if not any(key in names for key in TEXT_KEYS):
            error = f"{name} has no column text or content, found {', '.join(names) or 'none'}"
            yield 1, 1, DataError(error, hint="rename the column that holds the text")
            return
        columns = [key for key in (*TEXT_KEYS, *LICENCE_KEYS, "source") if key in names]
        for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
            for row in range(batch.num_rows):
                number += 1
                yield number, rows, _row(batch, row, f"{name} row {number}")
    except (pyarrow.ArrowException, OSError) as error:
        message = f"{name} is damaged after row {number}: {str(error).splitlines()[0]}"
        yield number + 1, max(rows, number + 1), DataError(message)


def _row(batch: Any, row: int, where: str) -> Row | DataError:
    try:
        return {name: batch.column(name)[row].as_py() for name in batch.schema.names}
    except UnicodeDecodeError as error:
        return DataError(f"{where} is not UTF-8 at byte {error.start} of the value")
