r"""User macros of LaTeX, with and without arguments, expanded where they are used (paper 2.1).

What is expanded: names that the text itself defines with \newcommand, \renewcommand,
\providecommand, \DeclareRobustCommand, \def, \gdef, \let, \DeclareMathOperator,
\NewDocumentCommand (arguments m and O) and \newenvironment, from the definition on, as TeX does;
groups do not end a definition here. Definitions that are expanded leave the text.
What is not: programs, whose replacement decides, counts, defines or uses internal names (`@`).
They stay as written, definition and use, as does a macro within itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_WORD = re.compile(r"\\([a-zA-Z]+|[^a-zA-Z])", re.S)
_COMMANDS = {"newcommand", "renewcommand", "providecommand", "DeclareRobustCommand"}
_DEFINITIONS = {"def", "gdef", "edef", "xdef"}
_ENVIRONMENTS = {"newenvironment", "renewenvironment"}
_DOCUMENT_COMMANDS = {"NewDocumentCommand", "RenewDocumentCommand", "DeclareDocumentCommand"}
_DEFINING = _COMMANDS | _DEFINITIONS | _ENVIRONMENTS | _DOCUMENT_COMMANDS
_DEFINING |= {"let", "DeclareMathOperator"}
_NAME = r"(?:\{\s*\\([a-zA-Z@]+|[^a-zA-Z])\s*\}|\\([a-zA-Z@]+|[^a-zA-Z]))"
_HEAD = re.compile(rf"(?:\s*\*)?\s*{_NAME}\s*(?:\[([0-9])\])?\s*", re.S)
_DEF_HEAD = re.compile(r"\s*\\([a-zA-Z@]+|[^a-zA-Z])([^{}\\]*)", re.S)
_LET = re.compile(r"\s*\\([a-zA-Z@]+)(?:\s*=)?\s*\\([a-zA-Z@]+|[^a-zA-Z])", re.S)
_ENVIRONMENT_HEAD = re.compile(r"(?:\s*\*)?\s*\{([^{}\\]+)\}\s*(?:\[([0-9])\])?\s*")
_ENVIRONMENT_NAME = re.compile(r"\s*\{([^{}\\]+)\}")
_SPECIFICATION = re.compile(r"\s*\{\s*(O\{[^{}]*\})?([m\s]*)\}\s*")
_PROGRAM = re.compile(
    r"\\[a-zA-Z]*@[a-zA-Z]|\\@"
    r"|\\(?:if(?!f(?![a-zA-Z]))[a-zA-Z]*|else|fi|expandafter|csname|noexpand|the|[egx]?def|let"
    r"|futurelet|newcommand|renewcommand|providecommand|catcode|mathchoice|mathpalette|advance"
    r"|(?:set|addto|step|refstep)(?:counter|length)|global|write|immediate|loop|repeat"
    r"|NewDocumentCommand|IfNoValueTF|IfBooleanTF|begingroup|afterassignment)(?![a-zA-Z])"
    r"|##"
)
# A new meaning of these changes how a text looks, not what it says.
_STRUCTURE = frozenset(
    {"begin", "end", "part", "chapter", "section", "subsection", "subsubsection", "paragraph"}
    | {"subparagraph", "item", "label", "ref", "cite", "citep", "citet", "input", "include"}
    | {"caption", "footnote", "bibliography", "appendix", "maketitle", "title", "author"}
    | {"documentclass", "usepackage", "newcommand", "renewcommand", "def", "let"}
)
_SPACE = re.compile(r"[ \t]*\n?[ \t]*")  # a blank line ends what can be an argument
_XSPACE = re.compile(r"\\xspace(?![a-zA-Z])")
_PARAMETER = re.compile(r"#([1-9])")
_ENDS_IN_WORD = re.compile(r"\\[a-zA-Z]+\Z")
_LONGEST_WORD = 40
_DEEPEST = 24  # replacements and arguments within one another
_FREE_CHARACTERS = 1 << 20
_MOST_TIMES_LONGER = 8
_CALL = 10  # what an expansion costs beside its characters, so that empty ones end, too


class Explosion(Exception):
    """Macros make a text many times as long as it was."""


def expand_macros(text: str) -> str:
    """The text with its own macros expanded, in time linear in its length.

    Raises Explosion when expansions come to more than 8 times its length and a million characters.
    """
    budget = _FREE_CHARACTERS + _MOST_TIMES_LONGER * len(text)
    return _Expansion(budget).run(text, 0)


@dataclass(frozen=True)
class _Macro:
    body: str
    arguments: int = 0
    default: str | None = None  # of the first argument, where it is optional


@dataclass
class _Frame:
    """A text that is being read: the whole, or a macro's replacement."""

    text: str
    name: str = ""
    position: int = 0
    closings: dict[int, int] | None = field(default=None, repr=False)

    def closing(self, begin: int) -> int:
        """Where the group ends whose brace or bracket stands at `begin`; -1 where it does not."""
        if self.closings is None:
            self.closings = _closings(self.text)
        return self.closings.get(begin, -1)

    def group(self, begin: int, bracket: str = "{") -> tuple[str, int] | None:
        """What a group holds, and where it ends; None where none begins."""
        end = self.closing(begin) if self.text.startswith(bracket, begin) else -1
        return (self.text[begin + 1 : end], end + 1) if end >= 0 else None


