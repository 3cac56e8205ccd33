"""Books in TEI XML (ELTeC and others): the body as paragraphs and verse, without notes or marks."""

from __future__ import annotations

import re
from typing import NamedTuple
from xml.etree.ElementTree import Element

from puna.data.sources.xml_dump import Damage, parse

_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_SPACE = re.compile(r"[ \t\r\n]+")
_SILENT = {"note", "gap", "fw", "figure", "graphic", "teiHeader", "del"}
_BREAKS = {"pb", "lb", "cb", "gb"}
_BLOCKS = {"p", "ab", "head", "l", "speaker", "stage", "item", "trailer", "byline", "dateline"}
_BLOCKS |= {"salute", "signed", "closer", "opener", "row", "argument", "epigraph", "label"}
_GROUPS = {"lg", "div", "div1", "div2", "div3", "quote", "list", "sp", "q", "table", "floatingText"}
_SECOND_CHOICE = ("}sic", "}abbr", "}orig")  # beside what the editor put right


class Text(NamedTuple):
    """A book's text, and what its header says; "" for what it does not."""

    text: str
    title: str
    author: str
    language: str
    licence: str


def read_tei(data: bytes) -> Text | Damage:
    """The book of a TEI file, or what is wrong with it."""
    if b"<!ENTITY" in data:
        return Damage("declares entities: they are not expanded")
    root = parse(data)
    if isinstance(root, Damage):
        return root
    bodies = root.findall(".//{*}text/{*}body")
    if not bodies:
        return Damage("no TEI: there is no <body>")
    author = root.find(".//{*}titleStmt/{*}author")
    licence = root.find(".//{*}availability/{*}licence")
    writer = _Writer()
    for body in bodies:
        writer.element(body)
    writer.end_block()
    return Text(
        text=re.sub(r"\n{3,}", "\n\n", "\n".join(writer.lines)).strip("\n"),
        title=_plain(root.find(".//{*}titleStmt/{*}title")).partition(" : ")[0],
        author=_person(author),
        language=root.get(_LANGUAGE) or _language(root),
        licence="" if licence is None else licence.get("target") or _plain(licence),
    )


def _language(root: Element) -> str:
    found = root.find(".//{*}langUsage/{*}language")
    return found.get("ident", "") if found is not None else ""


def _plain(element: Element | None) -> str:
    return "" if element is None else _SPACE.sub(" ", "".join(element.itertext())).strip()


def _person(author: Element | None) -> str:
    """Surname and forename where they are marked up; else the words."""
    if author is None:
        return ""
    names = [_plain(author.find(f".//{{*}}{part}")) for part in ("surname", "forename")]
    return ", ".join(filter(None, names)) or _plain(author)


def _is_silent(name: str, element: Element) -> bool:
    """Whether nothing of an element is read: notes, pictures, the numbers that lead to notes."""
    return name in _SILENT or (name == "ref" and element.get("target", "").startswith("#"))


def _chosen(name: str, element: Element) -> list[Element]:
    """An element's children; of a choice, those that the editor prefers."""
    children = list(element)
    if name != "choice":
        return children
    return [one for one in children if not str(one.tag).endswith(_SECOND_CHOICE)] or children


class _Writer:
    """Lines so far, and the words of the block that grows."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.words: list[str] = []
        self.is_verse = False

    def element(self, root: Element) -> None:
        """All below an element, without recursion: TEI may nest as deep as it likes."""
        waiting: list[tuple[Element, bool]] = [(root, False)]
        while waiting:
            element, is_over = waiting.pop()
            name = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else "note"
            if is_over:
                self._end(name)
            elif not _is_silent(name, element):
                self._begin(name, element)
                waiting.append((element, True))
                waiting += [(child, False) for child in reversed(_chosen(name, element))]
                continue
            if element is not root:
                self._text(element.tail, after_break=name in _BREAKS)

    def _begin(self, name: str, element: Element) -> None:
        if name in _BLOCKS | _GROUPS:
            self.end_block()
            self.is_verse = name == "l"
        if name in _GROUPS and self.lines and self.lines[-1]:
            self.lines.append("")
        self._text(element.text)

    def _end(self, name: str) -> None:
        if name in _BLOCKS:
            self.end_block()
        elif name in _GROUPS:
            self.end_block()
            self.lines.append("")
        elif name == "cell":
            self.words.append(" ")

    def _text(self, text: str | None, *, after_break: bool = False) -> None:
        if not text:
            return
        if after_break and text[:1].islower() and self.words:
            before = self.words[-1].rstrip()
            if before.endswith(("-", "¬", "\u00ad")):
                self.words[-1] = before.rstrip("¬\u00ad")
        self.words.append(text)

    def end_block(self) -> None:
        """Write the block that grew; verse stays together, other blocks have a blank line after."""
        block = _SPACE.sub(" ", "".join(self.words)).strip(" ")
        self.words = []
        if block:
            self.lines += [block] if self.is_verse else [block, ""]
        self.is_verse = False
