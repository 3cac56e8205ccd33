"""Which licence a text is, and headers that go: by variants of each family, and Debian's copies."""

import importlib.metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from licence_texts import APACHE, APACHE_NOTICE, BSD_2, BSD_3, BSD_4, GPL, MIT, MIT_0

from puna.data.sources.licence_headers import without_licence_header
from puna.data.sources.licences import (
    NOT_PERMITTED,
    UNKNOWN,
    is_licence_file,
    joined,
    licence_named,
    licence_of,
)

COMMON = Path("/usr/share/common-licenses")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (MIT, "MIT"),
        (MIT.upper(), "MIT"),
        ("> " + MIT.replace("\n", "\n> "), "MIT"),
        (MIT_0, "MIT-0"),
        (BSD_2, "BSD-2-Clause"),
        (BSD_3, "BSD-3-Clause"),
        (BSD_4, "BSD-4-Clause"),
        (APACHE, "Apache-2.0"),
        (APACHE_NOTICE, "Apache-2.0"),
        (GPL, NOT_PERMITTED),
        ("Mozilla Public License Version 2.0", NOT_PERMITTED),
        ("This is free and unencumbered software", UNKNOWN),
        ("", UNKNOWN),
        (MIT + "\nor the GNU Affero General Public License", NOT_PERMITTED),
        (MIT + "\nThe Commons Clause applies.", NOT_PERMITTED),
        (MIT + "\nFor non-commercial use only.", NOT_PERMITTED),
        (MIT + "and another term " * 100, UNKNOWN),
        (MIT.replace("sublicense, and/or sell", "and sublicense"), UNKNOWN),
    ],
)
def test_a_licence_is_known_by_its_clauses(text: str, name: str):
    assert licence_of(text) == name


@pytest.mark.skipif(not COMMON.is_dir(), reason="the licences that Debian carries are absent")
def test_licences_as_debian_carries_them():
    found = {path.name: licence_of(path.read_text(errors="replace")) for path in COMMON.iterdir()}
    permitted = {name: one for name, one in found.items() if one not in (NOT_PERMITTED, UNKNOWN)}
    assert permitted == {"Apache-2.0": "Apache-2.0", "BSD": "BSD-3-Clause"}


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("LICENSE", True),
        ("LICENCE.txt", True),
        ("license.md", True),
        ("LICENSE-APACHE", True),
        ("LICENSE.BSD", True),
        ("LICENSE-2.0", True),
        ("MIT-LICENSE.txt", True),
        ("COPYING.LESSER", True),
        ("UNLICENSE", True),
        ("license.py", False),
        ("license.cmake", False),
        ("README.md", False),
        ("licensed.txt", False),
    ],
)
def test_names_of_licence_files(name: str, is_one: bool):
    assert is_licence_file(name) == is_one


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("mit", "MIT"),
        ("apache-2.0", "Apache-2.0"),
        ("bsd-3-clause", "BSD-3-Clause"),
        ("gpl-2.0", NOT_PERMITTED),
        ("", UNKNOWN),
        ("unknown", UNKNOWN),
    ],
)
def test_names_of_metadata(key: str, name: str):
    assert licence_named(key) == name


def test_several_licences():
    assert joined(["MIT", "Apache-2.0", "MIT"]) == "Apache-2.0 OR MIT"
    assert joined(["MIT", NOT_PERMITTED]) == NOT_PERMITTED
    assert joined(["MIT", UNKNOWN]) == UNKNOWN


@pytest.mark.parametrize(
    ("extension", "text", "wanted"),
    [
        ("c", "/* Copyright 2020 A\n * MIT */\n#include <a.h>\n", "#include <a.h>\n"),
        ("c", "// Copyright A\n// Licensed under X\n\nint a;\n", "int a;\n"),
        ("c", "#include <copyright.h>\nint a;\n", "#include <copyright.h>\nint a;\n"),
        ("h", "#ifndef LICENSE_H\n/* (c) 2020 */\n", "#ifndef LICENSE_H\n/* (c) 2020 */\n"),
        ("py", "#!/bin/python\n# Copyright A\nx = 1\n", "#!/bin/python\nx = 1\n"),
        ("py", "# -*- coding: utf-8 -*-\n# (C) 2020 A\nx\n", "# -*- coding: utf-8 -*-\nx\n"),
        ("py", '"""Copyright A."""\n', '"""Copyright A."""\n'),
        ("py", "# Copyright A\n#\n# What it does.\nx\n", "# What it does.\nx\n"),
        ("py", "# What it does.\n#\n# Copyright A\nx\n", "# What it does.\n#\nx\n"),
        ("py", "# What it does.\n\n# Copyright A\nx\n", "# What it does.\nx\n"),
        ("py", "x = 1\n# Copyright A\n", "x = 1\n# Copyright A\n"),
        ("js", "/**\n * What.\n *\n * @license MIT\n */\na\n", "/**\n * What.\n *\n */\na\n"),
        ("html", "<!doctype html>\n<!-- Copyright A -->\n<p>\n", "<!doctype html>\n<p>\n"),
        ("lua", "--[[ Copyright A ]]\nx\n", "x\n"),
        ("sql", "-- Copyright A\nselect 1\n", "select 1\n"),
        ("rs", "// Copyright A\n#![no_std]\n", "#![no_std]\n"),
        ("php", "<?php\n/* Copyright A */\necho;\n", "<?php\necho;\n"),
        ("txt", "Copyright A\n", "Copyright A\n"),
        ("c", "/* Copyright A, never closed\nint a;\n", "/* Copyright A, never closed\nint a;\n"),
    ],
)
def test_only_what_speaks_of_the_licence_goes(extension: str, text: str, wanted: str):
    # RedPajama's bug (b): any leading lines with # or // went, #include and shebangs among them.
    assert without_licence_header(text, extension) == wanted


LINES = [
    "# ",
    "// ",
    "/*",
    "*/",
    "Copyright",
    "#include",
    "\n",
    "x",
    " ",
    '"""',
    "#!",
    "<!--",
    "-->",
]


@given(
    st.lists(st.sampled_from(LINES), max_size=40).map("".join), st.sampled_from(["c", "py", "html"])
)
def test_what_goes_is_comment_and_nothing_raises(text: str, extension: str):
    found = without_licence_header(text, extension)
    assert len(found) <= len(text) + 1
    if "Copyright" not in text:
        assert found == text


def licences_of_installed() -> list[tuple[str, str, str]]:
    """Name, declared licence (SPDX) and our reading of each package that declares one of ours."""
    found = []
    for package in importlib.metadata.distributions():
        declared = package.metadata.get("License-Expression", "")
        files = [one for one in package.files or () if is_licence_file(one.name)]
        own = [one for one in files if ".dist-info" in str(one) and one.locate().is_file()]
        if len(own) == 1 and declared in ("MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause"):
            text = Path(str(own[0].locate())).read_text(encoding="utf-8", errors="replace")
            found.append((package.name, declared, licence_of(text)))
    return found


def test_installed_packages_are_what_they_declare():
    found = licences_of_installed()
    known = [(name, declared, ours) for name, declared, ours in found if ours not in ("", "other")]
    assert [one for one in known if one[1] != one[2]] == []
    assert len(known) > 0.75 * len(found), [one for one in found if one not in known]
