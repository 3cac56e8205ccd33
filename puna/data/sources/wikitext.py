"""Wikitext to text a person reads, in one pass over its brackets: linear time whatever the markup.

Kept: paragraphs, headings, lists, the words of links, code, formulas as TeX between dollars. Gone:
comments, references, tables, files, categories, magic words, formatting, and templates except those
that stand for words (`wikitext_templates`). What a removed template leaves behind goes too: empty
parentheses, commas without a neighbour, headings without a section (paper 2.1: "hyperlinks,
comments and other formatting boilerplate" are removed; it says no more).
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from puna.data.sources.wikitext_lines import HOLE, to_paragraphs
from puna.data.sources.wikitext_templates import render_template

DEEPEST = 100  # brackets within brackets; MediaWiki itself stops expanding templates at 40

# Names of files and categories beside those of a dump's siteinfo, which leaves out older aliases.
_FILES = """file image media файл картинка fitxer imatge soubor fil billede bilde datei bild archivo
    imagen fichier datoteka slika fájl kép immagine bestand afbeelding plik grafika ficheiro arquivo
    imagem fișier fişier imagine изображение датотека слика зображення"""
_FILE_ENDS = (".jpg", ".jpeg", ".png", ".svg", ".gif", ".tif", ".webp", ".ogg", ".webm")
_CATEGORIES = """category категория categoria kategorie kategori kategorija categoría catégorie
    kategória kategoria categorie категорија категорія"""
_OTHER_WIKIS = """simple wikt wiktionary wikisource wikiquote wikibooks wikinews wikiversity
    wikivoyage
    commons species wikispecies meta mw"""

# Their content is no wikitext: dropped, kept as it is, or a formula.
_DROPPED = """ref references gallery timeline imagemap score graph mapframe maplink templatedata
    templatestyles hiero categorytree inputbox indicator section charinsert
    includeonly style script"""
_VERBATIM = "nowiki pre source syntaxhighlight"
_FORMULAS = "math chem ce"
_RAW = re.compile(
    rf"<!--|<({'|'.join(f'{_DROPPED} {_VERBATIM} {_FORMULAS}'.split())})(?=[\s/>])[^<>]*>", re.I
)
_RAW_ENDS = {
    name: re.compile(rf"</{name}\s*>", re.I)
    for name in f"{_DROPPED} {_VERBATIM} {_FORMULAS}".split()
} | {"!--": re.compile("-->")}

_LINK_TARGET = r"\[\[[^\[\]{}|<>:\n]{1,250}"
_LABELLED_LINK = re.compile(_LINK_TARGET + r"\|([^\[\]{}|\n]+)\]\]")
_PLAIN_LINK = re.compile(r"\[\[([^\[\]{}|<>:\n]{1,250})\]\]")
# Tables count at the beginning of a line only. Each of _BRACKETS begins with one known character,
# which lets the engine skip to it: 4 times as fast as with `^ *\{\|` among them.
_TABLE_START, _TABLE_END = "\x03", "\x04"
_TABLE_STARTS = re.compile(r"\n[ \t:*#]*\{\|")
_TABLE_ENDS = re.compile(r"\n[ \t]*\|\}(?!\})")
_BRACKETS = re.compile(
    r"(\x03|\x04|\||\{\{+|\}\}+|\[\[|\]\](?!\](?!\]))|</?[tT][aA][bB][lL][eE]\b[^<>]*>)"
)
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,8}){0,2}")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_KEPT = re.compile("\x7f([0-9]+)\x7f")
_RESERVED = re.compile("[\0\x02\x03\x04\x7f\r]")


@dataclass(frozen=True)
class Wiki:
    """What differs between wikis: title of the page, names of files and categories (lower case)."""

    title: str = ""
    language: str = ""
    files: frozenset[str] = frozenset(_FILES.split())
    categories: frozenset[str] = frozenset(_CATEGORIES.split())


def wiki_of(namespaces: Mapping[int, str], language: str = "") -> Wiki:
    """The wiki whose dump names its namespaces so (-2 media, 6 files, 14 categories)."""
    known = Wiki()
    return Wiki(
        language=language,
        files=known.files | {namespaces.get(key, "file").lower() for key in (-2, 6)},
        categories=known.categories | {namespaces.get(14, "category").lower()},
    )


def wikitext_to_text(wikitext: str, wiki: Wiki, *, has_formulas: bool = True) -> str:
    """The page's text; never raises. Without `has_formulas` they leave nothing behind."""
    text, kept = _without_raw(_RESERVED.sub("", wikitext), has_formulas)
    text = _LABELLED_LINK.sub(r"\1", text)
    text = _PLAIN_LINK.sub(r"\1", text)
    text = to_paragraphs(_without_brackets(text, wiki))
    return decoded(_KEPT.sub(lambda match: kept[int(match[1])], text)).strip()


def decoded(text: str) -> str:
    """Entities as characters, no soft hyphens, and spaces that break."""
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    return text.replace("\xa0", " ").replace("\xad", "").replace("\u200e", "")


