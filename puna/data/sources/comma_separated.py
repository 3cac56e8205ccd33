"""The rows of a .csv file whose first line names the columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

from puna.data.document import TEXT_KEYS
from puna.data.lines import LONGEST_LINE_BYTES
from puna.errors import DataError

Row = dict[str, Any]


def read_rows(file: BinaryIO, name: str) -> Iterator[tuple[int, Row | DataError]]:
    """Each row's number (from 1) with what its columns hold, or what is wrong with it.

    A file that is no table, is not UTF-8, or has no text column gives one error as the last item.
    """
    csv.field_size_limit(LONGEST_LINE_BYTES)
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    try:
        yield from _rows(text, name)
    finally:
        text.detach()  # the file is its opener's to close


def _rows(text: TextIO, name: str) -> Iterator[tuple[int, Row | DataError]]:
    rows = csv.DictReader(text, strict=True)
    number = 0
    try:
        names = [one for one in rows.fieldnames or [] if one]
        if not any(key in names for key in TEXT_KEYS):
            error = f"{name} has no column text or content, found {', '.join(names) or 'none'}"
            yield 1, DataError(error[:300], hint="name the column that holds the text")
            return
        for number, row in enumerate(rows, start=1):
            if None in row or None in row.values():
                yield number, DataError(f"{name} row {number} should have {len(names)} columns")
            else:
                yield number, {key: value for key, value in row.items() if value}
    except (csv.Error, UnicodeDecodeError) as error:
        yield number + 1, DataError(f"{name} is damaged after row {number}: {error}")
