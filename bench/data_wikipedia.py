# ruff: noqa: RUF001
"""Megabytes of wikitext a second on one core, and how clean, beside WikiExtractor and others.

    python -m venv peers && peers/bin/pip install wikiextractor mwparserfromhell
    python bench/data_wikipedia.py DUMP.xml.bz2 --peers peers/bin/python

All clean the same articles of a dump (formulas taken out first, since each treats them otherwise),
in turns, each in a process of its own bound to one core. WikiExtractor is called as its own
clean_text without template expansion, mwparserfromhell as parse(...).strip_code(). Three measures
of the output, all counted by this file:

- markup: what RESIDUE matches in 10,000 characters: brackets, bars, quotes, equals signs, tags,
  entities and image options left over;
- holes: what HOLES matches in 10,000 characters: empty parentheses and lonely commas that a
  removed template leaves;
- words: the share of the words of the hand-written page below that survive, and how many others
  stand there.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("puna", "wikiextractor", "mwparserfromhell")
GOAL = 2.0  # times the faster of the others
RESIDUE = re.compile(
    r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|'{2,}|={2,}|</?[a-zA-Z][^<>\n]{0,200}>|\||&#?\w{2,8};"
    r"|\bthumb\b|\b\d+px\b|__[A-Z]+__|<!--"
)
HOLES = re.compile(r"\(\s*[,;:)]|[,;:(]\s*\)|,\s*,|\s,\s|;\s*;|^[,;.)]", re.M)
_FORMULA = re.compile(r"<(math|chem)\b[^<>]*>.*?</\1>", re.S | re.I)

# A page with what real pages have, and what a person reads of it, both written for this file.
PAGE = """{{Short description|Highland grass}}{{Infobox grassland | area = {{convert|5|km2}}
| image = [[File:Puna.jpg|thumb|left|[[Ichu]] at dawn]] }}
The '''puna''' ({{IPA-es|ˈpuna}}; {{lang|qu|puna}}) is a ''[[montane grassland|grassland]]'' of
the [[Andes]]<ref name="a">{{cite book|title=Grass|url=http://a.org}}</ref> from
{{convert|3200|to|4500|m}} up ({{audio|x.ogg|listen}}), {{as of|2010|lc=y}} home to
{{nowrap|two million}} llamas.<!-- check -->
== Climate ==
It is {{abbr|avg.|average}} 4&nbsp;&deg;C{{citation needed|date=May 2010}}, see
[http://b.org the table].
{| class="wikitable"
! Month !! Rain
|-
| May || {{convert|3|mm}}
|}
* '''North''': [[Junín]] (wet)
* '''South''': [[Sud Lípez]], {{circa|1500}} dry
== Notes ==
{{reflist}}
== External links ==
* [http://c.org Official site]
[[Category:Grasslands]] [[fr:Puna]]
"""
READS = """The puna ([ˈpuna]; puna) is a grassland of the Andes from 3200 to 4500 m up, as of 2010
home to two million llamas. Climate It is avg. 4 °C, see the table. North: Junín (wet)
South: Sud Lípez, c. 1500 dry"""


def main() -> None:
    """Race in turns, print the table, append a row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dump", type=Path, help="a pages-articles dump")
    parser.add_argument("--peers", default=sys.executable, help="a Python that has the others")
    parser.add_argument("--megabytes", type=float, default=2, help="of wikitext (2)")
    parser.add_argument("--rounds", type=int, default=5, help="turns each (5 at least)")
    parser.add_argument("--as", dest="name", choices=NAMES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.name:
        turn(arguments.name, json.load(sys.stdin))
        return
    import record

    texts = articles(arguments.dump, arguments.megabytes)
    row = race(texts, max(5, arguments.rounds), arguments.peers)
    row |= {"text": arguments.dump.name, "whole_dump": whole_dump(arguments.dump)}
    show(row)
    record.append("data_wikipedia", row)


def articles(dump: Path, megabytes: float) -> list[str]:
    """The wikitext of the dump's first articles that are no redirects, without formulas."""
    from puna.data.sources.xml_dump import Damage, Dump, parse

    texts: list[str] = []
    size = 0
    with dump.open("rb") as file:
        for _offset, data in Dump(file, b"<page>", b"</page>"):
            page = parse(data) if isinstance(data, bytes) else data
            if (
                isinstance(page, Damage)
                or page.find("redirect") is not None
                or size > megabytes * 1e6
            ):
                continue
            text = _FORMULA.sub("", page.findtext("revision/text") or "")
            texts.append(text)
            size += len(text.encode())
    return texts


def race(texts: list[str], rounds: int, python: str) -> dict[str, Any]:
    """Everyone in turns; what each measured, as the row."""
    import record

    size = sum(len(text.encode()) for text in texts)
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    quality: dict[str, Any] = {}
    versions: dict[str, str] = {}
    for round_number in range(rounds):
        for index in range(len(NAMES)):
            name = NAMES[(index + round_number) % len(NAMES)]
            found = one_turn(name, sys.executable if name == "puna" else python, texts)
            seconds[name].append(found["seconds"])
            quality[name], versions[name] = found["quality"], found["version"]
    rates = {
        name: record.spread([size / 1e6 / value for value in values])
        for name, values in seconds.items()
    }
    others = max(rates[name]["median"] for name in NAMES[1:])
    return {
        "bytes": size,
        "documents": len(texts),
        "threads": 1,
        "megabytes_per_second": rates,
        "ratio": {name: rates["puna"]["median"] / rates[name]["median"] for name in NAMES[1:]},
        "reaches_goal": rates["puna"]["median"] / others >= GOAL,
        "quality": quality,
        "peer_versions": {name: versions[name] for name in NAMES[1:]},
    }


def one_turn(name: str, python: str, texts: list[str]) -> dict[str, Any]:
    """One process that cleans all texts once, after one small warm-up."""
    command = [python, __file__, "-", "--as", name]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run(
        command, input=json.dumps(texts), capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout))


def turn(name: str, texts: list[str]) -> None:
    """What one_turn's process does."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    clean, version = cleaner(name)
    page = clean(PAGE)
    began = time.perf_counter()
    cleaned = [clean(text) for text in texts]
    seconds = time.perf_counter() - began
    found = {"seconds": seconds, "quality": quality_of(cleaned, page), "version": version}
    print(json.dumps(found))


def cleaner(name: str) -> tuple[Callable[[str], str], str]:
    """The function that cleans one page, and the version of who made it."""
    import importlib.metadata

    if name == "puna":
        from puna.data.sources.wikitext import Wiki, wikitext_to_text

        wiki = Wiki(language="en")
        return lambda text: wikitext_to_text(text, wiki), ""
    version = importlib.metadata.version(name)
    if name == "mwparserfromhell":
        import mwparserfromhell

        return lambda text: str(mwparserfromhell.parse(text).strip_code()), version
    from wikiextractor.clean import clean_markup

    return lambda text: "\n".join(clean_markup(text, ignore_headers=False)), version


def quality_of(cleaned: list[str], page: str) -> dict[str, float]:
    """The three measures of the output; see above."""
    text = "\n".join(cleaned)
    expected, found = (collections.Counter(re.findall(r"\w+", one)) for one in (READS, page))
    return {
        "characters": len(text),
        "markup_per_10000": 1e4 * len(RESIDUE.findall(text)) / len(text),
        "holes_per_10000": 1e4 * len(HOLES.findall(text)) / len(text),
        "words_kept": (expected & found).total() / expected.total(),
        "words_added": (found - expected).total(),
    }


def whole_dump(dump: Path) -> dict[str, float]:
    """Our reader from the packed dump to documents, once: unpacked megabytes a second."""
    from puna.data.document import Document
    from puna.data.sources.wikipedia import Settings, read
    from puna.data.sources.xml_dump import Dump

    with dump.open("rb") as file:
        size = max((offset for offset, _ in Dump(file, b"<page>", b"</page>")), default=0)
    began = time.perf_counter()
    with dump.open("rb") as file:
        kept = sum(isinstance(item, Document) for item in read(file, dump.name, Settings()))
    seconds = time.perf_counter() - began
    return {"bytes": size, "documents": kept, "megabytes_per_second": size / 1e6 / seconds}


def show(row: dict[str, Any]) -> None:
    """The table of a row."""
    from puna.console import table

    lines = [
        [
            f"{name} {row['peer_versions'].get(name, '')}".strip(),
            f"{rate['median']:.2f}",
            f"{rate['low']:.2f} to {rate['high']:.2f}",
            f"{row['ratio'][name]:.1f}" if name in row["ratio"] else "",
            *(
                f"{row['quality'][name][key]:.2f}"
                for key in ("markup_per_10000", "holes_per_10000")
            ),
            f"{row['quality'][name]['words_kept']:.0%} + {row['quality'][name]['words_added']}",
        ]
        for name, rate in row["megabytes_per_second"].items()
    ]
    heads = ["1 core", "MB/s", "spread", "ours is times", "markup", "holes", "words kept + others"]
    print(table(heads, lines))
    whole = row["whole_dump"]
    print(f"from the packed dump to documents: {whole['megabytes_per_second']:.1f} MB/s unpacked")


if __name__ == "__main__":
    main()
