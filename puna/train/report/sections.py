"""The report's sections below the headline: what each is called, says and shows."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from html import escape
from itertools import groupby

import puna
from puna.console import human_bytes, human_duration
from puna.page import Section, definitions
from puna.train.metrics import Sample
from puna.train.report import figures
from puna.train.report.charts import Chart, figure
from puna.train.report.facts import RunFacts
from puna.train.report.pieces import tokenizer_facts, written_in_pieces
from puna.train.report.series import axis, spaced, superscript

MOST_SAMPLE_STEPS = 12
MOST_SAMPLE_CHARACTERS = 900
MOST_DOCUMENTS = 200
PIECES_SHOWN = 70


def all_sections(facts: RunFacts, drawn: Sequence[Chart]) -> list[Section]:
    """The sections that this run has something for, in reading order."""
    found = [
        learning(facts, drawn),
        samples(facts),
        machine(facts, drawn),
        heldout(facts),
        tokenizer(facts),
        making(facts),
        recipe(facts),
    ]
    return [section for section in found if section is not None]


def learning(facts: RunFacts, drawn: Sequence[Chart]) -> Section:
    """Loss over steps, and validation in bits per byte."""
    shown = [chart for chart in drawn if chart.key in ("loss", "bits")]
    words = (
        "<p>How surprised the model is by the next token of its training text. The dots are "
        "measured on text it does not train on: if they rise above the curve, it is learning by "
        "heart.</p>"
    )
    content = "".join(figure(chart) for chart in shown)
    return Section("learning", "Learning", words, content or "<p>No step has been taken yet.</p>")


def machine(facts: RunFacts, drawn: Sequence[Chart]) -> Section | None:
    """What the optimizer and the machine did, as small charts side by side."""
    shown = [chart for chart in drawn if chart.key not in ("loss", "bits")]
    if not shown:
        return None
    parts = [figure(chart) for chart in shown]
    words = (
        "<p>The optimizer's settings and what the machine made of them. Point at a chart to read "
        "one step off all of them.</p>"
    )
    parts.append(_arithmetic(facts))
    return Section("machine", "Machine", words, f'<div class="grid">{"".join(parts)}</div>')


def _arithmetic(facts: RunFacts) -> str:
    """A note on the rate of computation: against the peak, or why there is no peak."""
    rate = _sustained_tflops(facts)
    sustained = f"{rate:.3g} TFLOP/s from first to last step, validation and samples included."
    session = facts.metrics.session
    reason = figures.why_no_mfu(facts)
    if reason is not None:
        words = f"Its share of the peak is not shown: {escape(reason)}."
        return f'<div class="note wide"><h3>Arithmetic</h3><p>{sustained} {words}</p></div>'
    source = f" ({session.peak_source})" if session.peak_source else ""
    peak = f"The peak is {session.peak_tflops:.3g} TFLOP/s{escape(source)}."
    return f'<div class="note"><h3>Arithmetic</h3><p>{sustained} {peak}</p></div>'


def _sustained_tflops(facts: RunFacts) -> float:
    metrics = facts.metrics
    if not metrics.steps or metrics.elapsed_seconds <= 0:
        return 0.0
    work = metrics.steps[-1].tokens * metrics.session.flops_per_token
    return work / metrics.elapsed_seconds / 1e12


def samples(facts: RunFacts) -> Section | None:
    """What the model wrote as training went on."""
    steps = [list(group) for _, group in groupby(facts.metrics.samples, key=lambda s: s.step)]
    if not steps:
        return None
    shown = [steps[index] for index in spaced(len(steps), MOST_SAMPLE_STEPS)]
    items = "".join(_sample_step(facts, group) for group in shown)
    left_out = ""
    if len(shown) < len(steps):
        left_out = f"<p>{len(shown)} of {len(steps)} shown; metrics.jsonl has them all.</p>"
    prompts = "The same prompt" if max(map(len, shown)) == 1 else "The same prompts"
    words = f"<p>{prompts}, continued by the model as training went on.</p>{left_out}"
    return Section("samples", "Learning to write", words, f'<ol class="samples">{items}</ol>')


def heldout(facts: RunFacts) -> Section | None:
    """Bits per byte of each held-out document."""
    evaluation = facts.evaluation
    if evaluation is None or not evaluation.per_document:
        return None
    documents = sorted(evaluation.per_document, key=lambda document: document[2])
    shown = [documents[index] for index in spaced(len(documents), MOST_DOCUMENTS)]
    scale = axis([bits for _, _, bits in documents], count=4)
    mean = 100 * scale.position(evaluation.bits_per_byte)
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{size:,}</td><td>{bits:.3f}</td>"
        f'<td class="meter"><div><s style="left:{mean:.1f}%"></s>'
        f'<i style="left:{100 * scale.position(bits):.1f}%"></i></div></td></tr>'
        for name, size, bits in shown
    )
    words = (
        f"<p>{evaluation.documents:,} documents, {evaluation.bytes:,} bytes that the model never "
        f"saw, measured at step {evaluation.step:,} in windows of {evaluation.context_length:,} "
        f"tokens. Perplexity {evaluation.perplexity_per_token:.1f} per token; "
        f"{evaluation.bytes / max(1, evaluation.tokens):.2f} bytes per token.</p>"
        f"<p>The dashed line is all of them together, {evaluation.bits_per_byte:.3f}.</p>"
    )
    if len(shown) < len(documents):
        words += f"<p>{len(shown)} of {len(documents)} shown.</p>"
    table = (
        "<table><thead><tr><th>document</th><td>bytes</td><td>bits per byte</td>"
        f'<td class="meter"><div><b>{scale.labels[0]}</b><b>{scale.labels[-1]}</b></div></td></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
    )
    return Section("heldout", "Held-out text", words, f'<div class="scroll">{table}</div>')


def tokenizer(facts: RunFacts) -> Section | None:
    """The tokenizer's facts, and a text cut into its pieces."""
    if facts.tokenizer is None:
        return None
    words = "<p>The model reads and writes pieces of text, not letters.</p>"
    content = definitions(tokenizer_facts(facts))
    sample = facts.metrics.samples[-1] if facts.metrics.samples else None
    if sample is not None:
        text = _whole(sample)
        content += written_in_pieces(facts.tokenizer, text, PIECES_SHOWN)
    return Section("tokenizer", "Tokenizer", words, content)


