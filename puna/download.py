"""One file from an address to the disk: resumed where it stopped, checked by its hashes.

A file on its way is `NAME.part`, beside it `NAME.part.tag` with the server's mark of the version.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import ipaddress
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import puna
from puna.console import ProgressBar, human_bytes, human_duration
from puna.errors import CheckpointError, MachineError, UsageError
from puna.politeness import LONGEST_PAUSE_SECONDS, Manner
from puna.whole_folder import require_room

MOST_REDIRECTS = 5
TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 20
USER_AGENT = f"puna/{puna.__version__} (open source, resumes, obeys Retry-After)"
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses that another attempt may not meet

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Wanted:
    """One file to download and what is known of it; the hashes decide at the end."""

    url: str
    sha256: str | None = None
    sha1: str | None = None
    md5: str | None = None
    git_blob: str | None = None  # SHA-1 as git makes it, for the hub's small files
    size: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_set_aside: bool = False  # a file with the wrong hash stays, as NAME.wrong

    @property
    def has_hash(self) -> bool:
        """Whether the content will be known for what it should be."""
        return bool(self.sha256 or self.sha1 or self.md5 or self.git_blob)


class Refused(MachineError):
    """The server answered, and the answer was no: `status` and `headers` tell more."""

    def __init__(self, url: str, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers
        hint = "is the address right?" if status in (404, 410) else "may you read it? try later"
        super().__init__(f"{plain(url)} should give a file, the server says {status}", hint=hint)


class Unreachable(MachineError):
    """There was no answer: no network, no such host, nobody listening."""


class OtherContent(CheckpointError):
    """Another file came than was promised: its size or its hash tells."""


class _Broken(Exception):
    """The connection ended early; another attempt may go on."""


def download(
    wanted: Wanted, destination: Path, bar: ProgressBar, manner: Manner | None = None
) -> str:
    """Bring the file to `destination`, resuming what is there; returns its SHA-256.

    Raises Unreachable without network, MachineError without room, Refused when the server says no,
    OtherContent when it is not what was wanted (it is removed), UsageError for an unsafe redirect.
    """
    manner = manner or Manner()
    part = destination.with_name(f"{destination.name}.part")
    tag = destination.with_name(f"{destination.name}.part.tag")
    if destination.exists():
        bar.update(destination.stat().st_size)
    else:
        persistently(
            wanted.url, manner, lambda: _attempt(wanted, part, tag, bar, manner), _size_of(part)
        )
        part.replace(destination)
        tag.unlink(missing_ok=True)
    return _checked(wanted, destination)


def read_small(wanted: Wanted, most_bytes: int, manner: Manner) -> tuple[bytes, Mapping[str, str]]:
    """A small file's content and the headers it came with.

    Raises OtherContent when it is larger than `most_bytes`, else as `download` does.
    """

    def attempt() -> tuple[bytes, Mapping[str, str]]:
        with _open(wanted.url, wanted.headers) as response:
            content = bytearray()
            while chunk := _read(response):
                manner.took(len(chunk))
                content += chunk
                if len(content) > most_bytes:
                    most = human_bytes(most_bytes)
                    raise OtherContent(
                        f"{plain(wanted.url)} should be a list of at most {most}, it is longer"
                    )
            _begin, total = _span(response)
            if total is not None and len(content) != total:
                raise _Broken(f"{len(content):,} of {total:,} bytes came")
            return bytes(content), dict(response.headers)

    return persistently(wanted.url, manner, attempt, lambda: 0)


def measure(wanted: Wanted, most_bytes: int, most_seconds: float) -> tuple[float, int | None]:
    """The bytes a second at which a file's beginning comes, and its size where the server tells.

    What is read is thrown away. Raises as `download` does.
    """
    begin, count, chunk = time.perf_counter(), 0, b"first"
    with _open(wanted.url, wanted.headers) as response:
        try:
            while chunk and count < most_bytes and time.perf_counter() - begin < most_seconds:
                chunk = _read(response, 1 << 16)
                count += len(chunk)
        except _Broken as broken:
            raise _given_up(wanted.url, count, broken, 0) from None
        return count / max(time.perf_counter() - begin, 1e-6), _span(response)[1]


def copy_local(wanted: Wanted, source: Path, destination: Path, bar: ProgressBar) -> str:
    """The same for a file of this machine."""
    if not source.is_file():
        raise CheckpointError(f"{wanted.url} should be a file, there is none")
    require_room_for_download(destination.parent, source.stat().st_size)
    with source.open("rb") as reading, destination.open("wb") as writing:
        while chunk := reading.read(CHUNK_BYTES):
            writing.write(chunk)
            bar.update(len(chunk))
    return _checked(wanted, destination)


def require_room_for_download(
    folder: Path, needed: int, hint: str = "name a folder on another disk in PUNA_CACHE"
) -> None:
    """Raise MachineError unless `needed` more bytes of a download fit on `folder`'s disk."""
    require_room(folder, needed, "the download", hint=hint)


