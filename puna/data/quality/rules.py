"""Rules of thumb that tell text from the rest of the web: C4's and Gopher's, each as one likes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from puna.data.document import Document, Dropped
from puna.data.quality.rules_c4 import C4Rules, Refused, clean_page, list_of_words
from puna.data.quality.rules_gopher import (
    GopherQuality,
    GopherRepetition,
    quality_problem,
    repetition_problem,
)
from puna.data.words import words_of

EXCERPT_CHARACTERS = 200


@dataclass(frozen=True)
class Settings:
    """The sets of rules, applied in this order; None leaves one out."""

    c4: C4Rules | None = None  # also drops lines; for text as it comes from the web
    quality: GopherQuality | None = field(default_factory=GopherQuality)
    repetition: GopherRepetition | None = field(default_factory=GopherRepetition)


def needs(settings: Settings) -> list[str]:
    """A list of bad words of one's own, where one is named."""
    return list_of_words(settings.c4) if settings.c4 else []


def apply(documents: Sequence[Document], settings: Settings) -> list[Document | Dropped]:
    """Each document as the rules leave it, or Dropped with the first rule it does not meet."""
    return [_judged(document, settings) for document in documents]


def _judged(document: Document, settings: Settings) -> Document | Dropped:
    text: str | Refused = document.text
    if settings.c4:
        text = clean_page(document.text, settings.c4)
    problem = text.reason if isinstance(text, Refused) else _gopher_problem(text, settings)
    if problem:
        size = len(document.text.encode())
        excerpt = document.text[:EXCERPT_CHARACTERS]
        return Dropped(document.id, document.source, problem, "", size, excerpt)
    assert isinstance(text, str)
    return document if text == document.text else _with_text(document, text)


def _gopher_problem(text: str, settings: Settings) -> str | None:
    words = words_of(text)
    problem = quality_problem(text, words, settings.quality) if settings.quality else None
    if problem or not settings.repetition:
        return problem
    return repetition_problem(text, words, settings.repetition)


def _with_text(document: Document, text: str) -> Document:
    return Document(
        text, document.source, document.licence, document.id, document.url, document.language
    )
