"""The last rounds of a build: a tokenizer, tokens, shards, the mixture that names them, and where
the recipe wants it the documents as text, split as the tokens are."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import tomli_w

from puna import schema
from puna.config import to_table
from puna.console import silent
from puna.data import files
from puna.data.build.documents import read_all
from puna.data.build.funnel import Record, add_groups, add_stages
from puna.data.build.task import Task, digest_of
from puna.data.build.tokens import TokenFile, TokeniseSettings, pack_tasks
from puna.data.build.work import Build
from puna.data.corpus import write_corpus
from puna.data.document import Document
from puna.data.split import SPLITS, HoldOut, Split
from puna.errors import DataError
from puna.tokens import shards
from puna.tokens.mixture import KIND as MIXTURE
from puna.tokens.mixture import MIXTURE_NAME, epochs, normalised
from puna.tokens.tokenizer import FILE_NAME
from puna.tokens.training import TokenizerConfig, train_tokenizer

HELDOUT = "heldout"
CORPUS = "corpus"  # in OUT
READERS = 16  # small files that are read at a time, where each takes a while to arrive

Ready = Mapping[str, Sequence[files.File]]


@dataclass(frozen=True)
class _Sample:
    """What share of each input's documents a tokenizer is trained on, held-out ones never; how."""

    parts: tuple[float, ...]
    config: TokenizerConfig
    hold_out: HoldOut
    first: tuple[int, ...]  # the number of each input's first document


def finish(state: Build, ready: Ready) -> Record:
    """Tokens and shards of the documents that are ready, and the mixture when all sources are.

    Returns the record of the build.
    """
    out = state.options.out
    record = {name: _source_record(state, name, found) for name, found in ready.items()}
    first = _first_numbers(state, ready)
    tokenizer = _tokenizer(state, ready, record, first)
    found = _tokenise(state, ready, tokenizer, record, first)
    whole = set(ready) == set(state.recipe.sources)
    packed = _pack(state, found, tokenizer, whole)
    for name, one in record.items():
        one.update(_token_facts(packed.get(name, {}), found[name]))
    result: Record = {"recipe": to_table(state.recipe), "sources": record}
    if whole:
        files.write_json(files.join(out, "report.json"), result, "puna.build")  # tells why not
        result["mixture"] = _write_mixture(state, packed, tokenizer)
        if state.recipe.corpus:
            _write_corpus(state, ready, tokenizer.hold_out, first)
        recipe = {**schema.stamp("puna.recipe"), **to_table(state.recipe)}
        files.write_bytes(files.join(out, "recipe.toml"), tomli_w.dumps(recipe).encode())
        files.copy(tokenizer.tokenizer, files.join(out, FILE_NAME))
    return result


def _reports(tasks: Sequence[Task]) -> list[Record]:
    with ThreadPoolExecutor(READERS) as threads:
        return list(threads.map(files.read_json, [task.report_path for task in tasks]))


def _source_record(state: Build, name: str, ready: Sequence[files.File]) -> Record:
    """The funnel of one source, and what its last documents are."""
    tasks = state.tasks[name]
    reports = dict(zip([task.output for task in tasks], _reports(tasks), strict=True))
    steps = [stage for one in reports.values() for stage in one.get("stages", [])]
    inputs = state.inputs[name].values()
    record: Record = {
        "inputs": {"files": len(inputs), "bytes": sum(file.bytes for file in inputs)},
        "stages": add_stages(steps),
        "languages": {},
        "licences": {},
        "core_seconds": round(sum(one["core_seconds"] for one in reports.values()), 2),
        "models": {
            output.removeprefix(state.work): one["model"]
            for output, one in reports.items()
            if "model" in one
        },
        "work_bytes": sum(one["output_bytes"] for one in reports.values()),
        "peak_bytes": max((one["peak_bytes"] for one in reports.values()), default=0),
    }
    for file in ready:
        add_groups(record["languages"], reports[file.path]["languages"])
        add_groups(record["licences"], reports[file.path]["licences"])
    return record


def _first_numbers(state: Build, ready: Ready) -> dict[str, int]:
    """The number of each file's first document, over all sources in their order.

    All 0 where texts are held out by their hashes: then no number matters.
    """
    paths = [file.path for found in ready.values() for file in found]
    first = dict.fromkeys(paths, 0)
    if state.recipe.heldout_offset is None:
        return first
    reports = {task.output: task for tasks in state.tasks.values() for task in tasks}
    number = 0
    for path, report in zip(paths, _reports([reports[path] for path in paths]), strict=True):
        first[path] = number
        number += sum(group["documents"] for group in report["languages"].values())
    return first


