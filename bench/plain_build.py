"""The peers of data.py: the same build as one would write it, and as datatrove does it.

    PEER/bin/python bench/plain_build.py KIND INPUTS OUT TOKENIZER LANGUAGES WORKERS

KIND is plain (processes, the plain loops of tests/plain_rules.py, rensa, a dictionary for the
clusters, SentencePiece with a memory of words), executor (the same functions on datatrove's) or
datatrove (its own stages, its tokenizer a tokenizer.json). LANGUAGES is the file lid.176.ftz.
Prints a JSON line: documents, tokens, versions.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
BANDS, ROWS, WORDS = 16, 8, 3
_WORD = re.compile(r"\w+")
_SPACED = re.compile(r" *[^ ]+| +")
Place = tuple[int, int]  # a file's number, a document's in it


@dataclass(frozen=True)
class Job:
    """What a build reads and writes."""

    inputs: Path
    out: Path
    tokenizer: Path
    languages: Path
    workers: int

    def files(self) -> list[Path]:
        """The files of documents."""
        return sorted(self.inputs.glob("*.jsonl.zst"))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The documents of a file."""
    import zstandard

    with zstandard.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def clean(job: Job, number: int) -> list[list[bytes]]:
    """Write the documents of a file that pass the rules and are English; the bands of each."""
    import plain_rules
    import zstandard

    path = job.files()[number]
    found = []
    with zstandard.open(job.out / path.name, "wt", encoding="utf-8") as output:
        for one in read(path):
            text = one["text"]
            if not plain_rules.is_good(text) or not plain_rules.repeats_little(text):
                continue
            labels, scores = _languages(job.languages).predict(text[:1000].replace("\n", ""))
            if labels[0] != "__label__en" or scores[0] < 0.5:
                continue
            output.write(json.dumps(one, ensure_ascii=False) + "\n")
            found.append(bands(text))
    return found


@cache
def _languages(path: Path) -> Any:
    import fasttext

    return fasttext.load_model(str(path))


def bands(text: str) -> list[bytes]:
    """The bands of a text's MinHash."""
    from rensa import RMinHash

    words = _WORD.findall(text.lower())
    hashes = RMinHash(num_perm=BANDS * ROWS, seed=42)
    hashes.update(
        [" ".join(words[at : at + WORDS]) for at in range(max(len(words) - WORDS, 0) + 1)]
    )
    digest = hashes.digest()
    cut = range(0, BANDS * ROWS, ROWS)
    return [b"".join(n.to_bytes(8, "little") for n in (at, *digest[at : at + ROWS])) for at in cut]


def duplicates(found: Iterable[list[list[bytes]]]) -> set[Place]:
    """All but the first text of each cluster, by a dictionary of bands and one of parents."""
    parent: dict[Place, Place] = {}
    seen: dict[bytes, Place] = {}

    def root(place: Place) -> Place:
        while parent.get(place, place) != place:
            parent[place] = parent.get(parent[place], parent[place])
            place = parent[place]
        return place

    for number, of_file in enumerate(found):
        for document, keys in enumerate(of_file):
            for key in keys:
                first, other = sorted(
                    (root(seen.setdefault(key, (number, document))), root((number, document)))
                )
                parent[other] = first
    return {place for place in parent if root(place) != place}


def tokenise(job: Job, gone: set[Place], number: int) -> tuple[int, int]:
    """Write the tokens of the documents that stay; how many documents and tokens."""
    import numpy as np

    path, documents, tokens = job.files()[number], 0, 0
    words = _words(job.tokenizer)
    with (job.out / f"{number:05d}.tokens").open("wb") as output:
        for place, one in enumerate(read(job.out / path.name)):
            if (number, place) in gone:
                continue
            ids = [1]
            for word in _SPACED.findall(" " + one["text"]):
                ids += words[word]
            ids.append(2)
            output.write(np.array(ids, np.uint16).tobytes())
            documents, tokens = documents + 1, tokens + len(ids)
    return documents, tokens


class _Words(dict[str, list[int]]):
    """The ids of words, a million at most."""

    def __init__(self, encode: Callable[[str], list[int]], space: int) -> None:
        super().__init__()
        self._encode, self._space = encode, space

    def __missing__(self, word: str) -> list[int]:
        ids = self._encode(word[1:]) if word != " " else [self._space]
        if len(self) < 1_000_000:
            self[word] = ids
        return ids


@cache
def _words(path: Path) -> _Words:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return _Words(model.encode, model.piece_to_id("▁"))


