"""GitHub: source files of repositories under MIT, BSD and Apache licences (paper 2.1).

A file is one repository as .tar.gz or .zip (what GitHub and `git archive` make), or JSON lines as
BigQuery's public set exports them: repo_name, path, content, license. The paper: only those
licences, "low quality files filtered with heuristics based on the line length or proportion of
alphanumeric characters", headers removed "with regular expressions", exact files once (a stage).
It gives no thresholds; those here are RedPajama's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from puna.data.document import DAMAGED, Document, Dropped, read_records
from puna.data.sources import archives, licences
from puna.data.sources.archives import Refused
from puna.data.sources.licence_headers import without_licence_header
from puna.errors import DataError

SOURCE = "github"
LICENCE = "MIT, BSD or Apache, by file"

_LINES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst")
SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar", ".zip", *_LINES)
_ARCHIVE_SUFFIX = re.compile(r"\.(?:tar\.gz|tgz|tar\.bz2|tar|zip)$", re.I)
EXTENSIONS = """
    ada adb ads asm awk bash bzl c cc cjs cl clj cljs cmake coffee cpp cs css cu cuh cxx d
    dart el elm erl ex exs f90 f95 fs go gradle groovy h hh hpp hs html hxx java jl js jsx kt
    kts less lisp lua m md mjs mk ml mli mm nim pas php pl pm proto ps1 py pyi pyx r rb rkt rs
    rst s scala scm scss sh sol sql sv svelte swift tcl tex thrift ts tsx v vb vhd vhdl vue
    zig zsh
"""
_EXTENSIONS = frozenset(EXTENSIONS.split())
_FILE_NAMES = {"makefile", "dockerfile", "rakefile", "gemfile", "cmakelists.txt"}
VENDORED = """
    node_modules bower_components vendor vendors vendored third_party thirdparty third-party
    3rdparty external externals extern _vendor site-packages dist-packages godeps pods
    carthage dist build .git .svn __pycache__
"""
_VENDORED = frozenset(VENDORED.split())
_MINIFIED = re.compile(r".*[.-]min\.(?:js|css|mjs)|.*\.bundle\.js", re.I)
_GENERATED_NAME = re.compile(
    r".*(?:_pb2(?:_grpc)?\.pyi?|\.pb\.(?:go|cc|h)|\.g\.dart|\.designer\.cs|\.generated\.\w+)", re.I
)
_GENERATED = re.compile(
    r"@generated\b|do not (?:edit|modify)\b[^\n]{0,60}\bgenerated|generated[^\n]{0,100}\bdo not"
    r" (?:edit|modify)|(?:this|the) (?:file|code) (?:is|was|has been)"
    r" (?:auto(?:matically)?[ -]?)?generated"
    r"|auto(?:matically)?[ -]?generated (?:by|from|file|code)",
    re.I,
)
_ALPHANUMERIC = re.compile(r"[^\W_]+")
_HEAD_CHARACTERS = 2000
_EXCERPT_CHARACTERS = 200


@dataclass(frozen=True)
class Settings:
    """Which files are kept. The thresholds are RedPajama's."""

    licences: tuple[str, ...] = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT")
    longest_line: int = 1000
    longest_mean_line: float = 100.0  # characters by lines
    least_alphanumeric: float = 0.25  # letters and digits among all characters
    largest_bytes: int = 1 << 20  # BigQuery's set has no larger files
    removes_headers: bool = True  # what leading comments say of the licence
    keeps_generated: bool = False
    keeps_vendored: bool = False  # others' code in folders like node_modules, minified files


def read(file: BinaryIO, path: str, settings: Settings) -> Iterator[Document | Dropped]:
    """The source files of a repository, and what is not kept: "licence unknown", "licence not
    permitted", "vendored", "minified", "generated", "too large", "binary", "long line", "long
    lines", "few letters", "empty", or damaged with its place. Files of other kinds are passed over.
    """
    if path.lower().endswith(_LINES):
        for number, record in read_records(file, path):
            yield _row(record, f"{path}#{number}", settings)
    else:
        yield from _archive(file, _ARCHIVE_SUFFIX.sub("", path), settings)


def _row(record: dict[str, Any] | DataError, place: str, settings: Settings) -> Document | Dropped:
    if isinstance(record, DataError):
        return Dropped(place, SOURCE, DAMAGED, record.message)
    repository, path, content, licence = (
        record.get(key) or record.get(f"sample_{key}") or ""
        for key in ("repo_name", "path", "content", "license")
    )
    if not all(isinstance(one, str) for one in (repository, path, content, licence)):
        return Dropped(place, SOURCE, DAMAGED, f"{place}: a field should be a text")
    name = f"{repository}/{path}" if repository and path else place
    if not _is_source(path):
        return Dropped(name, SOURCE, "not a source file")
    url = f"https://github.com/{repository}/blob/HEAD/{path}" if repository and path else ""
    found = licences.licence_named(licence)
    try:
        return _document(content, name, _Origin(path, found, url), settings)
    except DataError as error:
        return Dropped(name, SOURCE, DAMAGED, f"{place}: {error.message}")


