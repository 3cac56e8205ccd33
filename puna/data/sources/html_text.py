"""The HTML of posts (what Markdown makes: paragraphs, lists, code, quotes, links) to plain text.

One pass over the tags in linear time; never raises. Code blocks keep their lines and indentation,
lists their marks, links their words; images and scripts leave nothing.
"""

from __future__ import annotations

import html
import re

_TAGS = re.compile(r"(<!--[^<]*?-->|</?[a-zA-Z][^<>]*>)")
_NAME = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]*)")
_START = re.compile(r'\bstart="(\d{1,6})"')
_SPACE = re.compile(r"\s+")
_DEEPEST = 20  # lists and quotes within one another

_BLOCKS = frozenset(
    {"p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "dl", "dt", "dd"}
    | {"section", "article", "header", "footer", "figure", "details", "summary", "hr"}
)
_SILENT = frozenset({"script", "style"})
_LOW = str.maketrans("0123456789+-n", "₀₁₂₃₄₅₆₇₈₉₊₋ₙ")
_HIGH = str.maketrans("0123456789+-n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ")
_RAISABLE = re.compile(r"[0-9+\-n]{1,6}")


def html_to_text(source: str) -> str:
    """The text a person sees, in paragraphs; "" where there is none."""
    writer = _Writer()
    for index, part in enumerate(_TAGS.split(source)):
        if index % 2 == 0:
            writer.text(part)
        elif name := _NAME.match(part):
            writer.tag(name[1].lower(), part)
    writer.end_block()
    return "\n".join(writer.lines).strip("\n")


class _Writer:
    """Lines so far, and the block that grows: its words, and what stands before its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.words: list[str] = []
        self.margins: list[str] = []  # of the lists and quotes around
        self.counts: list[int | None] = []  # the next number of each list around; None: bullets
        self.mark = ""  # of the list item that begins
        self.is_code = False
        self.silent = ""
        self.raised = ""

    def text(self, part: str) -> None:
        """Words between tags."""
        if self.silent or not part:
            return
        part = html.unescape(part) if "&" in part else part
        if self.raised and _RAISABLE.fullmatch(part):
            part = part.translate(_HIGH if self.raised == "sup" else _LOW)
        self.words.append(part if self.is_code else _SPACE.sub(" ", part))

    def tag(self, name: str, tag: str) -> None:
        """What a tag does to the blocks; formatting inside a line does nothing."""
        is_end = tag[1] == "/"
        if name in _SILENT or self.silent:
            is_last = is_end and name == self.silent
            self.silent = "" if is_last else self.silent or ("" if is_end else name)
        elif name == "pre":
            self.end_block()
            self.is_code = not is_end
        elif name in ("ul", "ol"):
            self._list(name, tag, is_end)
        elif name == "li":
            self._item(is_end)
        elif name == "blockquote":
            self.end_block()
            self._margin("> ", is_end)
        elif name == "br":
            self.words.append("\n")
        elif name in ("sup", "sub"):
            self.raised = "" if is_end else name
        elif name in ("td", "th"):
            self.words.append("" if is_end else " ")
        elif name == "tr":
            self.end_block(is_tight=True)
        elif name in _BLOCKS:
            self.end_block()

    def _list(self, name: str, tag: str, is_end: bool) -> None:
        self.end_block(is_tight=bool(self.counts))
        if is_end:
            self.counts = self.counts[:-1]
            self.mark = ""
        else:
            start = _START.search(tag)
            self.counts.append((int(start[1]) if start else 1) if name == "ol" else None)
        self._margin("  ", is_end, is_inner=len(self.counts) > (0 if is_end else 1))

    def _item(self, is_end: bool) -> None:
        self.end_block(is_tight=True)
        self.mark = ""
        if is_end:
            return
        number = self.counts[-1] if self.counts else None
        self.mark = "- " if number is None else f"{number}. "
        if number is not None:
            self.counts[-1] = number + 1

    def _margin(self, margin: str, is_end: bool, *, is_inner: bool = True) -> None:
        if not is_inner:
            return
        if not is_end:
            self.margins.append(margin)
        elif margin in self.margins:
            del self.margins[len(self.margins) - 1 - self.margins[::-1].index(margin)]

    def end_block(self, *, is_tight: bool = False) -> None:
        """Write the block that grew; a blank line stands between blocks unless one is tight."""
        block = "".join(self.words)
        self.words = []
        lines = block.strip("\n").split("\n") if self.is_code else _prose(block)
        if lines in ([], [""]):
            is_open = bool(self.lines) and self.lines[-1] != ""
            if is_open and not is_tight and not self.mark:
                self.lines.append("")
            return
        margin = "".join(self.margins[:_DEEPEST])
        for line in lines:
            self.lines.append(f"{margin}{self.mark}{line}".rstrip())
            margin += " " * len(self.mark)
            self.mark = ""
        if not is_tight:
            self.lines.append("")


def _prose(block: str) -> list[str]:
    lines = (
        " ".join(line.replace("\xa0", " ").split(" ")).strip(" ") for line in block.split("\n")
    )
    return [re.sub(" {2,}", " ", line) for line in lines if line]
