"""The plan as a page: one self-contained HTML file whose sliders work without a network.

facts.py gathers, moving.py tells what moves when a slider does (page.js computes the same, tested
equal), charts.py and pictures.py draw, sections.py says what it means, page.py makes the page.
"""

from __future__ import annotations

from pathlib import Path

from puna import schema
from puna.errors import PunaError
from puna.plan.report.facts import PlanFacts, gather
from puna.plan.report.page import render

__all__ = ["PlanFacts", "gather", "render", "write_report"]


def write_report(facts: PlanFacts, out: Path) -> int:
    """Write the page of a plan to `out`, whole or not at all; returns its size in bytes.

    Raises PunaError when the file cannot be written; one that was there stays as it was.
    """
    content = render(facts).encode("utf-8")
    try:
        schema.write_atomic(out, content)
    except OSError as error:
        raise PunaError(
            f"the page could not be written to {out}: {error.strerror}",
            hint="give another file with --out",
        ) from None
    return len(content)
