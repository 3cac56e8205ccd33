"""Files by their full name: on this machine, or wherever fsspec reaches (s3://, gs://, https://).

A name without `://` is a local path and never imports fsspec. Keys and endpoints are fsspec's
business: its environment variables and configuration files, as its documentation has them.
What is written appears under its name whole or not at all.
"""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, BinaryIO, cast

from puna import schema
from puna.errors import DataError, MachineError, PunaError, missing_package

PARTIAL = ".partial-"
GLOB = "*?["
# An upload to these is seen when it is complete; elsewhere a file is renamed once it is there.
_WHOLE_UPLOADS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "memory"}
_KEYS = {
    "s3": "s3fs takes AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws; try `aws s3 ls`",
    "gs": "gcsfs takes what `gcloud auth application-default login` leaves",
}


@dataclass(frozen=True)
class File:
    """A file's full name, its size, and what changes when its content does (a time or an ETag)."""

    path: str
    bytes: int
    version: str = ""


def is_url(path: str) -> bool:
    """Whether fsspec is needed to reach it."""
    return "://" in path


def join(folder: str, *names: str) -> str:
    """The name of what lies in a folder."""
    return "/".join([folder.rstrip("/") or "/", *names]).replace("//", "/", not is_url(folder))


def name_of(path: str) -> str:
    """The last part of a name."""
    return path.rstrip("/").rpartition("/")[2]


def open_bytes(path: str) -> BinaryIO:
    """The file, open for reading. Raises DataError when there is none, OSError when it fails."""
    try:
        if not is_url(path):
            return open(path, "rb")
        filesystem, inner = _filesystem(path)
        return cast(BinaryIO, filesystem.open(inner, "rb"))
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None


def read_bytes(path: str) -> bytes:
    """A whole small file."""
    with open_bytes(path) as file:
        return file.read()


def size(path: str) -> int:
    """The bytes of a file. Raises DataError when there is none."""
    return find(path)[0].bytes


def read_json(path: str) -> dict[str, Any]:
    """A JSON object. Raises DataError for anything else."""
    try:
        return dict(json.loads(read_bytes(path)))
    except (ValueError, TypeError):
        raise DataError(f"{path} is damaged: it should be a JSON object") from None


@contextmanager
def write_whole(path: str) -> Iterator[BinaryIO]:
    """A file to write that appears under `path` when the block ends well, and not otherwise.

    What goes to a URL lies in a temporary file of this machine until then.
    """
    if is_url(path):
        with tempfile.TemporaryDirectory(prefix="puna-") as folder:
            local = os.path.join(folder, "file")
            with open(local, "wb") as file:
                yield file
            _upload(local, path)
        return
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    partial = os.path.join(folder, _partial_name(name))
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def _partial_name(name: str) -> str:
    """A name of its own: on shared disks another machine's process may have the same id."""
    return f".{name}{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}"


def write_bytes(path: str, content: bytes) -> None:
    """Write a whole small file."""
    with write_whole(path) as file:
        file.write(content)


