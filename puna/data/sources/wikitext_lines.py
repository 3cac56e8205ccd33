# ruff: noqa: RUF001
"""The lines of wikitext whose brackets are gone: headings, lists, formatting, and the holes left.

A removed template leaves the character HOLE; only beside one are parentheses, commas and spaces
taken away, so that `printf()` stays.
"""

from __future__ import annotations

import re

HOLE = "\x02"

_EXTERNAL_LINK = re.compile(
    r"\[(?:(?:https?|ftp|news|irc)://|//|mailto:)[^\s\[\]]*(?:[ \t]([^\[\]\n]*))?\]"
)
_LINK_ITEM = re.compile(r"\n[*#:;]+[ \t'\x02]*\[(?:https?:|ftp:|//)[^\n]*")
_BARE_LINK = re.compile(r"(?:ht|f)tps?://[^\s\[\]<>\"|]+")
_MAGIC_WORD = re.compile(r"__(\w{2,40}?)__")
_VARIANT = re.compile(r"-\{([^{}]*)\}-")
_RAISED = re.compile(r"<(sup|sub)\b[^<>]*>\s*([0-9+\-−–n()=]{1,12})\s*</\1\s*>", re.I)
_TAG = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]*)(?:[\s/][^<>]*)?>")
_QUOTES = re.compile("('{2,})")
_WORD = re.compile(r"[^\W_]")

_HOLES = re.compile("\x02[ ,;:/\u2013\x02]*\x02")
_SEPARATORS = " ,;:\u2013\u2014-\xa0"
_SPACES = re.compile(r"[^\S\n]{2,}")

