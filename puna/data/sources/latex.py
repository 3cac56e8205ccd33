"""LaTeX without what is not read: comments, what stands before the first section, bibliographies.

LaTeX itself stays, as in the paper (2.1). Verbatim text and addresses are set aside first, as one
mark each, so that no rule ever looks into them, and put back last.
"""

from __future__ import annotations

import re

_MARK = re.compile("\ue000([0-9]+)\ue001")
_MARKS = re.compile("[\ue000\ue001]")
_VERBATIM = "|".join(
    [r"verbatim\*?", r"[BL]?Verbatim\*?", "lstlisting", "minted", "filecontents\\*?", "comment"]
)
_EVENT = re.compile(
    rf"\\begin\s*\{{({_VERBATIM})\}}"
    r"|\\(?:verb\*?|lstinline)([^a-zA-Z\s*{\[])"
    r"|\\(?:url|path|nolinkurl|href)\s*\{"
    r"|\\iffalse(?![a-zA-Z@])"
    r"|\\.|%",
    re.S,
)
_LONGEST_VERB = 2000
_ADDRESS_END = re.compile(r"[^{}\n]{0,2000}\}")
_CONDITION = re.compile(r"\\(if[a-zA-Z@]*|fi)(?![a-zA-Z@])")
_NO_CONDITION = {"iff", "ifthenelse", "iftoggle", "ifdef", "ifundef", "ifstrequal", "ifstrempty"}

_BEGIN = re.compile(r"\\begin\s*\{document\}")
_END = re.compile(r"\\end\s*\{document\}|\\bye(?![a-zA-Z])|\\endinput(?![a-zA-Z])")
_SECTION = re.compile(
    r"\\(?:part|chapter|section|subsection|subsubsection|paragraph|subparagraph)"
    r"(?![a-zA-Z@])(?:\s*\*)?\s*[\[{]"
    r"|\\beginsection(?![a-zA-Z])"
)
_APPENDIX = re.compile(r"\\(?:appendix(?![a-zA-Z@])|begin\s*\{(?:appendix|appendices)\})")
_REFERENCES = "thebibliography|references|REFERENCES|biblist|bibdiv|chapthebibliography"
_REFERENCES_BEGIN = re.compile(rf"\\begin\s*\{{({_REFERENCES})\*?\}}")
_BIBLIOGRAPHY = re.compile(
    r"\\(?:bibliography|nobibliography|bibliographystyle|addbibresource|putbib)(?![a-zA-Z@])"
    r"(?:\s*\*)?\s*(?:\[[^\[\]]*\]\s*)?\{[^{}]*\}"
    r"|\\printbibliography(?![a-zA-Z@])(?:\s*\[[^\[\]]*\])?"
)
_REFERENCES_TITLE = re.compile(
    r"\\(?:chapter|section|subsection)(?:\s*\*)?\s*\{\s*(?:\\[a-zA-Z]+\s*)?"
    r"(?:References|REFERENCES|Bibliography|BIBLIOGRAPHY|Literature cited|References cited)"
    r"[.:]?\s*\}"
)
_ANY_TITLE = re.compile(rf"{_SECTION.pattern}|{_APPENDIX.pattern}")
_SPACE_AT_END = re.compile(r"(?<![ \t])[ \t]+$", re.M)
_BLANK_LINES = re.compile(r"\n{3,}")


def bare(text: str, aside: list[str]) -> str:
    r"""The text without comments: `%`, the `comment` environment, `\iffalse ... \fi`.

    A line that is only a comment goes whole; an escaped `\%` and all around it stays. Verbatim text
    and addresses are appended to `aside`, and a mark stands in their place.
    """
    return _Bare(_MARKS.sub("", text.replace("\r\n", "\n").replace("\r", "\n")), aside).run()


def restored(text: str, aside: list[str]) -> str:
    """The text with what was set aside put back."""
    return _MARK.sub(lambda mark: aside[int(mark[1])], text)


