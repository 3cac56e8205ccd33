"""Keys and values in pages, and the past that the new rows of one step attend to.

All rows of a step go through the matrix products together. Only attention tells sequences apart:
chunks of as many rows over about as many pages run as one batch of torch's fused kernel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from puna.infer.backends.base import PAGE_POSITIONS, Chunk, IdArray, pages_for
from puna.model.llama import Llama
from puna.model.sizes import ModelConfig


class PagedCache:
    """Keys and values of `pages` pages in every layer, and of a spare one for padding's rows.

    Zeros at first: a masked position weighs 0, which a NaN there would survive.
    """

    def __init__(
        self, config: ModelConfig, pages: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        size = (pages + 1, PAGE_POSITIONS, config.kv_head_count, config.head_dim)
        self.keys = torch.zeros(config.layers, *size, dtype=dtype, device=device)
        self.values = torch.zeros(config.layers, *size, dtype=dtype, device=device)
        self.pages = pages

    def keep(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store rows [rows, kv_heads, head_dim] at slots [rows] = page · 32 + position in it."""
        for store, rows in ((self.keys, key), (self.values, value)):
            store[layer].flatten(0, 1).index_copy_(0, slots, rows)

    def read(self, layer: int, table: Tensor) -> tuple[Tensor, Tensor]:
        """Both of the pages [chunks, pages]: [chunks, kv_heads, 32 · pages, head_dim] each."""
        keys, values = (
            store[layer]
            .index_select(0, table.flatten())
            .view(len(table), -1, *store.shape[-2:])
            .transpose(1, 2)
            for store in (self.keys, self.values)
        )
        return keys, values


@dataclass(frozen=True)
class Group:
    """Chunks that attend as one batch, their rows one after the other: `rows` of the step's.

    `each` is the number of rows of a chunk. Without a `table` [chunks, pages] all of them begin
    their sequences. The `mask` [chunks, 1, rows, 32 · pages] is added to the scores of the rows
    that `_attend_pages` makes of a chunk's: 0 where they may look, else minus infinity.
    """

    rows: slice
    each: int
    table: Tensor | None
    mask: Tensor | None


@dataclass(frozen=True)
class StepPast:
    """The past of one step's rows (puna.model.attention.Past), with the rows' own ids.

    `wanted` holds the rows whose logits are wanted, in the order of the chunks.
    """

    cache: PagedCache
    ids: Tensor
    slots: Tensor
    cosines: Tensor
    sines: Tensor
    groups: list[Group]
    wanted: Tensor

    # Compiled, keeping a row would copy the whole cache.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Keep key and value; the mix [rows, heads, head_dim]; see Past.attend."""
        self.cache.keep(layer, self.slots, key, value)
        mixed = []
        for group in self.groups:
            rows = [
                part[group.rows].view(-1, group.each, *part.shape[1:])
                for part in (query, key, value)
            ]
            if group.table is not None:
                keys, values = self.cache.read(layer, group.table)
                assert group.mask is not None
                mixed.append(_attend_pages(rows[0], keys, values, group.mask))
            else:
                mixed.append(_attend_own(*rows))
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def tensors(self) -> list[Tensor]:
        """What differs from step to step where chunks and pages are as many, in a fixed order."""
        inner = [part for group in self.groups for part in (group.table, group.mask)]
        return [
            self.ids,
            self.slots,
            self.cosines,
            self.sines,
            *(p for p in inner if p is not None),
        ]


