"""The backend that needs only NumPy: puna.native's twin behind the protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from puna import hardware
from puna.errors import UsageError
from puna.infer.backends.base import (
    PAGE_POSITIONS,
    Chunk,
    FloatArray,
    IdArray,
    PageArray,
    pages_for,
)
from puna.model.count import kv_cache_bytes
from puna.model.sizes import ModelConfig
from puna.model.twin import numpy_shape
from puna.native import numpy_llama

LOGITS_AT_ONCE = 1 << 23  # 32 MiB of them while scoring, and as much again to normalise


class NumpyBackend:
    """Runs the chunks of a step together: one matrix product for all their rows."""

    def __init__(self, config: ModelConfig, arrays: Mapping[str, FloatArray]) -> None:
        self.model = numpy_llama.NumpyLlama(numpy_shape(config), arrays)
        self.name = "NumPy twin"
        self.vocabulary_size = self.model.vocabulary_size
        self.page_bytes = kv_cache_bytes(config, 1, PAGE_POSITIONS, 4)  # float32
        self._cache = _Pages(self.model.shape, 0)

    @property
    def free_bytes(self) -> int:
        """What the machine has; see Backend.free_bytes."""
        return hardware.memory_available_bytes()

    def reserve(self, pages: int) -> None:
        """Have that many pages; see Backend.reserve."""
        self._cache = _Pages(self.model.shape, 0)
        what = f"room for {pages * PAGE_POSITIONS} tokens, their keys and values,"
        hardware.require_memory(pages * self.page_bytes, what)
        self._cache = _Pages(self.model.shape, pages)

    def step(self, chunks: Sequence[Chunk]) -> FloatArray:
        """Logits [sum of wanted_rows, vocabulary]; see Backend.step."""
        return self.model.logits(self._wanted_states(chunks))

    def choose(self, chunks: Sequence[Chunk]) -> Sequence[int | FloatArray]:
        """Logits: this backend does not draw; see Backend.choose."""
        return list(self.step(chunks))

    def hidden(self, chunks: Sequence[Chunk]) -> FloatArray:
        """The wanted rows' final normalised states; see Backend.hidden."""
        return self._wanted_states(chunks)

    def likeliest(self, chunks: Sequence[Chunk]) -> IdArray:
        """The id of each wanted row's greatest logit; see Backend.likeliest."""
        blocks = [logits.argmax(axis=-1) for _rows, logits in self._blocks(chunks)]
        return np.concatenate([np.zeros(0, dtype=np.int64), *blocks])

    def score(self, chunks: Sequence[Chunk], targets: IdArray) -> npt.NDArray[np.float64]:
        """Log-probability of each wanted row's target; see Backend.score."""
        scores = np.zeros(len(targets), dtype=np.float64)
        for rows, logits in self._blocks(chunks):
            top = logits.max(axis=-1, keepdims=True)
            normaliser = np.log(np.exp(logits - top).sum(axis=-1)) + top[:, 0]
            scores[rows] = logits[np.arange(len(logits)), targets[rows]] - normaliser
        return scores

    def _blocks(self, chunks: Sequence[Chunk]) -> Iterator[tuple[slice, FloatArray]]:
        """The wanted rows' logits, some at a time, each block with where it stands among them."""
        states = self._wanted_states(chunks)
        size = max(1, LOGITS_AT_ONCE // self.vocabulary_size)
        for start in range(0, len(states), size):
            rows = slice(start, start + size)
            yield rows, self.model.logits(states[rows])

    def _wanted_states(self, chunks: Sequence[Chunk]) -> FloatArray:
        batch = [(self._cache.past(chunk), chunk.ids) for chunk in chunks]
        ends = np.cumsum([len(chunk.ids) for chunk in chunks])
        wanted = [
            np.arange(end - chunk.wanted_rows, end) for end, chunk in zip(ends, chunks, strict=True)
        ]
        states: FloatArray = self.model.hidden(batch)[np.concatenate(wanted)]
        return states


class _Pages:
    """Keys and values [layers, pages, kv_heads, 32, head_dim] of all sequences."""

    def __init__(self, shape: numpy_llama.Shape, pages: int) -> None:
        size = (shape.layers, pages, shape.kv_heads, PAGE_POSITIONS, shape.head_dim)
        self.keys = np.zeros(size, dtype=np.float32)
        self.values = np.zeros(size, dtype=np.float32)

    def past(self, chunk: Chunk) -> _Past:
        """What the chunk's ids follow. Raises UsageError for a page that is not reserved."""
        end = chunk.start + len(chunk.ids)
        pages, reserved = chunk.pages[: pages_for(end)], self.keys.shape[1]
        if len(pages) < pages_for(end) or not ((pages >= 0) & (pages < reserved)).all():
            raise UsageError(
                f"positions up to {end} need {pages_for(end)} of the {reserved} reserved pages, "
                f"got {pages.tolist()}"
            )
        return _Past(self, pages, chunk.start)


class _Past:
    """One sequence's keys and values, gathered from its pages: a KvCache to the twin."""

    def __init__(self, cache: _Pages, pages: PageArray, length: int) -> None:
        self._cache = cache
        self._pages = pages
        self.length = length
        self.capacity = len(pages) * PAGE_POSITIONS

    def append(
        self, layer: int, keys: FloatArray, values: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Store [time, kv_heads, head_dim] after `length`; all [kv_heads, past, head_dim]."""
        positions = np.arange(self.length, self.length + len(keys))
        pages, places = self._pages[positions // PAGE_POSITIONS], positions % PAGE_POSITIONS
        self._cache.keys[layer, pages, :, places] = keys
        self._cache.values[layer, pages, :, places] = values
        end = self.length + len(keys)
        return self._all(self._cache.keys[layer], end), self._all(self._cache.values[layer], end)

    def _all(self, stored: FloatArray, end: int) -> FloatArray:
        heads_first = stored[self._pages].swapaxes(0, 1)  # kv_heads pages 32 head_dim
        return heads_first.reshape(len(heads_first), self.capacity, -1)[:, :end]
