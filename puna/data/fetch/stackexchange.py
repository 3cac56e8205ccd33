"""Stack Exchange's dumps as the Internet Archive keeps them; `stackexchange_files.xml` lists them.

Each file has its size, MD5 and SHA-1 there. Stack Overflow comes in an archive for each table.
"""

from __future__ import annotations

from collections.abc import Iterator

from puna.config import nearest
from puna.data.fetch.listing import (
    Choice,
    Listed,
    Lists,
    address,
    number,
    require_items,
    require_name,
    xml_rows,
)
from puna.data.sources.stackexchange import LARGEST_SITES
from puna.download import Wanted
from puna.errors import DataError


def list_files(choice: Choice, lists: Lists) -> Iterator[Listed]:
    """The archive with the posts of each site, of the 28 largest if none is named.

    Raises UsageError for a malformed name, DataError for a site that is not there.
    """
    sites = tuple(LARGEST_SITES.split())
    if choice.items:
        hint = "puna data fetch stackexchange beer.stackexchange.com --out raw"
        sites = require_items(choice, r"[a-z0-9][a-z0-9.-]*", "a site's name", hint)
    folder = address(choice.base, "download/stackexchange")
    place = choice.list_at or address(folder, "stackexchange_files.xml")
    rows = {row.get("name", ""): row for row in xml_rows(lists.read(place), "file", place)}
    for site in sites:
        name = next((one for one in (f"{site}-Posts.7z", f"{site}.7z") if one in rows), None)
        if name is None:
            known = [one.removesuffix(".7z") for one in rows if one.endswith(".7z")]
            raise DataError(f"{place} has no site {site}", hint=nearest(site, known))
        facts = rows[name]
        wanted = Wanted(
            address(folder, require_name(name, place)),
            sha1=facts.get("sha1") or None,
            md5=facts.get("md5") or None,
            size=number(facts.get("size")),
        )
        yield Listed(name, wanted)
