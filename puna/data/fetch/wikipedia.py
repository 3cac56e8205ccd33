"""Wikipedia's dumps: `dumpstatus.json` of a wiki's dump gives its files' sizes, SHA-1 and MD5."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from puna.data.fetch.listing import (
    Choice,
    Listed,
    Lists,
    address,
    number,
    require_items,
    require_name,
)
from puna.data.sources.wikipedia import LANGUAGES
from puna.download import Refused, Wanted
from puna.errors import DataError, UsageError

JOB = "articlesdump"  # the pages in numbered parts, or in one file where the wiki is small
MOST_DATES = 10


def list_files(choice: Choice, lists: Lists) -> Iterator[Listed]:
    """The pages of each language's newest finished dump, or of `date`, all twenty if none is named.

    Raises UsageError for a malformed language or date, DataError when there is no such dump.
    """
    if choice.date and not re.fullmatch(r"\d{8}", choice.date, re.ASCII):
        raise UsageError(f"--date is a day like 20220601, got {choice.date!r}")
    if choice.items:
        hint = "puna data fetch wikipedia simple --out raw"
        languages = require_items(choice, r"[a-z][a-z0-9_-]*", "a language's code", hint)
    else:
        languages = tuple(LANGUAGES.split())
    for language in languages:
        wiki = language.replace("-", "_") + "wiki"
        dates = [choice.date] if choice.date else _dates(address(choice.base, wiki, ""), lists)
        yield from _dump(choice, wiki, dates, lists)


def _dates(place: str, lists: Lists) -> list[str]:
    """The days of a wiki's dumps, as its folder links to them, the newest first."""
    page = lists.read(place).decode("utf-8", "replace")
    return sorted(set(re.findall(r'href="(\d{8})/"', page)), reverse=True)[:MOST_DATES]


def _dump(choice: Choice, wiki: str, dates: list[str], lists: Lists) -> Iterator[Listed]:
    for date in dates:
        place = choice.list_at or address(choice.base, wiki, date, "dumpstatus.json")
        job = _job(place, lists)
        if job.get("status") == "done" and isinstance(job.get("files"), dict):
            yield from _files(job["files"], address(choice.base, wiki, date), place)
            return
    raise DataError(
        f"there is no finished dump of {wiki} of {', '.join(dates) or 'any day'}",
        hint=f"{address(choice.base, wiki, '')} shows what there is; old ones go after a while",
    )


def _job(place: str, lists: Lists) -> dict[str, Any]:
    """What is told of the pages' dump; nothing where there is no such dump."""
    try:
        status = lists.json(place)
    except Refused as refused:
        if refused.status != 404:
            raise
        return {}
    jobs = status.get("jobs") if isinstance(status, dict) else None
    job = jobs.get(JOB) if isinstance(jobs, dict) else None
    return job if isinstance(job, dict) else {}


def _files(files: dict[str, Any], folder: str, place: str) -> Iterator[Listed]:
    for name, facts in sorted(files.items(), key=lambda one: _in_order(one[0])):
        known = facts if isinstance(facts, dict) else {}
        if name.endswith(".bz2"):
            wanted = Wanted(
                address(folder, require_name(name, place)),
                sha1=known.get("sha1"),
                md5=known.get("md5"),
                size=number(known.get("size")),
            )
            yield Listed(name, wanted)


def _in_order(name: str) -> list[tuple[int, str]]:
    """A key that puts part 2 before part 10."""
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", name)]
