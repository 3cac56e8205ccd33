"""One file from an address to the disk: resumed where it stopped, checked by its hash.

A file on its way is `NAME.part`, beside it `NAME.part.tag` with the server's mark of the version.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import puna
from puna import schema
from puna.console import ProgressBar, human_bytes
from puna.errors import CheckpointError, MachineError
from puna.weights.registry import is_loopback, require_safe
from puna.whole_folder import require_room

MOST_REDIRECTS = 5
ATTEMPTS = 4  # each goes on where the one before broke off
TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Wanted:
    """One file to download and what is known of it; the hash decides at the end."""

    url: str
    sha256: str | None = None
    git_blob: str | None = None  # SHA-1 as git makes it, for the hub's small files
    size: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(MachineError):
    """The server answered, and the answer was no: `status` and `headers` tell more."""

    def __init__(self, url: str, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers
        hint = "is the address right?" if status in (404, 410) else "may you read it? try later"
        super().__init__(f"{_plain(url)} should give a file, the server says {status}", hint=hint)


class _Broken(Exception):
    """The connection ended early; another attempt may go on."""


def download(wanted: Wanted, destination: Path, bar: ProgressBar) -> str:
    """Bring the file to `destination`, resuming what is there; returns its SHA-256.

    Raises MachineError without network or room, Refused when the server says no, CheckpointError
    when the content is another than wanted (it is removed), UsageError for an unsafe redirect.
    """
    part = destination.with_name(f"{destination.name}.part")
    tag = destination.with_name(f"{destination.name}.part.tag")
    if destination.exists():
        bar.update(destination.stat().st_size)
    else:
        _fill(wanted, part, tag, bar)
        part.replace(destination)
        tag.unlink(missing_ok=True)
    return _checked(wanted, destination)


def copy_local(wanted: Wanted, source: Path, destination: Path, bar: ProgressBar) -> str:
    """The same for a file of this machine."""
    if not source.is_file():
        raise CheckpointError(f"{wanted.url} should be a file, there is none")
    require_room_for_pull(destination.parent, source.stat().st_size)
    with source.open("rb") as reading, destination.open("wb") as writing:
        while chunk := reading.read(CHUNK_BYTES):
            writing.write(chunk)
            bar.update(len(chunk))
    return _checked(wanted, destination)


def require_room_for_pull(folder: Path, needed: int) -> None:
    """Raise MachineError unless `needed` more bytes of a download fit on `folder`'s disk."""
    hint = "name a folder on another disk in PUNA_CACHE"
    require_room(folder, needed, "the download", hint=hint)