_SUPERSCRIPTS = str.maketrans("0123456789+-−–n()=", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻ⁿ⁽⁾⁼")
_SUBSCRIPTS = str.maketrans("0123456789+-−–n()=", "₀₁₂₃₄₅₆₇₈₉₊₋₋₋ₙ₍₎₌")

_INLINE = """b i u s em strong small big span font sub sup tt code kbd samp var cite abbr del ins
    strike nowiki onlyinclude noinclude includeonly ref references gallery pre math a dfn q bdi bdo
    ruby rb rp rt rtc mark wbr time data nobr thead tbody tfoot col colgroup syntaxhighlight source
    section templatestyles li dt dd img table timeline chem ce translate tvar languages"""
# What a tag stands for; any other word in angle brackets is text.
_TAGS = (
    dict.fromkeys(["br", "div", "center", "tr", "ul", "ol", "dl", "hr", "caption"], "\n")
    | dict.fromkeys(["p", "blockquote", "poem", "h1", "h2", "h3", "h4", "h5", "h6"], "\n\n")
    | dict.fromkeys(["td", "th"], " ")
    | dict.fromkeys(_INLINE.split(), "")
)
_ITEM_TAGS = {"li": "\n* ", "dt": "\n; ", "dd": "\n: "}


def to_paragraphs(text: str) -> str:
    """The text without formatting, in paragraphs, headings and lists."""
    if "//" in text or "[mailto:" in text:
        text = _LINK_ITEM.sub("", "\n" + text)
        text = _EXTERNAL_LINK.sub(lambda match: match[1] or HOLE, text)
        text = _BARE_LINK.sub(HOLE, text)
    if "-{" in text:
        text = _VARIANT.sub(_first_variant, text)
    if "<" in text:
        text = _RAISED.sub(_raised, text)
        text = _TAG.sub(_tag, text)
    if "__" in text:
        text = _MAGIC_WORD.sub(lambda match: "" if match[1].isupper() else match[0], text)
    if HOLE in text:
        text = _without_holes(text)
    return _Lines().read(text)


def _first_variant(match: re.Match[str]) -> str:
    """What a reader of the first script sees: `-{sr-ec: x; sr-el: y}-`; `-{x}-` is x."""
    content = match[1].rpartition("|")[2].partition(";")[0]
    return re.sub(r"^\s*[a-z]{2,3}(?:-[a-z]+)?\s*:\s*", "", content)


def _raised(match: re.Match[str]) -> str:
    is_high = match[1].lower() == "sup"
    return match[2].translate(_SUPERSCRIPTS if is_high else _SUBSCRIPTS)


def _tag(match: re.Match[str]) -> str:
    name = match[1].lower()
    if name in _ITEM_TAGS and match[0][1] != "/":
        return _ITEM_TAGS[name]
    return _TAGS.get(name, match[0])


def _without_holes(text: str) -> str:
    first, *others = _HOLES.sub(HOLE, text).split(HOLE)
    pieces = [first]
    for piece in others:
        left, right = _joined(pieces[-1], piece)
        pieces[-1] = left
        pieces.append(right)
    return "".join(pieces)


def _joined(left: str, right: str) -> tuple[str, str]:
    """What stands before and after a hole, without what only the removed words needed."""
    bare_left, bare_right = left.rstrip(_SEPARATORS), right.lstrip(_SEPARATORS)
    is_opened, is_closed = bare_left.endswith(("(", "（")), bare_right.startswith((")", "）"))
    if is_opened and is_closed:
        left, right = bare_left[:-1].rstrip(" "), bare_right[1:]
        return left, right
    if is_opened or is_closed:
        return bare_left, bare_right
    trimmed = right.lstrip(" ")
    if not trimmed or trimmed[0] in ",.;:\n":
        left = left.rstrip(" ")
        is_repeated = left[-1:] in (",", ";", ":") and trimmed[:1] in (",", ";", ".")
        is_first = left[-1:] in ("", "\n")
        return left[:-1] if is_repeated else left, trimmed.lstrip(",; ") if is_first else trimmed
    return left, trimmed if left[-1:] in ("", " ", "\n") else right


def _without_quotes(line: str) -> str:
    """The line without '' and '''; an apostrophe before them stays (l'''Encyclopédie'')."""
    runs = _QUOTES.split(line)
    lengths = [len(run) for run in runs[1::2]]
    apostrophes = [1 if n == 4 else max(0, n - 5) for n in lengths]
    bold = [index for index, n in enumerate(lengths) if n == 3]
    italic_count = sum(n == 2 or n >= 5 for n in lengths)
    bold_count = len(bold) + sum(n >= 4 for n in lengths)
    if bold and italic_count % 2 and bold_count % 2:
        before = [runs[2 * index] for index in bold]
        single = [i for i, text in zip(bold, before, strict=True) if _ends_in_one_letter(text)]
        apostrophes[(single or bold)[0]] = 1
    runs[1::2] = ["'" * count for count in apostrophes]
    return "".join(runs)


def _ends_in_one_letter(text: str) -> bool:
    return text[-1:].isalpha() and not text[-2:-1].isalnum()


def _is_table_row(line: str) -> bool:
    """Whether a line is left over from a table that never ended."""
    line = line.lstrip()
    return line[0] == "|" or (line[0] == "!" and (line[1:2] == " " or "|" in line or "!!" in line))


class _Lines:
    """Blocks of text so far; (level, text) with level 0 for text and 1 to 6 for headings."""

    def __init__(self) -> None:
        self.blocks: list[tuple[int, str]] = []
        self.lines: list[str] = []
        self.is_list = False
        self.counts: list[int] = []

    def read(self, text: str) -> str:
        for raw_line in text.split("\n"):
            line = _without_quotes(raw_line) if "''" in raw_line else raw_line
            line = _SPACES.sub(" ", line.strip()) if "  " in line else line.strip()
            if not line:
                self._end_block()
            elif line[0] == "=" and line[-1] == "=" and len(line) > 2:
                self._heading(line)
            elif line[0] in "*#:;":
                self._item(line)
            elif not _is_table_row(raw_line) and _WORD.search(line):
                self._line(line, is_list=False)
        self._end_block()
        return "\n\n".join(self._with_content())

    def _end_block(self) -> None:
        if self.lines:
            self.blocks.append((0, "\n".join(self.lines)))
            self.lines = []
        self.counts = []

    def _line(self, line: str, *, is_list: bool) -> None:
        if is_list != self.is_list:
            self._end_block()
            self.is_list = is_list
        self.lines.append(line)

    def _heading(self, line: str) -> None:
        title = line.strip("=")
        level = min(6, len(line) - len(line.lstrip("=")))
        self._end_block()
        if _WORD.search(title):
            self.blocks.append((level, title.strip()))

    def _item(self, line: str) -> None:
        content = line.lstrip("*#:;")
        marks = line[: len(line) - len(content)].rstrip(":;")
        content = content.strip()
        if not _WORD.search(content):
            return
        if not marks:
            self._line(content, is_list=False)
            return
        depth = min(len(marks), 9)
        self.counts = [*self.counts[:depth], *[0] * (depth - len(self.counts))]
        self.counts[-1] += 1
        mark = f"{self.counts[-1]}." if marks[-1] == "#" else "-"
        self._line(f"{'  ' * (depth - 1)}{mark} {content}", is_list=True)

    def _with_content(self) -> list[str]:
        """The blocks, without headings that nothing stands under."""
        kept: list[str] = []
        below = 0  # the level of what stands below; text is deeper than any heading
        for level, text in reversed(self.blocks):
            if level == 0:
                below = 9
            elif below <= level:
                continue
            else:
                below = level
            kept.append(text)
        return kept[::-1]
