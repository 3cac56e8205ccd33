"""Stack Exchange: a site's Posts.xml as questions with their answers (paper 2.1).

"We kept the data from the 28 largest websites, removed the HTML tags from text and sorted the
answers by score (from highest to lowest)." A document is

    Q: title, a blank line, the question

    A: the answer with the highest score

    A: the next one

where code, a quote or a list begins on the line after `A:`. Scores are compared as numbers, equal
ones by the answer's id. Answers lie anywhere after their question, so posts are sorted by question:
in memory up to `memory_bytes`, beyond it in temporary files that are merged.
"""

from __future__ import annotations

import heapq
import lzma
import os
import pickle
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from typing import IO, Any, BinaryIO, NamedTuple
from xml.etree.ElementTree import Element

from puna.data.document import DAMAGED, Document, Dropped
from puna.data.sources.html_text import html_to_text
from puna.data.sources.xml_dump import Damage, Dump, parse
from puna.errors import missing_package

SOURCE = "stackexchange"
LICENCE = "CC BY-SA"
SUFFIXES = ("posts.xml", "posts.xml.bz2", "posts.xml.gz", ".7z")

# By number of questions in the dump of 2021-06-07, as counted by the flax-sentence-embeddings data
# sets on Hugging Face (with a title and a body of 20 characters or more; for ru and pt at least the
# questions with an answer). Neither the paper nor its dump's own counts of posts are public.
LARGEST_SITES = """
    stackoverflow.com math.stackexchange.com superuser.com askubuntu.com serverfault.com
    ru.stackoverflow.com tex.stackexchange.com unix.stackexchange.com stats.stackexchange.com
    physics.stackexchange.com electronics.stackexchange.com gis.stackexchange.com mathoverflow.net
    apple.stackexchange.com english.stackexchange.com salesforce.stackexchange.com
    pt.stackoverflow.com wordpress.stackexchange.com magento.stackexchange.com
    sharepoint.stackexchange.com gaming.stackexchange.com meta.stackexchange.com
    ell.stackexchange.com dba.stackexchange.com blender.stackexchange.com drupal.stackexchange.com
    mathematica.stackexchange.com scifi.stackexchange.com
"""

_POSTS = "Posts.xml"
_QUESTION, _ANSWER = "1", "2"
_VERSIONS = (("2018-05-02", "4.0"), ("2011-04-08", "3.0"), ("", "2.5"))  # from that day on
_SITE = re.compile(
    r"(?:[a-z0-9-]+\.)*(?:stackexchange|stackoverflow|superuser|serverfault|askubuntu|stackapps)"
    r"\.com|(?:meta\.)?mathoverflow\.net"
)
_LANGUAGES = {f"{code}.stackoverflow.com": code for code in ("es", "ja", "pt", "ru")}
_MOST_RUNS = 64  # temporary files merged at once
_LARGEST_GROWTH = 1000  # times the size of a .7z; bzip2 packs posts about fivefold


@dataclass(frozen=True)
class Settings:
    """What a document holds. The paper gives the order of answers and no other rule."""

    site: str = ""  # stackoverflow.com; "" takes it from the path where that names a site
    is_accepted_first: bool = False  # the answer its asker accepted comes before higher scores
    least_score: int | None = None  # answers below are left out; None keeps all
    least_answers: int = 0  # questions with fewer are dropped
    memory_bytes: int = 256 << 20  # of posts held before they go to a temporary file


class _Post(NamedTuple):
    """A question or an answer, in the order in which documents are written."""

    question: int
    is_answer: bool
    low_score: int  # the score times -1
    id: int
    title: str
    text: str
    licence: str
    accepted: int


