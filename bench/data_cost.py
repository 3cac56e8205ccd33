"""What the corpus of 1.4 T tokens takes, by rates of bench/history.jsonl: data.py extrapolate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record

PAGE = Path(__file__).resolve().parent.parent / "docs" / "explain" / "what-the-corpus-costs.md"
TIB = 1.0995  # TB
ZSTD = 0.35  # of web text is left at zstd 3: 870,654 of 2,524,716 bytes of the C4 sample
LINE_KEYS = 48e9 * 8 / 1e12  # TB a dump: CCNet has 1.5 G hashes in 50 of 1,600 shards
PAGES = 2.9e9  # of a dump: Common Crawl on February 2019


@dataclass(frozen=True)
class Source:
    """A source of the paper: what is fetched, what its reader makes of it, what stays.

    TB are 10^12 bytes, `tokens` 10^9 different ones (table 1: seen by epochs), `kept` the share of
    the text that each stage lets through; the last text is table 1's disk size.
    """

    packed: float
    text: float
    tokens: float
    kept: tuple[tuple[str, float], ...] = ()


SOURCES = {
    "commoncrawl": Source(
        5 * 7.62 * TIB,
        5 * 7.62 * TIB * 2.6,
        853,
        (("lines", 0.30), ("language", 0.35), ("perplexity", 0.60), ("classifier", 0.48)),
    ),
    "c4": Source(0.305, 0.783, 198),
    "github": Source(0.76, 0.328 / 0.54, 98, (("exact", 0.54),)),
    "wikipedia": Source(0.060, 0.083, 25.7),
    "books": Source(0.090, 0.085, 28.3, (("books", 1.0),)),
    "arxiv": Source(5.6, 0.092, 33.0),
    "stackexchange": Source(0.026, 0.078, 27.2),
}

HEAD = """# What the corpus costs

1.4 T tokens are seen in training, of 1.26 T different ones (table 1 of the paper: share by epochs).
That has not been built here. This page multiplies rates measured on a small machine with the sizes
that others publish; `python bench/data.py extrapolate` writes it again from the newest rows of
`bench/history.jsonl`. Core hours are those of one core of {machine}, TB 10^12 bytes.
"""

MIDDLE = """
In all {hours:,.0f} core hours: {days:,.0f} days on 2 cores, {cluster:,.1f} days on 128 if the disk
and the network keep up. {download:.0f} TB come in: {fetch:.0f} days at 1 Gbit/s. {web:.0%} of the
hours go to Common Crawl, most of them to text that does not stay. From its WARC files ({warc:.0f}
TB) instead of WET, reading alone would be {warc_hours:,.0f} core hours at {pages:.0f} pages a
second, for text without menus. Near duplicates over all that is left (`together = ["fuzzy"]`,
not in the paper) add {fuzzy:,.0f}.

## Is it linear?

The stages look at one file at a time, and the joins sort one part at a time; what could grow is
what all files have in common. Rules, language, near duplicates and tokens on 1, 2, 4 and 8 times
as much text, on 2 processes, milliseconds of a core for each MB that goes in:

"""

TAIL = """
The first column pays for words that each tokenizer process sees for the first time. Memory is that
of {workers} workers and the driver, resident pages summed, shared ones counted more than once; it
stops growing when the memory of words is full. 8 times is far from 20,000 times: joins then have
many parts, each a task that reads a slice of every file. More than some hundred files have not been
tried.

## What is assumed

- Fetched: Common Crawl's WET files, 7.62 TiB a dump (its announcement of February 2019, 2.9 billion
  pages), five of them, unpacked 2.6 times as large (assumed); C4 305 GB (its publisher);
  Wikipedia 60 GB and arXiv 5.6 TB, figures and all (their pages on downloads); books as plain text;
  GitHub: a quarter of what is packed has a licence that counts (assumed), the repository measured
  unpacks 3.2 times; Stack Exchange a fifth of its XML (assumed).
