"""Bits per byte on the held-out text against xz, both computed anew; a row in history.jsonl.

    python bench/compression.py demo/run demo/data/corpus

The peer is `xz -9e` primed with the training text (puna/evaluate/baselines.py says how). Nothing is
taken from an earlier evaluation.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import record

from puna.console import Console, table
from puna.evaluate.baselines import PRIMED
from puna.evaluate.heldout import compute_baselines, evaluate, open_text
from puna.infer.engine import load_engine


def main() -> None:
    """Measure one run on one corpus, print both, append the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("corpus", type=Path, help="the corpus it was trained on")
    parser.add_argument("--which", choices=("latest", "best"), default="latest")
    arguments = parser.parse_args()
    row = measure(arguments.run, arguments.corpus, arguments.which)
    record.append("compression", row)
    rows = [["this model", f"{row['bits_per_byte']:.3f}"]]
    rows += [[name, f"{value:.3f}"] for name, value in row["baselines"].items()]
    print(table(["", "bits per byte"], rows))
    print(f"{row['ratio_to_primed_xz']:.3f} times the size of primed xz")


def measure(run: Path, corpus: Path, which: Any) -> dict[str, Any]:
    """The row: the model's bits per byte, the baselines', and what they were measured on."""
    console = Console()
    engine = load_engine(run, which=which, batched=True)
    text = open_text(corpus)
    found = evaluate(engine, text, console, baselines=compute_baselines(engine, text, console))
    ratio = found["bits_per_byte"] / found["baselines"][PRIMED]
    kept = {name: value for name, value in found.items() if name != "per_document"}
    return {**kept, "ratio_to_primed_xz": ratio}


if __name__ == "__main__":
    main()
