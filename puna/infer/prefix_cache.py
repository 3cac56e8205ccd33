"""Full pages found again by what they hold: a page's 32 ids, and the page before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

BEGINNING = 0  # the link before a text's first page


class KnownPage(NamedTuple):
    """A page and its link: the number that stands for the whole text up to its end."""

    page: int
    link: int


class PrefixCache:
    """(link of the text before, 32 ids) -> page.

    The ids themselves are compared, and a link is given once and never again: so two texts never
    share a page by accident.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, tuple[int, ...]], KnownPage] = {}
        self._keys: dict[int, tuple[int, tuple[int, ...]]] = {}  # page -> its key above
        self._last_link = BEGINNING

    def __contains__(self, page: int) -> bool:
        return page in self._keys

    def find(self, link: int, ids: Sequence[int]) -> KnownPage | None:
        """The page that holds `ids` after the text that `link` stands for."""
        return self._known.get((link, tuple(ids)))

    def add(self, link: int, ids: Sequence[int], page: int) -> int:
        """Keep a filled page; its link. Where its text lies in another page, that one's link."""
        key = (link, tuple(ids))
        known = self._known.get(key)
        if known is None:
            self._last_link += 1
            known = self._known[key] = KnownPage(page, self._last_link)
            self._keys[page] = key
        return known.link

    def forget(self, page: int) -> None:
        """The page is to hold something else."""
        del self._known[self._keys.pop(page)]