def making(facts: RunFacts) -> Section:
    """Cost, machine, data, versions and commands."""
    session = facts.metrics.session
    how = [
        ("device", f"{session.device_name} ({session.device})"),
        ("threads", f"{session.threads}"),
        ("precision", session.precision),
        ("attention", session.attention),
        ("compiled", "yes" if session.compiled else "no"),
        ("seed", _seed(facts)),
    ]
    versions = [(name, str(version)) for name, version in session.versions.items() if version]
    if not versions:
        versions = [("puna that made this page", puna.__version__)]
    groups = [
        ("Cost", _cost(facts)),
        ("Run", how),
        ("Text", _corpus(facts)),
        ("Versions", versions),
    ]
    tables = "".join(
        f"<div><h3>{title}</h3>{definitions(rows)}</div>" for title, rows in groups if rows
    )
    commands = [each.command for each in facts.metrics.sessions if each.command]
    lines = [*dict.fromkeys(commands), f"puna report {facts.where}"]
    text = escape("\n".join(lines))
    content = f'<div class="groups">{tables}</div><h3>Commands</h3><pre>{text}</pre>'
    words = "<p>What it took, and what it takes to do it again.</p>"
    return Section("making", "How this was made", words, content)


def recipe(facts: RunFacts) -> Section:
    """The resolved config."""
    content = (
        "<details><summary>recipe.toml, with every default written out</summary>"
        f"<pre>{escape(facts.recipe_text.strip())}</pre></details>"
    )
    return Section("recipe", "Recipe", "", content)


def verdict(facts: RunFacts) -> str:
    """One or two sentences on the headline number, as HTML."""
    evaluation = facts.evaluation
    if evaluation is None:
        return ""
    what = (
        f"to write down {evaluation.documents:,} documents it has never seen, where plain text "
        "takes 8."
    )
    compared = [(name, value) for name, value in evaluation.baselines.items() if value > 0]
    if not compared:
        return what
    name, value = min(compared, key=lambda pair: pair[1])
    difference = 100 * (1 - evaluation.bits_per_byte / value)
    side = "fewer" if difference >= 0 else "more"
    return f"{what} That is {abs(difference):.0f} % {side} than {escape(name)}."


def status(facts: RunFacts) -> str:
    """A notice, as HTML, for a run that has not reached its end; empty when it has."""
    end = facts.metrics.end
    planned = f" of {facts.planned_steps:,}" if facts.planned_steps else ""
    place = f"step {facts.last_step:,}{planned}"
    again = f"<code>puna report {escape(facts.where)}</code>"
    if end is None:
        return (
            f"This run has not ended: {place} so far. While it trains, {again} brings this page "
            "up to date; if it was killed, the training command resumes it."
        )
    if end.reason != "finished":
        return f"{escape(_capital(end.reason))} at {place}. The training command resumes the run."
    return ""