def persistently(
    url: str, manner: Manner, attempt: Callable[[], Answer], progress: Callable[[], int]
) -> Answer:
    """What `attempt` gives, tried again as long as `manner` says; `progress` in bytes tells how far
    it is. Raises what the last attempt met, and Stopped."""
    fruitless = 0
    for number in range(1, manner.attempts + 1):
        before = progress()
        try:
            manner.wait_turn()
            return attempt()
        except (_Broken, Unreachable, Refused) as error:
            if isinstance(error, Refused) and error.status not in _PASSING:
                raise
            fruitless = fruitless + 1 if progress() == before else 0
            asked = _retry_after(error)
            is_last = number == manner.attempts or fruitless > manner.patience
            if is_last or asked > LONGEST_PAUSE_SECONDS:
                raise _given_up(url, progress(), error, asked) from None
            why = error.message if isinstance(error, MachineError) else f"{plain(url)}: {error}"
            manner.hold(manner.pause_seconds(fruitless, asked), why)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _size_of(part: Path) -> Callable[[], int]:
    return lambda: part.stat().st_size if part.exists() else 0


def _retry_after(error: Exception) -> float:
    """The seconds that a server asks to wait, told as a number or as a date; 0 for none."""
    text = error.headers.get("Retry-After", "").strip() if isinstance(error, Refused) else ""
    if text.isdecimal():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    return max(date.timestamp() - time.time(), 0.0) if date.tzinfo else 0.0


def _given_up(url: str, bytes_so_far: int, error: Exception, asked_seconds: float) -> Exception:
    if isinstance(error, _Broken):
        return MachineError(
            f"the download of {plain(url)} broke off after {human_bytes(bytes_so_far)}: {error}",
            hint="the same command goes on from there",
        )
    if asked_seconds and isinstance(error, Refused):
        error.hint = f"it asks to wait {human_duration(asked_seconds)}; then the same command"
    return error


def _attempt(wanted: Wanted, part: Path, tag: Path, bar: ProgressBar, manner: Manner) -> None:
    offset = part.stat().st_size if part.exists() else 0
    mark = tag.read_text(encoding="utf-8") if offset and tag.exists() else ""
    headers = dict(wanted.headers)
    if offset and (mark or wanted.has_hash):
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
        _check_size(wanted, total)
        if total is not None:
            require_room_for_download(part.parent, total - begin, manner.room_hint)
        tag.write_text(_strong_mark(response), encoding="utf-8")
        bar.update(begin)
        try:
            _store(_Incoming(wanted.url, response, manner, bar), part, begin, total)
        except BaseException:
            bar.update(-_size_of(part)())  # the next attempt counts it again
            if not part.exists():
                tag.unlink()
            raise


def _open(url: str, headers: Mapping[str, str]) -> Any:
    """The response of the last of at most five redirects, each to a safe address.

    Credentials go to the first host alone.
    """
    first = urlsplit(url).netloc
    was_safe = False
    for _redirect in range(MOST_REDIRECTS + 1):
        require_safe(url, is_only_https=was_safe)
        was_safe = urlsplit(url).scheme == "https"
        kept = {
            name: value
            for name, value in headers.items()
            if urlsplit(url).netloc == first or name.lower() not in ("authorization", "cookie")
        }
        response = _ask(url, {"User-Agent": USER_AGENT, **kept})
        if response.status not in _REDIRECTS:
            if response.status not in (200, 206):
                response.close()
                raise Refused(url, response.status, dict(response.headers))
            return response
        location = response.headers.get("Location")
        response.close()
        if not location:
            raise MachineError(f"{plain(url)} redirects to nowhere")
        url = urljoin(url, location)
    raise MachineError(f"{plain(url)} is the {MOST_REDIRECTS + 1}th redirect, that is too many")


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
        raise Unreachable(
            f"{host} cannot be reached: {reason}",
            hint="is there a network? What was downloaded before works without",
        ) from None