- Kept: of Common Crawl's characters 30 % after lines (CCNet, between 42 % at 1 shard and 28 % at
  100); 35 % of these English (assumed; 5 dumps of 532 G tokens, as CCNet counts, are about that);
  60 % head and middle (by the percentiles' definition); then what makes the paper's 3.3 TB. GitHub
  loses 46 % to duplicates (SlimPajama on RedPajama's). Where nothing is said all stays; what the
  readers drop themselves is in their rates.
- Bytes a token: table 1's own, from 2.8 (arXiv) to 3.95 (C4).
- Rates are of small real samples on a quiet machine, text that comes out for readers and
  text that goes in for stages. Real dumps have other pages: a rate may be off by a factor of two.
  `lines`, `exact` and `books` are put together from their parts: keys twice, reading, writing.
- One input file is one task. Stack Overflow's posts, one file of about 100 GB, take one core
  {stack:.0f} hours whatever the others do; Common Crawl's 320,000 files share well.
- Training the models of perplexity and the classifier, and the tokenizer, is not counted (minutes
  to hours of one core).
"""


def write_costs() -> str:
    """Write the page; its name. The rows it needs are those of data*.py."""
    rates = Rates()
    lines, hours = [], {}
    for name, source in SOURCES.items():
        steps = list(rates.steps(name, source))
        hours[name] = sum(step[3] for step in steps)
        lines += [
            [name if not at else "", *map(str, _shown(step))] for at, step in enumerate(steps)
        ]
    total, download = sum(hours.values()), sum(one.packed for one in SOURCES.values())
    left = sum(_texts(one)[-1] for one in SOURCES.values())
    facts = {
        "machine": rates.machine,
        "hours": total,
        "days": total / 2 / 24,
        "cluster": total / 128 / 24,
        "download": download,
        "fetch": download * 8e12 / 1e9 / 86400,
        "web": hours["commoncrawl"] / total,
        "warc": 5 * 59.86 * TIB,
        "warc_hours": 5 * PAGES / rates.pages / 3600,
        "pages": rates.pages,
        "fuzzy": left * 1e6 / 3600 / rates.of("fuzzy"),
        "workers": rates.scale["workers"],
        "stack": 100e3 * 0.6 / rates.of("read stackexchange") / 3600,
    }
    heads = ["source", "step", "TB in", "TB out", "MB/s a core", "core hours", "TB of disk"]
    parts = [HEAD, "\n", _table(heads, lines), _disk(), MIDDLE, _growth(rates.scale), TAIL]
    PAGE.write_text("".join(parts).format(**facts), encoding="utf-8")
    return str(PAGE.relative_to(PAGE.parents[2]))


class Rates:
    """Megabytes of text a second of one core, by the newest rows."""

    def __init__(self) -> None:
        web = _newest("data_web", "warcs")["values"]
        quality = _newest("data_quality", "values")["values"]
        sources = _newest("data_sources", "sources")
        self.scale = _newest("data", "sizes")
        self.pages = float(web["WARC to text, pages/s"]["median"])
        self.machine = sources["machine"]["cpu"]
        self._rates = {
            f"read {name}": float(one["text_megabytes_per_second"]["median"])
            for name, one in sources["sources"].items()
        }
        for name in ("perplexity", "classifier"):
            self._rates[name] = float(quality[name]["median"])
        self._rates["language"] = float(web["language, 1000 characters, MB/s"]["median"])
        largest = self.scale["sizes"][-1]
        seconds, texts = largest["core_seconds"], largest["text_bytes"]
        read = seconds["read"] / texts["read"] * 1e6  # seconds for a MB
        sign = seconds["sign"] / texts["language"] * 1e6
        drop = seconds["drop"] / texts["language"] * 1e6
        keys = 1 / float(web["keys of lines, MB/s"]["median"])
        self._rates["write"] = texts["language"] / 1e6 / seconds["write"]
        self._rates["lines"] = 1 / (2 * keys + read + drop)
        self._rates["exact"] = 1 / (read + drop)
        self._rates["books"] = self._rates["fuzzy"] = 1 / (sign + drop)
        self._rates["tokenise"] = texts["fuzzy"] / 1e6 / seconds["tokenise"]
        self._rates["pack"] = 2 * largest["tokens"] / 1e6 / seconds["pack_ids"]  # of tokens

    def of(self, name: str) -> float:
        """The rate of a source's reader or of a stage."""
        return self._rates[name]

    def steps(self, name: str, source: Source) -> Iterator[tuple[str, float, float, float, float]]:
        """Each step's name, TB in and out, core hours, and TB of disk for what it writes."""
        texts = _texts(source)
        tokens = 2 * source.tokens / 1e3  # two bytes each
        yield "fetch", source.packed, source.packed, 0, source.packed
        rate = 1 / (1 / self.of(f"read {name}") + 1 / self.of("write"))
        yield self._step("read, write", rate, source.packed, texts[0], texts[0])
        for (stage, _), before, after in zip(source.kept, texts, texts[1:], strict=False):
            yield self._step(stage, self.of(stage), before, after, before)
        yield self._step("tokenise", self.of("tokenise"), texts[-1], tokens, texts[-1])
        yield self._step("pack", self.of("pack"), tokens, tokens, tokens)

    def _step(
        self, name: str, rate: float, before: float, after: float, work: float
    ) -> tuple[str, float, float, float, float]:
        """A step that does `work` TB at a rate."""
        disk = after if name in ("tokenise", "pack") else after * ZSTD
        if name == "lines":
            disk += 5 * LINE_KEYS
        return f"{name} at {rate:.3g}", before, after, work * 1e6 / rate / 3600, disk


def _texts(source: Source) -> list[float]:
    """TB of text after reading and after each stage."""
    texts = [source.text]
    for _, share in source.kept:
        texts.append(texts[-1] * share)
    return texts


def _shown(step: tuple[str, float, float, float, float]) -> list[str]:
    name, before, after, hours, disk = step
    what, _, rate = name.partition(" at ")
    return [what, _number(before), _number(after), rate, f"{hours:,.0f}", _number(disk)]


def _number(terabytes: float) -> str:
    return f"{terabytes:,.0f}" if terabytes >= 100 else f"{terabytes:.2g}"


def _disk() -> str:
    return (
        f"\nDisk is what a step writes: text as JSON lines at zstd 3 ({ZSTD:.0%} of it), tokens as "
        "two\nbytes, 8 bytes a line for `lines`. Work folders may be deleted after the build.\n"
    )


def _growth(row: dict[str, Any]) -> str:
    sizes = row["sizes"]
    heads = ["", *(f"{one['megabytes']:.0f} MB" for one in sizes)]
    stages = ("read", "rules", "language", "write", "sign", "pair", "verify", "star")
    lines = [
        [stage, *(f"{1e3 * one['core_seconds'][stage] / one['megabytes']:.3g}" for one in sizes)]
        for stage in (*stages, "drop", "tokenise", "pack_ids")
    ]
    lines.append(["MB a second in all", *(f"{one['megabytes_per_second']:.1f}" for one in sizes)])
    for name, what in (("resident", "memory of all, MB"), ("process", "largest process, MB")):
        lines.append([what, *(f"{one[f'{name}_bytes'] / 1e6:.0f}" for one in sizes)])
    return _table(heads, lines)


def _table(heads: list[str], lines: list[list[str]]) -> str:
    rows = [heads, ["---", *["--:"] * (len(heads) - 1)], *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _newest(bench: str, key: str) -> dict[str, Any]:
    found = map(json.loads, record.HISTORY.read_text(encoding="utf-8").splitlines())
    rows = [one for one in found if one["bench"] == bench and key in one]
    if not rows:
        raise SystemExit(f"bench/history.jsonl has no row of {bench} with {key}")
    return dict(rows[-1])