def started(facts: RunFacts) -> str:
    """The day the run began, in UTC: `22 November 2026`."""
    time = datetime.datetime.fromtimestamp(facts.metrics.sessions[0].time, datetime.UTC)
    return f"{time.day} {time:%B %Y}"


def device_words(facts: RunFacts) -> str:
    """Threads and precision in a few words."""
    session = facts.metrics.session
    threads = f"{session.threads} threads, " if session.device == "cpu" else ""
    return f"{threads}{session.precision}"


def cost_unit(facts: RunFacts) -> str:
    """What `core_seconds` counts on this device."""
    return "core-seconds" if facts.metrics.session.device == "cpu" else "core-seconds of the host"


def _sample_step(facts: RunFacts, group: Sequence[Sample]) -> str:
    """One moment of the timeline: its step, what validation said then, and the texts."""
    step = group[0].step
    measured = [
        point.bits_per_byte
        for point in facts.metrics.validations
        if point.step == step and point.bits_per_byte is not None
    ]
    quality = f"<span>{measured[-1]:.2f} bits per byte</span>" if measured else ""
    texts = "".join(
        f"<blockquote><b>{escape(sample.prompt)}</b>{escape(_continuation(sample))}</blockquote>"
        for sample in group
    )
    return f"<li><p>step {step:,}{quality}</p>{texts}</li>"


def _continuation(sample: Sample) -> str:
    """What came after the prompt, cut where it would fill the page."""
    text = sample.text.removeprefix(sample.prompt)
    if len(text) > MOST_SAMPLE_CHARACTERS:
        return text[:MOST_SAMPLE_CHARACTERS] + " […]"
    return text


def _whole(sample: Sample) -> str:
    return sample.prompt + sample.text.removeprefix(sample.prompt)


def _cost(facts: RunFacts) -> list[tuple[str, str]]:
    metrics = facts.metrics
    tokens = metrics.steps[-1].tokens if metrics.steps else 0
    work = tokens * metrics.session.flops_per_token
    rows = [
        (cost_unit(facts), f"{metrics.core_seconds:,.0f}"),
        ("training time", human_duration(metrics.elapsed_seconds)),
        ("work", f"{_scientific(work)} floating-point operations"),
    ]
    per_epoch = metrics.session.train_tokens_per_epoch
    if tokens and per_epoch:
        passes = f"{tokens:,} tokens, {tokens / per_epoch:.2f} passes over {per_epoch:,}"
        rows.append(("text seen", passes))
    if metrics.repeated_steps:
        again = (
            f"{metrics.repeated_steps:,} steps, {metrics.repeated_core_seconds:,.0f} core-seconds"
        )
        rows.append(("repeated after a resume", again))
    if metrics.checkpoints:
        size = human_bytes(metrics.checkpoints[-1].bytes)
        seconds = sum(checkpoint.seconds for checkpoint in metrics.checkpoints)
        count = len(metrics.checkpoints)
        rows.append(("checkpoints", f"{count} of {size}, {human_duration(seconds)} in all"))
    if facts.evaluation is not None:
        rows.append(("evaluation", human_duration(facts.evaluation.seconds)))
    return rows


def _corpus(facts: RunFacts) -> list[tuple[str, str]]:
    """What the journal says of the text: counts, licences, sources."""
    return [(key.replace("_", " "), _plain(v)) for key, v in facts.metrics.session.corpus.items()]


def _plain(value: object) -> str:
    """A JSON value as words: counts with separators, `name (count)` for a table."""
    if isinstance(value, dict):
        return ", ".join(f"{key} ({_plain(count)})" for key, count in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _seed(facts: RunFacts) -> str:
    """The recipe's seed, wherever it keeps it."""
    tables = [facts.recipe, *(t for t in facts.recipe.values() if isinstance(t, dict))]
    seeds = [table["seed"] for table in tables if "seed" in table]
    return str(seeds[0]) if seeds else "not recorded"


def _scientific(value: float) -> str:
    """`1.5 · 10¹⁴` for 1.5e14."""
    mantissa, exponent = f"{value:.2g}".partition("e")[::2]
    return f"{mantissa} · {superscript(int(exponent))}" if exponent else mantissa


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
