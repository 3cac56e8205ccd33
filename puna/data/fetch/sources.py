"""What can be fetched: each source's host, terms and manner, and where its list is read."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from puna.config import nearest
from puna.data.fetch.listing import Choice, Listed, Lists
from puna.errors import UsageError

Lister = Callable[[Choice, Lists], Iterator[Listed]]


@dataclass(frozen=True)
class Source:
    """A source: where its files lie, what its host asks for, which options it takes."""

    module: str
    base: str  # --mirror takes its place
    items: str  # what its parts are called
    licence: str
    terms: str  # said before the first byte
    options: tuple[str, ...] = ()
    most_connections: int = 2
    between_seconds: float = 0.0

    @property
    def list_files(self) -> Lister:
        """The function that lists the files asked for."""
        return cast(Lister, importlib.import_module(self.module).list_files)

    def by_hand(self, choice: Choice) -> str | None:
        """What a user has to do himself, where Puna cannot fetch it so; else None."""
        function = getattr(importlib.import_module(self.module), "by_hand", None)
        return function(choice) if function else None


SOURCES = {
    "commoncrawl": Source(
        module="puna.data.fetch.commoncrawl",
        base="https://data.commoncrawl.org",
        items="crawls (CC-MAIN-2019-30)",
        licence="Common Crawl Terms of Use; pages belong to their owners",
        terms="terms: https://commoncrawl.org/terms-of-use; few connections, or it blocks you",
        options=("kind",),
    ),
    "c4": Source(
        module="puna.data.fetch.c4",
        base="https://huggingface.co",
        items="variants (en, en.noclean, realnewslike)",
        licence="ODC-BY; Common Crawl Terms of Use; pages belong to their owners",
        terms="terms: https://huggingface.co/datasets/allenai/c4; name C4 in what you publish",
    ),
    "wikipedia": Source(
        module="puna.data.fetch.wikipedia",
        base="https://dumps.wikimedia.org",
        items="languages (en simple); all twenty of the paper if none",
        licence="CC BY-SA",
        terms="terms: https://dumps.wikimedia.org/legal.html; at most two connections, or a mirror",
        options=("date",),
    ),
    "books": Source(
        module="puna.data.fetch.books",
        base="https://gutenberg.pglaf.org",
        items="languages (en fr); all if none",
        licence="public domain in the USA; elsewhere the law may differ",
        terms="terms: https://www.gutenberg.org/policy/terms_of_use.html; robots go to mirrors, "
        "one file every two seconds",
        most_connections=1,
        between_seconds=2.0,
    ),
    "arxiv": Source(
        module="puna.data.fetch.arxiv",
        base="arxiv",
        items="months (2301 is January 2023); all if none",
        licence="arXiv: each paper's own; most only let arXiv distribute it",
        terms="terms: https://arxiv.org/help/bulk_data_s3; you pay Amazon for the transfer",
        options=("pay",),
    ),
    "stackexchange": Source(
        module="puna.data.fetch.stackexchange",
        base="https://archive.org",
        items="sites (beer.stackexchange.com); the 28 largest if none",
        licence="CC BY-SA 2.5, 3.0 and 4.0, by date",
        terms="terms: https://archive.org/details/stackexchange; attribution and like licence",
    ),
    "github": Source(
        module="puna.data.fetch.github",
        base="https://github.com",
        items="repositories (OWNER/NAME, OWNER/NAME@TAG)",
        licence="each repository's own; Puna keeps MIT, BSD and Apache",
        terms="terms: https://docs.github.com/site-policy; one archive every two seconds",
        most_connections=1,
        between_seconds=2.0,
    ),
}


def find(name: str, others: tuple[str, ...] = ()) -> Source:
    """The source `name`. Raises UsageError that names the nearest, of `others` too."""
    if name not in SOURCES:
        raise UsageError(
            f"there is no source {name!r} to fetch", hint=nearest(name, [*SOURCES, *others])
        )
    return SOURCES[name]
