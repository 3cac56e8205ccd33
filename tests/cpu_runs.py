"""Running the C++ engine in tests: its builds, and texts in chunks of any size and order."""

from __future__ import annotations

import numpy as np
import pytest

from puna.errors import MachineError
from puna.infer.backends.base import Backend, Chunk, pages_for
from puna.native import kernels


def isas() -> tuple[str, ...]:
    """The builds that run here, best first."""
    try:
        return tuple(kernels.extension().inference_isas())
    except MachineError:
        return ()


needs_kernels = pytest.mark.skipif(not isas(), reason="the kernels were not built here")


def run_texts(
    backend: Backend, texts: list[np.ndarray], sizes: list[int], seed: int = 0
) -> list[np.ndarray]:
    """Logits after each id of each text.

    A step takes the next chunk of every text, in any order, as long as `sizes` says in turn; pages
    come in any order too.
    """
    random = np.random.default_rng(seed)
    counts = [pages_for(len(ids)) for ids in texts]
    backend.reserve(sum(counts) + 3)
    order = random.permutation(sum(counts) + 3)[: sum(counts)].astype(np.int32)
    pages = np.split(order, np.cumsum(counts)[:-1])
    found: list[list[np.ndarray]] = [[] for _ in texts]
    done = np.zeros(len(texts), dtype=np.int64)
    turn = 0
    while waiting := [text for text, ids in enumerate(texts) if done[text] < len(ids)]:
        order, chunks = random.permutation(waiting), []
        for text in order:
            start = int(done[text])
            ids = texts[text][start : start + sizes[turn % len(sizes)]]
            chunks.append(Chunk(pages[text][: pages_for(start + len(ids))], start, ids, len(ids)))
            turn += 1
        ends = np.cumsum([len(chunk.ids) for chunk in chunks])
        for text, part in zip(order, np.split(backend.step(chunks), ends[:-1]), strict=True):
            found[text].append(part)
            done[text] += len(part)
    return [np.concatenate(parts) for parts in found]
