"""The page's sections below the headline: what each is called, says and shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomli_w

from puna.console import human_bytes, human_count, human_duration
from puna.data.build.funnel import KEPT
from puna.data.report.examples import Place, choose, shown, visible
from puna.data.report.facts import BuildFacts, Count, SourceFacts, Step
from puna.page import Section, definitions

LOSSES = 8
REASONS = (4, 16)  # of a stage, at least and at most; the others are one row
REASON_ROWS = 1500  # of a page
GROUPS = 20  # languages, licences
PLACES = 100  # of damage
COUNTS = 60  # of a stage
COSTS = 24
RECIPE_CHARACTERS = 100_000


@dataclass(frozen=True)
class Examples:
    """How many reasons of a stage are shown, and the texts for them."""

    reasons: int
    chosen: dict[Place, list[str]]


def all_sections(facts: BuildFacts) -> list[Section]:
    """The sections that this build has something for, in reading order."""
    fewest, most = REASONS
    reasons = max(fewest, min(most, REASON_ROWS // max(len(facts.steps), 1)))
    examples = Examples(reasons, choose(facts.steps, reasons))
    found = [
        losses(facts),
        *(source(number, one, examples) for number, one in enumerate(facts.sources)),
        groups(facts, "languages", "Languages", "What the documents that are kept are written in."),
        groups(facts, "licences", "Licences", "What they may be used under, as far as is known."),
        duplicates(facts),
        mixture(facts),
        damaged(facts),
        cost(facts),
        recipe(facts),
    ]
    return [section for section in found if section is not None]


def losses(facts: BuildFacts) -> Section | None:
    """The reasons that take the most text, over all sources."""
    every = [
        (lost.text_bytes, lost.documents, reason, step)
        for step in facts.steps
        for reason, lost in step.dropped.items()
    ]
    every += [
        (step.cut_bytes, step.kept.documents, "cut out of texts that stay", step)
        for step in facts.steps
    ]
    most = sorted(every, key=lambda one: (-one[0], -one[1]))[:LOSSES]
    most = [one for one in most if one[0] > 0]
    if not most:
        return None
    total = sum(one.found.text_bytes for one in facts.sources)
    rows = "".join(
        f"<tr><th>{shown(reason)} <small>{shown(step.source)}, {shown(step.stage)}</small></th>"
        f"<td>{documents:,}</td><td>{human_bytes(size)}</td>"
        f"<td>{percent(size, total)}</td>{_bar(size, most[0][0], 'lost')}</tr>"
        for size, documents, reason, step in most
    )
    words = "<p>The reasons that take the most text, of all sources and stages.</p>"
    heading = ["reason", "documents", "text", "of all found", ""]
    return Section("losses", "Where text is lost", words, _table(heading, rows))


def source(number: int, one: SourceFacts, examples: Examples) -> Section:
    """One source's funnel: each stage, what it keeps, and why not the rest."""
    words = (
        f"<p>{one.files:,} file{'s' * (one.files != 1)}, {human_bytes(one.file_bytes)}</p>"
        f"<p>{percent(one.kept.documents, one.found.documents)} of the documents and "
        f"{percent(one.kept.text_bytes, one.found.text_bytes)} of their text are kept</p>"
        f"<p><b>{human_count(one.tokens)}</b> tokens</p>"
    )
    most, ends = one.found.documents, (*one.steps[:1], *one.steps[-1:])
    stages = "".join(_stage(step, most, step in ends, examples) for step in one.steps)
    tokens = (
        f'<div class="stage"><h3>tokens <small>{one.tokens:,} of {one.trained.documents:,} '
        f"documents to train on; {one.heldout_tokens:,} of {one.heldout.documents:,} held out"
        "</small></h3></div>"
    )
    return Section(f"source-{number}", visible(one.name), words, stages + tokens)


def _stage(step: Step, most: int, is_end: bool, examples: Examples) -> str:
    """A stage: one row of what it keeps, one of each reason, each with its examples folded.

    One in the middle that lets everything through as it is has its heading only.
    """
    if not (is_end or step.dropped or step.cut_bytes or step.lines or step.counts):
        return (
            f'<div class="stage"><h3>{shown(step.stage)} <small>all {step.kept.documents:,} '
            "documents kept</small></h3></div>"
        )
    rows = [_reason(step, KEPT, step.kept, most, examples)]
    reasons, most_reasons = list(step.dropped.items()), examples.reasons
    rows += [_reason(step, name, lost, most, examples) for name, lost in reasons[:most_reasons]]
    if others := reasons[most_reasons:]:
        rest = sum((lost for _, lost in others), Count())
        rows.append(_reason(step, f"{len(others):,} other reasons", rest, most, examples))
    notes = []
    if step.cut_bytes:
        verb = "cut out of" if step.cut_bytes > 0 else "added to"
        notes.append(f"{human_bytes(abs(step.cut_bytes))} {verb} texts that stay")
    if step.lines:
        notes.append(f"{step.lines['dropped']:,} of {step.lines['in']:,} lines dropped")
    note = f'<p class="soft">{"; ".join(notes)}</p>' if notes else ""
    share = percent(step.kept.documents, step.found.documents)
    heading = f"{step.kept.documents:,} of {step.found.documents:,} documents kept, {share}"
    return (
        f'<div class="stage"><h3>{shown(step.stage)} <small>{heading}</small></h3>'
        f"{''.join(rows)}{note}{_counted(step)}</div>"
    )