def _fill(wanted: Wanted, part: Path, tag: Path, bar: ProgressBar) -> None:
    """Download until `part` is complete, in as many attempts as it may take."""
    for attempt in range(1, ATTEMPTS + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            _attempt(wanted, part, tag, bar)
            return
        except _Broken as broken:
            after = part.stat().st_size if part.exists() else 0
            if attempt == ATTEMPTS or after == before:
                so_far = human_bytes(after)
                raise MachineError(
                    f"the download of {_plain(wanted.url)} broke off after {so_far}: {broken}",
                    hint="the same command goes on from there",
                ) from None


def _attempt(wanted: Wanted, part: Path, tag: Path, bar: ProgressBar) -> None:
    offset = part.stat().st_size if part.exists() else 0
    mark = tag.read_text(encoding="utf-8") if offset and tag.exists() else ""
    has_hash = bool(wanted.sha256 or wanted.git_blob)
    headers = dict(wanted.headers)
    if offset and (mark or has_hash):
        headers["Range"] = f"bytes={offset}-"
        headers |= {"If-Range": mark} if mark else {}
    try:
        response = _open(wanted.url, headers)
    except Refused as refused:
        if refused.status != 416 or not offset:
            raise
        if refused.headers.get("Content-Range", "").endswith(f"/{offset}"):
            return  # it was complete already
        part.unlink()
        raise _Broken("the server has a shorter version now") from None
    with response:
        begin, total = _span(response)
        if response.status == 206 and begin != offset:
            raise _Broken(f"bytes from {offset:,} on were asked for, from {begin:,} on came")
        total = wanted.size if total is None else total
        _check_size(wanted, total, part.parent, begin)
        tag.write_text(_strong_mark(response), encoding="utf-8")
        bar.update(begin)
        try:
            _store(response, part, begin, total, bar)
        except BaseException:
            bar.update(-part.stat().st_size)  # the next attempt counts it again
            raise


def _open(url: str, headers: Mapping[str, str]) -> Any:
    """The response of the last of at most five redirects, each to a safe address.

    Credentials go to the first host alone.
    """
    first = urlsplit(url).netloc
    for _redirect in range(MOST_REDIRECTS + 1):
        require_safe(url)
        kept = {
            name: value
            for name, value in headers.items()
            if urlsplit(url).netloc == first or name.lower() not in ("authorization", "cookie")
        }
        response = _ask(url, {"User-Agent": f"puna/{puna.__version__}", **kept})
        if response.status not in _REDIRECTS:
            if response.status not in (200, 206):
                response.close()
                raise Refused(url, response.status, dict(response.headers))
            return response
        location = response.headers.get("Location")
        response.close()
        if not location:
            raise MachineError(f"{_plain(url)} redirects to nowhere")
        url = urljoin(url, location)
    raise MachineError(f"{_plain(url)} is the {MOST_REDIRECTS + 1}th redirect, that is too many")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves redirects to `_open`."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None


def _ask(url: str, headers: Mapping[str, str]) -> Any:
    """The server's answer, whatever its status. Raises MachineError when there is none."""
    host = urlsplit(url).hostname or ""
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if is_loopback(host):
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", **headers})
    try:
        return opener.open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as answer:
        return answer
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise MachineError(
            f"{host} cannot be reached: {reason}",
            hint="is there a network? Models pulled before work without (puna cache list)",
        ) from None


def _span(response: Any) -> tuple[int, int | None]:
    """Where the response's bytes begin in the file, and how long the whole file is, if told."""
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status == 206 and told:
        return int(told[1]), int(told[2]) if told[2].isdigit() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _check_size(wanted: Wanted, total: int | None, folder: Path, start: int) -> None:
    if wanted.size is not None and total is not None and total != wanted.size:
        raise CheckpointError(
            f"{_plain(wanted.url)} should have {wanted.size:,} bytes, the server has {total:,}",
            hint="the file changed or something stands between; pull it again later",
        )
    if total is not None:
        require_room_for_pull(folder, total - start)


def _strong_mark(response: Any) -> str:
    mark = str(response.headers.get("ETag", ""))
    return mark if mark.startswith('"') else ""


def _store(response: Any, part: Path, start: int, total: int | None, bar: ProgressBar) -> None:
    """Append the response to the first `start` bytes of `part`, which become `total` in all."""
    written = start
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        while chunk := _read(response):
            if total is None:
                require_room_for_pull(part.parent, len(chunk))
            file.write(chunk)
            written += len(chunk)
            bar.update(len(chunk))
            if total is not None and written > total:
                break
        file.flush()
        os.fsync(file.fileno())
    if total is not None and written != total:
        raise _Broken(f"{written:,} of {total:,} bytes came")


def _read(response: Any) -> bytes:
    try:
        chunk: bytes = response.read(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(error) or type(error).__name__) from None
    return chunk


def _checked(wanted: Wanted, path: Path) -> str:
    """The SHA-256 of `path`, which has the wanted hash; else it is removed and said."""
    sha256 = schema.sha256_file(path)
    pairs = [(wanted.sha256, sha256, "SHA-256")]
    if wanted.git_blob is not None:
        pairs.append((wanted.git_blob, _git_blob(path), "git hash"))
    for expected, found, kind in pairs:
        if expected is not None and expected != found:
            path.unlink()
            raise CheckpointError(
                f"{_plain(wanted.url)} should have {kind} {expected}, found {found}",
                hint="a broken download or another file; it was removed, pull it again",
            )
    return sha256


def _git_blob(path: Path) -> str:
    header = f"blob {path.stat().st_size}\0".encode()
    return hashlib.sha1(header + path.read_bytes(), usedforsecurity=False).hexdigest()


def _plain(url: str) -> str:
    """The address without what may be secret in it: a password, a signed query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
