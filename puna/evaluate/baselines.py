"""What a model's bits per byte are held against: xz, and token frequencies alone.

`xz -9e` primed with the training text is the fair rival: it too has seen the training text, and
writes down the held-out text in size(xz(train + held-out)) - size(xz(train)) bytes. The texts are
joined as they are, without separators, in the corpus's order; the held-out texts follow one
another, so that each is also primed with the ones before it. (On the speeches that is 1.651 bits
per byte; with line ends between 1.655, each speech on its own after the training text 1.660.)
"""

from __future__ import annotations

import itertools
import lzma
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from puna.console import Console, ProgressBar
from puna.data.corpus import Corpus
from puna.data.document import Document
from puna.errors import DataError
from puna.tokens.tokenizer import Tokenizer

PRIMED = "xz -9e primed with the training text"
ALONE = "xz -9e alone"
UNIGRAM = "unigram over tokens"

XZ_PRESET = 9 | lzma.PRESET_EXTREME
# Preset 9 looks back 64 MiB, so text further back than that cannot prime it.
XZ_DICTIONARY_BYTES = 64 << 20
_FEED_BYTES = 1 << 18
_ENCODED_TOGETHER = 256  # documents, so that the tokenizer uses all cores


def corpus_baselines(corpus: Corpus, tokenizer: Tokenizer, console: Console) -> dict[str, float]:
    """Bits per byte of the corpus's held-out text, by each baseline's name."""
    heldout = [document.text for document in corpus.heldout()]
    train_bytes = last_bytes((document.text for document in corpus.train()), XZ_DICTIONARY_BYTES)
    with console.progress(corpus.count("train")[1], UNIGRAM, "B") as bar:
        train = _told(corpus.train(), bar)
        unigram = unigram_bits_per_byte(train, heldout, tokenizer)
    return {
        PRIMED: primed_xz_bits_per_byte(train_bytes, heldout, console),
        ALONE: xz_bits_per_byte(heldout, corpus.count("heldout")[1], console),
        UNIGRAM: unigram,
    }


def last_bytes(texts: Iterable[str], limit: int) -> bytes:
    """The last `limit` bytes of the joined texts, in UTF-8, holding little more at any time."""
    kept = bytearray()
    for text in texts:
        kept += text.encode("utf-8")
        if len(kept) > 2 * limit:
            del kept[:-limit]
    return bytes(kept[-limit:])


def primed_xz_bits_per_byte(train: bytes, heldout: Sequence[str], console: Console) -> float:
    """Bits that `xz -9e` adds per byte of the held-out texts when they follow `train`."""
    texts = [text.encode("utf-8") for text in heldout]
    size = sum(map(len, texts))
    _require_text(size)
    with console.progress(2 * len(train) + size, PRIMED, "B") as bar:
        return (xz_size([train, *texts], bar) - xz_size([train], bar)) * 8 / size


def xz_bits_per_byte(texts: Iterable[str], size: int, console: Console) -> float:
    """Bits per byte of `texts`, `size` bytes in all, in one xz file, its header included."""
    _require_text(size)
    with console.progress(size, ALONE, "B") as bar:
        return xz_size((text.encode("utf-8") for text in texts), bar) * 8 / size


def xz_size(parts: Iterable[bytes], bar: ProgressBar) -> int:
    """Bytes of the `xz -9e` file of the joined parts; `bar` is told of the bytes read."""
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, preset=XZ_PRESET)
    size = 0
    for part in parts:
        for start in range(0, len(part), _FEED_BYTES):
            piece = part[start : start + _FEED_BYTES]
            size += len(compressor.compress(piece))
            bar.update(len(piece))
    return size + len(compressor.flush())


def unigram_bits_per_byte(
    train: Iterable[str], heldout: Sequence[str], tokenizer: Tokenizer
) -> float:
    """Bits per byte when each token is predicted from its frequency in `train` alone.

    Every token of the vocabulary is counted once more than it occurs, so that none is impossible.
    """
    size = sum(len(text.encode("utf-8")) for text in heldout)
    _require_text(size)
    counts = np.ones(tokenizer.vocabulary_size, dtype=np.int64)
    for ids in _encoded(train, tokenizer):
        counts += np.bincount(ids, minlength=len(counts))
    log_probabilities = np.log(counts / counts.sum())
    nats = -sum(float(log_probabilities[ids].sum()) for ids in _encoded(heldout, tokenizer))
    return nats / math.log(2) / size


def _encoded(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[npt.NDArray[np.int32]]:
    """The ids of each text, many encoded together so that all cores work."""
    waiting = iter(texts)
    while group := list(itertools.islice(waiting, _ENCODED_TOGETHER)):
        yield from tokenizer.encode_many(group)


def _told(documents: Iterable[Document], bar: ProgressBar) -> Iterator[str]:
    """The documents' texts; `bar` is told of their bytes."""
    for document in documents:
        yield document.text
        bar.update(len(document.text.encode("utf-8")))


def _require_text(size: int) -> None:
    if not size:
        raise DataError("there is no text to compress: every document is empty")