def read(file: BinaryIO, path: str, settings: Settings) -> Iterator[Document | Dropped]:
    """The questions of a Posts.xml (plain, .gz, .bz2; a .7z needs py7zr) by id, with their answers.

    Dropped: "post type" (wiki and moderator posts), "empty", "repeated id", "no question" (an
    answer whose question is not there), "low score", "few answers", and damaged with its place in
    the unpacked file. Holds `memory_bytes` of posts; what is more goes to temporary files.
    """
    site = settings.site or _site(path)
    with ExitStack() as stack:
        opened = _unpacked_seven_zip(file, stack) if path.lower().endswith(".7z") else file
        if isinstance(opened, Damage):
            yield Dropped(f"{path}@0", SOURCE, DAMAGED, f"{path}: {opened.what}")
            return
        posts = _Sorter(settings.memory_bytes, stack)
        dump = Dump(opened, b"<row ", b"/>", b"</row>")
        count = 0
        for offset, data in dump:
            row = parse(data) if isinstance(data, bytes) else data
            item = _post(row.attrib, site) if isinstance(row, Element) else row
            count += 1
            if isinstance(item, _Post):
                posts.add(item)
            elif isinstance(item, Damage):
                what = f"{path}: byte {offset} unpacked: {item.what}"
                yield Dropped(f"{path}@{offset}", SOURCE, DAMAGED, what)
            else:
                yield item
        if not count:
            yield Dropped(f"{path}@0", SOURCE, DAMAGED, f"{path}: holds no <row>")
        for _question, group in groupby(posts, key=lambda post: post.question):
            yield from _documents(group, site, settings)