def _tokenizer(
    state: Build, ready: Ready, record: Mapping[str, Record], first: Mapping[str, int]
) -> TokeniseSettings:
    """The recipe's tokenizer, or one trained on a sample of the documents."""
    choice = state.recipe.tokenizer
    hold_out = HoldOut(state.recipe.heldout_every, state.recipe.heldout_offset)
    path = choice.path
    if path and not files.is_url(path) and os.path.isdir(path):
        path = files.join(path, FILE_NAME)
    if not path:
        path = _train(state, ready, record, hold_out, first)
    sha256 = hashlib.sha256(files.read_bytes(path)).hexdigest()
    return TokeniseSettings(path, sha256, hold_out)


def _train(
    state: Build,
    ready: Ready,
    record: Mapping[str, Record],
    hold_out: HoldOut,
    first: Mapping[str, int],
) -> str:
    choice = state.recipe.tokenizer
    if set(ready) != set(state.recipe.sources):
        raise DataError(
            "the tokenizer is trained on all sources, and --only names some",
            hint="give tokenizer.path, or run it without --only",
        )
    sizes = {name: one["stages"][-1]["text_bytes"] for name, one in record.items()}
    if not any(sizes.values()):
        raise DataError(
            "no text is left to train a tokenizer on",
            hint="the reports in OUT/work tell why: loosen a stage, or leave it out",
        )
    shares = _shares(state, sizes)
    parts = {name: choice.sample_bytes * shares[name] / max(sizes[name], 1) for name in ready}
    inputs = [(file.path, parts[name]) for name, found in ready.items() for file in found]
    shares_of_inputs = tuple(min(1.0, part) for _, part in inputs)
    numbers = tuple(first[path] for path, _ in inputs)
    sample = _Sample(shares_of_inputs, choice.train, hold_out, numbers)
    places = [path.removeprefix(state.work) for path, _ in inputs]
    folder = files.join(state.work, f"tokenizer-{digest_of(places, sample)}")
    task = Task(
        f"{__name__}:train",
        tuple(path for path, _ in inputs),
        sample,
        files.join(folder, FILE_NAME),
    )
    return state.run([task], "train the tokenizer")[0].path


def train(task: Task, output: BinaryIO, report: Record) -> None:
    """A tokenizer of the documents whose ids' hashes are below their source's part of all."""
    sample: _Sample = task.settings

    def texts() -> Iterator[str]:
        for name, part, first in zip(task.inputs, sample.parts, sample.first, strict=True):
            for number, document in enumerate(read_all([name]), first):
                if sample.hold_out.split(number, document.text) != "train":
                    continue
                if zlib.crc32(document.id.encode()) < part * 2**32:
                    yield document.text

    with tempfile.TemporaryDirectory(prefix="puna-") as folder:
        trained = train_tokenizer(texts(), Path(folder) / "tokenizer", sample.config, silent())
        output.write(trained.path.read_bytes())
        report["vocabulary_size"] = trained.vocabulary_size


def _tokenise(
    state: Build,
    ready: Ready,
    tokenizer: TokeniseSettings,
    record: Mapping[str, Record],
    first: Mapping[str, int],
) -> dict[str, list[TokenFile]]:
    """The tokens of each source's files; what they took is noted in the source's record."""
    tasks: dict[str, list[Task]] = {}
    for name, found in ready.items():
        places = [file.path.removeprefix(state.work) for file in found]
        same = (tokenizer.tokenizer_sha256, tokenizer.hold_out, [first[one.path] for one in found])
        folder = files.join(state.work, name, f"99-tokenise-{digest_of(places, same)}")
        tasks[name] = [
            Task(
                "puna.data.build.tokens:tokenise",
                (file.path,),
                replace(tokenizer, first=first[file.path]),
                files.join(folder, f"{number:05d}.tokens"),
            )
            for number, file in enumerate(found)
        ]
    state.run([task for of_source in tasks.values() for task in of_source], "tokenise")
    result = {}
    for name, of_source in tasks.items():
        reports, one = _reports(of_source), record[name]
        one["tokenise_seconds"] = round(sum(report["seconds"] for report in reports), 2)
        one["peak_bytes"] = max(one["peak_bytes"], *(report["peak_bytes"] for report in reports))
        result[name] = [
            TokenFile(task.output, report["dtype"], report["vocabulary_size"], report["splits"])
            for task, report in zip(of_source, reports, strict=True)
        ]
    return result


