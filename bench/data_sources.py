"""How fast one core makes text of each public source's own format.

    python bench/data_sources.py RAW --texts TEXTS.jsonl... --github REPOSITORY.tar.gz

RAW is a folder of samples: arxiv/*.tar.gz, books/gutenberg/*.txt, stackexchange/*/Posts.xml and
wikipedia/gensim/enwiki*.bz2. The pages of TEXTS are written as WET and as C4's JSON first, packed
as those are. Rates are megabytes of text that comes out for each second of one core.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record

from puna.console import table
from puna.data.build import stages
from puna.data.build.documents import items, text_bytes_of
from puna.data.document import Document, read_documents

SAMPLES = {
    "arxiv": "arxiv/*.tar.gz",
    "books": "books/gutenberg/*.txt",
    "stackexchange": "stackexchange/*/Posts.xml",
    "wikipedia": "wikipedia/gensim/enwiki-latest*.bz2",
}


def main() -> None:
    """Measure each source in turn, round after round; print the medians, append the row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("raw", type=Path, help="a folder of samples, a folder for each source")
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="JSON lines of pages")
    parser.add_argument("--github", type=Path, help="a .tar.gz of one repository, licence and all")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cases = {name: sorted(arguments.raw.glob(pattern)) for name, pattern in SAMPLES.items()}
    if arguments.github:
        cases["github"] = [arguments.github]
    with tempfile.TemporaryDirectory() as folder:
        pages = [one for path in arguments.texts for one in read_documents(path)]
        cases["commoncrawl"] = [write_wet(pages, Path(folder) / "pages.warc.wet.gz")]
        cases["c4"] = [write_c4(pages, Path(folder) / "c4-train.00000-of-00001.json.gz")]
        found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
        for _ in range(arguments.rounds + 1):
            for name, paths in cases.items():
                found[name].append(measured(name, paths))
        packed = {name: sum(one.stat().st_size for one in paths) for name, paths in cases.items()}
    row = {name: summary(runs[1:], packed[name]) for name, runs in found.items()}
    record.append("data_sources", {"sources": row})
    heads = ["one core", "MB packed", "MB of text", "texts", "MB of text/s", "spread"]
    lines = []
    for name, one in sorted(row.items()):
        speed = one["text_megabytes_per_second"]
        spread = f"{speed['low']:.1f} to {speed['high']:.1f}"
        sizes = [f"{one[key] / 1e6:.2f}" for key in ("packed_bytes", "text_bytes")]
        lines.append([name, *sizes, str(one["documents"]), f"{speed['median']:.1f}", spread])
    print(table(heads, lines))


def measured(name: str, paths: Sequence[Path]) -> dict[str, float]:
    """What a source makes of its files, and the core's seconds."""
    source = stages.source(name, {}, name)
    size = count = 0
    began = time.process_time()
    for path in paths:
        for item in items(source, str(path), path.name):
            if isinstance(item, Document):
                size += text_bytes_of(item)
                count += 1
    return {"text_bytes": size, "documents": count, "seconds": time.process_time() - began}


def summary(runs: Sequence[dict[str, float]], packed: int) -> dict[str, Any]:
    """The spread of the rates, and the sizes."""
    speeds = record.spread([one["text_bytes"] / 1e6 / one["seconds"] for one in runs])
    sizes = {key: runs[0][key] for key in ("text_bytes", "documents")}
    return {**sizes, "packed_bytes": packed, "text_megabytes_per_second": speeds}


def write_wet(pages: Sequence[Document], path: Path) -> Path:
    """Pages as Common Crawl has them as text: a gzip member for each."""
    with path.open("wb") as file:
        for number, page in enumerate(pages):
            text = page.text.encode()
            head = (
                "WARC/1.0\r\nWARC-Type: conversion\r\n"
                f"WARC-Target-URI: http://example.org/{number}\r\n"
                "WARC-Date: 2019-02-15T00:00:00Z\r\n"
                f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{number:012d}>\r\n"
                f"Content-Type: text/plain\r\nContent-Length: {len(text)}\r\n\r\n"
            )
            file.write(gzip.compress(head.encode() + text + b"\r\n\r\n", 6))
    return path


def write_c4(pages: Sequence[Document], path: Path) -> Path:
    """Pages as C4 is published."""
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=6) as file:
        for number, page in enumerate(pages):
            url = f"http://example.org/{number}"
            line = {"text": page.text, "timestamp": "2019-04-25T12:57:54Z", "url": url}
            file.write(json.dumps(line) + "\n")
    return path


if __name__ == "__main__":
    main()