def _counted(step: Step) -> str:
    """What a stage counted beside documents kept and dropped: a bar for each name."""
    most = max(step.counts.values(), default=0)
    rows = [
        f'<div class="reason"><b>{shown(name, 60)}</b>{_meter(count, most, "counted")}'
        f"<span>{count:,}</span></div>"
        for name, count in list(step.counts.items())[:COUNTS]
    ]
    if others := list(step.counts.values())[COUNTS:]:
        rows.append(f'<p class="soft">{len(others):,} other counts, {sum(others):,}</p>')
    return f'<p class="soft">counted</p>{"".join(rows)}' if rows else ""


def _reason(step: Step, name: str, count: Count, most: int, examples: Examples) -> str:
    kind = "kept" if name == KEPT else "lost"
    row = (
        f"<b>{shown(name, 60)}</b>{_meter(count.documents, most, kind)}"
        f'<span>{count.documents:,}<span class="unseen"> documents</span></span>'
        f"<span>{human_bytes(count.text_bytes)}</span>"
        f"<span>{percent(count.documents, step.found.documents)}</span>"
    )
    found = examples.chosen.get((step.source, step.stage, name))
    if not found:
        return f'<div class="reason {kind}">{row}</div>'
    return (
        f'<details class="{kind}"><summary class="reason">{row}</summary>'
        f'<ul class="examples">{"".join(found)}</ul></details>'
    )


def groups(facts: BuildFacts, name: str, title: str, words: str) -> Section | None:
    """Documents and text by language or licence, and which sources have them."""
    total: dict[str, Count] = {}
    holders: dict[str, list[str]] = {}
    for one in facts.sources:
        for group, count in getattr(one, name).items():
            total[group] = total.get(group, Count()) + count
            holders.setdefault(group, []).append(one.name)
    if not total:
        return None
    ordered = sorted(total, key=lambda group: (-total[group].text_bytes, group))
    rows = [(group, total[group], ", ".join(holders[group])) for group in ordered[:GROUPS]]
    if others := ordered[GROUPS:]:
        rest = sum((total[group] for group in others), Count())
        rows.append((f"{len(others):,} others", rest, ""))
    every = sum(count.text_bytes for count in total.values())
    written = "".join(
        f'<tr><th>{shown(group)} <small class="of">{shown(of)}</small></th>'
        f"<td>{count.documents:,}</td><td>{human_bytes(count.text_bytes)}</td>"
        f"<td>{percent(count.text_bytes, every)}</td>{_bar(count.text_bytes, every)}</tr>"
        for group, count, of in rows
    )
    heading = [title.lower().removesuffix("s"), "documents", "text", "share", ""]
    return Section(name, title, f"<p>{words}</p>", _table(heading, written))


def duplicates(facts: BuildFacts) -> Section | None:
    """What the stages that compare texts found."""
    rows = []
    for step in facts.steps:
        if not step.compares_texts:
            continue
        where = f"{shown(step.source)}, {shown(step.stage)}"
        rows += [
            f"<tr><th>{where} <small>{shown(reason)}</small></th><td>{lost.documents:,} of "
            f"{step.found.documents:,} documents</td><td>{human_bytes(lost.text_bytes)}</td>"
            f"{_bar(lost.documents, step.found.documents, 'lost')}</tr>"
            for reason, lost in list(step.dropped.items())[: REASONS[0]]
        ]
        if step.lines:
            dropped, found = step.lines["dropped"], step.lines["in"]
            rows.append(
                f"<tr><th>{where} <small>repeated lines</small></th><td>{dropped:,} of {found:,} "
                f"lines</td><td></td>{_bar(dropped, found, 'lost')}</tr>"
            )
    if not rows:
        return None
    words = "<p>Texts, near copies and lines that are there more than once. One copy stays, or "
    words += "none where the stage says so. The bars are shares of what came in.</p>"
    heading = ["source, stage", "dropped", "text", ""]
    return Section("duplicates", "Duplicates", words, _table(heading, "".join(rows)))


