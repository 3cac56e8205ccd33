"""Common Crawl's files of a crawl: `{wet,warc}.paths.gz` names them; no hashes are published."""

from __future__ import annotations

import io
from collections.abc import Iterator

from puna.data.fetch.listing import Choice, Listed, Lists, address, require_items, require_name
from puna.data.sources.commoncrawl import DOWNLOADS, read_paths
from puna.download import Wanted
from puna.errors import UsageError

KINDS = ("wet", "warc")


def list_files(choice: Choice, lists: Lists) -> Iterator[Listed]:
    """The files of the crawls asked for, each in the folder CRAWL/KIND.

    Raises UsageError for what is no crawl's name or kind, DataError for a broken list.
    """
    kind = choice.kind or KINDS[0]
    if kind not in KINDS:
        raise UsageError(f"--kind is one of {', '.join(KINDS)}, got {kind!r}")
    hint = "puna data fetch commoncrawl CC-MAIN-2019-30 --files 10 --out raw"
    crawls = require_items(choice, r"CC-MAIN-[\w-]+", "the name of a crawl", hint)
    for crawl in crawls:
        place = choice.list_at or address(choice.base, "crawl-data", crawl, f"{kind}.paths.gz")
        for url in read_paths(io.BytesIO(lists.read(place)), place):
            path = require_name(url.removeprefix(DOWNLOADS), place)
            name = f"{crawl}/{kind}/{path.rpartition('/')[2]}"
            yield Listed(name, Wanted(address(choice.base, path)), is_gzip=True)
