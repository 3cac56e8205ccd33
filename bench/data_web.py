"""Speed of the web's way on one core: WARC to text, the rules, languages, lines; beside peers.

    python bench/data_web.py TEXTS.jsonl... --warcs FOLDER --peer PEER/bin/python

Rounds are interleaved. Peers: datatrove's WARC reader with trafilatura (an environment with
datatrove[io,processing]), and the plain twins of the rules (tests/plain_rules.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
from text_samples import some_documents

from puna.console import table
from puna.data import language
from puna.data.dedup import lines
from puna.data.document import Document
from puna.data.quality import rules
from puna.data.quality.rules_c4 import C4Rules
from puna.data.sources import commoncrawl

Measure = Callable[[], float]


def main() -> None:
    """Measure every case in turn, round after round; print the medians, append the row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("texts", type=Path, nargs="+", help="JSON lines of documents")
    parser.add_argument("--megabytes", type=float, default=4, help="of text at most (4)")
    parser.add_argument("--warcs", type=Path, help="a folder of .warc.gz files")
    parser.add_argument("--peer", help="the Python of an environment with datatrove")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    documents = some_documents(arguments.texts, arguments.megabytes * 1e6)
    size = sum(len(one.text.encode()) for one in documents)
    measures = text_measures(documents, size)
    row: dict[str, Any] = {
        "texts": [path.name for path in arguments.texts],
        "documents": len(documents),
        "bytes": size,
    }
    if arguments.warcs:
        row["warcs"] = sorted(path.name for path in arguments.warcs.glob("*.warc.gz"))
        measures["WARC to text, pages/s"] = lambda: our_pages_per_second(arguments.warcs)
    if arguments.warcs and arguments.peer:
        peer = Peer(arguments.peer, arguments.warcs)
        row["peer_versions"] = peer.versions
        measures["datatrove and trafilatura, pages/s"] = peer.pages_per_second
    found: dict[str, list[float]] = {name: [] for name in measures}
    for measure in measures.values():
        measure()  # models are loaded, files are in the cache
    for _ in range(arguments.rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    row["values"] = {name: record.spread(values) for name, values in found.items()}
    record.append("data_web", row)
    columns = ("median", "low", "high")
    shown = [[name, *(f"{one[x]:.1f}" for x in columns)] for name, one in row["values"].items()]
    print(table(["", *columns], shown))


def text_measures(documents: list[Document], size: int) -> dict[str, Measure]:
    """What is measured in MB/s of the documents' text."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    import plain_rules

    def rate(work: Callable[[], object]) -> Measure:
        def measure() -> float:
            begun = time.process_time()
            work()
            return size / 1e6 / (time.process_time() - begun)

        return measure

    gopher = rules.Settings()
    c4 = rules.Settings(c4=C4Rules(), quality=None, repetition=None)
    every = rules.Settings(c4=C4Rules())
    ccnet = language.Settings(max_characters=0)
    return {
        "C4's rules, MB/s": rate(lambda: rules.apply(documents, c4)),
        "Gopher's rules, MB/s": rate(lambda: rules.apply(documents, gopher)),
        "both, MB/s": rate(lambda: rules.apply(documents, every)),
        "Gopher's, plain twin, MB/s": rate(
            lambda: [
                plain_rules.is_good(x.text) and plain_rules.repeats_little(x.text)
                for x in documents
            ]
        ),
        "language, 1000 characters, MB/s": rate(
            lambda: language.apply(documents, language.Settings())
        ),
        "language, whole text, MB/s": rate(lambda: language.apply(documents, ccnet)),
        "keys of lines, MB/s": rate(lambda: lines.shard_keys(documents)),
    }


def our_pages_per_second(folder: Path) -> float:
    """WARC to the main content of its pages."""
    begun, pages = time.perf_counter(), 0
    for path in sorted(folder.glob("*.warc.gz")):
        with path.open("rb") as file:
            found = commoncrawl.read(file, str(path), commoncrawl.Settings(min_characters=0))
            pages += sum(isinstance(item, Document) for item in found)
    return pages / (time.perf_counter() - begun)


class Peer:
    """datatrove in an environment and process of its own, a round when asked for."""

    def __init__(self, python: str, folder: Path) -> None:
        script = Path(__file__).with_name("datatrove_warc.py")
        self._process = subprocess.Popen(
            [python, str(script), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.versions = self._answer()

    def pages_per_second(self) -> float:
        """One round of all files."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        answer = self._answer()
        return answer["pages"] / answer["seconds"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


if __name__ == "__main__":
    main()
