"""Makes the models that `perplexity` uses: pieces, n-grams and cutoffs of one language.

Writes into a folder pieces.model (SentencePiece), ngrams.arpa.gz (for kenlm), ngrams.npz (for us)
and, last, model.json with the cutoffs and what the model was made from. In a build:

  sample   a part of the sources' text of each language, and of the documents that are to be judged
  learn    a language's model
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from puna.data import files
from puna.data.build.documents import SUFFIX, languages_of, read_all
from puna.data.build.funnel import UNKNOWN
from puna.data.build.stages import Context, Given
from puna.data.build.task import Task
from puna.data.document import DocumentWriter
from puna.data.quality import arpa, kneser_ney
from puna.data.quality.perplexity import (
    FACTS,
    MODEL,
    PIECES,
    PerplexityModel,
    Settings,
    TrainingConfig,
    normalised,
)
from puna.errors import ConfigError, DataError

_BYTES = 4  # of text a piece, about
_SAMPLES = 1000  # tasks at most that take samples


@dataclass(frozen=True)
class _Sampling:
    """Which part of a language's documents is taken."""

    parts: dict[str, float]


@dataclass(frozen=True)
class _Lesson:
    """What one model is made of: the first files hold text to learn, the others pages to judge."""

    language: str
    is_any: bool  # documents of other languages, too, stand for it
    texts: int
    config: TrainingConfig


def made_of(settings: Settings) -> Mapping[str, str] | None:
    """The sources to train on. Raises ConfigError where neither they nor a model are named."""
    if settings.train:
        return dict.fromkeys(settings.train, "")
    if settings.model:
        return None
    raise ConfigError("perplexity needs a model", hint='train = ["wikipedia"], or model = FOLDER')


def make(
    inputs: Sequence[files.File],
    settings: Settings,
    sources: Mapping[str, Given],
    context: Context,
) -> Generator[list[Task], list[files.File], Settings]:
    """A model of each language of the documents to come, of the sources' text in it.

    Of each language about as much text is taken as `max_tokens` pieces of 4 bytes are, and of the
    documents to come `sample_documents`: those whose ids have the smallest hashes.
    Raises DataError for a language in which the sources have no text.
    """
    texts = [file for one in sources.values() for file in one.documents]
    there, coming, config = languages_of(texts), languages_of(inputs), settings.training
    languages = [settings.language] if settings.language else sorted(coming)
    languages = [one for one in languages if one != UNKNOWN]
    for one in languages:
        if one not in there:
            raise DataError(
                f"perplexity: {' and '.join(sources)} have no text in {one} to train on",
                hint="keep only languages that they have, by the stage language",
            )
    wanted = {one: config.max_tokens * _BYTES / there[one]["text_bytes"] for one in languages}
    pages = {
        one: config.sample_documents / found["documents"]
        for one, found in coming.items()
        if settings.language or one in languages
    }
    samples = yield [
        Task(f"{__name__}:sample", part, _Sampling(shares), context.name(kind, number, SUFFIX))
        for kind, found, shares in (("text", texts, wanted), ("pages", inputs, pages))
        for number, part in enumerate(_grouped(found))
    ]
    count = len(_grouped(texts))
    yield [
        Task(
            f"{__name__}:learn",
            tuple(file.path for file in samples),
            _Lesson(language, bool(settings.language), count, config),
            files.join(context.folder, language, FACTS),
        )
        for language in languages
    ]
    return replace(settings, model=context.folder, train=())


