"""The plan as a page: one self-contained HTML file whose sliders work without a network.

facts.py gathers, moving.py tells what moves when a slider does (page.js computes the same, tested
equal), charts.py and pictures.py draw, sections.py says what it means, page.py makes the page.
"""

from __future__ import annotations

from puna.plan.report.facts import PlanFacts, gather
from puna.plan.report.page import render

__all__ = ["PlanFacts", "gather", "render"]
