"""Books: Project Gutenberg's text, plain text, EPUB and TEI; one document a book (paper 2.1).

A file is one book, or a zip or tar of books. Books that overlap by more than 90 % are left to the
stage of de-duplication.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from puna.data.document import DAMAGED, UNKNOWN_LICENCE, Document, Dropped
from puna.data.sources import archives, gutenberg
from puna.data.sources.epub import Locked, read_epub
from puna.data.sources.line_wrap import unwrapped
from puna.data.sources.tei import read_tei
from puna.data.sources.xml_dump import Damage

SOURCE = "books"
LICENCE = UNKNOWN_LICENCE
SUFFIXES = (".txt", ".epub", ".xml", ".tei", ".zip", ".tar", ".gz", ".tgz")

_BOOK = (".txt", ".epub", ".xml", ".tei")
_LARGEST_BOOK_BYTES = 64 << 20
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")
_LANGUAGES = {
    "english": "en",
    "french": "fr",
    "german": "de",
    "finnish": "fi",
    "dutch": "nl",
    "italian": "it",
    "spanish": "es",
    "portuguese": "pt",
    "hungarian": "hu",
    "swedish": "sv",
    "danish": "da",
    "polish": "pl",
    "czech": "cs",
    "catalan": "ca",
    "romanian": "ro",
    "russian": "ru",
    "ukrainian": "uk",
    "bulgarian": "bg",
    "serbian": "sr",
    "slovenian": "sl",
    "croatian": "hr",
    "latin": "la",
    "greek": "el",
    "esperanto": "eo",
    "chinese": "zh",
    "norwegian": "no",
}
_THREE_LETTERS = {"eng": "en", "fra": "fr", "fre": "fr", "deu": "de", "ger": "de", "spa": "es"}
_THREE_LETTERS |= {"ita": "it", "por": "pt", "nld": "nl", "dut": "nl", "pol": "pl", "hun": "hu"}
_THREE_LETTERS |= {"ces": "cs", "cze": "cs", "slv": "sl", "srp": "sr", "swe": "sv", "ron": "ro"}
_THREE_LETTERS |= {"rum": "ro", "ukr": "uk", "rus": "ru", "hrv": "hr", "cat": "ca", "dan": "da"}


@dataclass(frozen=True)
class Settings:
    """What becomes of a book."""

    # A newline is a token of its own every dozen words, and rules on lines take a wrapped line for
    # a cut sentence; EPUB, TEI and the web have a paragraph a line. Verse keeps its lines.
    unwraps: bool = True
    removes_notes: bool = True  # transcribers' notes on the file, not the author's on the text
    keeps_copyrighted: bool = (
        False  # some of Project Gutenberg's books are not in the public domain
    )


@dataclass(frozen=True)
class _Book:
    text: str
    title: str = ""
    author: str = ""
    language: str = ""
    licence: str = UNKNOWN_LICENCE
    url: str = ""


def read(file: BinaryIO, path: str, settings: Settings) -> Iterator[Document | Dropped]:
    """The books of a file, and what is not kept: "empty", "copyrighted", "locked" (digital rights
    management), or damaged with its place.
    """
    name = path.rpartition("/")[2]
    if name.lower().endswith(_BOOK):
        data = file.read(_LARGEST_BOOK_BYTES + 1)
        if len(data) > _LARGEST_BOOK_BYTES:
            yield _damaged(path, f"longer than {_LARGEST_BOOK_BYTES} bytes")
        else:
            yield _document(data, path, settings)
        return
    try:
        is_packed_text = name.lower().endswith(".gz") and not _is_archive(file)
        data = archives.unpacked(file).read(_LARGEST_BOOK_BYTES + 1) if is_packed_text else b""
    except archives.BROKEN as error:
        yield _damaged(path, str(error))
        return
    if is_packed_text and len(data) > _LARGEST_BOOK_BYTES:
        yield _damaged(path, f"unpacks to more than {_LARGEST_BOOK_BYTES} bytes")
    elif is_packed_text:
        yield _document(data, path[:-3], settings)
    else:
        yield from _archive(file, path, settings)


def _is_archive(file: BinaryIO) -> bool:
    head = archives.unpacked(file).read(512)
    file.seek(0)
    return archives.is_tar(head)


def _archive(file: BinaryIO, path: str, settings: Settings) -> Iterator[Document | Dropped]:
    for member in archives.members(file, lambda name: name.lower().endswith(_BOOK)):
        place = f"{path}/{member.name}" if member.name else path
        if isinstance(member, archives.Refused):
            yield _damaged(place, member.what)
        else:
            yield _document(member.data, place, settings)


def _damaged(place: str, what: str) -> Dropped:
    return Dropped(place, SOURCE, DAMAGED, f"{place}: {what}")


def _document(data: bytes, place: str, settings: Settings) -> Document | Dropped:
    name = place.lower()
    if name.endswith(".epub"):
        book = _epub(data)
    elif name.endswith((".xml", ".tei")):
        book = _tei(data)
    else:
        book = _plain(data, settings)
    if isinstance(book, Damage):
        return _damaged(place, book.what)
    if isinstance(book, Locked):
        return Dropped(place, SOURCE, "locked")
    if book.licence == gutenberg.RESERVED and not settings.keeps_copyrighted:
        return _dropped(place, "copyrighted", book)
    if not book.text.strip():
        return _dropped(place, "empty", book)
    known = ", ".join(filter(None, (book.author, book.title)))
    return Document(
        book.text,
        SOURCE,
        book.licence,
        f"{place} ({known})" if known else place,
        book.url,
        _language(book.language),
    )


def _dropped(place: str, reason: str, book: _Book) -> Dropped:
    size = len(book.text.encode("utf-8"))
    return Dropped(place, SOURCE, reason, text_bytes=size, excerpt=book.text[:200])


def _epub(data: bytes) -> _Book | Damage | Locked:
    book = read_epub(data)
    if isinstance(book, Damage | Locked):
        return book
    found = re.search(r"gutenberg\.org/(?:ebooks/|etext/)?(\d+)", book.identifier)
    url = f"https://www.gutenberg.org/ebooks/{found[1]}" if found else ""
    text = book.text
    if url:
        text = gutenberg.read_book(text, removes_notes=True).text
    licence = gutenberg.LICENCE if "public domain" in book.rights.lower() and url else book.rights
    return _Book(text, book.title, book.author, book.language, licence or UNKNOWN_LICENCE, url)


def _tei(data: bytes) -> _Book | Damage:
    book = read_tei(data)
    if isinstance(book, Damage):
        return book
    licence = book.licence or UNKNOWN_LICENCE
    return _Book(book.text, book.title, book.author, book.language, licence)


def _plain(data: bytes, settings: Settings) -> _Book:
    text = _decoded(data).replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\f", "\n").replace("\ufeff", "")
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    book = _Book(text)
    if gutenberg.is_gutenberg(text):
        found = gutenberg.read_book(text, removes_notes=settings.removes_notes)
        url = f"https://www.gutenberg.org/ebooks/{found.number}" if found.number else ""
        book = _Book(found.text, found.title, found.author, found.language, found.licence, url)
    text = unwrapped(book.text) if settings.unwraps else book.text
    text = _BLANK_LINES.sub("\n\n\n", text.strip("\n"))
    return _Book(text, book.title, book.author, book.language, book.licence, book.url)


def _decoded(data: bytes) -> str:
    """UTF-8 or UTF-16 where it is; else Windows' Latin, which those who declare Latin-1 mean."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    declared = gutenberg.declared_encoding(data).lower()
    encodings = ["utf-8-sig"]
    if re.fullmatch(r"iso[- ]?8859-([2-9]|1[0-6])|windows-125\d|koi8-[ru]|macintosh", declared):
        encodings.append(declared)
    for one in (*encodings, "cp1252"):
        try:
            return data.decode(one)
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("latin-1")


def _language(said: str) -> str:
    """ISO 639-1 of what a header says: a name, a code or a tag; "" for what is not known."""
    word = re.split(r"[\s,;_-]", said.strip().lower(), maxsplit=1)[0]
    if len(word) == 2 and word.isalpha() and word.isascii():
        return word
    return _LANGUAGES.get(word) or _THREE_LETTERS.get(word, "")
