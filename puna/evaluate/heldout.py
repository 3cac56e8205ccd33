"""One evaluation of a model on text it has not seen: its bits per byte beside the baselines'."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna import schema
from puna.console import Console
from puna.data.corpus import MANIFEST, Corpus, open_corpus
from puna.data.document import Document
from puna.data.sources.own import OwnText
from puna.evaluate.baselines import ALONE, corpus_baselines, xz_bits_per_byte
from puna.evaluate.perplexity import DEFAULT_BATCH, backend_scores, bits_per_byte
from puna.infer.engine import Engine
from puna.weights.checkpoint import verify

KIND = "puna.evaluation"
FILE_NAME = "evaluation.json"


@dataclass(frozen=True)
class TextToScore:
    """Documents to measure on; `corpus` is set where they are the held-out part of one."""

    path: Path
    documents: Callable[[], Iterator[Document]]
    total_bytes: int  # of the held-out text, or of the files that hold it
    corpus: Corpus | None


def open_text(path: Path) -> TextToScore:
    """The held-out part of a corpus, or every document of the user's own file or folder.

    Raises DataError when there is nothing to read, SchemaError for another folder of Puna's.
    """
    if (path / MANIFEST).is_file():
        corpus = open_corpus(path)
        return TextToScore(path, corpus.heldout, corpus.count("heldout")[1], corpus)
    own = OwnText([path])
    return TextToScore(path, lambda: _kept(own), own.total_bytes, None)


def _kept(own: OwnText) -> Iterator[Document]:
    return (item for item in own if isinstance(item, Document))


def evaluate(
    engine: Engine,
    text: TextToScore,
    console: Console,
    *,
    batch: int = DEFAULT_BATCH,
    context_length: int | None = None,
    baselines: dict[str, float] | None = None,
) -> dict[str, Any]:
    """The record of evaluation.json: scores, what was scored, and the given baselines.

    Windows have `context_length` tokens, without it the model's.
    Raises DataError when there is no text, CheckpointError when the scores are not finite.
    """
    with console.progress(text.total_bytes, "scoring", "B") as bar:
        result = bits_per_byte(
            backend_scores(engine.lend_backend()),
            engine.tokenizer,
            text.documents(),
            context_length or engine.config.context_length,
            batch=batch,
            progress=bar.update,
        )
    return {
        "data": str(text.path),
        "inputs": inputs_of(engine, text),
        "checkpoint": engine.checkpoint.name,
        "step": engine.step,
        "weights_sha256": weights_sha256(engine.checkpoint),
        "backend": engine.backend.name,
        **result.record(),
        "baselines": baselines or {},
    }


def inputs_of(engine: Engine, text: TextToScore) -> dict[str, str | None]:
    """What the baselines hang on: the corpus and the tokenizer, by fingerprint."""
    fingerprint = text.corpus.fingerprint if text.corpus else None
    return {"corpus": fingerprint, "tokenizer": engine.tokenizer.sha256}


def weights_sha256(model: Path) -> str:
    """The hash of a model's weights: as a checkpoint's manifest has it, else of its files.

    A folder's is the hash over the names and hashes of all its files.
    """
    if (model / "manifest.json").is_file():
        return str(verify(model)["files"]["model.safetensors"]["sha256"])
    if model.is_file():
        return schema.sha256_file(model)
    files = sorted(path for path in model.iterdir() if path.is_file())
    lines = [f"{schema.sha256_file(path)} {path.name}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_up_to_date(previous: dict[str, Any], engine: Engine, text: TextToScore) -> bool:
    """Whether a `previous` record scored these very weights on this text, by this backend."""
    now = [inputs_of(engine, text), weights_sha256(engine.checkpoint), engine.backend.name]
    return now == [previous.get(key) for key in ("inputs", "weights_sha256", "backend")]


def known_baselines(
    previous: dict[str, Any] | None, engine: Engine, text: TextToScore
) -> dict[str, float] | None:
    """The baselines in a `previous` record of the same corpus and tokenizer, if it has them."""
    if previous is None or previous["inputs"] != inputs_of(engine, text):
        return None
    return previous["baselines"] or None


def compute_baselines(engine: Engine, text: TextToScore, console: Console) -> dict[str, float]:
    """The baselines' bits per byte; text of the user's own has no training text, so xz alone."""
    if text.corpus is not None:
        return corpus_baselines(text.corpus, engine.tokenizer, console)
    size = sum(len(document.text.encode("utf-8")) for document in text.documents())
    texts = (document.text for document in text.documents())
    return {ALONE: xz_bits_per_byte(texts, size, console)}


def read_previous(path: Path) -> dict[str, Any] | None:
    """The evaluation.json at `path`, None where there is none. Raises SchemaError as read_json."""
    return schema.read_json(path, KIND) if path.is_file() else None


def write_evaluation(path: Path, record: dict[str, Any]) -> None:
    """Write `record` as an evaluation.json, whole or not at all."""
    schema.write_json(path, KIND, record)
