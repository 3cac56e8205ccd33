"""The page's sections: what each is called, says and shows."""

from __future__ import annotations

from html import escape
from typing import Any

from puna.console import human_count
from puna.page import Section, definitions
from puna.plan.report import pictures
from puna.plan.report.facts import PlanFacts
from puna.plan.report.pictures import said

COLUMNS = ("size", "tokens", "training", "use", "total")


def all_sections(facts: PlanFacts, moved: dict[str, Any]) -> list[Section]:
    """Those for which there is something, in reading order."""
    found = [
        Section(
            "map",
            "Sizes",
            "<p>Many pairs of size and text reach the same loss. Chinchilla asks for the one that "
            "is cheapest to train; here what it costs to run counts too.</p>",
            pictures.map_picture(facts, moved),
        ),
        costs(facts, moved),
        memory(facts, moved),
        law(facts, moved),
    ]
    if facts.swept is not None:
        found.append(sweep(facts.swept))
    return [*found, assumptions(facts, moved)]


def costs(facts: PlanFacts, moved: dict[str, Any]) -> Section:
    """The table of plans of the same loss, and the curves of cost."""
    words = moved["said"]
    names = {
        "plan": "this plan", "chinchilla": "Chinchilla's", "half": "half of it",
        "twice": "twice it", "named": "the one named",
    }  # fmt: skip
    rows = "".join(
        f'<tr id="row-{name}"{_kind(name, words)}><th scope=row>{title}</th>'
        + "".join(f"<td>{said(f'{name}-{column}', words)}</td>" for column in COLUMNS)
        + "</tr>"
        for name, title in names.items()
    )
    head = "".join(f"<th scope=col>{column}</th>" for column in ("same loss", *COLUMNS))
    table = (
        '<div class="scroll" tabindex="0" role="group" aria-label="costs"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return Section(
        "costs",
        "Costs",
        "<p>A smaller model of the same loss reads more text while it is trained and costs less "
        "each time it is used. Chinchilla's is the least training, free of limits.</p>",
        f'{table}<p class="said">{said("even", words)}</p>{pictures.cost_picture(facts, moved)}',
    )


def _kind(name: str, words: dict[str, str]) -> str:
    """A row's attributes: one that nobody named is hidden."""
    if name == "named" and words["named-size"] == "-":
        return " hidden"
    return ' class="plan"' if name == "plan" else ""


def memory(facts: PlanFacts, moved: dict[str, Any]) -> Section:
    """Bars of memory, one device each."""
    train, serve = facts.money.train, facts.money.serve
    return Section(
        "memory",
        "Memory",
        f"<p>One {escape(train.device.name)} of the {train.devices:,} that train, in the fastest "
        f"layout that fits, and one {escape(serve.device.name)} that serves requests of "
        f"{facts.money.load.length:,} tokens. The mark is what a program can have. Sizes are laid "
        "out in steps; the nearest is shown.</p>",
        pictures.memory_picture(moved),
    )


def law(facts: PlanFacts, moved: dict[str, Any]) -> Section:
    """The law's picture, constants, and what its refits say."""
    words, one = moved["said"], facts.question.law
    constants = (
        f"loss = {one.e:.5g} + {one.a:.5g} / N^{one.alpha:.4g} + {one.b:.5g} / D^{one.beta:.4g}"
    )
    rows = [
        ("law", f"{one.name}: {constants}"),
        ("N counts", one.counts if one.counts != "all" else "all parameters"),
        ("source", one.source or "a fit of your own"),
    ]
    band = "".join(
        f"<div><dt>{title}</dt><dd>{said(f'band-{key}', words)}</dd></div>"
        for key, title in (
            ("loss", "the plan's loss"), ("parameters", "parameters"), ("tokens", "tokens"),
            ("total_usd", "total, USD"),
        )
    )  # fmt: skip
    others = [each for each in facts.answer.warnings if not each.startswith("extrapolated")]
    warnings = "".join(f"<li>{escape(each)}</li>" for each in others)
    notes = f'<ul class="warnings" id="warnings">{warnings}</ul>' if warnings else ""
    return Section(
        "law",
        "The law",
        "<p>What all of this rests on. Refits are the same fit to runs drawn again; 90 % of them "
        "lie between the bounds.</p>",
        f'{pictures.law_picture(facts, moved)}<p class="beyond">{said("beyond", words)}</p>{notes}'
        '<div class="groups"><div><h3>The law</h3>'
        f'{definitions(rows)}</div><div><h3>90 % of its refits</h3><dl class="facts">{band}</dl>'
        f'<p class="soft">{said("unanswered", words)}</p></div></div>',
    )


def sweep(swept: dict[str, Any]) -> Section:
    """The ladder's picture and the constants with their intervals."""
    rows = [
        (
            "exponent of N*" if name == "parameter_exponent" else name,
            f"{one['value']:.4g}, 95 % from {one['interval'][0]:.4g} to {one['interval'][1]:.4g}",
        )
        for name, one in swept["law"]["constants"].items()
    ]
    return Section(
        "sweep",
        "The sweep",
        "<p>A ladder of small models, the law that they follow, and a larger one that it predicted "
        "before that was trained.</p>",
        f"{pictures.sweep_picture(swept)}<h3>Its law</h3>{definitions(rows)}",
    )


def assumptions(facts: PlanFacts, moved: dict[str, Any]) -> Section:
    """What the numbers rest on, as asked; what moves with a slider says so above."""
    train, serve, load = facts.money.train, facts.money.serve, facts.money.load
    rows = [
        ("training", f"{train.devices:,} x {train.device.name}, {train.device.training_source}"),
        ("price", f"{train.device.price_source}; as asked ${facts.usd_per_hour:.2f} an hour"),
        (
            "serving",
            f"{serve.device.name} at ${serve.price or 0:.2f} an hour, weights in {serve.kind}, "
            f"at most {serve.batch} requests at once, {serve.busy:.0%} of the paid hours busy",
        ),
        ("a request", f"{load.prompt:,} tokens read, {load.output:,} written"),
        (
            "decoding",
            f"reads weights and caches at {serve.device.read:.0%} of {serve.device.name}'s "
            "bandwidth",
        ),
        ("prompts", f"at {serve.device.prefill:.0%} of its peak"),
        *((one.label, f"{one.value} of {one.bound}") for one in facts.answer.kept if one.asked),
        ("shapes", f"{len(facts.question.choices.configs)} LLaMA shapes, "
         f"{human_count(facts.question.choices.parameters[0])} to "
         f"{human_count(facts.question.choices.parameters[-1])} parameters"),
    ]  # fmt: skip
    words = "<p>As it was asked. What the sliders change is said beside them.</p>"
    return Section("assumptions", "What it assumes", words, definitions(rows))
