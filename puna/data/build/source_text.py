"""One source's files as a stream of documents, for a corpus of its own (`puna data add SOURCE`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from puna.console import Console
from puna.data import files
from puna.data.build import stages
from puna.data.build.documents import Stage, items
from puna.data.build.task import digest_of
from puna.data.build.work import code_version
from puna.data.document import DAMAGED, Document, Dropped
from puna.errors import DataError


class SourceText:
    """The documents of input files here or at URLs, in the order of their names.

    What is damaged comes as `Dropped`, or where it `is_strict` as an error. `not_read` counts files
    whose names the source does not read. Raises DataError when there is nothing to read.
    """

    def __init__(self, source: Stage, paths: Sequence[str], *, is_strict: bool = False) -> None:
        suffixes = stages.suffixes_of(source)
        found = files.find_all(paths)
        self.files = {name: file for name, file in found.items() if name.lower().endswith(suffixes)}
        if not self.files:
            raise DataError(
                f"none of {len(found)} files has a name that {source.name} reads",
                hint=f"names end in {', '.join(suffixes)}",
            )
        self.source = source
        self.is_strict = is_strict
        self.not_read: Counter[str] = Counter()
        if others := len(found) - len(self.files):
            self.not_read["other kinds"] = others
        self.total_bytes = sum(file.bytes for file in self.files.values())
        self.bytes_read = 0

    def fingerprint(self, console: Console) -> str:
        """One hash over the files' names, sizes and times, the source's settings and code."""
        facts = [[name, file.bytes, file.version] for name, file in self.files.items()]
        needed = [[file.path, file.version] for file in stages.needed_files(self.source)]
        return digest_of(code_version(), facts, self.source, needed, self.is_strict)

    def __iter__(self) -> Iterator[Document | Dropped]:
        self.bytes_read = 0
        for name, file in self.files.items():
            for item in items(self.source, file.path, name):
                if isinstance(item, Dropped) and item.reason == DAMAGED and self.is_strict:
                    raise DataError(
                        f"{file.path} is damaged: {item.detail}",
                        hint="without --strict it is counted and left out",
                    )
                yield item
            self.bytes_read += file.bytes
