"""The report of a run: one self-contained page made from its folder.

facts.py gathers, figures.py chooses the curves, charts.py draws them, sections.py says what they
mean, page.py puts them on one page with page.css and page.js.
"""

from __future__ import annotations

from puna.train.report.facts import RunFacts, gather
from puna.train.report.page import render

__all__ = ["RunFacts", "gather", "render"]
