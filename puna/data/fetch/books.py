"""Project Gutenberg's books: its catalogue `pg_catalog.csv` names them, a mirror has the texts.

Its terms send robots to mirrors and ask for two seconds between requests. No hashes are published.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from puna.data.fetch.listing import Choice, Listed, Lists, address, lines, require_items
from puna.download import Wanted
from puna.errors import DataError

CATALOGUE = "https://www.gutenberg.org/cache/epub/feeds/pg_catalog.csv.gz"


def list_files(choice: Choice, lists: Lists) -> Iterator[Listed]:
    """The plain text of each book in the languages asked for, of every language if none is.

    Raises UsageError for a malformed code, DataError for a broken catalogue.
    """
    languages: set[str] = set()
    if choice.items:
        hint = "puna data fetch books en --files 100 --out raw"
        languages = set(require_items(choice, r"[a-z]{2,3}", "a language's code", hint))
    place = choice.list_at or CATALOGUE
    for row in _rows(lists.read(place), place):
        book, its_languages = row.get("Text#") or "", row.get("Language") or ""
        is_text = row.get("Type") == "Text" and book.isdecimal() and len(book) < 9
        if is_text and (not languages or languages & set(its_languages.split("; "))):
            name = f"pg{book}.txt"
            yield Listed(name, Wanted(address(choice.base, "cache/epub", book, name)))


def _rows(content: bytes, place: str) -> Iterator[dict[str, str | None]]:
    try:
        yield from csv.DictReader(lines(content, place))
    except csv.Error as error:
        raise DataError(f"{place} should be a catalogue in CSV: {error}") from None