def _closings(text: str) -> dict[int, int]:
    """The place of each opening brace or bracket to the place of its closing one."""
    closings: dict[int, int] = {}
    braces: list[int] = []
    brackets: list[list[int]] = [[]]  # those open within each open brace
    for found in re.finditer(r"\\.|[{}\[\]]", text, re.S):
        place, mark = found.start(), found[0]
        if mark == "{":
            braces.append(place)
            brackets.append([])
        elif mark == "}" and braces:
            closings[braces.pop()] = place
            brackets.pop()
        elif mark == "[":
            brackets[-1].append(place)
        elif mark == "]" and brackets[-1]:
            closings[brackets[-1].pop()] = place
    return closings


class _Expansion:
    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.macros: dict[str, _Macro] = {}
        self.active = set(_DEFINING)  # begin and end too, once there are environments

    def run(self, text: str, depth: int) -> str:
        """The text expanded; `depth` arguments lie around it."""
        frames = [_Frame(text)]
        parts: list[str] = []
        while frames:
            frame = frames[-1]
            found = self._next(frame)
            _append(parts, frame.text[frame.position : found.start() if found else None])
            if found is None:
                frames.pop()
                continue
            frame.position = found.end()
            if self._define(frame, found[1], found.start(), parts):
                continue
            name = self._called(frame, found[1])
            expansion = None
            is_new = all(one.name != name for one in frames) and len(frames) < _DEEPEST
            if name in self.macros and is_new:
                expansion = self._expansion(self.macros[name], frames, depth)
            if expansion is None:
                _append(parts, frame.text[found.start() : frame.position])
            else:
                frames.append(_Frame(expansion, name))
        return "".join(parts)

    def _next(self, frame: _Frame) -> re.Match[str] | None:
        """The next command that is a macro or defines one."""
        for found in _WORD.finditer(frame.text, frame.position):
            if found[1] in self.macros or found[1] in self.active:
                return found
        return None

    def _called(self, frame: _Frame, word: str) -> str:
        r"""The name in `macros`; for \begin and \end it has the environment's, which is read."""
        if word in ("begin", "end") and (
            environment := _ENVIRONMENT_NAME.match(frame.text, frame.position)
        ):
            frame.position = environment.end()
            return f"{word}{{{environment[1]}}}"
        return word

    def _expansion(self, macro: _Macro, frames: list[_Frame], depth: int) -> str | None:
        """The macro's replacement with the arguments that follow; None where one is missing."""
        unread = (one for one in reversed(frames) if one.position < len(one.text))
        source = next(unread, frames[0])
        position = source.position
        values: list[str] = []
        if macro.default is not None:
            found = source.group(_skip_space(source, position), "[")
            value, position = found or (macro.default, position)
            values.append(value)
        while len(values) < macro.arguments:
            argument = _argument(source, position)
            if argument is None:
                return None
            value, position = argument
            values.append(value)
        source.position = position
        if not macro.arguments and source.text.startswith("{}", position):
            source.position += 2
        if depth < _DEEPEST:
            values = [self.run(one, depth + 1) if "\\" in one else one for one in values]
        expansion = _filled(macro.body, values)
        self.budget -= len(expansion) + _CALL
        if self.budget < 0:
            raise Explosion
        return expansion

    def _define(self, frame: _Frame, word: str, begin: int, parts: list[str]) -> bool:
        """Read a definition that begins here; whether there was one."""
        if word in _COMMANDS:
            found = _command(frame)
        elif word in _DEFINITIONS:
            found = _definition(frame, is_program=word[0] in "ex")
        elif word == "let":
            found = self._let(frame)
        elif word == "DeclareMathOperator":
            found = _operator(frame)
        elif word in _DOCUMENT_COMMANDS:
            found = _document_command(frame)
        elif word in _ENVIRONMENTS:
            return self._environment(frame, begin, parts)
        else:
            return False
        if found is None:
            return False
        name, macro, end = found
        frame.position = end
        if macro is None or name in _STRUCTURE or "@" in name:
            self.macros.pop(name, None)
            _append(parts, frame.text[begin:end])
        elif word != "providecommand" or name not in self.macros:
            self.macros[name] = macro
        return True

    def _let(self, frame: _Frame) -> _Found:
        found = _LET.match(frame.text, frame.position)
        if not found:
            return None
        other = _Macro(f"\\{found[2]}") if "@" not in found[2] else None
        return found[1], self.macros.get(found[2], other), found.end()

    def _environment(self, frame: _Frame, begin: int, parts: list[str]) -> bool:
        head = _ENVIRONMENT_HEAD.match(frame.text, frame.position)
        if not head:
            return False
        default, place = _default(frame, head.end())
        before = frame.group(place)
        after = frame.group(_skip_space(frame, before[1])) if before else None
        if before is None or after is None:
            return False
        frame.position = after[1]
        names = [f"{word}{{{head[1]}}}" for word in ("begin", "end")]
        opens = _macro(before[0], int(head[2] or 0), default)
        closes = _macro(after[0], 0, None)
        if opens is None or closes is None:
            _append(parts, frame.text[begin : frame.position])
            for name in names:
                self.macros.pop(name, None)
        else:
            self.active |= {"begin", "end"}
            self.macros.update(zip(names, (opens, closes), strict=True))
        return True


