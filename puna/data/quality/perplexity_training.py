"""Makes the models that `perplexity` uses: pieces, n-grams and cutoffs of one language.

Writes into a folder pieces.model (SentencePiece), ngrams.arpa.gz (for kenlm), ngrams.npz (for us)
and, last, model.json with the cutoffs and what the model was made from.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from puna.data import files
from puna.data.quality import arpa, kneser_ney
from puna.data.quality.perplexity import FACTS, MODEL, PIECES, PerplexityModel, normalised
from puna.errors import ConfigError, DataError


@dataclass(frozen=True)
class TrainingConfig:
    """CCNet's choices; its text is the first paragraphs of a million articles of Wikipedia."""

    order: int = 5
    vocabulary_size: int = 65_536  # fewer where the text has no more
    character_coverage: float = 0.9995
    max_tokens: int = 10_000_000  # then no more text is read: 3 GB of memory at most
    head_percentile: float = 30  # of the sample's perplexities
    middle_percentile: float = 60

    def __post_init__(self) -> None:
        if not 2 <= self.order <= 6:
            raise ConfigError(f"order must be from 2 to 6, which kenlm reads, got {self.order}")
        if not 0 < self.head_percentile <= self.middle_percentile < 100:
            raise ConfigError("head_percentile and middle_percentile must rise between 0 and 100")


def train(
    texts: Iterable[str], sample: Iterable[str], out: str, config: TrainingConfig
) -> PerplexityModel:
    """The model of `texts`; its cutoffs are percentiles of the perplexities of `sample`.

    The sample should be of the text to be judged, before it is judged: pages of Common Crawl.
    Raises DataError where the texts or the sample have no line, or are too few for the vocabulary.
    """
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
    _write(PerplexityModel(pieces, ngrams, float(head), float(middle)), out)
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
    files.write_json(files.join(out, FACTS), facts)
    return PerplexityModel(pieces, ngrams, float(head), float(middle))


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
