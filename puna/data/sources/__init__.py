"""Where documents come from: public sources by name, and the files a user owns (`own`)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol, cast

from puna.config import nearest
from puna.console import Console
from puna.errors import UsageError

# Beside fetched files: their source, licence, counts and hashes.
RECORD_KIND = "puna.source"
RECORD_NAME = "source.json"

# Name to the function that fetches it; imported when asked for.
SOURCES = {"sotu": "puna.data.sources.sotu:fetch"}


class Fetch(Protocol):
    """Writes the files of a source and its source.json to `destination`; returns the record."""

    def __call__(
        self, destination: Path, console: Console, *, local_file: Path | None = None
    ) -> dict[str, Any]: ...


def fetcher(name: str) -> Fetch:
    """The function that fetches the source `name`. Raises UsageError that names the nearest."""
    if name not in SOURCES:
        raise UsageError(f"there is no source {name!r} to fetch", hint=nearest(name, list(SOURCES)))
    module, _, function = SOURCES[name].partition(":")
    return cast(Fetch, getattr(importlib.import_module(module), function))
