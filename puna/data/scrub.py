"""Masks what should not be learned: e-mail and network addresses, keys, and phone numbers.

As in Dolma (Soldaini et al. 2024), its marks |||EMAIL_ADDRESS|||, |||PHONE_NUMBER||| and
|||IP_ADDRESS||| stand for what was there, and a document with more than 5 is dropped; |||SECRET|||
is ours. Every expression takes time linear in the text.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from puna.data.document import Document, Dropped, Results

EMAIL, PHONE, ADDRESS, SECRET = "EMAIL_ADDRESS", "PHONE_NUMBER", "IP_ADDRESS", "SECRET"


@dataclass(frozen=True)
class Settings:
    """What is masked."""

    emails: bool = True
    addresses: bool = True  # IPv4 and IPv6; private, local and documentation ones stay
    secrets: bool = True
    phones: bool = False  # of North America, which tables of numbers resemble
    max_found: int = 5  # a document with more is dropped, Dolma's; 0 masks any number


# An address starts where no character of one is before it, so that each is tried once.
_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9][\w.+%-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])",
    re.ASCII,
)
_EXAMPLE_DOMAINS = re.compile(r"@(?:[\w-]+\.)*(?:example(?:\.\w+)?|\w+\.example)$", re.ASCII)
_IPV4 = re.compile(r"(?:(?<=//)|(?<![\w.:/-]))(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w)", re.ASCII)
_VERSION = re.compile(r"(?:version|release|section|chapter|v|ver|rev|build|§)[\s.:#=-]{0,3}$", re.I)
# Global addresses begin with 2 or 3; else slices such as [1::3] would be some.
_IPV6 = re.compile(
    r"(?<![\w:.])[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:])"
)
_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+?1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}(?![\w-])",
    re.ASCII,
)
_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA)[A-Z0-9]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{60,255}"  # GitHub
    r"|glpat-[\w-]{20,64}|xox[abprs]-[\w-]{10,250}|AIza[\w-]{35}"  # GitLab, Slack, Google
    r"|sk_live_[A-Za-z0-9]{20,247}|sk-(?:proj-|ant-)?[\w-]{32,250}|hf_[A-Za-z0-9]{30,64}"
    r")(?![A-Za-z0-9])",
    re.ASCII,
)
_KEY_HINTS = ("AKIA", "ASIA", "gh", "glpat-", "xox", "AIza", "sk", "hf_")
_BLOCK_BEGIN = re.compile(r"-----BEGIN (?:[A-Z]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_BLOCK_END = re.compile(r"-----END (?:[A-Z]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_NAMED = re.compile(
    r"(?:api_?key|apikey|secret|token|passwd|password|access_?key)"
    r"[\"']{0,2}\s{0,3}(?::=|=>|[:=])\s{0,3}[\"']?(?P<value>[A-Za-z0-9+/_=.-]{16,512})",
    re.ASCII | re.I,
)
_NAMES = ("api", "secret", "token", "passw", "access")
_MIN_BITS = 3.5  # of entropy a character: words have less, base64 about 5


def apply(documents: Sequence[Document], settings: Settings) -> list[Document | Dropped]:
    """Each document with marks for what was found; Dropped, "personal data", for too much of it.

    Counts what is masked in documents that stay, by kind.
    """
    masked: Counter[str] = Counter()
    return Results([_scrubbed(document, settings, masked) for document in documents], masked)


def scrub(text: str, settings: Settings) -> tuple[str, Counter[str]]:
    """The text with marks, and how many of each kind."""
    found: Counter[str] = Counter()
    if settings.secrets:
        text = _without_blocks(text, found)
        lower = text.lower()
        if any(name in lower for name in _NAMES):
            text = _NAMED.sub(_mask(SECRET, found, _looks_random, "value"), text)
        if any(hint in text for hint in _KEY_HINTS):
            text = _KEY.sub(_mask(SECRET, found), text)
    if settings.emails and "@" in text:
        text = _EMAIL.sub(_mask(EMAIL, found, _is_a_person_s), text)
    if settings.addresses:
        text = _IPV4.sub(_mask(ADDRESS, found, _is_public_ipv4), text)
        if "::" in text or text.count(":") > 6:
            text = _IPV6.sub(_mask(ADDRESS, found, _is_public), text)
    if settings.phones:
        text = _PHONE.sub(_mask(PHONE, found), text)
    return text, found


def _scrubbed(document: Document, settings: Settings, masked: Counter[str]) -> Document | Dropped:
    text, found = scrub(document.text, settings)
    if settings.max_found and found.total() > settings.max_found:
        detail = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
        size = len(document.text.encode())
        return Dropped(document.id, document.source, "personal data", detail, size, text[:200])
    masked.update(found)
    return replace(document, text=text) if found else document


def _mask(
    kind: str,
    found: Counter[str],
    is_meant: Callable[[re.Match[str]], bool] = lambda match: True,
    group: str | int = 0,
) -> Callable[[re.Match[str]], str]:
    """What puts the mark of a kind in a match's place where it is meant, and counts it."""

    def put(match: re.Match[str]) -> str:
        if not is_meant(match):
            return match.group()
        found[kind] += 1
        start, end = (place - match.start() for place in match.span(group))
        return f"{match.group()[:start]}|||{kind}|||{match.group()[end:]}"

    return put


def _without_blocks(text: str, found: Counter[str]) -> str:
    """The text without blocks of private keys; one without an end reaches to the text's."""
    parts, place = [], 0
    while begin := _BLOCK_BEGIN.search(text, place):
        end = _BLOCK_END.search(text, begin.end())
        parts += [text[place : begin.start()], f"|||{SECRET}|||"]
        found[SECRET] += 1
        place = end.end() if end else len(text)
    return "".join([*parts, text[place:]]) if parts else text


def _is_a_person_s(match: re.Match[str]) -> bool:
    return not _EXAMPLE_DOMAINS.search(match.group())


def _is_public_ipv4(match: re.Match[str]) -> bool:
    """Not 1.2.3.4 and such, which are versions, sections or examples far more often."""
    numbers = [int(part) for part in match.group().split(".")]
    is_numbering = max(numbers) < 20 or numbers[0] == 0 or numbers[2:] == [0, 0]
    before = match.string[max(0, match.start() - 12) : match.start()]
    return not is_numbering and not _VERSION.search(before) and _is_public(match)


def _is_public(match: re.Match[str]) -> bool:
    try:
        return ipaddress.ip_address(match.group()).is_global
    except ValueError:
        return False


def _looks_random(match: re.Match[str]) -> bool:
    """Has a digit and a letter, and as much entropy as a key."""
    value = match["value"]
    if not re.search(r"\d", value) or not re.search(r"[A-Za-z]", value):
        return False
    shares = [count / len(value) for count in Counter(value).values()]
    return -sum(share * math.log2(share) for share in shares) >= _MIN_BITS