class _Bare:
    def __init__(self, text: str, aside: list[str]) -> None:
        self.text, self.aside = text, aside
        self.parts: list[str] = []
        self.position = 0
        self.absent: set[str] = set()  # ends that do not come any more

    def run(self) -> str:
        """All of the text."""
        while event := _EVENT.search(self.text, self.position):
            begin = event.start()
            self.parts.append(self.text[self.position : begin])
            self.position = event.end()
            found = event[0]
            if found == "%":
                self._comment(begin)
            elif event[1]:
                self._verbatim(begin, event[1])
            elif event[2]:
                self._until(begin, event[2])
            elif found.endswith("{") and len(found) > 2:
                end = _ADDRESS_END.match(self.text, self.position)
                self._set_aside(begin, end.end()) if end else self.parts.append(found)
            elif found.startswith("\\iffalse"):
                self._false(begin)
            else:
                self.parts.append(found)
        self.parts.append(self.text[self.position :])
        return "".join(self.parts)

    def _comment(self, begin: int) -> None:
        end = self.text.find("\n", begin)
        end = len(self.text) if end < 0 else end
        line_begin = self.text.rfind("\n", 0, begin) + 1
        is_whole_line = not self.text[line_begin:begin].strip()
        if is_whole_line and self.parts:
            self.parts[-1] = self.parts[-1].rstrip(" \t")
        self.position = min(end + is_whole_line, len(self.text))

    def _verbatim(self, begin: int, name: str) -> None:
        end = self._find(f"\\end{{{name}}}")
        if end and name == "comment":
            self.position = end
        elif end:
            self._set_aside(begin, end)
        else:
            self.parts.append(self.text[begin : self.position])

    def _until(self, begin: int, delimiter: str) -> None:
        limit = self.position + _LONGEST_VERB
        end = self.text.find(delimiter, self.position, limit)
        if end < 0 or "\n" in self.text[self.position : end]:
            self.parts.append(self.text[begin : self.position])
        else:
            self._set_aside(begin, end + 1)

    def _find(self, end: str) -> int:
        """Where the next `end` ends; 0 where none comes."""
        found = -1 if end in self.absent else self.text.find(end, self.position)
        if found < 0:
            self.absent.add(end)
        return found + len(end) if found >= 0 else 0

    def _set_aside(self, begin: int, end: int) -> None:
        self.parts.append(f"\ue000{len(self.aside)}\ue001")
        self.aside.append(self.text[begin:end])
        self.position = end

    def _false(self, begin: int) -> None:
        depth = 1
        is_hopeless = "\\fi" in self.absent
        for one in () if is_hopeless else _CONDITION.finditer(self.text, self.position):
            depth += -1 if one[1] == "fi" else one[1] not in _NO_CONDITION
            if depth == 0:
                self.position = one.end()
                return
        self.absent.add("\\fi")
        self.parts.append(self.text[begin : self.position])


def inside_document(text: str) -> str:
    r"""What stands between `\begin{document}` and its end; all but the end where there is none."""
    begin = _BEGIN.search(text)
    start = begin.end() if begin else 0
    end = _END.search(text, start)
    return text[start : end.start() if end else len(text)]


def from_first_section(text: str) -> str | None:
    """The text from its first section, chapter, part or paragraph on; None where it has none."""
    found = _SECTION.search(text)
    return text[found.start() :] if found else None


def without_bibliography(text: str) -> str:
    """The text without lists of references, commands that make one, and sections so called."""
    parts: list[str] = []
    position = 0
    while begin := _REFERENCES_BEGIN.search(text, position):
        parts.append(text[position : begin.start()])
        name = re.escape(begin[1])
        end = re.compile(rf"\\end\s*\{{{name}\*?\}}").search(text, begin.end())
        position = end.end() if end else len(text)
    text = _BIBLIOGRAPHY.sub("", "".join([*parts, text[position:]]))
    parts, position = [], 0
    while title := _REFERENCES_TITLE.search(text, position):
        parts.append(text[position : title.start()])
        after = _ANY_TITLE.search(text, title.end())
        position = after.start() if after else len(text)
    return "".join([*parts, text[position:]])


def until_appendix(text: str) -> str:
    """The text before its appendix."""
    found = _APPENDIX.search(text)
    return text[: found.start()] if found else text


def tidy(text: str) -> str:
    """The text with at most one blank line in a row, and no space at the ends of lines."""
    return _BLANK_LINES.sub("\n\n", _SPACE_AT_END.sub("", text)).strip()
