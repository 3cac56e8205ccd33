"""Some of the text that benches are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from puna.data.document import Document, read_documents


def some_documents(paths: Sequence[Path], text_bytes: float) -> list[Document]:
    """The first documents of the files, an equal share of bytes of each."""
    documents = []
    for path in paths:
        left = text_bytes / len(paths)
        for document in read_documents(path):
            if left <= 0:
                break
            documents.append(document)
            left -= len(document.text.encode())
    return documents
