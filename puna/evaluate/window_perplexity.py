"""Perplexity as llama-perplexity measures it, to be held against what others publish.

The whole text becomes tokens at once, BOS first where the tokenizer puts one, and is cut into
disjoint windows; what is left at the end does not count. The first token of each window becomes
BOS where the tokenizer puts one. Only the second half is scored, so that each token has at least
half a window before it: positions context/2 .. context - 2 each predict the token after them.
(llama.cpp, tools/perplexity; bits per byte of whole documents: perplexity.py.)
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from puna.errors import CheckpointError, DataError
from puna.infer.backends.base import Backend, Chunk, IdArray, pages_for
from puna.tokens.tokenizer import Tokenizer

Values = npt.NDArray[np.float64]

SHORTEST_CONTEXT = 4  # below it the second half predicts nothing
ROWS_AT_ONCE = 512  # tokens of a step: bounds what a backend keeps of one


@dataclass(frozen=True)
class Estimate:
    """A perplexity and the standard error of it, as the scored tokens' spread tells it."""

    perplexity: float
    standard_error: float
    tokens: int


def read_text(path: Path) -> str:
    """The text of a file, plain or .gz, less one line end at its end, as llama-perplexity reads it.

    Raises DataError when it is missing, damaged, or not UTF-8.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8").removesuffix("\n")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} should be gzip, found it damaged: {error}") from None
    except OSError as error:
        raise DataError(f"{path} should be a text file: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} should be UTF-8 text: {error}", hint="unpack it first, where it is an archive"
        ) from None


def text_windows(tokenizer: Tokenizer, text: str, context_length: int) -> IdArray:
    """Ids [windows, context_length] of all whole windows.

    Raises DataError when the text has not even one.
    """
    ids = tokenizer.encode(text, bos=tokenizer.adds_bos)
    count = len(ids) // context_length
    if not count:
        raise DataError(
            f"a window of {context_length} tokens is wanted, the text has {len(ids)}",
            hint="give a longer text or a smaller --context",
        )
    windows: IdArray = np.array(ids[: count * context_length], dtype=np.int64)
    windows = windows.reshape(count, context_length)
    if tokenizer.adds_bos:
        windows[:, 0] = tokenizer.bos_id
    return windows


def window_chunks(window: IdArray, rows: int) -> Iterator[tuple[Chunk, IdArray]]:
    """The window's ids but its last, `rows` at a time, and what the wanted ones should predict.

    They use the pages from 0 on, which must be reserved.
    """
    first, end = len(window) // 2, len(window) - 1
    pages = np.arange(pages_for(end), dtype=np.int32)
    for start in range(0, end, rows):
        stop = min(start + rows, end)
        wanted = max(0, stop - max(start, first))
        yield (
            Chunk(pages[: pages_for(stop)], start, window[start:stop], wanted),
            window[stop + 1 - wanted : stop + 1],
        )


def scored_nats(backend: Backend, window: IdArray, rows: int = ROWS_AT_ONCE) -> Values:
    """Nats that each token of the window's second half takes [context / 2 - 1, rounded up].

    `rows` tokens make a step. The backend needs pages for a window. Raises CheckpointError for
    scores that are not finite.
    """
    chunks = window_chunks(window, rows)
    return require_finite(-np.concatenate([backend.score([one], ids) for one, ids in chunks]))


def estimate(nats: Values) -> Estimate:
    """exp of the mean, and that times the standard error of the mean; infinite past a float."""
    mean = float(nats.mean())
    perplexity = math.exp(mean) if mean < 700 else math.inf
    return Estimate(perplexity, perplexity * error_of_mean(nats), len(nats))


def error_of_mean(values: Values) -> float:
    """The standard error of the values' mean; infinite for a single one."""
    return math.sqrt(float(values.var()) / (len(values) - 1)) if len(values) > 1 else math.inf


def require_finite(nats: Values) -> Values:
    """`nats` as they are. Raises CheckpointError for NaN and infinity."""
    if not np.isfinite(nats).all():
        raise CheckpointError(
            "the model's scores are not finite numbers",
            hint="its weights are damaged or its training diverged; try an earlier checkpoint",
        )
    return nats