def write_json(path: str, record: dict[str, Any], kind: str | None = None) -> None:
    """Write a JSON object, with the stamp of its `kind` where it has one."""
    stamped = {**schema.stamp(kind), **record} if kind else record
    write_bytes(path, (json.dumps(stamped, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))


def find(path: str) -> list[File]:
    """The file of this name, those that a pattern (`*`, `**`) names, or all below a folder.

    Sorted by name; hidden ones are left out. Raises DataError where there is none.
    """
    with _reached(path):
        found = _find_remote(path) if is_url(path) else _find_local(path)
    if not found:
        raise DataError(f"there is no file {path}", hint="give a file, a folder or a pattern")
    return sorted(found, key=lambda file: file.path)


def in_folder(folder: str) -> dict[str, File]:
    """The files of a folder, by their name in it; none where there is no folder yet."""
    with _reached(folder):
        found = _listed_remote(folder) if is_url(folder) else _listed_local(folder)
    return {name_of(file.path): file for file in found}


def _listed_remote(folder: str) -> list[File]:
    filesystem, inner = _filesystem(folder)
    filesystem.invalidate_cache()
    if not filesystem.isdir(inner):
        return []
    return [
        _remote_file(facts, join(folder, name_of(facts["name"])))
        for facts in filesystem.ls(inner, detail=True)
        if facts["type"] == "file"
    ]


def _listed_local(folder: str) -> list[File]:
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        return [_local_file(join(folder, one.name)) for one in entries if one.is_file()]


@contextmanager
def _reached(path: str) -> Iterator[None]:
    """A block in which whatever a file system raises, each its own kinds, becomes a DataError."""
    try:
        yield
    except PunaError:
        raise
    except Exception as error:
        hint = _KEYS.get(path.partition("://")[0])
        message = f"{path} cannot be reached: {type(error).__name__}: {error}"
        raise DataError(message, hint=hint) from None


def require_writable(folder: str) -> None:
    """Raise DataError for a folder that can only be read."""
    if folder.startswith(("http://", "https://")):
        raise DataError(f"{folder} cannot be written: http is read only", hint="give another --out")


def sweep(folder: str) -> int:
    """Delete what killed writers left in a folder; how many files that were."""
    leftovers = [file for name, file in in_folder(folder).items() if PARTIAL in name]
    for file in leftovers:
        if is_url(file.path):
            filesystem, inner = _filesystem(file.path)
            filesystem.rm_file(inner)
        else:
            os.unlink(file.path)
    return len(leftovers)


def find_all(roots: Sequence[str]) -> dict[str, File]:
    """All files of several names, by their name below the folder that the roots have in common.

    So a file's short name is the same wherever its tree lies. Raises as `find` does.
    """
    found = {root: find(root) for root in roots}
    folders = [_folder_of(root, files) for root, files in found.items()]
    levels = zip(*(folder.split("/") for folder in folders), strict=False)
    common = "/".join(one[0] for one in takewhile(lambda names: len(set(names)) == 1, levels))
    every = {file.path: file for files in found.values() for file in files}
    return {path[len(common) :].lstrip("/"): every[path] for path in sorted(every)}


def _folder_of(root: str, files: list[File]) -> str:
    """What comes before a pattern; a folder itself; the folder of a file."""
    fixed = re.split(f"[{re.escape(GLOB)}]", root)[0]
    is_folder = fixed == root and name_of(files[0].path) != name_of(root)
    return root.rstrip("/") if is_folder else fixed.rpartition("/")[0]


def _filesystem(path: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path inside it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise missing_package("fsspec", "data", f"reading {path}") from None
    try:
        return cast(tuple[Any, str], url_to_fs(path))
    except ImportError as error:
        raise MachineError(
            f"{path} cannot be reached: {error}", hint="pip install s3fs (s3://) or gcsfs (gs://)"
        ) from None
    except ValueError as error:
        raise DataError(f"{path} cannot be reached: {error}") from None


def _upload(local: str, path: str) -> None:
    filesystem, inner = _filesystem(path)
    protocols = filesystem.protocol
    names = {protocols} if isinstance(protocols, str) else set(protocols)
    if names & _WHOLE_UPLOADS:
        filesystem.put_file(local, inner)
        return
    folder = inner.rpartition("/")[0]
    filesystem.makedirs(folder, exist_ok=True)
    partial = f"{folder}/{_partial_name(name_of(inner))}"
    filesystem.put_file(local, partial)
    filesystem.mv(partial, inner)


def _find_local(path: str) -> list[File]:
    if os.path.isfile(path):
        return [_local_file(path)]
    if os.path.isdir(path):
        return [_local_file(name) for name in _walk(path)]
    names = glob.glob(path, recursive=True)
    return [_local_file(name) for name in names if os.path.isfile(name)]


def _walk(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (join(parent, name) for name in names if not name.startswith("."))


def _local_file(path: str) -> File:
    facts = os.stat(path)
    return File(path, facts.st_size, str(facts.st_mtime_ns))


def _find_remote(path: str) -> list[File]:
    filesystem, inner = _filesystem(path)
    if any(one in inner for one in GLOB):
        found = filesystem.glob(inner, detail=True)
    elif filesystem.isfile(inner):
        found = {inner: filesystem.info(inner)}
    else:
        found = filesystem.find(inner, detail=True)
    whole = path.rstrip("/")
    inside = inner.strip("/")
    start = whole.removesuffix(inside) if whole.endswith(inside) else ""
    files = [
        _remote_file(facts, start + facts["name"].lstrip("/"))
        if start
        else _remote_file(facts, filesystem.unstrip_protocol(facts["name"]))
        for facts in found.values()
    ]
    return [file for file in files if not name_of(file.path).startswith(".")]


def _remote_file(facts: dict[str, Any], path: str) -> File:
    keys = ("ETag", "etag", "mtime", "LastModified", "last_modified", "created")
    version = next((str(facts[key]) for key in keys if facts.get(key)), "")
    return File(path, facts.get("size") or 0, version)


def copy(source: str, target: str) -> None:
    """Copy a file from anywhere to anywhere, whole."""
    with open_bytes(source) as reading, write_whole(target) as writing:
        shutil.copyfileobj(reading, writing)
