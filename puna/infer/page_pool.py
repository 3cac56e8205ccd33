"""The pages of keys and values: which are free, and how many texts use each of the others."""

from __future__ import annotations

from puna.infer.prefix_cache import PrefixCache


class PagePool:
    """Pages numbered from 0. One that nobody uses but `prefixes` knows is kept until it is needed.

    Those unused the longest are given away first; whoever releases the pages of a text should
    begin with its last one, so that a text's end goes before its beginning.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.prefixes = PrefixCache()
        self._free = list(range(count - 1, -1, -1))
        self._users = [0] * count
        self._unused: dict[int, None] = {}  # known pages without users, in the order of release

    @property
    def available(self) -> int:
        """How many pages can be taken."""
        return len(self._free) + len(self._unused)

    def is_unused(self, page: int) -> bool:
        """Whether nobody uses the page, so that it counts as available."""
        return page in self._unused

    def take(self) -> int:
        """A page for new content. There must be one available."""
        if self._free:
            page = self._free.pop()
        else:
            page = next(iter(self._unused))
            del self._unused[page]
            self.prefixes.forget(page)
        self._users[page] = 1
        return page

    def share(self, page: int) -> None:
        """Count one more user of a known page."""
        self._users[page] += 1
        self._unused.pop(page, None)

    def release(self, page: int) -> None:
        """Count one user less."""
        self._users[page] -= 1
        assert self._users[page] >= 0
        if self._users[page]:
            return
        if page in self.prefixes:
            self._unused[page] = None
        else:
            self._free.append(page)