def plain(job: Job) -> tuple[int, int]:
    """The build on processes of its own."""
    numbers = range(len(job.files()))
    with ProcessPoolExecutor(job.workers) as pool:
        gone = duplicates(pool.map(partial(clean, job), numbers))
        counts = list(pool.map(partial(tokenise, job, gone), numbers))
    return sum(one for one, _ in counts), sum(tokens for _, tokens in counts)


def executor(job: Job) -> tuple[int, int]:
    """The same functions as two pipelines of datatrove's local executor."""
    import pickle

    from datatrove.executor import LocalPipelineExecutor

    count = len(job.files())

    def cleaned(data: Any, rank: int = 0, world_size: int = 1) -> Any:
        (job.out / f"{rank}.pickle").write_bytes(pickle.dumps(clean(job, rank)))
        yield from ()

    def tokenised(data: Any, rank: int = 0, world_size: int = 1) -> Any:
        gone = pickle.loads((job.out / "gone.pickle").read_bytes())
        (job.out / f"{rank}.json").write_text(json.dumps(tokenise(job, gone, rank)))
        yield from ()

    def run(step: Any, name: str) -> None:
        LocalPipelineExecutor(
            pipeline=[step],
            tasks=count,
            workers=job.workers,
            start_method="fork",
            logging_dir=str(job.out / name),
        ).run()

    run(cleaned, "clean")
    found = (pickle.loads((job.out / f"{rank}.pickle").read_bytes()) for rank in range(count))
    (job.out / "gone.pickle").write_bytes(pickle.dumps(duplicates(found)))
    run(tokenised, "tokenise")
    counts = [json.loads((job.out / f"{rank}.json").read_text()) for rank in range(count)]
    return sum(one for one, _ in counts), sum(tokens for _, tokens in counts)


def datatrove(job: Job) -> tuple[int, int]:
    """Its own stages, as its example of MinHash puts them together."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline import dedup, filters
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.pipeline.writers.jsonl import JsonlWriter
    from datatrove.utils import lid

    lid.FT176LID.MODEL_URL = str(job.languages)
    count, out = len(job.files()), str(job.out)
    config = dedup.MinhashConfig(n_grams=WORDS, num_buckets=BANDS, hashes_per_bucket=ROWS)
    steps = {
        "clean": [
            JsonlReader(str(job.inputs), glob_pattern="*.jsonl.zst", compression="zstd"),
            filters.GopherQualityFilter(),
            filters.GopherRepetitionFilter(),
            filters.LanguageFilter(languages="en", language_threshold=0.5),
            JsonlWriter(f"{out}/clean"),
        ],
        "sign": [
            JsonlReader(f"{out}/clean"),
            dedup.MinhashDedupSignature(output_folder=f"{out}/sign", config=config),
        ],
        "buckets": [
            dedup.MinhashDedupBuckets(f"{out}/sign", output_folder=f"{out}/buckets", config=config)
        ],
        "cluster": [
            dedup.MinhashDedupCluster(f"{out}/buckets", output_folder=f"{out}/gone", config=config)
        ],
        "tokenise": [
            JsonlReader(f"{out}/clean"),
            dedup.MinhashDedupFilter(f"{out}/gone"),
            DocumentTokenizer(f"{out}/tokens", tokenizer_name_or_path=str(job.tokenizer)),
        ],
    }
    tasks = {"buckets": BANDS, "cluster": 1}
    for name, pipeline in steps.items():
        LocalPipelineExecutor(
            pipeline=pipeline,
            tasks=tasks.get(name, count),
            workers=job.workers,
            start_method="fork",
            logging_dir=f"{out}/logs-{name}",
        ).run()
    sizes = [path.stat().st_size for path in Path(out, "tokens").glob("*.ds")]
    ends = [path.stat().st_size for path in Path(out, "tokens").glob("*.ds.index")]
    return sum(ends) // 8, sum(sizes) // 2


def main() -> None:
    """Build once."""
    kind, *paths, workers = sys.argv[1:]
    job = Job(*map(Path, paths), workers=int(workers))
    job.out.mkdir(parents=True)
    documents, tokens = {"plain": plain, "executor": executor, "datatrove": datatrove}[kind](job)
    names = ("datatrove", "rensa", "sentencepiece", "spacy")
    versions = {name: metadata.version(name) for name in names}
    print(json.dumps({"documents": documents, "tokens": tokens, "versions": versions}))


if __name__ == "__main__":
    main()
