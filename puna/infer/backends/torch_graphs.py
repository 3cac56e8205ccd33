"""CUDA graphs of decode steps: hundreds of kernels launched as one, captured when first needed.

A graph is of a batch and a table width that are powers of two, and reads fixed tensors. A smaller
step is padded with rows that write to the cache's spare page, and copied into them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puna.infer.backends.base import Chunk, pages_for
from puna.infer.backends.torch_pages import PagedCache, StepPast, lay_out, next_power_of_two
from puna.model.llama import Llama

NARROWEST_TABLE = 8  # pages; narrower ones would save less than another capture takes
MOST_PADDING = 4  # table entries for each that is used; a batch of two at their widest need no more


class DecodeGraphs:
    """The graphs captured so far, all with one pool of memory; `compiled` fuses their kernels."""

    def __init__(self, model: Llama, *, compiled: bool) -> None:
        self._model = model
        self._blocks = compiled_blocks(model) if compiled else None
        self.forget()

    def forget(self) -> None:
        """Drop the graphs: their cache is about to go."""
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def take(self, chunks: Sequence[Chunk]) -> bool:
        """Whether these are a decode step: one row a chunk, of about as long texts."""
        if any(len(chunk.ids) != 1 or chunk.wanted_rows != 1 for chunk in chunks):
            return False
        batch, width = graph_size(chunks)
        used = sum(max(NARROWEST_TABLE, pages_for(chunk.start + 1)) for chunk in chunks)
        return batch * width <= MOST_PADDING * used

    def logits(self, cache: PagedCache, chunks: Sequence[Chunk]) -> Tensor:
        """Float32 logits [chunks, vocabulary], valid until the next call."""
        size = graph_size(chunks)
        past = padded(self._model, cache, chunks)
        if size not in self._graphs:
            run = functools.partial(decode_logits, self._model, past, self._blocks)
            self._graphs[size] = _Graph(run, past, self._pool)
        return self._graphs[size].replay(past)[: len(chunks)]


def compiled_blocks(model: Llama) -> list[Any]:
    """The layers with what lies between matrix products and attention fused, for any batch."""
    return [torch.compile(layer, dynamic=True) for layer in model.layers]


def decode_logits(model: Llama, past: StepPast, blocks: list[Any] | None) -> Tensor:
    """Float32 logits [rows, vocabulary] of a step, by those blocks in place of the layers."""
    logits: Tensor = model.output(model.hidden(past.ids, past, blocks))
    return logits.float()


def graph_size(chunks: Sequence[Chunk]) -> tuple[int, int]:
    """Rows and table width of the graph that runs this decode step."""
    width = max(pages_for(chunk.start + 1) for chunk in chunks)
    return next_power_of_two(len(chunks)), max(NARROWEST_TABLE, next_power_of_two(width))


def padded(model: Llama, cache: PagedCache, chunks: Sequence[Chunk]) -> StepPast:
    """The decode step at its graph's size."""
    batch, width = graph_size(chunks)
    nothing = Chunk(np.array([cache.pages], dtype=np.int32), 0, np.zeros(1, dtype=np.int64))
    return lay_out(model, cache, [*chunks, *[nothing] * (batch - len(chunks))], width)


class _Graph:
    """One captured decode step with the tensors that it reads and writes."""

    def __init__(self, run: Callable[[], Tensor], past: StepPast, pool: Any) -> None:
        self._past = past
        # Libraries set themselves up at a first run, which a capture forbids. The run keeps keys
        # and values that the replay writes again.
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _warm_up in range(2):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._logits = run()

    def replay(self, past: StepPast) -> Tensor:
        """Logits [batch, vocabulary] of a step of this graph's size."""
        for mine, new in zip(self._past.tensors(), past.tensors(), strict=True):
            mine.copy_(new)
        self._graph.replay()
        return self._logits
