"""What an opened model says by the NumPy twin: so tests know that its weights are right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from puna.model.twin import numpy_shape
from puna.native.numpy_llama import KvCache, NumpyLlama
from puna.weights.source import ModelSource


def twin_of(source: ModelSource) -> NumpyLlama:
    """The twin with all weights of `source`."""
    arrays = {name: source.read(name) for name in source.tensors}
    return NumpyLlama(numpy_shape(source.config), arrays)


def logits_of(source: ModelSource, ids: Sequence[int]) -> np.ndarray:
    """Logits [time, vocabulary] after each of the ids."""
    model = twin_of(source)
    cache = KvCache(model.shape, len(ids))
    return model.logits(model.hidden([(cache, np.asarray(ids, dtype=np.int64))]))


def greedy_ids(source: ModelSource, ids: Sequence[int], count: int) -> list[int]:
    """`ids` and the `count` likeliest that follow them."""
    model = twin_of(source)
    cache, new, said = KvCache(model.shape, len(ids) + count), list(ids), list(ids)
    for _ in range(count):
        logits = model.logits(model.hidden([(cache, np.array(new))]))
        new = [int(logits[-1].argmax())]
        said += new
    return said
