"""arXiv: e-prints as LaTeX (paper 2.1, after Lewkowycz et al.).

"We removed everything before the first section, as well as the bibliography. We also removed the
comments from the .tex files, and inline-expanded definitions and macros written by users." LaTeX
itself stays. A file is one paper (.tar.gz, .gz of one .tex, .tex, .zip) or one of arXiv's monthly
tars, whose members are papers. Memory holds one paper's text at a time.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from puna.data.document import DAMAGED, Document, Dropped
from puna.data.sources import archives
from puna.data.sources.archives import Refused
from puna.data.sources.latex import (
    from_first_section,
    inside_document,
    restored,
    tidy,
    until_appendix,
    without_bibliography,
)
from puna.data.sources.latex_macros import Explosion, expand_macros
from puna.data.sources.latex_tree import Tree, without_repeats

SOURCE = "arxiv"
LICENCE = "arXiv: each paper's own"  # most only let arXiv distribute; its metadata says which
SUFFIXES = (".tar", ".gz", ".tgz", ".tex", ".zip")

_WANTED = (".tex", ".ltx", ".latex", ".bbl", ".tikz", ".pgf", ".txt")
_LARGEST_PAPER_BYTES = 64 << 20
_ID = re.compile(r"(\d{4}\.\d{4,5}|[a-z][a-z-]+(?:\.[A-Z]{2})?\d{7})(v\d+)?")
_PAPER = re.compile(rf"(?:.*/)?({_ID.pattern})\.(?:tar\.gz|tgz|gz|pdf)")
_SUFFIX = re.compile(r"\.(?:tar|tar\.gz|tgz|gz|tex|zip)$", re.I)
_README = re.compile(r"^(\S+)[ \t]+ignore[ \t]*$", re.M)
_EXCERPT_CHARACTERS = 200


@dataclass(frozen=True)
class Settings:
    """What becomes of a paper; the defaults are what the paper says."""

    removes_front: bool = True  # all before the first section: title, authors, abstract
    keeps_without_section: bool = False  # letters have none; RedPajama drops them too
    removes_bibliography: bool = True
    keeps_appendix: bool = True  # the paper does not say; RedPajama cuts it
    expands_macros: bool = True


def read(file: BinaryIO, path: str, settings: Settings) -> Iterator[Document | Dropped]:
    """The papers of a file, and what is not kept: "pdf only", "postscript only", "withdrawn",
    "no LaTeX", "no section", "macros explode", or damaged with its place.
    """
    name = _SUFFIX.sub("", path)
    last = name.rpartition("/")[2]
    is_known = _ID.fullmatch(last) is not None
    yield from _paper(file, last if is_known else name, settings, is_inner=False)


def _paper(
    file: BinaryIO, name: str, settings: Settings, *, is_inner: bool
) -> Iterator[Document | Dropped]:
    """A paper by its bytes; a monthly tar's papers, where it is none itself."""
    try:
        start = file.read(4)
        file.seek(0)
        is_zip = start.startswith(b"PK")
        head = b"" if is_zip else archives.unpacked(file).read(512)
        file.seek(0)
        if is_zip or archives.is_tar(head):
            yield from _archive(file, name, settings, is_inner=is_inner)
            return
        data = archives.unpacked(file).read(_LARGEST_PAPER_BYTES + 1)
    except archives.BROKEN as error:
        yield _dropped(name, DAMAGED, f"{name}: {error}")
        return
    if len(data) > _LARGEST_PAPER_BYTES:
        yield _dropped(name, DAMAGED, f"{name}: longer than {_LARGEST_PAPER_BYTES} bytes")
        return
    yield _single(data, name, settings)


def _archive(
    file: BinaryIO, name: str, settings: Settings, *, is_inner: bool
) -> Iterator[Document | Dropped]:
    files: dict[str, bytes] = {}
    found = size = 0
    for member in archives.members(file, lambda one: _is_wanted(one, is_inner=is_inner)):
        inner = None if is_inner else _PAPER.fullmatch(member.name)
        if isinstance(member, Refused):
            found += 1
            place = f"{name}/{member.name}" if member.name else name
            yield _dropped(inner[1] if inner else name, DAMAGED, f"{place}: {member.what}")
        elif inner:
            found += 1
            yield from _paper(io.BytesIO(member.data), inner[1], settings, is_inner=True)
        else:
            files[member.name.removeprefix("./")] = member.data
            size += len(member.data)
        if size > _LARGEST_PAPER_BYTES:
            yield _dropped(name, DAMAGED, f"{name}: longer than {_LARGEST_PAPER_BYTES} bytes")
            return
    if files or not found:
        yield _document(files, name, settings)


def _is_wanted(name: str, *, is_inner: bool) -> bool:
    if not is_inner and _PAPER.fullmatch(name):
        return True
    last = name.rpartition("/")[2]
    return last.lower().endswith(_WANTED) or "." not in last or last.startswith("00README")


def _single(data: bytes, name: str, settings: Settings) -> Document | Dropped:
    if data.startswith(b"%PDF"):
        return _dropped(name, "pdf only")
    if data.startswith(b"%!PS"):
        return _dropped(name, "postscript only")
    return _document({f"{name}.tex": data}, name, settings)


def _document(files: dict[str, bytes], name: str, settings: Settings) -> Document | Dropped:
    for one in [one for one in files if one.rpartition("/")[2].startswith("00README")]:
        for ignored in _README.findall(files.pop(one).decode("utf-8", "replace")):
            files.pop(ignored, None)
    if any(data.startswith(b"%auto-ignore") for data in files.values()):
        return _dropped(name, "withdrawn")
    tree = Tree(files)
    mains = tree.mains()
    if not mains:
        return _dropped(name, "no LaTeX")
    try:
        bodies = [_body(tree.joined(main), settings) for main in mains]
    except Explosion:
        return _dropped(name, "macros explode")
    texts = [restored(body, tree.aside) for body in bodies if body]
    if not texts:
        excerpt = restored(inside_document(tree.joined(mains[0]))[:_EXCERPT_CHARACTERS], tree.aside)
        return _dropped(name, "no section", excerpt=excerpt)
    identifier, url = _identified(name)
    return Document("\n\n".join(without_repeats(texts)), SOURCE, LICENCE, identifier, url)


def _body(text: str, settings: Settings) -> str:
    """The text of one main file as the settings want it; "" where nothing is left."""
    if settings.expands_macros:
        text = expand_macros(text)
    text = inside_document(text)
    if settings.removes_front:
        found = from_first_section(text)
        text = found if found is not None else text * settings.keeps_without_section
    if settings.removes_bibliography:
        text = without_bibliography(text)
    return tidy(text if settings.keeps_appendix else until_appendix(text))


def _identified(name: str) -> tuple[str, str]:
    """The id of a paper and where arXiv shows it, which it does only for names of its own."""
    if not _ID.fullmatch(name):
        return name, ""
    number = re.sub(r"^([a-z-]+(?:\.[A-Z]{2})?)(\d{7})", r"\1/\2", name)
    return number, f"https://arxiv.org/abs/{number}"


def _dropped(name: str, reason: str, detail: str = "", *, excerpt: str = "") -> Dropped:
    return Dropped(_identified(name)[0], SOURCE, reason, detail, excerpt=excerpt)
