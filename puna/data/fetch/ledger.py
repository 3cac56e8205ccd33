"""What was fetched to a folder: a line of JSON for each file, so that a rerun does what is missing.

`.fetched.jsonl` begins with whose files they are; a line that a kill cut short is left out.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from puna import schema
from puna.data.fetch.listing import Listed
from puna.download import plain
from puna.errors import DataError

NAME = ".fetched.jsonl"
KIND = "puna.fetched"


class Ledger:
    """The record of a folder; made by the first file that is written to it."""

    def __init__(self, folder: Path, source: str, licence: str) -> None:
        """Raises DataError for a folder of another source, SchemaError for a newer Puna's."""
        self._folder = folder
        self._path = folder / NAME
        self._head = {**schema.stamp(KIND), "source": source, "licence": licence}
        self._files: dict[str, dict[str, Any]] = {}
        self._is_cut = False  # whether a kill left the last line without its end
        if self._path.exists():
            self._read(source)

    @property
    def is_new(self) -> bool:
        """Whether nothing was fetched to the folder before."""
        return not self._path.exists()

    def begin(self) -> None:
        """Make the folder and the record, where there is none."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self.is_new:
            self._append(self._head)

    def has(self, listed: Listed) -> bool:
        """Whether the file is there as it was recorded, and as the list promises it."""
        record = self._files.get(listed.name)
        path = self._folder / listed.name
        if record is None or not path.is_file() or path.stat().st_size != record["bytes"]:
            return False
        size_differs = listed.wanted.size not in (None, record["bytes"])
        return not size_differs and record["promised"] in (promised(listed), {})

    def add(self, listed: Listed, sha256: str) -> None:
        """Record a file that has just come."""
        self._append(
            {
                "name": listed.name,
                "url": plain(listed.wanted.url),
                "bytes": (self._folder / listed.name).stat().st_size,
                "sha256": sha256,
                "promised": promised(listed),
                "fetched_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
        )

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False) + "\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}" if self._is_cut else line)
        self._is_cut = False

    def _read(self, source: str) -> None:
        text = self._path.read_text("utf-8", "replace")
        self._is_cut = not text.endswith("\n")
        lines = text.splitlines()
        head = _parsed(lines[0]) if lines else {}
        schema.check(head, KIND, self._path)
        if head.get("source") != source:
            raise DataError(
                f"{self._folder} should be for files of {source}, it has those of "
                f"{head.get('source')}",
                hint="give another folder with --out",
            )
        for line in lines[1:]:
            record = _parsed(line)
            if {"name", "bytes", "sha256", "promised"} <= set(record):
                self._files[str(record["name"])] = record


def promised(listed: Listed) -> dict[str, str]:
    """The hashes that a list gives of a file."""
    wanted = listed.wanted
    pairs = {"sha256": wanted.sha256, "sha1": wanted.sha1, "md5": wanted.md5}
    return {kind: value.lower() for kind, value in pairs.items() if value}


def _parsed(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
