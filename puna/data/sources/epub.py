"""EPUB books: the documents of the spine in order, as text (EPUB 2 and 3)."""

from __future__ import annotations

import io
import posixpath
import re
from typing import NamedTuple
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from puna.data.sources import archives
from puna.data.sources.html_text import html_to_text
from puna.data.sources.xml_dump import Damage, parse

LARGEST_BOOK_BYTES = 64 << 20
_WANTED = (".xhtml", ".html", ".htm", ".opf", ".xml")
_BODY = re.compile(r"<body\b[^<>]*>", re.I)
_BODY_END = re.compile(r"</body\s*>", re.I)
_EMPTY_SILENT = re.compile(r"<(?:script|style)\b[^<>]*/>", re.I)
_PAGE_NUMBER = re.compile(
    r"""<(span|a)\b[^<>]{0,300}(?:class=["']pagenum["']|epub:type=["']pagebreak["'])[^<>]{0,300}>"""
    r"(?:[^<>]*|<a\b[^<>]*>[^<>]*</a>)</\1>",
    re.I,
)
_ENCODING = re.compile(rb"""<\?xml[^<>]*\bencoding=["']([A-Za-z0-9_.-]+)["']""")
_MANAGEMENT = {"META-INF/rights.xml", "META-INF/license.lcpl", "META-INF/sinf.xml"}
_FONT = ("obfuscation", "RC")  # encryption.xml also names fonts that are only obfuscated


class Book(NamedTuple):
    """A book's text, and what its package says; "" for what it does not."""

    text: str
    title: str = ""
    author: str = ""
    language: str = ""
    rights: str = ""
    identifier: str = ""


class Locked(NamedTuple):
    """A book that digital rights management keeps shut."""


def read_epub(data: bytes) -> Book | Damage | Locked:
    """The book of an EPUB's bytes, or why there is none."""
    files: dict[str, bytes] = {}
    size, problem = 0, ""
    for member in archives.members(io.BytesIO(data), _is_wanted):
        if isinstance(member, archives.Refused):
            problem = problem or f"{member.name}: {member.what}".removeprefix(": ")
            continue
        files[member.name] = member.data
        size += len(member.data)
        if size > LARGEST_BOOK_BYTES:
            return Damage(f"unpacks to more than {LARGEST_BOOK_BYTES} bytes")
    if _is_locked(files):
        return Locked()
    if problem:
        return Damage(problem)
    return _book(files)


def _is_wanted(name: str) -> bool:
    return name.lower().endswith(_WANTED) or name in _MANAGEMENT


def _is_locked(files: dict[str, bytes]) -> bool:
    if _MANAGEMENT & files.keys():
        return True
    encryption = files.get("META-INF/encryption.xml", b"")
    targets = re.findall(rb"""CipherReference\s+URI=["']([^"']+)["']""", encryption)
    return any(unquote(one.decode("utf-8", "replace")).lower().endswith(_WANTED) for one in targets)


def _book(files: dict[str, bytes]) -> Book | Damage:
    container = _xml(files.get("META-INF/container.xml", b""))
    place = "" if container is None else _attribute(container, ".//{*}rootfile", "full-path")
    place = place or next((name for name in sorted(files) if name.endswith(".opf")), "")
    package = _xml(files.get(place, b""))
    if package is None:
        return Damage("no EPUB: its package (.opf) is missing or broken")
    folder = posixpath.dirname(place)
    items = {one.get("id", ""): one for one in package.iterfind("{*}manifest/{*}item")}
    texts: list[str] = []
    for one in package.iterfind("{*}spine/{*}itemref"):
        item = items.get(one.get("idref", ""))
        if item is None or one.get("linear") == "no" or "nav" in item.get("properties", "").split():
            continue
        name = posixpath.normpath(posixpath.join(folder, unquote(item.get("href", ""))))
        if text := _page(files.get(name, b"")):
            texts.append(text)

    def said(name: str) -> str:
        found = package.findtext(f"{{*}}metadata/{{http://purl.org/dc/elements/1.1/}}{name}") or ""
        return " ".join(found.split())

    return Book(
        "\n\n".join(texts),
        said("title"),
        said("creator"),
        said("language"),
        said("rights"),
        said("identifier"),
    )


def _xml(data: bytes) -> Element | None:
    if b"<!ENTITY" in data:
        return None
    root = parse(data)
    return None if isinstance(root, Damage) else root


def _attribute(root: Element, path: str, name: str) -> str:
    found = root.find(path)
    return "" if found is None else found.get(name, "")


def _page(data: bytes) -> str:
    """The text of one XHTML document."""
    declared = _ENCODING.match(data.removeprefix(b"\xef\xbb\xbf"))
    try:
        source = data.decode(declared[1].decode() if declared else "utf-8-sig", "replace")
    except LookupError:
        source = data.decode("utf-8", "replace")
    begin = _BODY.search(source)
    end = _BODY_END.search(source, begin.end()) if begin else None
    source = source[begin.end() if begin else 0 : end.start() if end else None]
    return html_to_text(_PAGE_NUMBER.sub("", _EMPTY_SILENT.sub("", source))).strip()
