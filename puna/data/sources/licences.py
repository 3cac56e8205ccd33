"""Which free licence a licence file is, by its clauses.

The measure: letters and digits in small, everything else a space. A text is a licence when all its
clauses occur, none of another family's names occurs, and it has at most so many words as the
licence with names and a heading; so that what is added to a licence, or joined from several, is
not recognised. A doubt makes a licence unknown, never permitted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

NOT_PERMITTED = "other"  # names a licence of another family
UNKNOWN = ""

_LONGEST_BYTES = 64 << 10  # the longest known, the GPL, has 35 kB
_WORD = re.compile(r"[a-z0-9]+")
_FILE = re.compile(
    r"(?:.*[-_.])?(?:un)?licen[cs]es?(?:[-_.].*)?|copying(?:[-_.].*)?|copyright(?:\.(?:txt|md))?",
    re.I,
)
# What a licence file's name ends in, beside nothing and numbers (LICENSE-2.0).
_ENDINGS = {"txt", "md", "rst", "markdown", "adoc", "mit", "bsd", "apache", "apache2"}
_ENDINGS |= {"gpl", "lgpl", "agpl", "mpl", "lesser"}

_AS_IS = "as is"
_MIT = "permission is hereby granted free of charge to any person obtaining a copy of this software"
_MIT_RIGHTS = "to use copy modify merge publish distribute sublicense and or sell copies"
_MIT_NOTICE = "the above copyright notice and this permission notice"
_BSD = (
    "redistribution and use in source and binary forms with or without modification are permitted"
    " provided that the following conditions are met"
)
_BSD_SOURCE = "redistributions of source code must retain the above copyright notice"
_BSD_BINARY = "redistributions in binary form must reproduce the above copyright notice"
_BSD_NAME = "used to endorse or promote products derived from this software without"
_BSD_ADVERTISING = "all advertising materials mentioning features or use of this software"
_APACHE = "apache license version 2 0"
_OTHERS = re.compile(
    r"\b(?:general public licen[cs]e|gnu|[al]?gpl|mozilla public|mpl|eclipse public|epl"
    r"|common development and distribution|creative commons|cc by|european union public"
    r"|business source|server side public|commons clause|elastic license|non ?commercial"
    r"|shall be used for good not evil|unlicen[cs]e|artistic licen[cs]e|boost software"
    r"|dual licen[cs]ed|proprietary|confidential|all rights are reserved)\b"
)


class Licence(NamedTuple):
    """A licence by what it says, what it does not, and how long it is at most."""

    name: str  # SPDX
    clauses: tuple[str, ...]
    absent: tuple[str, ...]
    most_words: int


# Words of the texts as published: MIT 161, BSD 189 to 257, Apache 1,577 with its appendix.
_LICENCES = (
    Licence("MIT", (_MIT, _MIT_RIGHTS, _MIT_NOTICE, _AS_IS), (), 260),
    Licence("MIT-0", (_MIT, _MIT_RIGHTS, _AS_IS), (_MIT_NOTICE, "subject to the"), 200),
    Licence("BSD-4-Clause", (_BSD, _BSD_SOURCE, _BSD_BINARY, _BSD_ADVERTISING, _AS_IS), (), 400),
    Licence("BSD-3-Clause", (_BSD, _BSD_SOURCE, _BSD_BINARY, _BSD_NAME, _AS_IS), (), 340),
    Licence("BSD-2-Clause", (_BSD, _BSD_SOURCE, _BSD_BINARY, _AS_IS), (_BSD_NAME,), 290),
    Licence(
        "Apache-2.0",
        (
            "version 2 0 january 2004",
            "terms and conditions for use reproduction and distribution",
            "grant of copyright license",
            "grant of patent license",
            "submission of contributions",
            "disclaimer of warranty",
            "limitation of liability",
        ),
        (),
        1750,
    ),
    Licence(
        "Apache-2.0",
        (f"licensed under the {_APACHE}", "you may not use this file except in compliance"),
        ("terms and conditions for use",),
        160,
    ),
)
_KEYS = {"apache": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0"}
_KEYS |= {one.name.lower(): one.name for one in _LICENCES}


def is_licence_file(name: str) -> bool:
    """Whether a file of this name (its last part) says the licence of its folder."""
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    return bool(_FILE.fullmatch(name)) and (not ending.isalpha() or ending in _ENDINGS)


def licence_of(text: str) -> str:
    """The SPDX name of a licence's text; NOT_PERMITTED or UNKNOWN where it is none of ours."""
    words = _WORD.findall(text[:_LONGEST_BYTES].lower())
    plain = " ".join(words)
    if _OTHERS.search(plain):
        return NOT_PERMITTED
    for licence in _LICENCES:
        is_it = all(one in plain for one in licence.clauses)
        if is_it and not any(one in plain for one in licence.absent):
            return licence.name if len(words) <= licence.most_words else UNKNOWN
    return UNKNOWN


def licence_named(key: str) -> str:
    """The SPDX name of what metadata call a licence (`mit`, `apache-2.0`); NOT_PERMITTED else."""
    key = key.strip().lower()
    return _KEYS.get(key, NOT_PERMITTED) if key and key != "unknown" else UNKNOWN


def joined(names: Iterable[str]) -> str:
    """The licence of a folder with several licence files: any that is not permitted decides."""
    found = sorted(set(names))
    if NOT_PERMITTED in found:
        return NOT_PERMITTED
    return UNKNOWN if UNKNOWN in found else " OR ".join(found)
