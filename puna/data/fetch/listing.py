"""Lists of files as their publishers give them: read with bounds, since anyone may stand between.

A list has at most 64 MiB unpacked and a million files; Common Crawl's have about 100,000.
"""

from __future__ import annotations

import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from puna.console import human_bytes
from puna.download import Wanted, read_small
from puna.errors import DataError, UsageError
from puna.politeness import Manner

MOST_BYTES = 64 << 20
MOST_FILES = 1_000_000
_LIST = "is it the list of files that this source has?"
_NAME = re.compile(r"(?!\.)[\w.@+=,-]{1,200}", re.ASCII)


@dataclass(frozen=True)
class Listed:
    """One file to bring: its name below the folder, and what is known of it."""

    name: str
    wanted: Wanted
    is_gzip: bool = False  # its own checksums are read where the publisher gives no hash


@dataclass(frozen=True)
class Choice:
    """What of a source is asked for: its parts by name, where they are, and how they are listed."""

    items: tuple[str, ...] = ()
    base: str = ""
    list_at: str | None = None  # a file or an address that takes the place of the usual list
    kind: str = ""
    date: str = ""
    pays: bool = False


@dataclass(frozen=True)
class Lists:
    """Reads lists from their servers, or from this machine."""

    manner: Manner
    most_bytes: int = MOST_BYTES

    def read(self, place: str, asks: Mapping[str, str] | None = None) -> bytes:
        """A list's content, unpacked; `asks` are headers to send.

        Raises DataError when it is broken or too long to be one, else as `download` does.
        """
        return self.page(place, asks)[0]

    def page(
        self, place: str, asks: Mapping[str, str] | None = None
    ) -> tuple[bytes, Mapping[str, str]]:
        """The same, and the headers that it came with (none from this machine)."""
        if "://" in place:
            wanted = Wanted(place, headers=asks or {})
            content, headers = read_small(wanted, self.most_bytes, self.manner)
        else:
            content, headers = self._local(Path(place)), {}
        return self._unpacked(content, place), headers

    def json(self, place: str) -> Any:
        """A JSON list's content."""
        try:
            return json.loads(self.read(place))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} should be a list in JSON: {error}") from None

    def _local(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                return file.read(self.most_bytes + 1)
        except OSError as error:
            raise DataError(f"there is no list {path}: {error.strerror}") from None

    def _unpacked(self, content: bytes, place: str) -> bytes:
        parts, size = [], 0
        while content.startswith(b"\x1f\x8b"):
            member = zlib.decompressobj(wbits=31)
            try:
                parts.append(member.decompress(content, self.most_bytes + 1 - size))
            except zlib.error as error:
                raise DataError(f"{place} should be a list, its gzip is broken: {error}") from None
            size += len(parts[-1])
            if size > self.most_bytes:
                break
            if not member.eof:
                raise DataError(f"{place} should be a list, its gzip is cut")
            content = member.unused_data
        unpacked = b"".join(parts) or content
        if len(unpacked) > self.most_bytes:
            most = human_bytes(self.most_bytes)
            raise DataError(f"{place} should be a list of at most {most}, it is longer")
        return unpacked


def lines(content: bytes, place: str) -> list[str]:
    """The lines of a list. Raises DataError for more than a million, and for other than UTF-8."""
    if content.count(b"\n") > MOST_FILES:
        raise DataError(f"{place} lists more than {MOST_FILES:,} files", hint=_LIST)
    try:
        return content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{place} should be a list in UTF-8: {error}") from None


def xml_rows(content: bytes, tag: str, place: str) -> Iterator[dict[str, str]]:
    """Of each element `tag` its attributes and its children's texts, by name.

    Raises DataError for what is no XML, declares entities, or has more than a million elements.
    """
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise DataError(f"{place} declares entities, which a list has no need of")
    try:
        for count, (_event, element) in enumerate(ElementTree.iterparse(io.BytesIO(content))):
            if element.tag == tag:
                yield {**element.attrib, **{one.tag: one.text or "" for one in element}}
                element.clear()
            if count > MOST_FILES:
                raise DataError(f"{place} has more than {MOST_FILES:,} elements", hint=_LIST)
    except ElementTree.ParseError as error:
        raise DataError(f"{place} should be a list in XML: {error}") from None


def require_name(name: str, place: str) -> str:
    """A name that stays below its folder. Raises DataError for any other that a list gives."""
    if all(_NAME.fullmatch(part) for part in name.split("/")) and len(name) <= 400:
        return name
    raise DataError(
        f"{place} names a file {name[:100]!r}, which Puna does not write",
        hint="names are of letters, digits and ._@+=,- below the folder; is it the right list?",
    )


def address(base: str, *parts: str) -> str:
    """A URL of parts below a base."""
    return "/".join([base.rstrip("/"), *(quote(part, safe="/@=") for part in parts)])


def number(text: Any) -> int | None:
    """A size that a list gives, or None for what is none."""
    return int(text) if str(text).isdecimal() and len(str(text)) < 16 else None


def chosen(files: Iterable[Listed], which: slice) -> Sequence[Listed]:
    """Those of a list that are asked for. Raises DataError for a name that comes twice, or none."""
    every = list(files)
    names = Counter(one.name for one in every)
    if len(names) < len(every):
        raise DataError(f"the list names {names.most_common(1)[0][0]} twice")
    few = every[which]
    if not few:
        raise DataError(f"there is no file to fetch: the list has {len(every):,}")
    return few


def require_items(choice: Choice, pattern: str, wanted: str, hint: str) -> tuple[str, ...]:
    """The parts asked for by name. Raises UsageError when there are none or one is malformed."""
    for item in choice.items:
        if not re.fullmatch(pattern, item, re.ASCII):
            raise UsageError(f"{wanted} is wanted, got {item!r}", hint=hint)
    if not choice.items:
        raise UsageError(f"{wanted} is wanted, found none", hint=hint)
    return choice.items