# A name, what it stands for (None: a program), and where its definition ends.
_Found = tuple[str, _Macro | None, int] | None


def _command(frame: _Frame) -> _Found:
    head = _HEAD.match(frame.text, frame.position)
    if not head:
        return None
    default, place = _default(frame, head.end())
    body = frame.group(place)
    if body is None:
        return None
    return head[1] or head[2], _macro(body[0], int(head[3] or 0), default), body[1]


def _definition(frame: _Frame, *, is_program: bool) -> _Found:
    head = _DEF_HEAD.match(frame.text, frame.position)
    body = frame.group(head.end()) if head else None
    if head is None or body is None:
        return None
    parameters = head[2].strip()
    count = len(parameters) // 2
    is_plain = parameters == "".join(f"#{number}" for number in range(1, count + 1))
    macro = _macro(body[0], count, None) if is_plain and not is_program else None
    return head[1], macro, body[1]


def _operator(frame: _Frame) -> _Found:
    head = _HEAD.match(frame.text, frame.position)
    body = frame.group(head.end()) if head else None
    if head is None or body is None:
        return None
    star = "*" if "*" in head[0].partition("\\")[0] else ""
    return head[1] or head[2], _macro(f"\\operatorname{star}{{{body[0]}}}", 0, None), body[1]


def _document_command(frame: _Frame) -> _Found:
    head = _HEAD.match(frame.text, frame.position)
    specification = _SPECIFICATION.match(frame.text, head.end()) if head else None
    body = frame.group(specification.end()) if specification else None
    if head is None or specification is None or body is None:
        return None
    optional = specification[1]
    count = specification[2].count("m") + bool(optional)
    return head[1] or head[2], _macro(body[0], count, optional and optional[2:-1]), body[1]


def _default(frame: _Frame, place: int) -> tuple[str | None, int]:
    found = frame.group(place, "[")
    return (found[0], _skip_space(frame, found[1])) if found else (None, place)


def _macro(body: str, arguments: int, default: str | None) -> _Macro | None:
    """None for a program."""
    used = max((int(one) for one in _PARAMETER.findall(body)), default=0)
    if _PROGRAM.search(body) or used > arguments:
        return None
    return _Macro(_XSPACE.sub("", body).strip("\n"), arguments, default if arguments else None)


def _argument(source: _Frame, position: int) -> tuple[str, int] | None:
    """The next group, command or character, and where it ends."""
    place = _skip_space(source, position)
    if group := source.group(place):
        return group
    if place >= len(source.text) or source.text[place] in "{}\n&$":
        return None
    word = _WORD.match(source.text, place)
    end = word.end() if word else place + 1
    return source.text[place:end], end


def _skip_space(source: _Frame, position: int) -> int:
    found = _SPACE.match(source.text, position)
    return found.end() if found else position


def _filled(body: str, values: list[str]) -> str:
    if "#" not in body:
        return body
    parts: list[str] = []
    for index, part in enumerate(_PARAMETER.split(body)):
        _append(parts, values[int(part) - 1] if index % 2 else part)
    return "".join(parts)


def _append(parts: list[str], part: str) -> None:
    r"""Add a part; a letter after `\word` is kept apart from it by a space."""
    if not part:
        return
    is_letter = part[0].isascii() and part[0].isalpha()
    if is_letter and parts and _ENDS_IN_WORD.search(parts[-1][-_LONGEST_WORD:]):
        parts.append(" ")
    parts.append(part)
