"""Texts of strangers as HTML: each escaped, cut, and all of them together bounded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from puna.data.build.funnel import EXAMPLES, KEPT
from puna.data.report.facts import Step

ROOM_BYTES = 700_000  # of all examples of a page
NAME_CHARACTERS = 120
ADDRESS = re.compile(r"https?://[^\s\x00-\x20\x7f<>\"'\\]{1,500}")  # what becomes a link
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

Place = tuple[str, str, str]  # source, stage, reason


def visible(text: str, most: int = NAME_CHARACTERS) -> str:
    """Any text cut at `most` characters, control characters as their pictures."""
    cut = text if len(text) <= most else f"{text[: most - 1]}…"
    return UNSEEN.sub(lambda one: chr(0x2400 + min(ord(one[0]), 0x21)), cut)


def shown(text: str, most: int = NAME_CHARACTERS) -> str:
    """What is visible of a text, as HTML."""
    return escape(visible(text, most))


def choose(
    steps: Sequence[Step], reasons: int, room_bytes: int = ROOM_BYTES
) -> dict[Place, list[str]]:
    """Examples of what is kept and of each stage's first `reasons`, as HTML.

    First comes one of each, then a second one; what does not fit into `room_bytes` is left out.
    """
    places = [(step, reason) for step in steps for reason in [KEPT, *list(step.dropped)[:reasons]]]
    chosen: dict[Place, list[str]] = {}
    for number in range(EXAMPLES):
        for step, reason in places:
            found = step.examples.get(reason, [])[number : number + 1]
            written = "".join(map(_example, found))
            size = len(written.encode("utf-8", "replace"))
            if 0 < size <= room_bytes:
                room_bytes -= size
                chosen.setdefault((step.source, step.stage, reason), []).append(written)
    return chosen


def _example(one: Mapping[str, Any]) -> str:
    detail = f"<span>{shown(str(one['detail']), 200)}</span>" if one.get("detail") else ""
    text = str(one["text"])
    quoted = f'<blockquote dir="auto">{shown(text, 400)}</blockquote>' if text.strip() else ""
    name = f"<bdi>{shown(str(one['id']))}</bdi>"
    return f"<li><p>{_linked(name, str(one.get('url', '')))}{detail}</p>{quoted}</li>"


def _linked(name: str, url: str) -> str:
    """The name, as a link where the address is one of the web."""
    if not ADDRESS.fullmatch(url):
        return name
    return f'<a href="{escape(url)}" rel="noreferrer nofollow">{name}</a>'
