"""Paragraphs whose lines were broken to fit a page, as one line each; verse and tables as they are.

A break is soft when the next word would hardly have fitted. A paragraph is joined when all its
breaks are soft, no line is indented or has columns, and its lines do not all begin with capitals.
"""

from __future__ import annotations

import re
from itertools import pairwise

_NARROWEST = 55  # a page narrower than this is verse, or one cannot tell
_INDENTED = ("  ", "\t")  # one space alone is a slip of a wrapping program
_SLACK = 14  # what a balanced wrapping, as proofreaders use it, leaves free
_COLUMNS = re.compile(r"\S(?: {3,}|\t)\S")
_PARAGRAPHS = re.compile(r"(\n[ \t]*(?:\n[ \t]*)*\n)")
_OPENING = "\"'\u201c\u2018«»„(["


def unwrapped(text: str) -> str:
    """The text with its wrapped paragraphs joined."""
    width = _width(text)
    if width < _NARROWEST:
        return text
    parts = _PARAGRAPHS.split(text)
    parts[::2] = [_joined(part, width) for part in parts[::2]]
    return "".join(parts)


def _width(text: str) -> int:
    """The length that a tenth of the longer lines exceed."""
    lengths = sorted(len(line) for line in text.split("\n") if line.strip())
    return lengths[len(lengths) * 9 // 10] if lengths else 0


def _joined(paragraph: str, width: int) -> str:
    lines = paragraph.strip("\n").split("\n")
    if len(lines) < 2 or any(line.startswith(_INDENTED) or _COLUMNS.search(line) for line in lines):
        return paragraph
    rest = [line.lstrip(_OPENING) for line in lines[1:]]
    if len(rest) > 1 and all(line[:1].isupper() for line in rest):
        return paragraph
    for line, after in pairwise(lines):
        if len(line.rstrip()) + 1 + len(after.split(" ", 1)[0]) <= width - _SLACK:
            return paragraph
    text = lines[0].rstrip()
    parts = [text]
    for line in lines[1:]:
        stripped = line.strip()
        is_broken_word = parts[-1][-1:] in ("-", "—") and stripped[:1].isalpha()
        parts += [stripped] if is_broken_word else [" ", stripped]
    return "".join(parts)