def sample(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """Of each language a part of the documents: those whose ids have the smallest hashes."""
    parts = task.settings.parts
    with DocumentWriter(output) as writer:
        for document in read_all(task.inputs):
            share = parts.get(document.language or UNKNOWN, 0)
            if zlib.crc32(document.id.encode()) < share * 2**32:
                writer.write(document)


def learn(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The model of one language: model.json is the output, the other files lie beside it."""
    lesson: _Lesson = task.settings

    def texts(names: Sequence[str], is_any: bool = False) -> Iterator[str]:
        documents = read_all(names)
        return (one.text for one in documents if is_any or one.language == lesson.language)

    learned, judged = task.inputs[: lesson.texts], task.inputs[lesson.texts :]
    folder = task.output.rpartition("/")[0]
    found = texts(judged, lesson.is_any)
    _, facts = _made(texts(learned), found, folder, lesson.config)
    output.write((json.dumps(facts, indent=2) + "\n").encode())
    report["model"] = facts


def _grouped(found: Sequence[files.File]) -> list[tuple[str, ...]]:
    """The names of files in groups of as many, so that no task has to open a million of samples."""
    size = -(-len(found) // _SAMPLES) or 1
    return [
        tuple(file.path for file in found[begin : begin + size])
        for begin in range(0, len(found), size)
    ]


def train(
    texts: Iterable[str], sample: Iterable[str], out: str, config: TrainingConfig
) -> PerplexityModel:
    """The model of `texts`; its cutoffs are percentiles of the perplexities of `sample`.

    The sample should be of the text to be judged, before it is judged: pages of Common Crawl.
    Raises DataError where the texts or the sample have no line, or are too few for the vocabulary.
    """
    model, facts = _made(texts, sample, out, config)
    files.write_json(files.join(out, FACTS), facts)
    return model


def _made(
    texts: Iterable[str], sample: Iterable[str], out: str, config: TrainingConfig
) -> tuple[PerplexityModel, dict[str, Any]]:
    """A model, its files written but for model.json; and what that says."""
    lines, is_cut = _some_lines(texts, config.max_tokens)
    if not lines:
        raise DataError("a perplexity model needs text, found none")
    pieces = _train_pieces(lines, config)
    encoded: list[Any] = []
    tokens = 0
    for line in lines:
        encoded.append(np.array(pieces.encode(line), np.int32))
        tokens += len(encoded[-1])
        if tokens >= config.max_tokens:
            is_cut = True
            break
    ngrams = kneser_ney.train(encoded, pieces.get_piece_size(), config.order)
    values = PerplexityModel(pieces, ngrams, 0, 0).perplexities(list(sample))
    values = [value for value in values if np.isfinite(value)]
    if not values:
        raise DataError("the cutoffs need a sample of text, found none")
    head, middle = np.percentile(values, [config.head_percentile, config.middle_percentile])
    model = PerplexityModel(pieces, ngrams, float(head), float(middle))
    _write(model, out)
    facts = {
        "head_below": float(head),
        "middle_below": float(middle),
        "sample_documents": len(values),
        "lines": len(encoded),
        "tokens": tokens,
        "is_all_text": not is_cut,
        "ngrams": [len(order.keys) for order in ngrams.orders],
        "config": asdict(config),
    }
    return model, facts


def _some_lines(texts: Iterable[str], max_tokens: int) -> tuple[list[str], bool]:
    """Normalised lines, of as many characters as max_tokens pieces of 8 would have."""
    lines: list[str] = []
    characters = 0
    for text in texts:
        for line in text.split("\n"):
            if line := normalised(line):
                lines.append(line)
                characters += len(line)
        if characters >= 8 * max_tokens:
            return lines, True
    return lines, False


def _train_pieces(lines: list[str], config: TrainingConfig) -> Any:
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=config.vocabulary_size,
            hard_vocab_limit=False,
            character_coverage=config.character_coverage,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"no pieces of text could be learned: {error}", hint="give more text"
        ) from None
    pieces = sentencepiece.SentencePieceProcessor()
    pieces.LoadFromSerializedProto(model.getvalue())
    return pieces


def _write(model: PerplexityModel, out: str) -> None:
    files.write_bytes(files.join(out, PIECES), model.pieces.serialized_model_proto())
    words = [model.pieces.id_to_piece(number) for number in range(model.pieces.get_piece_size())]
    with files.write_whole(files.join(out, "ngrams.arpa.gz")) as file:
        arpa.write(model.ngrams, words, file)
    model.ngrams.save(files.join(out, MODEL))
