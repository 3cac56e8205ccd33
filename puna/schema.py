"""Schema versions and atomic writes: every file Puna writes says what it is and which version.

A reader refuses a file from a newer Puna with one clear error instead of guessing.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from puna.errors import SchemaError

VERSIONS = {
    "puna.source": 1,
    "puna.fetched": 1,
    "puna.corpus": 1,
    "puna.tokenizer": 1,
    "puna.shards": 1,
    "puna.mixture": 1,
    "puna.build": 1,
    "puna.checkpoint": 1,
    "puna.metrics": 1,
    "puna.meta": 1,
    "puna.recipe": 1,
    "puna.bench": 1,
    "puna.evaluation": 1,
    "puna.pulled": 1,
    "puna.packed": 1,
    "puna.law": 1,
    "puna.sweep": 1,
}


def stamp(kind: str) -> dict[str, Any]:
    """The two fields every file of ours starts with: `{"schema": kind, "version": n}`."""
    return {"schema": kind, "version": VERSIONS[kind]}


def check(record: Any, kind: str, where: Path | str) -> None:
    """Refuse a record that is not of `kind`, or was written by a newer Puna.

    Raises SchemaError naming the file, the version found and the version understood.
    """
    found = record.get("schema") if isinstance(record, dict) else None
    if found != kind:
        raise SchemaError(
            f"{where} should be a {kind} file, found {found or 'no schema field'!s:.60}",
            hint="give the folder or file that Puna wrote; `puna --help` lists the verbs",
        )
    version = record.get("version")
    if not isinstance(version, int) or version < 1:
        raise SchemaError(
            f"{where}: version must be a positive whole number, found {version!r:.60}"
        )
    if version > VERSIONS[kind]:
        raise SchemaError(
            f"{where} has {kind} version {str(version)[:20]}, "
            f"this Puna reads up to {VERSIONS[kind]}",
            hint="it was written by a newer Puna: pip install --upgrade puna",
        )


def read_json(path: Path, kind: str) -> dict[str, Any]:
    """The record in `path`, checked to be of `kind` and of a version understood here.

    Raises SchemaError when the file is absent, is not JSON, is another kind or is newer.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SchemaError(f"{path} should be a {kind} file, found nothing there") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SchemaError(f"{path} should be a {kind} file, it cannot be read: {error}") from None
    check(record, kind, path)
    return dict(record)


def write_json(path: Path, kind: str, record: dict[str, Any]) -> None:
    """Write `record` with its schema stamp, whole or not at all."""
    text = json.dumps({**stamp(kind), **record}, indent=1, ensure_ascii=False) + "\n"
    write_atomic(path, text.encode("utf-8"))


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` under `path`: a reader sees the old file or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """The file's SHA-256 as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
