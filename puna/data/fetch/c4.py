"""C4 as published: gzip files of JSON lines in a repository of Hugging Face's hub, with SHA-256.

The hub tells a folder's files in pages of JSON: path, size and, of large files, `lfs.oid`, their
SHA-256; the header `Link` has the next page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from puna.data.fetch.listing import (
    Choice,
    Listed,
    Lists,
    address,
    number,
    require_items,
    require_name,
)
from puna.download import Wanted
from puna.errors import DataError

REPOSITORY = "datasets/allenai/c4"
MOST_PAGES = 100
_NEXT = re.compile(r'<([^<>]+)>;\s*rel="next"')


def list_files(choice: Choice, lists: Lists) -> Iterator[Listed]:
    """The training files of the variants asked for: en (the paper's), en.noclean, realnewslike...

    Raises UsageError for a malformed name, DataError for a list that is none.
    """
    hint = "puna data fetch c4 en --files 10 --out raw"
    for variant in require_items(choice, r"[a-z][\w.-]*", "a variant of C4", hint):
        place = choice.list_at or address(choice.base, "api", REPOSITORY, "tree/main", variant)
        for row in _rows(place, choice.base, lists):
            path = require_name(str(row.get("path")), place)
            if path.endswith(".json.gz") and "validation" not in path:
                large = row.get("lfs")
                sha256 = str(large.get("oid")) if isinstance(large, dict) else None
                url = address(choice.base, REPOSITORY, "resolve/main", path)
                wanted = Wanted(url, sha256=sha256, size=number(row.get("size")))
                yield Listed(path, wanted, is_gzip=sha256 is None)


def _rows(place: str, base: str, lists: Lists) -> Iterator[dict[str, Any]]:
    """The entries of a folder's pages, which all lie on one server."""
    for _page in range(MOST_PAGES):
        content, headers = lists.page(place)
        try:
            rows = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} should be a list in JSON: {error}") from None
        if not isinstance(rows, list):
            raise DataError(f"{place} should be a list of files, found {type(rows).__name__}")
        yield from (row for row in rows if isinstance(row, dict))
        following = _NEXT.search({key.lower(): headers[key] for key in headers}.get("link", ""))
        if following is None:
            return
        place = following[1]
        if not place.startswith(base.rstrip("/") + "/"):
            raise DataError(f"the list of C4 goes on at another server: {place[:100]}")
    raise DataError(f"the list of C4 has more than {MOST_PAGES} pages")
