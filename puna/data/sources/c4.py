"""C4 (paper 2.1): its JSON lines as published, or the same made anew from WET files by its rules.

Made anew it differs from the published C4 in these: Punkt's English model and the list of bad words
are those of today's wheels (puna/data/quality/rules_c4.py says which); English is left to the stage
of language (lid.176, where C4 took langdetect at 0.99); what occurs in several pages is left to the
stages of de-duplication (C4 kept each line of a snapshot in one page only).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from puna.data.document import DAMAGED, Document, Dropped, read_records
from puna.data.quality.rules_c4 import C4Rules, clean_page, list_of_words
from puna.data.sources import commoncrawl
from puna.errors import DataError

NAME = "c4"
LICENCE = "ODC-BY; Common Crawl Terms of Use; pages belong to their owners"
_JSON = (".json", ".jsonl")
_PACKED = (".gz", ".zst")
# English's files are named by split, the others' (mC4) by language: c4-de.tfrecord-00000-of-...
_PUBLISHED = re.compile(
    r"c4-(?:(?:train|validation)|([a-z]{2,3})(?:-[A-Za-z]+)?\.tfrecord)[.-]\d{5}-of-\d{5}\.json"
)
_WET = commoncrawl.Settings(drops_title=False, min_characters=0)


@dataclass(frozen=True)
class Settings:
    """The rules for what is made from WET; rows as published met them once and are kept as is."""

    rules: C4Rules = field(default_factory=C4Rules)
    filters_rows: bool = False  # JSON rows go through the rules as well (C4's `noclean` variant)
    language: str = ""  # of rows, where it is not what a published file's name says


def needs(settings: Settings) -> list[str]:
    """A list of bad words of one's own, where one is named."""
    return list_of_words(settings.rules)


def read(file: BinaryIO, path: str, settings: Settings) -> Iterator[Document | Dropped]:
    """The documents of a `.json(l)`, packed or not, or of a WET or WARC file.

    A published row has text, url and timestamp; its id is the url with the timestamp, or the file's
    name and the line where it has none; its language is what the file's published name says. A row
    without text comes as Dropped, as damaged.
    """
    name = path.rpartition("/")[2]
    plain_name = name.removesuffix(next((one for one in _PACKED if name.endswith(one)), ""))
    if plain_name.endswith(_JSON):
        yield from _rows(file, path, name, settings)
        return
    for item in commoncrawl.read(file, path, _WET):
        if isinstance(item, Document):
            yield _cleaned(replace(item, source=NAME, licence=LICENCE), settings.rules)
        else:
            yield replace(item, source=NAME)


def _rows(file: BinaryIO, path: str, name: str, settings: Settings) -> Iterator[Document | Dropped]:
    found = _PUBLISHED.match(name)
    language = settings.language or ((found[1] or "en") if found else "")
    for number, record in read_records(file, path):
        place = f"{name}#{number}"
        try:
            document = replace(_row(record, f"{path} line {number}", place), language=language)
        except DataError as error:
            yield Dropped(place, NAME, DAMAGED, error.message)
            continue
        yield _cleaned(document, settings.rules) if settings.filters_rows else document


def _row(record: dict[str, Any] | DataError, where: str, place: str) -> Document:
    """Raises DataError where a line holds no document."""
    if isinstance(record, DataError):
        raise record
    text, url, timestamp = (record.get(key, "") for key in ("text", "url", "timestamp"))
    if not (isinstance(text, str) and text.strip()):
        raise DataError(f"{where} has no text")
    if not isinstance(url, str) or not isinstance(timestamp, str):
        raise DataError(f"{where}: url and timestamp should be texts")
    return Document(text, NAME, LICENCE, f"{url} {timestamp}".strip() or place, url)


def _cleaned(document: Document, rules: C4Rules) -> Document | Dropped:
    found = clean_page(document.text, rules)
    if isinstance(found, str):
        return replace(document, text=found)
    size, excerpt = len(document.text.encode()), document.text[: commoncrawl.EXCERPT_CHARACTERS]
    return Dropped(document.id, NAME, found.reason, document.url, size, excerpt)