def mixture(facts: BuildFacts) -> Section | None:
    """What a model will see of each source, and how often."""
    mixed = facts.record.get("mixture")
    if not mixed:
        return None
    seen = mixed["tokens"]
    rows = ""
    for one in facts.sources:
        asked = float(mixed["sources"][one.name]["share"])
        rows += (
            f"<tr><th>{shown(one.name)}</th><td>{one.tokens:,}</td>"
            f"<td>{percent(one.tokens, facts.tokens)}</td><td>{percent(asked, 1)}</td>"
            f"{_bar(asked, 1)}"
        )
        if seen:
            rows += f"<td>{mixed['sources'][one.name]['epochs']:.2f}</td>"
            rows += f"<td>{human_count(asked * seen)}</td>"
        rows += "</tr>"
    words = "<p>How much there is of each source, and the share of it in what a model reads.</p>"
    if seen:
        words += (
            f"<p>A model that sees {human_count(seen)} tokens reads a source so many times: "
            "share of it * tokens seen / tokens there are.</p>"
        )
    heading = ["source", "tokens", "of all", "share read", ""]
    heading += ["times read", "tokens seen"] if seen else []
    return Section("mixture", "Mixture", words, _table(heading, rows))


def damaged(facts: BuildFacts) -> Section | None:
    """Where input files are damaged."""
    places = [(step.source, one) for step in facts.steps for one in step.damaged]
    if not places:
        return None
    total = sum(step.dropped.get("damaged", Count()).documents for step in facts.steps)
    items = "".join(
        f"<tr><th>{shown(name)}</th><td><bdi>{shown(str(one['id']))}</bdi></td>"
        f"<td>{shown(str(one['detail']), 300)}</td></tr>"
        for name, one in places[:PLACES]
    )
    words = f"<p>{total:,} items could not be read and were left out.</p>"
    if total > len(places[:PLACES]):
        words += f"<p>{len(places[:PLACES]):,} of them are shown.</p>"
    table = _table(["source", "item", "what is wrong"], items, "words")
    return Section("damaged", "Damaged inputs", words, table)


def cost(facts: BuildFacts) -> Section:
    """Time, rates and memory."""
    stages = [
        (one.name, step.stage, step.seconds, step.found.text_bytes)
        for one in facts.sources
        for step in one.steps
    ]
    stages += [
        (one.name, "tokenise", one.tokenise_seconds, one.kept.text_bytes) for one in facts.sources
    ]
    ordered = sorted(stages, key=lambda one: -one[2])
    longest = ordered[0][2] if ordered else 0
    rows = "".join(
        f"<tr><th>{shown(name)}, {shown(stage)}</th><td>{seconds:,.2f}</td>"
        f"<td>{_rate(size, seconds)}</td>{_bar(seconds, longest)}</tr>"
        for name, stage, seconds, size in ordered[:COSTS]
    )
    if others := ordered[COSTS:]:
        rest = sum(seconds for _, _, seconds, _ in others)
        rows += f"<tr><th>{len(others):,} others</th><td>{rest:,.2f}</td><td></td><td></td></tr>"
    peak = max((one.peak_bytes for one in facts.sources), default=0)
    sums = [
        ("the last run", _last_run(facts)),
        ("core-seconds", f"{sum(one.core_seconds for one in facts.sources):,.1f} to read and sift"),
        ("between stages", human_bytes(sum(one.work_bytes for one in facts.sources))),
        ("peak memory", f"{human_bytes(peak)}, the largest process" if peak else "not recorded"),
    ]
    words = "<p>Seconds of workers, over all runs that it took; text that came in by second.</p>"
    heading = ["source, stage", "seconds", "MB/s", ""]
    return Section("cost", "Cost", words, definitions(sums) + _table(heading, rows))


def recipe(facts: BuildFacts) -> Section:
    """The recipe as it was resolved."""
    text = tomli_w.dumps(_without_none(facts.record["recipe"])).strip()
    content = (
        "<details><summary>recipe.toml, with every default written out</summary>"
        f"<pre>{shown(text, RECIPE_CHARACTERS)}</pre></details>"
    )
    return Section("recipe", "Recipe", "", content)


def _last_run(facts: BuildFacts) -> str:
    if "seconds" not in facts.record:
        return "did not end"
    workers = facts.record["workers"]
    return (
        f"{human_duration(facts.record['seconds'])}, {workers} task{'s' * (workers != 1)} at a time"
    )


def percent(part: float, whole: float) -> str:
    """A share as HTML: `48.7 %`, or that it is below 0.1 %; a dash of nothing."""
    if not whole:
        return "-"
    share = 100 * part / whole
    return "&lt; 0.1 %" if 0 < share < 0.05 else f"{share:.1f} %"


def _rate(size: float, seconds: float) -> str:
    return f"{size / seconds / 1e6:,.1f}" if seconds else "-"


def _meter(part: float, whole: float, kind: str = "kept") -> str:
    width = 100 * part / whole if whole else 0
    bar = f'<i style="width:{width:.2f}%"></i>' if width > 0 else ""
    return f'<span class="bar {kind}" aria-hidden="true">{bar}</span>'


def _bar(part: float, whole: float, kind: str = "kept") -> str:
    return f'<td class="meter">{_meter(part, whole, kind)}</td>'


def _table(heading: Sequence[str], rows: str, kind: str = "") -> str:
    cells = "".join(f'<th scope="col">{title}</th>' for title in heading)
    label = f"table: {', '.join(filter(None, heading))}"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_without_none(one) for one in value]
    return value