def _without_raw(text: str, has_formulas: bool) -> tuple[str, list[str]]:
    """The text without what is no wikitext, and what of that is kept: \\x7f and its number."""
    pieces: list[str] = []
    kept: list[str] = []
    unclosed: set[str] = set()
    position = 0
    while match := _RAW.search(text, position):
        pieces.append(text[position : match.start()])
        name = (match[1] or "!--").lower()
        position = match.end()
        if name in unclosed or match[0].endswith("/>"):
            continue
        end = _RAW_ENDS[name].search(text, position)
        if end is None:
            unclosed.add(name)
            position = len(text) if name == "!--" else position
            continue
        content = text[position : end.start()]
        position = end.end()
        if name in _VERBATIM:
            pieces.append(
                f"\x7f{len(kept)}\x7f" if name == "nowiki" else f"\n\x7f{len(kept)}\x7f\n"
            )
            kept.append(content if name == "nowiki" else content.strip("\n").rstrip())
        elif name in _FORMULAS and has_formulas:
            pieces.append(f"\x7f{len(kept)}\x7f")
            kept.append(f"${' '.join(content.split())}$")
        elif name in _FORMULAS:
            pieces.append(HOLE)
    pieces.append(text[position:])
    return "".join(pieces), kept


@dataclass(slots=True)
class _Frame:
    """An open bracket: what opened it, its finished arguments, the pieces of the one that grows."""

    kind: str
    arguments: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    def finished(self) -> list[str]:
        return [*self.arguments, "".join(self.pieces)]


class _Brackets:
    """The open brackets of a page. A bracket of another kind that never closed ends with its outer
    one, and gives back its text.
    """

    def __init__(self, wiki: Wiki) -> None:
        self.wiki = wiki
        self.frames = [_Frame("page")]
        self.counts = {"page": 1, "{{": 0, "[[": 0, "{|": 0, "<table": 0}
        self.too_deep = 0

    def open(self, kind: str) -> None:
        if len(self.frames) > DEEPEST:
            self.too_deep += 1
            return
        self.frames.append(_Frame(kind))
        self.counts[kind] += 1

    def close(self, kind: str) -> None:
        if self.too_deep:
            self.too_deep -= 1
            return
        if not self.counts[kind]:
            return
        while self.frames[-1].kind != kind:
            self._pop(self._unclosed)
        self._pop(self._closed)

    def separate(self) -> None:
        top = self.frames[-1]
        if top.kind == "page" or self.too_deep:
            top.pieces.append("|")
            return
        top.arguments.append("".join(top.pieces))
        top.pieces = []

    def end(self) -> str:
        while len(self.frames) > 1:
            self._pop(self._unclosed)
        return "".join(self.frames[0].pieces)

    def _pop(self, render: Callable[[_Frame], str]) -> None:
        frame = self.frames.pop()
        self.counts[frame.kind] -= 1
        self.frames[-1].pieces.append(render(frame))

    def _closed(self, frame: _Frame) -> str:
        if frame.kind == "[[":
            return _link(frame.finished(), self.wiki)
        if frame.kind == "{{":
            return render_template(frame.finished(), self.wiki.title, self.wiki.language)
        return ""

    def _unclosed(self, frame: _Frame) -> str:
        arguments = frame.finished()
        if frame.kind == "[[":
            first_line, newline, others = "|".join(arguments).partition("\n")
            is_file = first_line.partition(":")[0].strip().lower() in self.wiki.files
            return newline + others if is_file else first_line.rpartition("|")[2] + newline + others
        if len(arguments) > 1 or frame.kind != "{{":
            arguments[0] = arguments[0].partition("\n")[2]
        return "|".join(arguments).removeprefix("|")


def _without_brackets(text: str, wiki: Wiki) -> str:
    """The text without templates, links and tables, or with what stands for them."""
    brackets = _Brackets(wiki)
    text = _TABLE_STARTS.sub("\n" + _TABLE_START, "\n" + text)
    text = _TABLE_ENDS.sub("\n" + _TABLE_END, text)
    for index, part in enumerate(_BRACKETS.split(text)):
        if index % 2 == 0:
            if part:
                brackets.frames[-1].pieces.append(part)
        elif part == "|":
            brackets.separate()
        elif part == "[[":
            brackets.open(part)
        elif part == "]]":
            brackets.close("[[")
        elif part.startswith("{{"):
            for _ in range(len(part) // 2):
                brackets.open("{{")
        elif part.startswith("}}"):
            for _ in range(len(part) // 2):
                brackets.close("{{")
        elif part[0] == "<":
            brackets.close("<table") if part[1] == "/" else brackets.open("<table")
        else:
            brackets.open("{|") if part == _TABLE_START else brackets.close("{|")
    return brackets.end()


def _link(arguments: list[str], wiki: Wiki) -> str:
    """The words of a link; nothing for files, categories and the same page in other languages."""
    target = arguments[0].strip()
    prefix, colon, page = target.lstrip(":").partition(":")
    name = prefix.strip()
    if colon and not target.startswith(":"):
        lower = name.lower().replace("_", " ")
        if lower in wiki.files or lower in wiki.categories:
            return ""
        if _LANGUAGE.fullmatch(name) or name == "simple":
            return ""
    if len(arguments) > 2 and target.lower().endswith(_FILE_ENDS):
        return ""  # a file whose prefix was forgotten
    label = "|".join(arguments[1:]).strip(" ")
    if label:
        return label
    is_elsewhere = colon and (
        name in _OTHER_WIKIS.split() or len(name) == 1 or _LANGUAGE.fullmatch(name)
    )
    return page if is_elsewhere else target.lstrip(":")
