"""The report of a build: one self-contained page made from its report.json.

facts.py reads the record, examples.py chooses texts to read, sections.py says what the numbers
mean, page.py puts them on one page with page.css. No script runs on it.
"""

from __future__ import annotations

from puna.data.report.facts import BuildFacts, gather
from puna.data.report.page import render

__all__ = ["BuildFacts", "gather", "render"]
