"""The report as one HTML page that needs nothing else: no network, no fonts, no other file."""

from __future__ import annotations

import json
from html import escape

from puna import page
from puna.console import human_count, human_duration
from puna.train.report import charts, figures, sections
from puna.train.report.charts import Chart
from puna.train.report.facts import RunFacts


def render(facts: RunFacts) -> str:
    """The page for a run; the same facts give the same bytes."""
    drawn = figures.all_charts(facts)
    body = [
        page.masthead("training report", facts.where, sections.started(facts)),
        _headline(facts),
        _strip(facts),
        *map(page.section, sections.all_sections(facts, drawn)),
        page.footer("metrics.jsonl"),
    ]
    return page.html(
        f"{facts.where} · training report",
        body,
        page.resource(__package__, "page.css"),
        page.resource(__package__, "page.js"),
        _points(facts, drawn),
    )


def _headline(facts: RunFacts) -> str:
    """The one figure that counts, or how to get it."""
    evaluation = facts.evaluation
    status = sections.status(facts)
    notice = f'<p class="notice">{status}</p>' if status else ""
    if evaluation is None:
        return f'{notice}<section class="headline">{_no_evaluation(facts)}</section>'
    rows = figures.headline_bars(facts)
    described = "; ".join(f"{row.label}: {row.value:.3f}" for row in rows)
    picture = charts.bars(
        rows,
        "Bits per byte on held-out text, less is better",
        described,
        lambda value: f"{value:.3f}",
    )
    return f"""{notice}<section class="headline">
<div class="verdict">
<h1><strong>{evaluation.bits_per_byte:.2f}</strong> bits per byte</h1>
<p>{sections.verdict(facts)}</p>
</div>
<figure class="comparison"><figcaption>Bits per byte on held-out text <small>less is better</small>
</figcaption>{picture}</figure>
</section>"""


def _no_evaluation(facts: RunFacts) -> str:
    known = [point for point in facts.metrics.validations if point.bits_per_byte is not None]
    if known and known[-1].bits_per_byte is not None:
        title = f"<strong>{known[-1].bits_per_byte:.2f}</strong> bits per byte in validation"
        words = (
            f"At step {known[-1].step:,}, on the validation text of the run. The held-out text has "
            "not been measured yet."
        )
    else:
        title, words = "Not measured yet", "The held-out text has not been measured."
    return f"""<div class="verdict"><h1>{title}</h1><p>{words}</p></div>
<div class="missing"><p>To compare the model with <code>xz</code> and a unigram model, run</p>
<pre>puna evaluate perplexity {escape(facts.where)} --data CORPUS
puna report {escape(facts.where)}</pre></div>"""


def _strip(facts: RunFacts) -> str:
    """One line of numbers: size, text seen, time, cost, machine."""
    metrics = facts.metrics
    tokens = metrics.steps[-1].tokens if metrics.steps else 0
    cells = [
        (human_count(metrics.session.parameters), "parameters"),
        (human_count(tokens), f"tokens in {facts.last_step:,} step{'s' * (facts.last_step != 1)}"),
        (human_duration(metrics.elapsed_seconds), "of training"),
        (f"{metrics.core_seconds:,.0f}", sections.cost_unit(facts)),
        (metrics.session.device_name, sections.device_words(facts)),
    ]
    return page.strip(cells)


def _points(facts: RunFacts, drawn: list[Chart]) -> str:
    """The script's data: where the shared steps lie, then each chart's curve, as JSON that cannot
    end the element it stands in."""
    shared = next((chart for chart in drawn if chart.series is not None), None)
    steps = shared.series.steps if shared and shared.series else []
    tokens = {step.step: step.tokens for step in facts.metrics.steps}
    record = {
        "x": [round(1000 * shared.x.position(step), 1) for step in steps] if shared else [],
        "step": [f"step {step:,} · {human_count(tokens[step])} tokens" for step in steps],
        "charts": {chart.key: charts.points(chart) for chart in drawn},
    }
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