def _archive(file: BinaryIO, name: str, settings: Settings) -> Iterator[Document | Dropped]:
    """Twice through the archive: a licence may come after the files that it covers."""
    known = _licences(file)
    file.seek(0)
    for member in archives.members(file, _is_source, largest_bytes=settings.largest_bytes):
        place = f"{name}/{member.name}" if member.name else name
        if isinstance(member, Refused):
            is_large = member.what.startswith("longer than")
            yield Dropped(
                place, SOURCE, "too large" if is_large else DAMAGED, f"{place}: {member.what}"
            )
            continue
        origin = _Origin(member.name, _licence_at(member.name, known), "")
        text = _decoded(member.data)
        if text is None:
            yield Dropped(place, SOURCE, "binary", text_bytes=len(member.data))
        else:
            yield _document(text, place, origin, settings)


def _licences(file: BinaryIO) -> dict[str, str]:
    """Each folder that has licence files, and what they say together."""
    texts: dict[str, list[str]] = {}
    for member in archives.members(file, lambda one: licences.is_licence_file(_last(one))):
        folder = member.name.rpartition("/")[0]
        if isinstance(member, Refused):
            is_licence = licences.is_licence_file(_last(member.name))
            found = [licences.UNKNOWN] if is_licence else []
        else:
            found = [licences.licence_of(member.data.decode("utf-8", "replace"))]
        texts.setdefault(folder.removesuffix("/LICENSES"), []).extend(found)
    return {folder: licences.joined(found) for folder, found in texts.items() if found}


def _licence_at(path: str, known: dict[str, str]) -> str:
    """The licence of the nearest folder around a file that has one."""
    folder = path.rpartition("/")[0]
    while folder not in known and folder:
        folder = folder.rpartition("/")[0]
    return known.get(folder, licences.UNKNOWN)


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _extension(path: str) -> str:
    name = _last(path).lower()
    return name.rpartition(".")[2] if "." in name else name


def _is_source(path: str) -> bool:
    name = _last(path)
    is_code = _extension(path) in _EXTENSIONS or name.lower() in _FILE_NAMES
    return is_code and not licences.is_licence_file(name)


@dataclass(frozen=True)
class _Origin:
    path: str
    licence: str
    url: str


def _document(text: str, name: str, origin: _Origin, settings: Settings) -> Document | Dropped:
    reason = _licence_reason(origin.licence, settings) or _path_reason(origin.path, settings)
    reason = reason or _text_reason(text, settings)
    if not reason and settings.removes_headers:
        text = without_licence_header(text, _extension(origin.path))
        reason = "" if text.strip() else "empty"
    if reason:
        size = len(text.encode("utf-8", "replace"))
        excerpt = text[:_EXCERPT_CHARACTERS].encode("utf-8", "replace").decode()
        return Dropped(name, SOURCE, reason, origin.licence, size, excerpt)
    return Document(text, SOURCE, origin.licence, name, origin.url)


def _licence_reason(licence: str, settings: Settings) -> str:
    if licence == licences.UNKNOWN:
        return "licence unknown"
    is_permitted = all(one in settings.licences for one in licence.split(" OR "))
    return "" if is_permitted else "licence not permitted"


def _path_reason(path: str, settings: Settings) -> str:
    folders = path.lower().split("/")[:-1]
    if not settings.keeps_vendored:
        if not _VENDORED.isdisjoint(folders):
            return "vendored"
        if _MINIFIED.fullmatch(_last(path)):
            return "minified"
    return "generated" if not settings.keeps_generated and _GENERATED_NAME.fullmatch(path) else ""


def _text_reason(text: str, settings: Settings) -> str:
    if not text.strip():
        return "empty"
    if len(text) > settings.largest_bytes:
        return "too large"
    if "\0" in text:
        return "binary"
    lines = text.splitlines()
    if max(map(len, lines)) > settings.longest_line:
        return "long line"
    if len(text) > settings.longest_mean_line * len(lines):
        return "long lines"
    if sum(map(len, _ALPHANUMERIC.findall(text))) < settings.least_alphanumeric * len(text):
        return "few letters"
    if not settings.keeps_generated and _GENERATED.search(text, 0, _HEAD_CHARACTERS):
        return "generated"
    return ""


def _decoded(data: bytes) -> str | None:
    """UTF-8, else Windows' Latin for old sources; None for what is no text."""
    if b"\0" in data[:8000]:
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    return text.replace("\r\n", "\n")
