"""Speed of the stages of quality on one core, in MB/s of text; and kenlm's query beside ours.

    python bench/data_quality.py TEXTS.jsonl... --model FOLDER --benchmarks FILE [--classifier FILE]

FOLDER/en is what puna.data.quality.perplexity_training wrote, FILE what
puna.data.benchmarks.compile_sets did. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record
from text_samples import some_documents

from puna.console import table
from puna.data import decontaminate, scrub
from puna.data.document import Document
from puna.data.quality import classifier, perplexity

Work = Callable[[], object]
COLUMNS = ("median", "low", "high")


def main() -> None:
    """Measure every case in turn, round after round; print the medians, append the row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("texts", type=Path, nargs="+", help="JSON lines of documents")
    parser.add_argument("--megabytes", type=float, default=4, help="of text at most (4)")
    parser.add_argument("--model", required=True, help="a folder of perplexity models")
    parser.add_argument("--benchmarks", required=True, help="compiled benchmarks")
    parser.add_argument("--classifier", help="a classifier's file; one without weights unless said")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    documents = some_documents(arguments.texts, arguments.megabytes * 1e6)
    size = sum(len(one.text.encode()) for one in documents)
    works = stages(documents, arguments)
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(arguments.rounds + 1):
        for name, work in works.items():
            began = time.process_time()
            work()
            seconds = time.process_time() - began
            if number:  # the first loads the models
                found[name].append(size / 1e6 / seconds)
    row: dict[str, Any] = {
        "texts": [path.name for path in arguments.texts],
        "documents": len(documents),
        "bytes": size,
        "values": {name: record.spread(values) for name, values in found.items()},
    }
    record.append("data_quality", row)
    shown = [[name, *(f"{one[x]:.1f}" for x in COLUMNS)] for name, one in row["values"].items()]
    print(table(["MB/s", *COLUMNS], shown))


def stages(documents: list[Document], arguments: argparse.Namespace) -> dict[str, Work]:
    """What is measured: each stage on batches as a build gives them."""
    batches = [documents[start : start + 256] for start in range(0, len(documents), 256)]
    wanted: list[tuple[str, Any, Any]] = [
        ("perplexity", perplexity, perplexity.Settings(arguments.model, "en")),
        (
            "decontaminate",
            decontaminate,
            decontaminate.Settings(arguments.benchmarks),
        ),
        ("scrub", scrub, scrub.Settings()),
    ]
    works: dict[str, Work] = {
        name: lambda module=module, settings=settings: [  # type: ignore[misc]
            module.apply(batch, settings) for batch in batches
        ]
        for name, module, settings in wanted
    }
    model = (
        classifier.Classifier.load(arguments.classifier)
        if arguments.classifier
        else classifier.Classifier(np.zeros(classifier.BUCKETS, np.float32), 0.0)
    )
    works["classifier"] = lambda: [model.scores([one.text for one in batch]) for batch in batches]
    works.update(queries(batches, f"{arguments.model}/en"))
    return works


def queries(batches: list[list[Document]], folder: str) -> dict[str, Work]:
    """The n-gram queries alone, on pieces that are there: ours, and kenlm's of the ARPA file."""
    import kenlm

    model = perplexity.load(folder)
    lines = [
        [
            line
            for one in batch
            for part in one.text.split("\n")
            if (line := perplexity.normalised(part))
        ]
        for batch in batches
    ]
    numbers = [[np.array(one) for one in model.pieces.encode(part)] for part in lines]
    texts = [[" ".join(one) for one in model.pieces.encode(part, out_type=str)] for part in lines]
    peer = kenlm.Model(f"{folder}/ngrams.arpa.gz")
    return {
        "query alone": lambda: [model.ngrams.scores(part) for part in numbers],
        "kenlm's query alone": lambda: [peer.score(one) for part in texts for one in part],
    }


if __name__ == "__main__":
    main()
