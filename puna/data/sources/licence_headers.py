"""The comment about copyright and licence at the beginning of a source file, and its removal.

Only comments before the first line of code are looked at, and of them only the paragraphs from the
first to the last that speak of copyright or licence go. Shebangs, coding lines, `#include`,
docstrings and other comments stay.
"""

from __future__ import annotations

import re

_Style = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]  # marks of lines, pairs of blocks
_C: _Style = (("//",), (("/*", "*/"),))
_C_LIKE = """
    c h cc cpp cxx hpp hh hxx inl cs java js mjs cjs jsx ts tsx go rs swift kt kts scala dart mm
    groovy gradle proto cu cuh cl glsl hlsl metal sv v scss less zig d thrift php sol
"""
_HASH: _Style = (("#",), ())
_HASH_LIKE = """
    py pyi pyx pxd rb sh bash zsh fish pl pm r cmake mk tcl jl nim ex exs coffee bzl star gn awk
    makefile dockerfile rakefile gemfile txt
"""
_LISP: _Style = ((";",), (("/*", "*/"),))
_PASCAL: _Style = (("//",), (("(*", "*)"), ("{", "}")))
_STYLES: dict[str, _Style] = {
    **dict.fromkeys(_C_LIKE.split(), _C),
    **dict.fromkeys(_HASH_LIKE.split(), _HASH),
    **dict.fromkeys(("html", "htm", "xml", "vue", "svelte", "md"), ((), (("<!--", "-->"),))),
    **dict.fromkeys(("sql", "ada", "adb", "ads", "vhd", "vhdl", "elm"), (("--",), ())),
    **dict.fromkeys(("el", "lisp", "lsp", "clj", "cljs", "scm", "rkt", "asm", "s"), _LISP),
    **dict.fromkeys(("f90", "f95", "f03", "f08"), (("!",), ())),
    **dict.fromkeys(("erl", "hrl", "tex", "sty"), (("%",), ())),
    **dict.fromkeys(("ml", "mli", "pas"), _PASCAL),
    "fs": (("//",), (("(*", "*)"),)),
    "lua": (("--",), (("--[[", "]]"),)),
    "hs": (("--",), (("{-", "-}"),)),
    "css": ((), (("/*", "*/"),)),
    "ps1": (("#",), (("<#", "#>"),)),
}
_KEPT_LINE = re.compile(r"#!|#.*coding[:=]|<\?(?:php|xml)|<!doctype", re.I)
_LICENCE_WORDS = re.compile(
    r"copyright|licen[cs]e|spdx-|all rights reserved|\(c\)\s*(?:19|20)\d\d|©"
    r"|permission is hereby granted|redistribution and use|redistributions (?:of|in)"
    r"|without warranty|merchantability|\bas is\b|no event shall|neither the name of",
    re.I,
)
_SPACE = re.compile(r"\s*")
_BLANK_LINES = re.compile(r"(?:[ \t]*\r?\n)*")
_MARKS = "/*#-;!%<>(){}= \t"
_MOST_BLOCKS = 4
_LONGEST_BLOCK = 30_000


def without_licence_header(text: str, extension: str) -> str:
    """The text of a source file without what its leading comments say of its licence."""
    style = _STYLES.get(extension.lower())
    if style is None:
        return text
    position = _first_line(text)
    kept = [text[:position]]
    for _ in range(_MOST_BLOCKS):
        start = _past(_SPACE, text, position)
        end = _comment_end(text, start, style)
        if not end or end - start > _LONGEST_BLOCK:
            break
        block = _without_licence(text[start:end], style[1])
        kept.append(text[position:start] + block if block else "")
        position = end if block else _past(_BLANK_LINES, text, end)
    return "".join([*kept, text[position:]])


def _first_line(text: str) -> int:
    """Where the lines end that are no comment though they look like one."""
    position = 1 if text.startswith("\ufeff") else 0
    while _KEPT_LINE.match(text, position):
        end = text.find("\n", position)
        if end < 0:
            return len(text)
        position = end + 1
    return position


def _past(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position


def _comment_end(text: str, start: int, style: _Style) -> int:
    """Where the comment ends that begins at `start`; 0 where none does."""
    lines, blocks = style
    for opening, closing in blocks:
        if text.startswith(opening, start):
            end = text.find(closing, start + len(opening))
            return end + len(closing) if end >= 0 else 0
    position = start
    while any(text.startswith(mark, position + _indent(text, position)) for mark in lines):
        if text.startswith(("#include", "#define", "#pragma", "#if"), position):
            break
        end = text.find("\n", position)
        if end < 0:
            return len(text)
        position = end + 1
    return position if position > start else 0


def _indent(text: str, position: int) -> int:
    length = 0
    while text[position + length : position + length + 1] in (" ", "\t"):
        length += 1
    return length


def _without_licence(comment: str, blocks: tuple[tuple[str, str], ...]) -> str:
    """A comment without its paragraphs about the licence; "" where nothing else is in it."""
    opening, closing = next(
        ((one, other) for one, other in blocks if comment.startswith(one)), ("", "")
    )
    inner = comment[len(opening) : len(comment) - len(closing)]
    lines = inner.splitlines(keepends=True)
    spoken = [bool(_LICENCE_WORDS.search(line)) for line in lines]
    if not any(spoken):
        return comment
    first, last = spoken.index(True), len(spoken) - 1 - spoken[::-1].index(True)
    while first > 0 and lines[first - 1].strip(_MARKS + "\r\n"):
        first -= 1
    while last < len(lines) - 1 and lines[last + 1].strip(_MARKS + "\r\n"):
        last += 1
    before, after = "".join(lines[:first]), "".join(lines[last + 1 :])
    if not (before + after).strip(_MARKS + "\r\n"):
        return ""
    if not before.strip(_MARKS + "\r\n"):
        before = ""
        after = after if opening else _without_empty_marks(after)
    start = "\n" if opening and not before else ""
    return f"{opening}{before}{start}{after}{closing}"


def _without_empty_marks(lines: str) -> str:
    """The lines from the first on that says something."""
    parts = lines.splitlines(keepends=True)
    while parts and not parts[0].strip(_MARKS + "\r\n"):
        parts = parts[1:]
    return "".join(parts)
