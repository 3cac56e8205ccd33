"""The addresses that Wikipedia's articles refer to: in <ref>, in templates of sources, in links.

All addresses in an article's wikitext count, wherever they stand. Two are taken for the same page
where these are: the host in small letters without `www.` and the ports 80 and 443, the path without
a slash at its end, and the query. Scheme, user and fragment do not count.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import BinaryIO

from puna.data.sources.xml_dump import Damage, Dump, parse

# What cannot be in an address, or ends one in wikitext: spaces, brackets, quotes, a template's bar.
_ADDRESS = re.compile(r"(?:https?://|(?<=\[)//)[^\s|<>\[\]{}\"]+", re.I)
_PARTS = re.compile(
    r"(?:[a-z][a-z0-9+.-]*:)?//(?:[^/@?#]*@)?(?:www\.)?"
    r"([^/?#:]+)(?::(?:80|443)(?!\d))?([^?#]*)([^#]*)",
    re.I,
)
_ARCHIVE = re.compile(r"https?://web\.archive\.org/web/\w+/(?=https?:)", re.I)
_LONGEST = 2000  # characters; longer ones are no pages of text


def references(file: BinaryIO, part: range | None = None) -> Iterator[str]:
    """The addresses in the articles of a dump, or of a part of it, as `normalised` has them.

    As often as they come. What is damaged is passed over: `wikipedia.read` counts it.
    """
    for _, data in Dump(file, b"<page>", b"</page>", part=part):
        page = parse(data) if isinstance(data, bytes) else data
        if isinstance(page, Damage) or page.findtext("ns", "0").strip() != "0":
            continue
        revisions = page.findall("revision")
        yield from addresses_in((revisions[-1].findtext("text") if revisions else "") or "")


def addresses_in(wikitext: str) -> Iterator[str]:
    """The addresses in a wikitext, without the punctuation of the sentence around them.

    A copy at web.archive.org stands for the page that it is of.
    """
    for found in _ADDRESS.findall(wikitext):
        address = html.unescape(found.partition("''")[0]).rstrip(".,;:!?'")
        address = _ARCHIVE.sub("", address)
        if address.endswith(")") and address.count(")") > address.count("("):
            address = address[:-1]
        if one := normalised(address):
            yield one


def normalised(address: str) -> str:
    """What two addresses of the same page have in common; "" for what is no address."""
    found = _PARTS.match(address) if len(address) <= _LONGEST else None
    if not found or "." not in found[1]:
        return ""
    return found[1].lower() + found[2].rstrip("/") + (found[3] if len(found[3]) > 1 else "")
