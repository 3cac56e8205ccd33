"""The report of a run: one self-contained page made from its folder.

facts.py gathers, figures.py chooses the curves, charts.py draws them, sections.py says what they
mean, page.py puts them on one page with page.css and page.js.
"""

from __future__ import annotations

from pathlib import Path

from puna import schema
from puna.errors import PunaError
from puna.train.report.facts import RunFacts, gather
from puna.train.report.page import render

__all__ = ["RunFacts", "gather", "render", "write_report"]


def write_report(facts: RunFacts, out: Path) -> int:
    """Write the page for a run to `out`, whole or not at all; returns its size in bytes.

    Raises PunaError when the file cannot be written; one that was there stays as it was.
    """
    content = render(facts).encode("utf-8")
    try:
        schema.write_atomic(out, content)
    except OSError as error:
        raise PunaError(
            f"the report could not be written to {out}: {error.strerror}",
            hint="give another file with --out",
        ) from None
    return len(content)
