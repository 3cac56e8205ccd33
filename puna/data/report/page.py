"""The report of a build as one HTML page."""

from __future__ import annotations

import datetime

from puna import page
from puna.console import human_bytes, human_count, human_duration
from puna.data.report import sections
from puna.data.report.examples import shown
from puna.data.report.facts import BuildFacts, Count, SourceFacts
from puna.data.report.sections import percent

BARS = 40  # sources of the headline


def render(facts: BuildFacts) -> str:
    """The page for a build; the same facts give the same bytes."""
    body = [
        page.masthead("data report", facts.where, _ended(facts)),
        _headline(facts),
        _strip(facts),
        *map(page.section, sections.all_sections(facts)),
        page.footer("report.json"),
    ]
    style = page.resource(__package__, "page.css")
    return page.html(f"{facts.where} · data report", body, style)


def _headline(facts: BuildFacts) -> str:
    """The tokens that came of it, and how much of each source's text they are."""
    found = sum((one.found for one in facts.sources), Count())
    kept = sum((one.kept for one in facts.sources), Count())
    count = len(facts.sources)
    files = sum(one.files for one in facts.sources)
    size = human_bytes(sum(one.file_bytes for one in facts.sources))
    most = max((one.found.text_bytes for one in facts.sources), default=0)
    rows = "".join(_bar(number, one, most) for number, one in enumerate(facts.sources[:BARS]))
    more = f"<li>and {count - BARS:,} more</li>" if count > BARS else ""
    partial = "" if facts.record.get("mixture") else " The build did not come to its mixture."
    return f"""<section class="headline">
<div class="verdict">
<h1><strong>{human_count(facts.tokens)}</strong> tokens</h1>
<p>from {count:,} source{"s" * (count != 1)}, {files:,} files of {size}.
{percent(kept.documents, found.documents)} of {found.documents:,} documents and
{percent(kept.text_bytes, found.text_bytes)} of their text are kept.{partial}</p>
</div>
<figure class="comparison"><figcaption>Text kept of what was found</figcaption>
<ul class="overview">{rows}{more}</ul></figure>
</section>"""


def _bar(number: int, one: SourceFacts, most: int) -> str:
    """A source's bar: as long as its text, filled as far as it is kept."""
    length = 100 * one.found.text_bytes / most if most else 0
    share = percent(one.kept.text_bytes, one.found.text_bytes)
    filled = 100 * one.kept.text_bytes / one.found.text_bytes if one.found.text_bytes else 0
    return (
        f'<li><a href="#source-{number}">{shown(one.name, 40)}</a>'
        f'<span class="whole" aria-hidden="true"><s style="width:{length:.2f}%">'
        f'<i style="width:{min(filled, 100):.2f}%"></i></s></span>'
        f"<span>{human_bytes(one.kept.text_bytes)} <small>{share}</small></span></li>"
    )


def _strip(facts: BuildFacts) -> str:
    """One line of numbers: documents, text, held out, time, workers."""
    trained = sum((one.trained for one in facts.sources), Count())
    heldout = sum(one.heldout_tokens for one in facts.sources)
    cells = [
        (f"{trained.documents:,}", "documents to train on"),
        (human_bytes(trained.text_bytes), "of text"),
        (f"{trained.text_bytes / max(facts.tokens, 1):.2f}", "bytes a token"),
        (human_count(heldout), "tokens held out"),
    ]
    if workers := facts.record.get("workers"):
        words = f"the last run, {workers} worker{'s' * (workers != 1)}"
        cells.append((human_duration(facts.record["seconds"]), words))
    return page.strip(cells)


def _ended(facts: BuildFacts) -> str:
    """When the build ended, in UTC: `22 November 2026, 14:05 UTC`."""
    if "ended" not in facts.record:
        return ""
    time = datetime.datetime.fromtimestamp(facts.record["ended"], datetime.UTC)
    return f"{time.day} {time:%B %Y, %H:%M} UTC"