def _attend_own(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Whole sequences from their start; all of [chunks, each, heads, head_dim]."""
    mixed = functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        is_causal=True,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return mixed.transpose(1, 2).flatten(0, 1)


def _attend_pages(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """query [chunks, each, heads, head_dim] over [chunks, kv_heads, positions, head_dim].

    The heads that share keys become rows of one head: on CUDA the fused kernel that takes a mask
    takes no grouped heads, and so each key is read once for all of them.
    """
    chunks, each, heads, size = query.shape
    kv_heads = keys.shape[1]
    rows = query.view(chunks, each, kv_heads, -1, size).transpose(1, 2).flatten(2, 3)
    mixed = functional.scaled_dot_product_attention(rows, keys, values, attn_mask=mask)
    mixed = mixed.reshape(chunks, kv_heads, each, -1, size).transpose(1, 2)
    return mixed.reshape(-1, heads, size)


def next_power_of_two(number: int) -> int:
    """The smallest power of two that is not below a number of at least 1."""
    return 1 << (number - 1).bit_length()


def lay_out(
    model: Llama, cache: PagedCache, chunks: Sequence[Chunk], pages: int | None = None
) -> StepPast:
    """The rows and groups of chunks that have ids.

    `pages` has chunks of one row each form one group of tables as wide, whatever their starts.
    Raises UsageError past the context's end.
    """

    def kind(index: int) -> tuple[int, int]:
        """Rows, and the power of two that bounds the pages: less than half a batch is padding."""
        chunk = chunks[index]
        rows, held = len(chunk.ids), pages_for(chunk.start + len(chunk.ids))
        return rows, pages or (next_power_of_two(held) if chunk.start else 0)

    device = cache.keys.device
    order = sorted(range(len(chunks)), key=kind)
    ordered = [chunks[index] for index in order]
    ids, positions, slots = torch.from_numpy(_rows(ordered)).to(device)
    groups: list[Group] = []
    ends, end = [0] * len(chunks), 0  # the row after each chunk's last one
    for (each, width), members in itertools.groupby(order, key=kind):
        begin, indices = end, list(members)
        for index in indices:
            end += each
            ends[index] = end
        rows, table = slice(begin, end), None
        if width:
            table = torch.from_numpy(_table([chunks[index] for index in indices], width)).to(device)
        groups.append(Group(rows, each, table, _mask(model, table, positions[rows].view(-1, each))))
    spans = [np.arange(end - one.wanted_rows, end) for end, one in zip(ends, chunks, strict=True)]
    cosines, sines = _turns(model, ordered, positions)
    return StepPast(
        cache=cache,
        ids=ids,
        slots=slots,
        cosines=cosines,
        sines=sines,
        groups=groups,
        wanted=torch.from_numpy(np.concatenate(spans)).to(device),
    )


def _rows(chunks: Sequence[Chunk]) -> IdArray:
    """The id, position and slot of each row: [3, rows]."""
    lengths, starts, held = np.array([(len(c.ids), c.start, len(c.pages)) for c in chunks]).T
    before = starts + lengths - np.cumsum(lengths)  # position less row, for each chunk
    positions = np.arange(lengths.sum()) + np.repeat(before, lengths)
    first_page = np.repeat(np.cumsum(held) - held, lengths)
    pages = np.concatenate([chunk.pages for chunk in chunks])
    slots = PAGE_POSITIONS * pages[first_page + positions // PAGE_POSITIONS]
    ids = np.concatenate([chunk.ids for chunk in chunks])
    return np.stack([ids, positions, slots + positions % PAGE_POSITIONS])


def _table(chunks: Sequence[Chunk], width: int) -> IdArray:
    """The chunks' pages [chunks, width], filled up with each one's own first page."""
    table = np.empty((len(chunks), width), dtype=np.int64)
    for row, chunk in zip(table, chunks, strict=True):
        held = pages_for(chunk.start + len(chunk.ids))
        row[:held], row[held:] = chunk.pages[:held], chunk.pages[0]
    return table


def _mask(model: Llama, table: Tensor | None, positions: Tensor) -> Tensor | None:
    """A group's mask from the positions [chunks, each] of its rows."""
    if table is None:
        return None
    columns = torch.arange(PAGE_POSITIONS * table.shape[1], device=table.device)
    rows = positions.repeat_interleave(model.config.heads // model.config.kv_head_count, dim=1)
    mask = torch.zeros(
        *rows.shape, len(columns), dtype=model.norm.weight.dtype, device=table.device
    )
    return mask.masked_fill_(columns > rows[..., None], -math.inf)[:, None]


def _turns(model: Llama, chunks: Sequence[Chunk], positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each row, in a sequence that ends with the chunk's rows."""
    if max(chunk.start + len(chunk.ids) for chunk in chunks) <= model.config.unstretched_length:
        return model.rotary_cosines[positions], model.rotary_sines[positions]
    turns = [model.turns(chunk.start, chunk.start + len(chunk.ids)) for chunk in chunks]
    cosines, sines = (torch.cat(parts) for parts in zip(*turns, strict=True))
    return cosines, sines
