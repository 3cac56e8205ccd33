"""ARPA, the text format of n-gram models that kenlm, SRILM and others read.

Sections by length; a line is log10 p, the words, and log10 of the backoff weight, by tabs.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from puna.data.quality.ngram_model import NgramModel

_AT_ONCE = 1 << 16


def write(model: NgramModel, words: Sequence[str], file: BinaryIO) -> None:
    """Write a model gzipped; `words` are those of the vocabulary, in order. Same model, same bytes.

    <s> gets the probability 1 (log10 0), as lmplz writes it; nothing ever asks for it.
    """
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as out:
        out.write(b"\\data\\\n")
        for length, order in enumerate(model.orders, start=1):
            out.write(f"ngram {length}={len(order.keys)}\n".encode())
        for length in range(1, len(model.orders) + 1):
            out.write(f"\n\\{length}-grams:\n".encode())
            for start in range(0, len(model.orders[length - 1].keys), _AT_ONCE):
                out.write(_lines(model, words, length, start).encode())
        out.write(b"\n\\end\\\n")


def _lines(model: NgramModel, words: Sequence[str], length: int, start: int) -> str:
    order = model.orders[length - 1]
    part = slice(start, start + _AT_ONCE)
    columns = _words_of(model, order.keys[part], length)
    texts = zip(*([words[number] for number in column] for column in columns), strict=True)
    ngrams = [" ".join(text) for text in texts]
    probabilities = [
        "0" if value == -99 else f"{value:.7g}" for value in order.log_probability[part].tolist()
    ]
    if length == len(model.orders):
        pairs = zip(probabilities, ngrams, strict=True)
        return "".join(f"{value}\t{text}\n" for value, text in pairs)
    backoffs = [f"{value:.7g}" for value in order.log_backoff[part].tolist()]
    rows = zip(probabilities, ngrams, backoffs, strict=True)
    return "".join(f"{value}\t{text}\t{backoff}\n" for value, text, backoff in rows)


def _words_of(model: NgramModel, keys: npt.NDArray[np.uint64], length: int) -> list[list[int]]:
    """The word numbers of n-grams, first words first."""
    columns: list[list[int]] = []
    size = np.uint64(model.vocabulary_size)
    for shorter in range(length, 0, -1):
        history, word = np.divmod(keys, size)
        columns.insert(0, word.tolist())
        if shorter > 1:
            keys = model.orders[shorter - 2].keys[history]
    return columns
