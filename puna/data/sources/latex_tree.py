r"""The files of one paper: their encodings, which of them is the main one, what \input joins."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from puna.data.sources.latex import bare, inside_document

_TEX = (".tex", ".ltx", ".latex")
_CLASS = re.compile(r"\\document(?:class|style)(?![a-zA-Z@])\s*(?:\[[^\[\]]*\]\s*)?\{([^{}]*)\}")
_NO_PAPER = {"standalone", "letter"}  # a figure that is compiled alone; a letter to the editor
_PLAIN_TEX = re.compile(r"\\(?:bye|magnification|documentstyle|beginsection|proclaim)(?![a-zA-Z])")
_INPUT = re.compile(
    r"\\(?:(sub)?(?:import|includefrom|inputfrom)\*?\s*\{([^{}\n]*)\}\s*\{([^{}\n]*)\}"
    r"|(input|include|subfile|subfileinclude)(?![a-zA-Z@])\s*(?:\{([^{}\n]*)\}|([^\s\\{}]+)))"
)
_INPUT_ENCODING = re.compile(rb"\\usepackage\s*\[([^\[\]]*)\]\s*\{inputenc\}")
_ENCODINGS = {
    "latin1": "latin-1",
    "latin2": "iso8859-2",
    "latin5": "iso8859-9",
    "latin9": "iso8859-15",
    "ansinew": "cp1252",
    "cp1250": "cp1250",
    "cp1251": "cp1251",
    "cp1252": "cp1252",
    "koi8-r": "koi8-r",
    "koi8-u": "koi8-u",
    "applemac": "mac-roman",
}
_MOST_CHARACTERS = 64 << 20
_DEEPEST = 16
_RUN = 5


class Tree:
    """A paper's text files by name. `aside` gets what `bare` sets aside, of all of them."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.aside: list[str] = []
        self._encoding = _declared_encoding(files)
        self._files = files
        self._bare: dict[str, str] = {}
        self._joined_characters = 0

    def mains(self) -> list[str]:
        r"""The files that are compiled, by name: those with \documentclass that no other includes.

        Without such, the largest file of plain TeX; none where there is no TeX.
        """
        names = [name for name in sorted(self._files) if name.lower().endswith(_TEX)]
        names = names or [name for name in sorted(self._files) if "." not in name]
        classes = {name: _CLASS.search(self._text(name)) for name in names}
        mains = [
            name for name, found in classes.items() if found and found[1].strip() not in _NO_PAPER
        ]
        if mains:
            inner = set().union(*(self._reached(name) for name in mains))
            return [name for name in mains if name not in inner] or mains[:1]
        plain = [name for name in names if _PLAIN_TEX.search(self._text(name))]
        return sorted(plain, key=lambda name: len(self._text(name)))[-1:]

    def joined(self, name: str) -> str:
        r"""A file with the files that it includes in the place of \input, \include, \subfile and
        \import. A file that is not there, or is around itself, leaves its command.
        """
        folder = posixpath.dirname(name)
        return self._joined(name, (folder, folder), ())

    def _joined(self, name: str, folders: tuple[str, str], around: tuple[str, ...]) -> str:
        text = self._text(name)
        parts: list[str] = []
        position = 0
        for found in _INPUT.finditer(text):
            target, inner = self._target(found, folders, posixpath.dirname(name))
            if not target or target in (*around, name) or len(around) >= _DEEPEST:
                continue
            self._joined_characters += len(self._text(target))
            if self._joined_characters > _MOST_CHARACTERS:
                continue
            part = self._joined(target, inner, (*around, name))
            is_whole = _CLASS.search(part[: 1 << 16])
            parts += [text[position : found.start()], inside_document(part) if is_whole else part]
            position = found.end()
        return "".join([*parts, text[position:]])

    def _reached(self, main: str) -> set[str]:
        """The files that a file includes, and those that they include."""
        reached: set[str] = set()
        waiting = [main]
        while waiting:
            here = posixpath.dirname(name := waiting.pop())
            for one in _INPUT.finditer(self._text(name)):
                target, _ = self._target(one, (posixpath.dirname(main), here), here)
                if target and target not in reached:
                    reached.add(target)
                    waiting.append(target)
        return reached - {main}

    def _target(
        self, found: re.Match[str], folders: tuple[str, str], here: str
    ) -> tuple[str, tuple[str, str]]:
        """The file that a command includes, "" for none, and the folders its own are in:
        that of the main file, and the one that \\import has set.
        """
        main_folder, folder = folders
        is_import = found[4] is None
        if is_import:
            folder = posixpath.join(folder if found[1] else main_folder, found[2].strip())
        wanted = (found[3] if is_import else found[5] or found[6] or "").strip().strip('"')
        for start in dict.fromkeys((folder, main_folder, here, "")):
            path = posixpath.normpath(posixpath.join(start, wanted)) if wanted else ""
            for name in (path, f"{path}.tex"):
                if name in self._files:
                    return name, (main_folder, folder)
        return "", folders

    def _text(self, name: str) -> str:
        if name not in self._bare:
            self._bare[name] = bare(_decoded(self._files[name], self._encoding), self.aside)
        return self._bare[name]


def without_repeats(texts: list[str]) -> list[str]:
    """The texts, longest first, without those of which half is in the ones before, by runs of
    five words: versions of one paper for two journals.
    """
    if len(texts) < 2:
        return texts
    kept: list[str] = []
    seen: set[int] = set()
    for text in sorted(texts, key=len, reverse=True):
        words = text.split()
        runs = {hash(tuple(words[at : at + _RUN])) for at in range(max(1, len(words) - _RUN + 1))}
        if len(runs & seen) * 2 < len(runs):
            kept.append(text)
            seen |= runs
    return kept


def _declared_encoding(files: Mapping[str, bytes]) -> str:
    for name in sorted(files):
        for found in _INPUT_ENCODING.finditer(files[name]):
            options = [one.strip() for one in found[1].decode("latin-1").split(",")]
            if known := [_ENCODINGS[one] for one in options if one in _ENCODINGS]:
                return known[-1]
    return "cp1252"


def _decoded(data: bytes, encoding: str) -> str:
    """UTF-8 where it is; else what inputenc declares, or Windows' Latin, whose gaps are Latin-1."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    for one in ("utf-8", encoding):
        try:
            return data.decode(one)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")
