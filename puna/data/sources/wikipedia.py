"""Wikipedia: the articles of a MediaWiki XML dump (pages-articles) as text (paper 2.1).

Reads plain, .bz2 (multistream too) and .gz dumps of any wiki in bounded memory: one page at a time.
The paper took June to August 2022, twenty languages, and removed hyperlinks, comments and other
formatting boilerplate; what else is removed is a setting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO
from urllib.parse import quote, urlsplit
from xml.etree.ElementTree import Element

from puna.data.document import DAMAGED, UNKNOWN_LICENCE, Document, Dropped
from puna.data.sources.wikitext import Wiki, wiki_of, wikitext_to_text
from puna.data.sources.xml_dump import Damage, Dump, parse

SOURCE = "wikipedia"
LICENCE = "CC BY-SA"
SUFFIXES = (".xml", ".bz2", ".gz")  # enwiki-20220601-pages-articles1.xml-p1p41242.bz2 too
SPLITS = (".bz2",)  # where it has many streams (multistream)
LANGUAGES = "bg ca cs da de en es fr hr hu it nl pl pt ro ru sl sr sv uk"  # of the paper

# The terms of use changed on that day; revisions before it stay under 3.0 (to which those before
# June 2009, once GFDL, had been moved).
_LICENCE_4_FROM = "2023-06-07"
_WIKIMEDIA = re.compile(
    r"(?:.*\.)?(?:wikipedia|wiktionary|wikibooks|wikiquote|wikisource|wikiversity|wikivoyage)\.org"
)
_REDIRECT = re.compile(r"\s*#\s*[^\W\d_]+(?:[ _][^\W\d_]+)?\s*:?\s*\[\[")
_DISAMBIGUATION = re.compile(
    r"__DISAMBIG__|\{\{\s*(?:disambig(?:uation|ua)?|hndis|geodis|dab|begriffsklärung|homonymie"
    r"|desambiguaci[oó]n?|desambiguação|desambig|dezambiguizare|dez|doorverwijspagina|dp"
    r"|ujednoznacznienie|förgrening|gren|flertydig|egyért(?:-redir)?|rozcestník|razdvojba"
    r"|razločitev|вишезначна одредница|вишезначна|пояснение|неоднозначность|многозначность"
    r"|багатозначність|disambigua)\s*[|}]",
    re.I,
)


@dataclass(frozen=True)
class Settings:
    """What becomes of a page. The paper says only that formatting boilerplate is removed."""

    has_title: bool = True  # the title is the text's first line
    has_formulas: bool = True  # <math> as TeX between dollars
    has_disambiguation: bool = True  # pages that only list what a word can mean
    language: str = ""  # instead of the dump's own xml:lang


@dataclass(frozen=True)
class _Site:
    """What a dump's siteinfo says."""

    name: str  # enwiki
    wiki: Wiki
    page_url: str  # https://en.wikipedia.org/wiki/
    licence: str
    namespaces: frozenset[str]


def read(
    file: BinaryIO, path: str, settings: Settings, part: range | None = None
) -> Iterator[Document | Dropped]:
    """The articles of a dump, and what is not kept: "redirect", "not an article", "empty",
    "disambiguation", or damaged with its place in the unpacked dump.

    Of a `part`, a range of the packed bytes, those that begin in it; places count from there.
    """
    dump = Dump(file, b"<page>", b"</page>", part=part)
    begin = part.start if part else 0
    path = f"{path}+{begin}" if begin else path
    site: _Site | None = None
    for offset, data in dump:
        if site is None:
            site, problem = _site(dump.head, settings)
            if problem and not begin:
                yield _damaged(path, 0, problem)
        page = parse(data) if isinstance(data, bytes) else data
        if isinstance(page, Damage):
            yield _damaged(path, offset, page.what)
        else:
            yield _document(page, site, settings)
    if site is None and not begin:
        yield _damaged(path, 0, "holds no <page>")


def _damaged(path: str, offset: int, what: str) -> Dropped:
    return Dropped(f"{path}@{offset}", SOURCE, DAMAGED, f"{path}: byte {offset} unpacked: {what}")


def _site(head: bytes, settings: Settings) -> tuple[_Site, str]:
    """What the head of a dump says, and what is wrong with it ("" when nothing is)."""
    problem = "declares entities: they are not expanded" if b"<!ENTITY" in head else ""
    found = head.rfind(b"<mediawiki")
    root = parse(head[found:] + b"</mediawiki>") if found >= 0 else Element("mediawiki")
    if isinstance(root, Damage):
        problem = problem or f"the head is {root.what}"
        root = Element("mediawiki")
    base = root.findtext("{*}siteinfo/{*}base") or ""
    host = urlsplit(base).hostname or "" if "://" in base and "[" not in base else ""
    language = settings.language or root.get("{http://www.w3.org/XML/1998/namespace}lang", "")
    namespaces = {
        int(key): one.text or ""
        for one in root.iterfind("{*}siteinfo/{*}namespaces/{*}namespace")
        if (key := one.get("key", "")).lstrip("-").isdecimal()
    }
    name = root.findtext("{*}siteinfo/{*}dbname") or host.partition(".")[0] + "wiki" * bool(host)
    site = _Site(
        name=name or "wiki",
        wiki=wiki_of(namespaces, language),
        page_url=base[: base.rfind("/") + 1] if host else "",
        licence=LICENCE if _WIKIMEDIA.fullmatch(host) else UNKNOWN_LICENCE,
        namespaces=frozenset(text.lower() for key, text in namespaces.items() if key and text),
    )
    return site, problem


def _document(page: Element, site: _Site, settings: Settings) -> Document | Dropped:
    title = (page.findtext("title") or "").strip()
    identifier = f"{site.name}:{page.findtext('id') or title}"
    revisions = page.findall("revision")
    wikitext = (revisions[-1].findtext("text") if revisions else "") or ""

    def dropped(reason: str) -> Dropped:
        size = len(wikitext.encode("utf-8", "replace"))
        excerpt = f"{title}: {wikitext[:200]}"
        return Dropped(identifier, SOURCE, reason, text_bytes=size, excerpt=excerpt)

    if not _is_article(page, title, site):
        return dropped("not an article")
    if page.find("redirect") is not None or _REDIRECT.match(wikitext):
        return dropped("redirect")
    if not settings.has_disambiguation and _DISAMBIGUATION.search(wikitext):
        return dropped("disambiguation")
    wiki = replace(site.wiki, title=title)
    text = wikitext_to_text(wikitext, wiki, has_formulas=settings.has_formulas)
    if not text:
        return dropped("empty")
    date = revisions[-1].findtext("timestamp") or ""
    return Document(
        text=f"{title}\n\n{text}" if settings.has_title else text,
        source=SOURCE,
        licence=_dated(site.licence, date),
        id=identifier,
        url=site.page_url
        + quote(title.replace(" ", "_"), safe="/:(),;!*'~@$") * bool(site.page_url),
        language=site.wiki.language,
    )


def _is_article(page: Element, title: str, site: _Site) -> bool:
    """Whether the page is in namespace 0; dumps before version 0.6 say so by its title only."""
    namespace = page.findtext("ns")
    if namespace is not None:
        return namespace.strip() == "0"
    prefix, colon, _ = title.partition(":")
    return not (colon and prefix.lower() in site.namespaces)


def _dated(licence: str, date: str) -> str:
    """The licence with its version, by the day of the page's last revision."""
    if licence != LICENCE or not date:
        return licence
    return f"{licence} {'4.0' if date >= _LICENCE_4_FROM else '3.0'}"