def _pack(
    state: Build,
    found: Mapping[str, Sequence[TokenFile]],
    tokenizer: TokeniseSettings,
    whole: bool,
) -> dict[str, Record]:
    """The shards of each source and, of the whole, of all held-out text: manifests by name."""
    parts: list[tuple[str, Split, Sequence[TokenFile]]] = [
        (name, "train", inputs) for name, inputs in found.items()
    ]
    if whole:
        parts.append((HELDOUT, "heldout", [one for inputs in found.values() for one in inputs]))
    tasks: dict[str, list[Task]] = {}
    folders = {}
    sums = {name: _sum(inputs, split) for name, split, inputs in parts}
    for name, split, inputs in parts:
        if not sums[name]["tokens"]:
            continue
        places = [file.path.removeprefix(state.work) for file in inputs]
        digest = digest_of(places, split, state.recipe.shards)
        folders[name] = f"shards/{name}-{digest}"
        tasks[name] = pack_tasks(
            inputs,
            split,
            files.join(state.options.out, folders[name]),
            files.join(state.work, "shards", f"{name}-{digest}"),
            state.recipe.shards.shard_bytes,
        )
    state.run([task for of_part in tasks.values() for task in of_part], "pack shards")
    result = {}
    for name, _, inputs in parts:
        if name in tasks:
            record = _manifest(state, inputs[0], tasks[name], tokenizer) | sums[name]
            path = files.join(state.options.out, folders[name], shards.MANIFEST_NAME)
            files.write_json(path, record, shards.KIND)
            result[name] = {"folder": folders[name], **record}
    return result


def _manifest(
    state: Build, sample: TokenFile, tasks: Sequence[Task], tokenizer: TokeniseSettings
) -> Record:
    dtype = shards.DTYPES[sample.dtype]
    found = {
        files.name_of(task.output): {"bytes": report["bytes"], "sha256": report["sha256"]}
        for task, report in zip(tasks, _reports(tasks), strict=True)
    }
    return {
        "vocabulary_size": sample.vocabulary_size,
        "tokenizer_sha256": tokenizer.tokenizer_sha256,
        "dtype": sample.dtype,
        "shard_tokens": state.recipe.shards.shard_bytes // dtype.itemsize,
        "config": to_table(state.recipe.shards),
        "files": found,
    }


def _sum(inputs: Sequence[TokenFile], split: Split) -> dict[str, int]:
    names = ("tokens", "documents", "text_bytes")
    return {name: sum(file.splits[split][name] for file in inputs) for name in names}


def _token_facts(packed: Record, inputs: Sequence[TokenFile]) -> Record:
    every = {split: _sum(inputs, split) for split in SPLITS}
    return {
        "tokens": every["train"]["tokens"],
        "text_bytes": every["train"]["text_bytes"],
        "documents": every["train"]["documents"],
        "heldout": every["heldout"],
        "folder": packed.get("folder"),
    }


def _shares(state: Build, sizes: Mapping[str, int]) -> dict[str, float]:
    """The recipe's shares as parts of one; without them each source's own size."""
    asked = {name: source.share for name, source in state.recipe.sources.items()}
    return normalised(asked if any(asked.values()) else {name: sizes[name] for name in asked})


def _write_mixture(
    state: Build, packed: Mapping[str, Record], tokenizer: TokeniseSettings
) -> Record:
    """Write mixture.json; its record. Raises DataError for a source of which nothing is left."""
    names = list(state.recipe.sources)
    for name in names:
        if name not in packed:
            raise DataError(
                f"sources.{name}: nothing is left to train on", hint="OUT/report.json tells why"
            )
    unique = {name: packed[name]["tokens"] for name in names}
    shares = _shares(state, unique)
    total = state.recipe.tokens
    read = epochs(shares, unique, total) if total else {}
    sources = {
        name: {"share": shares[name], **_shard_facts(packed[name])}
        | ({"epochs": read[name]} if total else {})
        for name in names
    }
    record = {
        "tokens": total or None,
        "tokenizer_sha256": tokenizer.tokenizer_sha256,
        "sources": sources,
        "heldout": _shard_facts(packed[HELDOUT]) if HELDOUT in packed else None,
    }
    files.write_json(files.join(state.options.out, MIXTURE_NAME), record, MIXTURE)
    return record


def _shard_facts(manifest: Record) -> Record:
    dtype = shards.DTYPES[manifest["dtype"]]
    counts = {name: manifest[name] for name in ("folder", "tokens", "documents", "text_bytes")}
    fingerprint = shards.fingerprint_of(manifest["tokenizer_sha256"], dtype, manifest["files"])
    return {**counts, "fingerprint": fingerprint}


def _write_corpus(state: Build, ready: Ready, hold_out: HoldOut, first: Mapping[str, int]) -> None:
    """OUT/corpus: the documents as text, split as their tokens are; kept where it is the same."""
    paths = [file.path for found in ready.values() for file in found]
    places = [path.removeprefix(state.work) for path in paths]

    def documents() -> Iterator[tuple[Split, Document]]:
        for path in paths:
            for number, document in enumerate(read_all([path]), first[path]):
                yield hold_out.split(number, document.text), document

    digest = digest_of(places, hold_out)
    write_corpus(documents, Path(state.options.out) / CORPUS, hold_out, digest)
