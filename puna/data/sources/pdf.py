"""The text of a PDF, through pypdf (`puna[data]`), as paragraphs.

A PDF says where characters stand, not what belongs together. So: lines that come back at the edge
of pages (headers, footers, page numbers) go; a line goes on with the next, over a page's end too,
where the next word would hardly have fitted; a word broken at a line's end is joined. Tables and
formulas are as they come. What is drawn or scanned is no text.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO

from puna.errors import DataError, missing_package

if TYPE_CHECKING:
    from pypdf import PdfReader

MOST_BYTES = 256 << 20
MOST_PAGES = 10_000
MOST_CHARACTERS = 16 << 20
MOST_OPERATORS = 10_000_000  # two minutes; a book of 1,000 pages has 300,000
MOST_CORE_SECONDS = 600  # what no other limit stops: a book of 1,000 pages takes 10
_MOST_STREAM_BYTES = 4 << 20  # of one page's drawing, unpacked
_MOST_FORMS = 100  # drawn on one page, each as large as a page's own drawing may be
_STREAMS_HELD = 64  # pages and forms that pypdf keeps unpacked, before it has to forget them
_NEAR_PAGES = 4
_EDGE_LINES = 3  # of a page's beginning and of its end that may be headers and footers
# Of the width, since letters differ. So 89 and 85 % of the paragraphs' ends are found in the GPL as
# two programs set it, in one column and in two; 99 and 100 % of what is found is one.
_FULL, _FULL_AFTER_A_SENTENCE = 0.7, 0.95
_SENTENCE_ENDS = ".:;!?)\"'\u201d\u2019"
_NARROWEST = 30  # a column narrower than this may as well be verse or a table
_NUMBER = re.compile(r"\d+|^[ivxlc]+$")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_BROKEN_WORD = re.compile(r"([^\W\d_]+)[-\u00ad\u2010]$")
_DOTS = re.compile(r"(?:\. ?){4}")  # of a list of contents
_BULLETS = "•▪‣◦●■"


def read_pages(file: BinaryIO, name: str) -> list[str | DataError]:
    """The text of each page, or what is wrong with it; one error for a file that cannot be read.

    What is locked, or larger than the limits above, is such a file. Raises MachineError when
    pypdf is missing.
    """
    try:
        import pypdf
        from pypdf import Configuration, apply_configuration
    except ImportError:
        raise missing_package("pypdf", "data", f"reading {name}") from None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it logs every oddity of a file
    if file.seek(0, 2) > MOST_BYTES:
        return [DataError(f"{name} is longer than {MOST_BYTES >> 20} MiB")]
    limits = Configuration(
        zlib_maximum_output_length=_MOST_STREAM_BYTES,
        lzw_maximum_output_length=_MOST_STREAM_BYTES,
        run_length_maximum_output_length=_MOST_STREAM_BYTES,
        array_based_stream_maximum_output_length=_MOST_STREAM_BYTES,
        page_tree_maximum_entries=MOST_PAGES * 2,
        xform_maximum_invocations_per_extraction=_MOST_FORMS,
    )
    try:
        with apply_configuration(limits):
            return list(_Pages(pypdf.PdfReader(file), name))
    except Exception as error:  # pypdf says that broken files may raise any kind
        return [DataError(f"{name} is damaged: {_what(error)}")]


def joined(pages: Sequence[str]) -> str:
    """The text of pages in paragraphs, without what is printed on one after the other."""
    lines = [line for page in _without_edges(pages) for line in page]
    lengths = sorted(map(len, lines))
    width = lengths[len(lengths) * 9 // 10] if lengths else 0
    words = frozenset(_WORD.findall("\n".join(lines)))
    parts = lines[:1]
    for line, after in pairwise(lines):
        broken = _BROKEN_WORD.search(line)
        if not broken or not after[0].islower():
            parts += [" " if _goes_on(line, after, width) else "\n", after]
            continue
        rest = _WORD.match(after)
        whole = broken[1] + (rest[0] if rest else "")
        is_compound = f"{broken[1]}-{whole[len(broken[1]) :]}" in words and whole not in words
        parts[-1] = parts[-1] if is_compound else parts[-1][:-1]
        parts.append(after)
    return "".join(parts)


class _Pages:
    """The pages of an open PDF, up to the work that one file may make."""

    def __init__(self, reader: PdfReader, name: str) -> None:
        self._reader, self._name = reader, name
        self._operators = self._characters = self._streams = 0
        self._ends = time.process_time() + MOST_CORE_SECONDS

    def __iter__(self) -> Iterator[str | DataError]:
        name = self._name
        if self._reader.is_encrypted:
            yield DataError(f"{name} is encrypted", hint="if you may: qpdf --decrypt IN OUT")
            return
        if len(self._reader.pages) > MOST_PAGES:
            yield DataError(f"{name} has more than {MOST_PAGES} pages")
            return
        for number, page in enumerate(self._reader.pages, start=1):
            found: str | DataError
            try:
                text = page.extract_text(visitor_operand_before=self._count)
                found = text.encode("utf-8", "replace").decode()  # no lone surrogates
                self._characters += len(found)
            except Exception as error:
                found = DataError(f"{name} page {number} is damaged: {_what(error)}")
            if self._is_too_much():
                yield DataError(f"{name} is cut before page {number}: it unpacks to too much")
                return
            yield found
            self._streams += 1
            if self._streams >= _STREAMS_HELD:
                self._reader.resolved_objects.clear()
                self._streams = 0

    def _count(self, operator: bytes, *_: object) -> None:
        self._operators += 1
        self._streams += operator == b"Do"
        if self._is_too_much():
            raise ValueError("too much work")  # inside of a form pypdf goes on, and stops next

    def _is_too_much(self) -> bool:
        return (
            self._operators > MOST_OPERATORS
            or self._characters > MOST_CHARACTERS
            or time.process_time() > self._ends
        )


def _what(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:100]}"


def _without_edges(pages: Sequence[str]) -> list[list[str]]:
    """Each page's lines without those that stand at the same edge of two other pages near it."""
    kept = [[line.strip() for line in page.split("\n") if line.strip()] for page in pages]
    for edge in (0, -1) * _EDGE_LINES:
        keys = [_key(lines[edge]) if lines else "" for lines in kept]
        for at, key in enumerate(keys):
            near = keys[max(0, at - _NEAR_PAGES) : at + _NEAR_PAGES + 1]
            if key and near.count(key) > 2:
                del kept[at][edge]
    return kept


def _key(line: str) -> str:
    """What stays the same of a header from page to page; "" for a row of numbers."""
    key = _NUMBER.sub("#", line)
    return "" if key.count("#") > 2 else key


def _goes_on(line: str, after: str, width: int) -> bool:
    """Whether a line ends where the next word would hardly have fitted."""
    if width < _NARROWEST or _DOTS.search(line) or after[0] in _BULLETS:
        return False
    is_sentence_over = line[-1] in _SENTENCE_ENDS and not after[0].islower()
    full = _FULL_AFTER_A_SENTENCE if is_sentence_over else _FULL
    return len(line) + 1 + len(after.split(" ", 1)[0]) > full * width
