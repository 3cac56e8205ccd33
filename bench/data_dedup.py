"""Near duplicates: speed of signatures, recall of injected ones, peak memory by size of input.

    python bench/data_dedup.py TEXTS.jsonl.zst...

Of all documents of at least 50 words, 2,500 drawn ones get a copy in which 2 % of the words are
replaced by others of the corpus. Each text that goes is compared with the one it is said to be
like, exactly, on sets of n-grams. Peaks (VmHWM) are of child processes, one a task.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record

from puna.console import table
from puna.data import files
from puna.data.build.stages import Context
from puna.data.build.task import Task, run_task
from puna.data.dedup import fuzzy
from puna.data.dedup.join import DUPLICATE, read_slice
from puna.data.dedup.minhash import grams, jaccard, signature
from puna.data.document import Document, read_documents, write_documents

FILE_BYTES = 7_000_000  # of text in a file, and so in a task
INJECTED, REPLACED, FEWEST_WORDS = 2500, 0.02, 50


def main() -> None:
    """Run the stage at growing sizes; print the table, append the row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("texts", type=Path, nargs="+", help="JSON lines of documents")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[27.5, 55, 110, 220])
    parser.add_argument("--part-megabytes", type=float, default=4, help="of compressed documents")
    parser.add_argument("--characters", action="store_true", help="n-grams of 13 characters")
    arguments = parser.parse_args()
    rules = fuzzy.Settings("characters", 13) if arguments.characters else fuzzy.Settings()
    fuzzy._PART_BYTES = round(arguments.part_megabytes * 1e6)
    documents = [one for path in arguments.texts for one in read_documents(path)]
    random.Random(0).shuffle(documents)
    row: dict[str, Any] = {"speed_mb_per_core_second": speeds(documents, rules)}
    row["sizes"] = [measured(documents, size, rules) for size in arguments.megabytes]
    record.append("data_dedup", row)
    names = list(row["sizes"][0])
    print(row["speed_mb_per_core_second"])
    print(table(names, [[f"{one[name]:.4g}" for name in names] for one in row["sizes"]]))


def speeds(
    documents: Sequence[Document], rules: fuzzy.Settings, rounds: int = 5
) -> dict[str, float]:
    """MB of text a second of one core, from text to signature."""
    some = documents[: len(documents) // 20]
    size = sum(len(one.text.encode()) for one in some)
    found = []
    for _ in range(rounds + 1):
        begun = time.process_time()
        for one in some:
            signature(grams(one.text, rules.unit, rules.length))
        found.append(size / 1e6 / (time.process_time() - begun))
    return record.spread(found[1:])


def measured(
    documents: Sequence[Document], megabytes: float, rules: fuzzy.Settings
) -> dict[str, float]:
    """The stage on the first documents, with copies injected."""
    texts, copies = with_copies(documents, megabytes * 1e6)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs, places = written(texts, folder)
        peaks, seconds = run_all(inputs, folder, rules)
        found = removed(folder, len(inputs))
    gone = {place for place, _ in found}
    injected = [(places[one], places[other]) for one, other in copies]
    caught = sum(one in gone or other in gone for one, other in injected)
    text_of = dict(zip(places, texts, strict=True))

    def exactly(pair: tuple[int, int]) -> float:
        return jaccard(*(grams(text_of[one].text, rules.unit, rules.length) for one in pair))

    alike = np.array([exactly(pair) for pair in found])
    return {
        "MB": sum(len(one.text.encode()) for one in texts) / 1e6,
        "documents": len(texts),
        "files": len(inputs),
        "injected": len(copies),
        "recall": caught / len(copies),
        "removed": len(found),
        "below 0.7": int(np.count_nonzero(alike < 0.7)),
        "below 0.5": int(np.count_nonzero(alike < 0.5)),
        "peak MB": max(peaks.values()) / 1e6,
        **{f"peak MB, {kind}": peak / 1e6 for kind, peak in peaks.items()},
        "core seconds": seconds,
    }


def with_copies(
    documents: Sequence[Document], size: float
) -> tuple[list[Document], list[tuple[int, int]]]:
    """Documents up to a size, some copied with words replaced, and where each pair is."""
    total, chosen = 0, []
    for one in documents:
        if total >= size:
            break
        total += len(one.text.encode())
        chosen.append(one)
    drawn = random.Random(1)
    long = [at for at, one in enumerate(chosen) if len(one.text.split()) >= FEWEST_WORDS]
    long = [at for at in long if len(chosen[at].text) < 100_000]  # copies add few bytes
    origins = drawn.sample(long, min(INJECTED, len(long) // 3))
    words = " ".join(chosen[at].text for at in origins[:200]).split()
    copies = []
    for at in origins:
        text = " ".join(
            drawn.choice(words) if drawn.random() < REPLACED else word
            for word in chosen[at].text.split()
        )
        copies.append(Document(text, "copy", chosen[at].licence, f"copy {at}"))
    order = list(range(len(chosen) + len(copies)))
    drawn.shuffle(order)
    where = {old: new for new, old in enumerate(order)}
    every = [*chosen, *copies]
    pairs = [(where[at], where[len(chosen) + n]) for n, at in enumerate(origins)]
    return [every[old] for old in order], pairs


def written(texts: Sequence[Document], folder: Path) -> tuple[list[files.File], list[int]]:
    """The texts in files of about the same size, and the place of each."""
    groups: list[list[Document]] = [[]]
    places, room = [], FILE_BYTES
    for one in texts:
        if room <= 0:
            groups.append([])
            room = FILE_BYTES
        places.append(((len(groups) - 1) << 32) + len(groups[-1]))
        groups[-1].append(one)
        room -= len(one.text.encode())
    inputs = []
    for number, group in enumerate(groups):
        path = folder / f"{number:05d}.jsonl.zst"
        write_documents(path, group)
        inputs.append(files.File(str(path), path.stat().st_size))
    return inputs, places


def run_all(
    inputs: list[files.File], folder: Path, rules: fuzzy.Settings
) -> tuple[dict[str, int], float]:
    """The highest peak of each kind of task, and the core seconds of all."""
    rounds = fuzzy.rounds(inputs, rules, Context(str(folder / "stage"), "fuzzy", 0))
    peaks: dict[str, int] = {}
    seconds, answer = 0.0, None
    with multiprocessing.get_context("forkserver").Pool(1, maxtasksperchild=1) as pool:
        while True:
            try:
                tasks: list[Task] = next(rounds) if answer is None else rounds.send(answer)
            except StopIteration:
                return peaks, seconds
            pool.map(run_task, tasks, chunksize=1)
            for task in tasks:
                report = json.loads(Path(task.report_path).read_text())
                kind = task.function.partition(":")[2]
                peaks[kind] = max(peaks.get(kind, 0), report["peak_bytes"])
                seconds += report["core_seconds"]
            answer = [files.find(task.output)[0] for task in tasks]


def removed(folder: Path, count: int) -> list[tuple[int, int]]:
    """The places of the texts that go, each with that of the text that stays."""
    found = []
    for path in sorted((folder / "stage").glob("found-*.bin")):
        for number in range(count):
            for document, file, first in read_slice(str(path), number, count, DUPLICATE).tolist():
                found.append(((number << 32) + document, (file << 32) + first))
    return found


if __name__ == "__main__":
    main()
