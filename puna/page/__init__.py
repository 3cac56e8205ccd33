"""What every page of ours shares: one HTML file that needs nothing else, and its style.

No network, no fonts, no other file. What stands in it is escaped by whoever puts it there.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path

import puna
from puna import schema
from puna.errors import PunaError

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" '
    'rx="7" fill="#0b5fa5"/><path d="M5 8c4 13 9 15 22 16" fill="none" stroke="#fff" '
    'stroke-width="3" stroke-linecap="round"/></svg>'
)


@dataclass(frozen=True)
class Section:
    """A part of the page: words in the margin, content beside them, both HTML."""

    key: str
    title: str
    words: str
    content: str


def html(title: str, body: Iterable[str], style: str, script: str = "", data: str = "") -> str:
    """The whole page: `body` is HTML, `style` comes after the shared one, `title` is plain text.

    No script runs but `script`; `data` is JSON for it, as `id="points"`.
    """
    parts = "\n".join(body)
    held = f'<script type="application/json" id="points">{data}</script>\n' if data else ""
    runs = f"{held}<script>{script}</script>\n" if script else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="puna {puna.__version__}">
<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">
<title>{escape(title)}</title>
<link rel="icon" href="data:image/svg+xml;base64,{_base64(ICON.encode())}">
<style>
{resource(__name__, "page.css")}{style}</style>
</head>
<body>
<main>
{parts}
</main>
{runs}</body>
</html>
"""


def write(page: str, out: Path) -> int:
    """Write a page to `out`, whole or not at all; returns its size in bytes.

    Raises PunaError when the file cannot be written; one that was there stays as it was.
    """
    content = page.encode("utf-8")
    try:
        schema.write_atomic(out, content)
    except OSError as error:
        raise PunaError(
            f"the page could not be written to {out}: {error.strerror}",
            hint="give another file with --out",
        ) from None
    return len(content)


def masthead(kind: str, name: str, when: str) -> str:
    """The page's first line: what kind of page, of what, of when."""
    return f"""<header class="masthead">
<p class="mark"><b>puna</b> {escape(kind)}</p>
<p class="run">{escape(name)} <span>{escape(when)}</span></p>
</header>"""


def strip(cells: Iterable[tuple[str, str]]) -> str:
    """One line of values, each with the words below it."""
    items = (
        f"<div><dd>{escape(value)}</dd><dt>{escape(words)}</dt></div>" for value, words in cells
    )
    return f'<dl class="strip">{"".join(items)}</dl>'


def section(one: Section) -> str:
    """A section as HTML."""
    return f"""<section id="{one.key}">
<div class="aside"><h2>{escape(one.title)}</h2>{one.words}</div>
<div class="content">{one.content}</div>
</section>"""


def definitions(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    items = "".join(f"<div><dt>{escape(a)}</dt><dd>{escape(b)}</dd></div>" for a, b in rows)
    return f'<dl class="facts">{items}</dl>'


def footer(made_from: str) -> str:
    """The page's last line."""
    return f"<footer>Made by <b>puna</b> {puna.__version__} from {escape(made_from)}.</footer>"


def resource(package: str, name: str) -> str:
    """A text file that lies in a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """A content security policy under which only our own script runs and nothing is fetched."""
    digest = _base64(hashlib.sha256(script.encode("utf-8")).digest())
    allowed = f"; script-src 'sha256-{digest}'" if script else ""
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:{allowed}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
