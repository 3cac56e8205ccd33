"""Benchmark files (JSON lines, JSON, csv, parquet, text; tars) compiled for `decontaminate`.

A set is a name and its files. An example is a line, a record or a row; each text in it, however
deep, gives its sequences of 13 words. Shorter texts cannot be found, and are counted.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puna.data import files
from puna.data.decontaminate import WORDS, save, sequence_hashes, words_of
from puna.data.sources.archives import Refused, members
from puna.errors import DataError, missing_package

_LINES = (".txt", ".raw", ".tokens")  # the last two: WikiText's
READ = (".jsonl", ".json", ".csv", ".tsv", ".parquet", *_LINES)
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".zip")
_PACKED = {".gz": gzip.decompress, ".bz2": bz2.decompress}


@dataclass
class Compiled:
    """What one set holds: examples, those that have no text of 13 words, and sequences."""

    examples: int = 0
    too_short: int = 0
    sequences: int = 0


def compile_sets(sets: Mapping[str, Sequence[str]], out: str) -> dict[str, Compiled]:
    """Write the sequences of all sets (name: files, folders or patterns) to `out`, an .npz file.

    In a folder or an archive only files with the endings in READ count, gzipped or bzip2 ones too,
    and no README. A set is held in memory. Raises DataError for what cannot be read, an archive
    with links or names that lead out of it, and a set without a sequence.
    """
    if not sets:
        raise DataError("wanted benchmark sets to compile, found none")
    entries, facts = [], {}
    for number, (name, paths) in enumerate(sets.items()):
        facts[name] = one = Compiled()
        for texts in _examples(paths):
            words = [found for text in texts if len(found := words_of(text)) >= WORDS]
            one.examples += 1
            one.too_short += not words
            for found in words:
                entries.append((sequence_hashes(found), number, one.examples))
                one.sequences += len(found) - WORDS + 1
        if not one.sequences:
            raise DataError(
                f"benchmark {name} has no text of {WORDS} words in {one.examples} examples",
                hint=f"its files should be {', '.join(READ)}, or these in .gz, .bz2 or .tar",
            )
    save(out, entries, list(sets))
    return facts


def _examples(paths: Sequence[str]) -> Iterator[list[str]]:
    """The texts of each example of a set."""
    for file in (file for path in paths for file in files.find(path)):
        try:
            for name, content in _contents(file.path):
                stem, unpack = _stem(name)
                records = _records(stem, unpack(content))
                yield from (list(_texts(record)) for record in records)
        except (ValueError, OSError, EOFError, csv.Error) as error:
            raise DataError(f"benchmark file {file.path} cannot be read: {error}") from None


def _contents(path: str) -> Iterator[tuple[str, bytes]]:
    """The name and bytes of a file, or of each in an archive, where they are to be read."""
    if not path.endswith(ARCHIVES):
        if _is_read(path):
            yield path, files.read_bytes(path)
        return
    with files.open_bytes(path) as file:
        for member in members(file, _is_read):
            if isinstance(member, Refused):
                raise ValueError(f"{member.name} {member.what}".strip())
            yield member


def _is_read(name: str) -> bool:
    return _stem(name)[0].endswith(READ) and not files.name_of(name).lower().startswith("readme")


def _stem(name: str) -> tuple[str, Callable[[bytes], bytes]]:
    """A name without .gz or .bz2, and what unpacks its content."""
    for suffix, unpack in _PACKED.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), unpack
    return name, bytes


def _records(name: str, content: bytes) -> Iterator[Any]:
    if name.endswith(".parquet"):
        yield from _rows(name, content)
        return
    text = content.decode("utf-8-sig")
    if name.endswith(".jsonl"):
        yield from (json.loads(line) for line in text.split("\n") if line.strip())
    elif name.endswith(".json"):
        record = json.loads(text)
        yield from record if isinstance(record, list) else [record]
    elif name.endswith(_LINES):
        yield from (line for line in text.split("\n") if line.strip())
    else:
        mark = "\t" if name.endswith(".tsv") else ","
        yield from csv.reader(io.StringIO(text, newline=""), delimiter=mark)


def _rows(name: str, content: bytes) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise missing_package("pyarrow", "data", f"reading {name}") from None
    try:
        yield from parquet.read_table(pyarrow.BufferReader(content)).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(str(error).partition("\n")[0]) from None


def _texts(record: Any) -> Iterator[str]:
    """Every text in a record, however deep."""
    waiting = [record]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
