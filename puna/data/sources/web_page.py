"""An HTML page as text: its main content, or all that it shows (resiliparse)."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from puna.errors import DataError, missing_package

if TYPE_CHECKING:
    from resiliparse.parse.html import HTMLTree

# Finding the main content takes time quadratic in the nesting: 1.4 s at 8,000 elements.
DEEPEST = 1000
_TAG = re.compile(rb"<(/?[A-Za-z][^\s/>]*)")
# Elements without an end tag, or whose end tag may be left out.
_OPEN_ENDED = """area base br col embed hr img input link meta param source track wbr html head body
    p li dt dd tr td th thead tbody tfoot colgroup option optgroup rt rp"""
_STEPS = {
    spelled.encode(): 0
    for name in _OPEN_ENDED.split()
    for spelled in (name, f"/{name}", name.upper(), f"/{name.upper()}")
}
_LINKS = re.compile(r"<a(?:\s[^>]*)?>(.*?)</a>", re.S)
_TAGS = re.compile(r"<[^>]*>")
_BULLET = "\U0010fffd"  # the last code point for private use, which no icon font has
_LISTED_CHARACTERS = 64 << 20  # lists within lists are read again and again
_MARKED_NUMBER = re.compile(rf"\d+\. ?{_BULLET}\s*")
_BLANK_LINES = re.compile(r"\n{3,}")
_INVISIBLE = str.maketrans({"\xa0": " ", "\xad": None, "\u200b": None, "\ufeff": None, "\0": None})


def page_text(page: bytes, charset: str | None = None, *, is_whole: bool = False) -> str:
    """The text of a page's main content, or of the whole page; paragraphs apart by an empty line.

    `charset` is what the server said; without it the page's own word counts, then a guess.
    Raises DataError where elements nest deeper than DEEPEST, MachineError without resiliparse.
    """
    try:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.html import HTMLTree
    except ImportError:
        raise missing_package("resiliparse", "data", "reading web pages") from None
    if page.count(b"<") > DEEPEST and _depth(page) > DEEPEST:
        raise DataError(f"its elements nest deeper than {DEEPEST}")
    tree = HTMLTree.parse(decoded(page, charset, is_html=True))
    if not is_whole:
        _guard_lists(tree)
    text = extract_plain_text(
        tree,
        main_content=not is_whole,
        preserve_formatting=True,
        alt_texts=False,
    )
    return tidy(_MARKED_NUMBER.sub("• ", text).replace(_BULLET, ""))


def _guard_lists(tree: HTMLTree) -> None:
    """Make numbered lists of lists of text: of `ul`, many are taken for menus, and lost.

    A list is one of text where at most half of its characters are within links. Its items are
    marked, to get their bullets back.
    """
    body: Any = tree.body
    characters_left = _LISTED_CHARACTERS
    for found in list(body.get_elements_by_tag_name("ul")) if body else ():
        markup = found.html  # elements as objects take three times as long
        characters_left -= len(markup)
        if characters_left < 0:
            return
        linked = _TAGS.sub("", "".join(_LINKS.findall(markup)))
        if len(linked) * 2 > len(found.text.strip()):
            continue
        numbered: Any = tree.create_element("ol")
        found.parent.insert_before(numbered, found)
        for item in list(found.child_nodes):
            numbered.append_child(item)
            if item.tag == "li" and item.first_child:
                item.insert_before(tree.create_text_node(_BULLET), item.first_child)
        found.parent.remove_child(found)


def decoded(data: bytes, charset: str | None = None, *, is_html: bool = False) -> str:
    """Bytes as text by their byte order mark, `charset`, the page's own word, or a guess."""
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    marks = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
    found = next((name for mark, name in marks.items() if data.startswith(mark)), None)
    if not found and charset:
        found = map_encoding_to_html5(charset, fallback_utf8=False)
    return bytes_to_str(data, found or detect_encoding(data, from_html_meta=is_html) or "utf-8")


def tidy(text: str) -> str:
    """The text without spaces at the ends of lines, runs of empty lines and what nobody sees."""
    lines = [line.rstrip() for line in text.translate(_INVISIBLE).splitlines()]
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def _depth(page: bytes) -> int:
    """How deep elements nest at most, where every end tag is there that has to be."""
    steps = (_STEPS.get(tag, -1 if tag[0] == 47 else 1) for tag in _TAG.findall(page))
    return max(accumulate(steps), default=0)
