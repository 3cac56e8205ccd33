"""Common Crawl (paper 2.1, after CCNet): the pages of WARC files, or the texts of WET files."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from puna.data.document import DAMAGED, Document, Dropped
from puna.data.sources.warc import Damage, Record, records
from puna.data.sources.web_page import decoded, page_text, tidy
from puna.errors import DataError

NAME = "commoncrawl"
LICENCE = "Common Crawl Terms of Use; pages belong to their owners"
DOWNLOADS = "https://data.commoncrawl.org/"
EXCERPT_CHARACTERS = 200
_HTML = ("text/html", "application/xhtml+xml", "application/xhtml")
_PLAIN = "text/plain"


@dataclass(frozen=True)
class Settings:
    """What is kept of a page, and which pages are."""

    is_whole_page: bool = False  # all that a page shows; else its main content
    drops_title: bool = True  # of WET: the first line is the title (CCNet takes it off)
    min_characters: int = 300  # CCNet's min_len, looked at before any other stage


def read(file: BinaryIO, path: str, settings: Settings) -> Iterator[Document | Dropped]:
    """The pages of a WARC or WET file, in its order. One page is in memory at a time.

    Pages that are not HTML or plain text with status 200 come as Dropped with the reason revisit,
    not http, status or content type; those without enough text as no text or short.
    """
    name = path.rpartition("/")[2]
    for record in records(file):
        if isinstance(record, Damage):
            yield Dropped(
                f"{name}@{record.place}",
                NAME,
                DAMAGED,
                f"{path} at byte {record.place}: {record.what}",
            )
        else:
            yield _document(record, name, settings)


def read_paths(file: BinaryIO, path: str) -> list[str]:
    """The addresses that a list of Common Crawl's files (`*.paths.gz`) stands for, in order.

    Raises DataError for what is no such list.
    """
    data = file.read()
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} should be a list of paths: {error}") from None
    lines = text.split()
    for line in lines:
        if not line.startswith(("crawl-data/", "cc-index/", "contrib/", "projects/")):
            raise DataError(
                f"{path} should hold paths like crawl-data/CC-MAIN-.../wet/....gz, found {line!r}",
                hint=f"lists named *.paths.gz are at {DOWNLOADS}crawl-data/",
            )
    return [DOWNLOADS + line for line in lines]


def _document(record: Record, name: str, settings: Settings) -> Document | Dropped:
    """A record's page as a document, or why it is not kept."""
    found_id = record.headers.get("warc-record-id") or record.headers.get("warc-block-digest", "")
    page_id = found_id.strip("<> ").removeprefix("urn:uuid:") or f"{name}@{record.place}"
    url = record.headers.get("warc-target-uri", "").strip("<> ")

    def dropped(reason: str, detail: str = "", text: str = "") -> Dropped:
        return Dropped(
            page_id, NAME, reason, detail or url, len(text.encode()), text[:EXCERPT_CHARACTERS]
        )

    if reason := _unfit(record):
        return dropped(*reason)
    try:
        text = (
            _wet_text(record, settings) if record.kind == "conversion" else _text(record, settings)
        )
    except (DataError, ValueError) as error:
        return dropped(DAMAGED, f"{name} at byte {record.place}: {error}")
    if not text:
        return dropped("no text")
    if len(text) < settings.min_characters:
        return dropped("short", text=text)
    return Document(text, NAME, LICENCE, page_id, url)


def _unfit(record: Record) -> tuple[str, str] | None:
    """Why a record holds no page of text: a reason and its detail."""
    if record.kind == "conversion":
        return None
    if record.kind == "revisit":
        return "revisit", record.headers.get("warc-refers-to", "")
    if record.status is None:
        return "not http", record.headers.get("content-type", "")
    if record.status != 200:
        return "status", str(record.status)
    if _content_type(record) not in (*_HTML, _PLAIN):
        return "content type", _content_type(record)
    return None


def _content_type(record: Record) -> str:
    """What the crawler found the page to be (Common Crawl), else what the server said."""
    found = record.headers.get("warc-identified-payload-type") or record.http.get(
        "content-type", ""
    )
    return found.partition(";")[0].strip().lower()


def _charset(record: Record) -> str | None:
    _, _, charset = record.http.get("content-type", "").lower().partition("charset=")
    return charset.partition(";")[0].strip("\"' ") or None


def _text(record: Record, settings: Settings) -> str:
    if _content_type(record) == _PLAIN:
        return tidy(decoded(record.body, _charset(record)))
    return page_text(record.body, _charset(record), is_whole=settings.is_whole_page)


def _wet_text(record: Record, settings: Settings) -> str:
    text = record.body.decode("utf-8", "replace")
    return tidy(text.partition("\n")[2] if settings.drops_title else text)
