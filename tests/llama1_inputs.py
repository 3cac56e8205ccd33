"""All seven sources of recipes/data/llama1.toml in their raw formats: small, written by hand."""

from __future__ import annotations

import bz2
import gzip
import json
import random
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from archive_files import tar_gz
from licence_texts import GPL, MIT

# Two kinds of pages whose words differ, so that a classifier can tell them; and words of both.
SHARED = "the of and a in to is was for on with that by as at from it an be are this which"
LEARNED = "river treaty century kingdom survey theory species province battle method"
SHOP = "cheap click buy discount shipping offer cart deal brand free today order price"
REFERENCES = 24
PAGES = 60
DANISH = "og det er ikke en af den som på med til har for vi kan ikke hvor dansk sprog også"


def prose(words: str, seed: int, count: int = 90) -> str:
    """Sentences of these words and common ones."""
    draw = random.Random(seed)
    own, common = words.split(), SHARED.split()
    chosen = [draw.choice(own if draw.random() < 0.35 else common) for _ in range(count)]
    lines = [" ".join(chosen[at : at + 15]).capitalize() + "." for at in range(0, count, 15)]
    return "\n".join(lines)


def write_all(folder: Path) -> dict[str, Path]:
    """The inputs of each source below `folder`, by the source's name."""
    writers = {
        "commoncrawl": _crawl,
        "c4": _c4,
        "github": _github,
        "wikipedia": _wikipedia,
        "books": _books,
        "arxiv": _arxiv,
        "stackexchange": _stackexchange,
    }
    for name, write in writers.items():
        (folder / name).mkdir(parents=True)
        write(folder / name)
    return {name: folder / name for name in writers}


def _crawl(folder: Path) -> None:
    """References, shops, a page in Danish, and a line that is on every page."""
    pages = [
        (f"https://www.site{n}.org/page/", prose(LEARNED, 1000 + n)) for n in range(REFERENCES)
    ]
    pages += [(f"http://shop{n}.com/", prose(SHOP, 2000 + n)) for n in range(PAGES - REFERENCES)]
    pages.append(("http://dansk.dk/", "\n".join([DANISH] * 1 + [f"{DANISH} {DANISH} så {DANISH}"])))
    for part in range(3):
        records = [_wet(url, f"{url} title\nAll rights reserved\n{text}") for url, text in pages]
        (folder / f"{part}.warc.wet.gz").write_bytes(b"".join(map(gzip.compress, records[part::3])))


def _wet(url: str, text: str) -> bytes:
    body = text.encode()
    head = (
        "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Record-ID: <urn:uuid:"
        f"{url}>\r\nWARC-Target-URI: {url}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


def _c4(folder: Path) -> None:
    texts = [prose(f"{SHOP} {LEARNED}", 3000 + number) for number in range(9)]
    rows = [{"text": text, "url": f"http://c4.org/{n}"} for n, text in enumerate(texts)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "c4-train.00000-of-01024.json.gz").write_bytes(gzip.compress(lines.encode()))


def _github(folder: Path) -> None:
    code = "".join(f"def times_{n}(number):\n    return {n} * number\n\n\n" for n in range(20))
    header = "# Copyright 2020 Some Body\n# All rights reserved.\n"
    free = {
        "r/LICENSE": MIT,
        "r/a.py": header + code,
        "r/same.py": code,
    }
    free |= {f"r/{number}.py": f"{code}A = {number}\n" for number in range(6)}
    (folder / "free.tar.gz").write_bytes(tar_gz(free))
    (folder / "other.tar.gz").write_bytes(tar_gz({"s/LICENSE": GPL, "s/c.py": code + "B = 2\n"}))


def _wikipedia(folder: Path) -> None:
    """Articles that refer to every second page that is one of the crawl's references."""
    pages = []
    for n in range(40):
        cited = f"https://site{n}.org/page#part" if n < REFERENCES else f"http://gone{n}.net/x"
        source = f"<ref>{{{{cite web|url={cited}|title=A {n}}}}}</ref>"
        text = f"'''Title {n}''' {source} " + prose(LEARNED, 4000 + n, 150) + "\n[[Category:All]]"
        pages.append((f"Title {n}", 0, text))
    pages += [("Redirect", 0, "#REDIRECT [[Title 1]]"), ("Talk:Title", 1, "http://shop1.com/")]
    written = "".join(
        f"<page><title>{title}</title><ns>{space}</ns><id>{number}</id><revision><id>1</id>"
        f"<timestamp>2022-06-01</timestamp><text>{escape(text)}</text></revision></page>\n"
        for number, (title, space, text) in enumerate(pages, start=1)
    )
    head = (
        '<mediawiki xml:lang="en"><siteinfo><dbname>enwiki</dbname>'
        "<base>https://en.wikipedia.org/wiki/Main_Page</base></siteinfo>\n"
    )
    (folder / "enwiki.xml.bz2").write_bytes(bz2.compress(f"{head}{written}</mediawiki>".encode()))


def _books(folder: Path) -> None:
    """A book with Gutenberg's head and foot, most of it once more, and another one."""
    paragraphs = [prose(f"{LEARNED} {SHOP}", 5000 + n, 120) for n in range(40)]
    marks = "*** {} OF THE PROJECT GUTENBERG EBOOK A BOOK ***"
    whole = "\n\n".join([marks.format("START"), *paragraphs, marks.format("END"), "small print"])
    (folder / "whole.txt").write_text("The Project Gutenberg eBook\n\n" + whole)
    (folder / "excerpt.txt").write_text("\n\n".join(paragraphs[1:38]))
    other = [prose(LEARNED, 6000 + n, 120) for n in range(40)]
    (folder / "other.txt").write_text("\n\n".join(other))


def _arxiv(folder: Path) -> None:
    for number in range(6):
        paper = (
            r"\documentclass{article}\newcommand{\set}[1]{\{#1\}}\begin{document}front matter"
            f"\n\\section{{One}} {prose(LEARNED, 7000 + number)}\n$\\set{{a}}$ % a note\n"
            r"\begin{thebibliography}{1}\bibitem{a} B.\end{thebibliography}\end{document}"
        )
        (folder / f"2301.0000{number}.tar.gz").write_bytes(tar_gz({"paper.tex": paper}))


def _stackexchange(folder: Path) -> None:
    """Questions with two answers each, the better one last in the dump."""
    rows: list[dict[str, object]] = []
    for number in range(10, 70, 10):
        body = f"<p>How? {prose(SHARED, 8000 + number, 60)}</p>"
        rows.append({"Id": number, "PostTypeId": 1, "Title": "How", "Body": body, "Score": 3})
        for score in (9, 10):
            body = f"<p>Answer of score {score}. {prose(SHARED, 8000 + number + score, 60)}</p>"
            answer = {"Id": number + score - 8, "PostTypeId": 2, "ParentId": number}
            rows.append({**answer, "Body": body, "Score": score})
    written = "".join(
        "<row " + " ".join(f"{key}={quoteattr(str(value))}" for key, value in row.items()) + " />\n"
        for row in ({**row, "CreationDate": "2020-01-01T00:00:00.000"} for row in rows)
    )
    site = folder / "stackoverflow.com"
    site.mkdir()
    (site / "Posts.xml").write_text(f"<posts>\n{written}</posts>")