def _unpacked_seven_zip(file: BinaryIO, stack: ExitStack) -> BinaryIO | Damage:
    """Posts.xml out of an archive, in a temporary file; no other name is ever written."""
    try:
        import py7zr
    except ImportError:
        raise missing_package("py7zr", "data", "a .7z of Stack Exchange") from None
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="puna-posts-"))
    try:
        packed_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        with py7zr.SevenZipFile(file) as archive:
            sizes = {one.filename: one.uncompressed for one in archive.list()}
            if _POSTS not in sizes:
                return Damage(f"the archive should hold {_POSTS}, found {', '.join(sizes)[:200]}")
            if sizes[_POSTS] > _LARGEST_GROWTH * packed_bytes:
                return Damage(f"{_POSTS} would grow to {sizes[_POSTS]} bytes: refused")
            archive.extract(path=folder, targets=[_POSTS])
        return stack.enter_context(open(os.path.join(folder, _POSTS), "rb"))
    except (py7zr.exceptions.ArchiveError, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        return Damage(f"the archive cannot be read: {error or type(error).__name__}")


def _site(path: str) -> str:
    """The site that a path names (stackoverflow.com-Posts.7z), or the folder the file lies in."""
    names = path.replace("\\", "/").split("/")
    for name in reversed(names):
        if found := _SITE.match(name.lower()):
            return found[0]
    return names[-2] if len(names) > 1 else "site"


def _post(row: dict[str, str], site: str) -> _Post | Dropped | Damage:
    """A row as a post; Dropped when it is neither question nor answer or holds no words."""
    try:
        number, kind = int(row["Id"]), row["PostTypeId"]
        question = int(row["ParentId"]) if kind == _ANSWER else number
        score = int(row.get("Score") or 0)
        accepted = int(row.get("AcceptedAnswerId") or 0)
    except (KeyError, ValueError) as error:
        return Damage(f"a row without a number where one belongs: {error}")
    body = row.get("Body", "")
    if kind not in (_QUESTION, _ANSWER):
        return Dropped(f"{site}:{number}", SOURCE, "post type", kind, len(body), body[:200])
    text = html_to_text(body)
    if not text:
        return Dropped(
            f"{site}:{number}", SOURCE, "empty", text_bytes=len(body), excerpt=body[:200]
        )
    title = " ".join(row.get("Title", "").split())
    date = max(row.get("CreationDate", ""), row.get("LastEditDate", ""))
    licence = row.get("ContentLicense") or _licence(date)
    is_answer = kind == _ANSWER
    return _Post(question, is_answer, -score, number, title, text, licence, accepted)


def _licence(date: str) -> str:
    """The licence of what was written or last edited on that day."""
    return f"{LICENCE} {next(v for first, v in _VERSIONS if date >= first)}" if date else LICENCE


def _documents(
    posts: Iterable[_Post], site: str, settings: Settings
) -> Iterator[Document | Dropped]:
    """The document of one question, after what of it is dropped."""
    question: _Post | None = None
    answers: list[_Post] = []
    seen: set[int] = set()
    for post in posts:
        reason = ""
        if post.id in seen:
            reason = "repeated id"
        elif not post.is_answer:
            question = post
        elif question is None:
            reason = "no question"
        elif settings.least_score is not None and -post.low_score < settings.least_score:
            reason = "low score"
        else:
            answers.append(post)
        seen.add(post.id)
        if reason:
            yield _dropped(post, site, reason)
    if question is None:
        return
    if len(answers) < settings.least_answers:
        yield _dropped(question, site, "few answers")
        return
    if settings.is_accepted_first:
        answers.sort(key=lambda post: post.id != question.accepted)
    yield _document(question, answers, site)


def _dropped(post: _Post, site: str, reason: str) -> Dropped:
    size = len(post.text.encode())
    return Dropped(f"{site}:{post.id}", SOURCE, reason, text_bytes=size, excerpt=post.text[:200])


def _document(question: _Post, answers: list[_Post], site: str) -> Document:
    head = f"Q: {question.title}\n\n{question.text}" if question.title else f"Q: {question.text}"
    licences = sorted({post.licence for post in (question, *answers)})
    return Document(
        text="\n\n".join([head, *(_answer(post.text) for post in answers)]),
        source=SOURCE,
        licence=", ".join(licences),
        id=f"{site}:{question.id}",
        url=f"https://{site}/questions/{question.id}" if _SITE.fullmatch(site) else "",
        language=_LANGUAGES.get(site, ""),
    )


def _answer(text: str) -> str:
    """An answer under its mark, beside it unless it begins with code, a quote or a list."""
    return f"A:\n{text}" if text.startswith((" ", ">", "- ", "1. ")) else f"A: {text}"


class _Sorter:
    """Posts in order, in a bounded part of memory: sorted runs in temporary files, then merged."""

    def __init__(self, memory_bytes: int, stack: ExitStack) -> None:
        self._memory_bytes, self._stack = memory_bytes, stack
        self._posts: list[_Post] = []
        self._held_bytes = 0
        self._runs: list[IO[bytes]] = []

    def add(self, post: _Post) -> None:
        """Take one post; when memory is full, all held go to a file."""
        self._posts.append(post)
        self._held_bytes += sys.getsizeof(post.text) + sys.getsizeof(post.title) + 500
        if self._held_bytes < self._memory_bytes:
            return
        self._posts.sort()
        self._runs.append(self._written(self._posts))
        self._posts, self._held_bytes = [], 0
        if len(self._runs) == _MOST_RUNS:
            merged = self._written(heapq.merge(*map(_stored, self._runs)))
            for run in self._runs:
                run.close()
            self._runs = [merged]

    def __iter__(self) -> Iterator[_Post]:
        self._posts.sort()
        return heapq.merge(*map(_stored, self._runs), self._posts)

    def _written(self, posts: Iterable[_Post]) -> IO[bytes]:
        file: IO[bytes] = tempfile.TemporaryFile(prefix="puna-posts-")  # noqa: SIM115 (the stack)
        self._stack.enter_context(file)
        for post in posts:
            pickle.dump(tuple(post), file, protocol=5)
        file.seek(0)
        return file


def _stored(file: IO[bytes]) -> Iterator[_Post]:
    """The posts of a temporary file of ours."""
    while True:
        try:
            fields: tuple[Any, ...] = pickle.load(file)
        except EOFError:
            return
        yield _Post(*fields)
