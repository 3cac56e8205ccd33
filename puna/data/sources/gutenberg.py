"""Project Gutenberg's plain text: what of a file is the book, and what its header says of it.

All generations of header and footer: `*** START OF THIS PROJECT GUTENBERG EBOOK`, since 2003; the
"small print" before the text, until then; the licence after it; notices around either; who produced
the file; transcribers' notes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LICENCE = "public domain in the USA"
RESERVED = "copyrighted; Project Gutenberg License"

_HEAD_CHARACTERS = 100_000
_MENTION = re.compile(r"Project Gutenberg", re.I)
_START = re.compile(
    r"^\W{0,6}\*\s?START OF (?:TH(?:E|IS) )?PROJECT GUTENBERG[^*]{0,600}\*{3}.*$"
    r"|^\W{0,6}\*\s?START OF (?:TH(?:E|IS) )?PROJECT GUTENBERG.*$"
    r"|^.{0,6}END\s?\*?\s?THE SMALL PRINT.*$"
    r"|^\**END.{0,8}SMALL PRINT.*$",
    re.M | re.I,
)
_END = re.compile(
    r"^[ \t]{0,6}\*{1,6}\s?END OF (?:TH(?:E|IS) )?PROJECT GUTENBERG"
    r"|^[ \t]{0,6}\*{3}\s?START: FULL LICENSE",
    re.M | re.I,
)
_END_LINE = re.compile(
    r"^\W{0,8}(?:End|Ende|Fin|Fine|Einde|Loppu) (?:of |de |van |dieses |del )?(?:the |this |het )?"
    r"(?:Proje[ck]t Gutenberg).*$",
    re.M | re.I,
)
_NEAR_CHARACTERS = 1000
_FIELD = re.compile(
    r"^(Title|Author|Language|Character set encoding):[ \t]*(.+(?:\n[ \t]+\S.*)*)", re.M
)
_NUMBER = re.compile(r"\[\s?(?:e-?book|e-?text)\s*#\s?(\d+)", re.I)
_NAMED = re.compile(
    r"Gutenberg(?:'s|'s)? (?:e-?text|e-?book)(?: of|,)\s+(.+?)(?:,? by (.+))?$", re.M | re.I
)
_RESERVED = re.compile(r"This is a \*{0,2}COPYRIGHTED\*{0,2} Project Gutenberg", re.I)
_CREDIT = re.compile(
    r"\W{0,3}(?:This |The )?(?:(?:Project Gutenberg |electronic |html |text )?"
    r"(?:e-?text|e-?book|file|edition|version) (?:was |is )?"
    r"(?:first |originally )?(?:prepared|produced|transcribed|scanned|created|typed|converted|made)"
    r"|(?:e-?text )?(?:Produced|Prepared|Transcribed|Scanned|Digitized|Digitised|Entered|Proofed"
    r"|Proofread|Typed|Keyed) (?:by|from|and)\b"
    r"|HTML version by|(?:The )?Internet Wiretap|Project Gutenberg(?:'s)? e-?(?:text|book)"
    r"|Updated editions|Corrected editions|Note: (?:Project Gutenberg|Images of)"
    r"|Images of the original pages|See \d+-h\.htm|\(?http\S+\)?\W*$)",
    re.I,
)
_CREDIT_CHARACTERS = 1500
_NOTE = re.compile(r"\W{0,6}(?:Transcribers?.?s?.? |Etext )notes?\b", re.I)
_NOTE_TAIL_CHARACTERS = 20_000
_BIG_GAP = re.compile(r"\n{4,}")
_PARAGRAPH = re.compile(r"\s*((?:\S.*(?:\n|\Z)|[ \t]+\S.*(?:\n|\Z))+)")
_PAGE_MARK = re.compile(r"(?<=\s)[\[{]Pg [0-9ivxlc]+[\]}][ \t]|[\[{]Pg [0-9ivxlc]+[\]}]")
_PICTURE = re.compile(r"^[ \t]*\[(?:Illustration|Blank Page|Decoration)\.?\][ \t]*\n", re.M | re.I)
_NOTICE = re.compile(r"<<THIS ELECTRONIC VERSION.{0,2000}?>>", re.S)


class Book(NamedTuple):
    """A book's text, and what its header says; "" for what it does not."""

    text: str
    title: str = ""
    author: str = ""
    language: str = ""
    number: str = ""
    licence: str = LICENCE


def is_gutenberg(text: str) -> bool:
    """Whether a text came from Project Gutenberg, by its first lines or its last."""
    return bool(_MENTION.search(text[:4000]) or _END.search(text[-40_000:]))


def read_book(text: str, *, removes_notes: bool) -> Book:
    """The book without what Project Gutenberg put around it; line ends are newlines already.

    `removes_notes`: transcribers' notes at the beginning and the end go as well.
    """
    header, body = _split(text)
    fields = {one[1]: " ".join(one[2].split()) for one in _FIELD.finditer(header)}
    named = _NAMED.search(header)
    number = _NUMBER.search(header)
    body = _NOTICE.sub("", body)
    body = _PICTURE.sub("", _PAGE_MARK.sub("", body)).strip("\n")
    return Book(
        text=_without_notes(_without_credits(body), removes_notes).strip("\n"),
        title=fields.get("Title") or (named[1].strip() if named else ""),
        author=fields.get("Author") or (named[2].strip() if named and named[2] else ""),
        language=fields.get("Language", ""),
        number=number[1] if number else "",
        licence=RESERVED if _RESERVED.search(header) else LICENCE,
    )


def declared_encoding(data: bytes) -> str:
    """What a header says of its character set; "" where it says nothing."""
    for one in _FIELD.finditer(data[:8000].decode("latin-1").replace("\r", "")):
        if one[1].startswith("Character"):
            return one[2].strip()
    return ""


def _split(text: str) -> tuple[str, str]:
    """The header, and the book between header and footer."""
    end = _last(_END, text)
    lines = [one.start() for one in _END_LINE.finditer(text)]
    if end is None:
        end = lines[-1] if lines and lines[-1] > len(text) // 2 else len(text)
    else:
        end = min([end, *(one for one in lines if end - _NEAR_CHARACTERS < one < end)])
    start = 0
    for found in _START.finditer(text, 0, min(end, _HEAD_CHARACTERS)):
        start = found.end()
    return text[:start] or text[:2000], text[start:end]


def _last(pattern: re.Pattern[str], text: str) -> int | None:
    """Where the first of the last run of matches begins: a licence follows an END line."""
    places = [one.start() for one in pattern.finditer(text, len(text) // 3)]
    return next((one for one in places if places[-1] - one < _NOTE_TAIL_CHARACTERS), None)


def _without_credits(text: str) -> str:
    """The text from the first paragraph on that does not say who made the file."""
    position = 0
    while (found := _PARAGRAPH.match(text, position)) and found.end() > position:
        if not (_CREDIT.match(found[1]) and len(found[1]) < _CREDIT_CHARACTERS):
            break
        position = found.end()
    return text[position:]


def _without_notes(text: str, removes_notes: bool) -> str:
    if not removes_notes:
        return text
    found = _PARAGRAPH.match(text)
    if found and _NOTE.match(found[1]):
        gap = _BIG_GAP.search(text, found.end() - 1, 6000)
        text = text[gap.end() if gap else found.end() :]
    tail = max(len(text) * 9 // 10, len(text) - _NOTE_TAIL_CHARACTERS)
    for paragraph in _PARAGRAPH.finditer(text, tail):
        if _NOTE.match(paragraph[1]):
            return text[: paragraph.start()].rstrip()
    return text