def _span(response: Any) -> tuple[int, int | None]:
    """Where the response's bytes begin in the file, and how long the whole file is, if told."""
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status == 206 and told:
        return int(told[1]), int(told[2]) if told[2].isdigit() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _check_size(wanted: Wanted, total: int | None) -> None:
    if wanted.size is not None and total is not None and total != wanted.size:
        raise OtherContent(
            f"{plain(wanted.url)} should have {wanted.size:,} bytes, the server has {total:,}",
            hint="the file changed or something stands between; get it again later",
        )


def _strong_mark(response: Any) -> str:
    mark = str(response.headers.get("ETag", ""))
    return mark if mark.startswith('"') else ""


@dataclass(frozen=True)
class _Incoming:
    """A response that is being read, and who is told of it."""

    url: str
    response: Any
    manner: Manner
    bar: ProgressBar

    def chunk(self) -> bytes:
        content = _read(self.response)
        self.bar.update(len(content))
        return content


def _store(incoming: _Incoming, part: Path, start: int, total: int | None) -> None:
    """Append what comes to the first `start` bytes of `part`, which become `total` in all."""
    written = start
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        while chunk := incoming.chunk():
            if total is None:
                hint = incoming.manner.room_hint
                require_room_for_download(part.parent, len(chunk), hint)
            file.write(chunk)
            written += len(chunk)
            if total is not None and written > total:
                break
            incoming.manner.took(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and written > total:
        part.unlink()
        raise OtherContent(f"{plain(incoming.url)} should have {total:,} bytes, more came")
    if total is not None and written != total:
        raise _Broken(f"{written:,} of {total:,} bytes came")


def _read(response: Any, most_bytes: int | None = None) -> bytes:
    try:
        chunk: bytes = response.read(most_bytes or CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(error) or type(error).__name__) from None
    return chunk


def _checked(wanted: Wanted, path: Path) -> str:
    """The SHA-256 of `path`, which has the wanted hashes; else it is removed and said."""
    promised = {
        "SHA-256": ("sha256", wanted.sha256),
        "SHA-1": ("sha1", wanted.sha1),
        "MD5": ("md5", wanted.md5),
        "git hash": ("git", wanted.git_blob),
    }
    found = _digests(path, {"sha256", *(name for name, one in promised.values() if one)})
    for kind, (name, expected) in promised.items():
        if expected is not None and expected.lower() != found[name]:
            left = _remove(wanted, path)
            raise OtherContent(
                f"{plain(wanted.url)} should have {kind} {expected}, found {found[name]}",
                hint=f"a broken download or another file; it was {left}, get it again",
            )
    return found["sha256"]


def _remove(wanted: Wanted, path: Path) -> str:
    """Take away a wrong file; what was done with it."""
    if not wanted.is_set_aside:
        path.unlink()
        return "removed"
    aside = path.with_name(f"{path.name}.wrong")
    path.replace(aside)
    return f"renamed to {aside.name}"


def _digests(path: Path, names: set[str]) -> dict[str, str]:
    """The hashes of a file, by their names; "git" is the SHA-1 of git's header and the file."""
    hashes = {
        name: hashlib.new("sha1" if name == "git" else name, usedforsecurity=False)
        for name in names
    }
    if "git" in hashes:
        hashes["git"].update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            for one in hashes.values():
                one.update(chunk)
    return {name: one.hexdigest() for name, one in hashes.items()}


def require_safe(url: str, *, is_only_https: bool = False) -> None:
    """Refuse an address that is not https, but for http to this machine itself.

    Raises UsageError, also where a redirect leads to such an address, or from https to http.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and is_loopback(parts.hostname or "") and not is_only_https:
        return
    raise UsageError(
        f"downloads come over https:// or from a file:// address, got {plain(url)}",
        hint="http:// could be changed on its way; it is taken from this machine itself alone",
    )


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine: localhost, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def plain(url: str) -> str:
    """The address without what may be secret in it: a password, a signed query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
