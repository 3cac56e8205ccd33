"""The NumPy twin: LLaMA's forward pass in plain float32 arrays (paper 2.2).

It is the oracle of faster kernels and the engine where torch is not installed. It knows arrays
under Meta's names and a few plain numbers, nothing of puna.model. One call runs all layers for the
new rows of several sequences, each with its own cache; the matrix products are shared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from puna.errors import CheckpointError, UsageError

Array = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Sizes = Mapping[str, tuple[int, ...]]  # name -> shape


@dataclass(frozen=True)
class DynamicScaling:
    """Rotary positions that turn more slowly in sequences beyond the original length."""

    theta: float
    factor: float
    original_context_length: int


@dataclass(frozen=True)
class Shape:
    """The numbers of a LLaMA that its weights alone do not tell.

    `frequencies` holds radians per position, float32 [head_dim / 2], from `rotary_frequencies`;
    with `dynamic` they hold for sequences up to its original length. Rows of q and k make pairs of
    neighbours, Meta's convention, or with `has_half_pairs` of (i, i + head_dim / 2), as in HF.
    """

    layers: int
    heads: int
    kv_heads: int
    context_length: int
    norm_epsilon: float
    frequencies: Array
    dynamic: DynamicScaling | None = None
    has_half_pairs: bool = False

    @property
    def head_dim(self) -> int:
        """Values in one attention head."""
        return 2 * len(self.frequencies)


class Past(Protocol):
    """Keys and values of one sequence, every layer, for up to `capacity` positions.

    `length` is how many positions are filled; `NumpyLlama.hidden` advances it.
    """

    length: int
    capacity: int

    def append(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """Store [time, kv_heads, head_dim] after `length`; all [kv_heads, past, head_dim]."""
        ...


class KvCache:
    """A past that lies in one piece."""

    def __init__(self, shape: Shape, capacity: int) -> None:
        size = (shape.layers, shape.kv_heads, capacity, shape.head_dim)
        self.keys = np.zeros(size, dtype=np.float32)
        self.values = np.zeros(size, dtype=np.float32)
        self.capacity = capacity
        self.length = 0

    def append(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """As Past has it."""
        end = self.length + len(keys)
        self.keys[layer, :, self.length : end] = keys.swapaxes(0, 1)
        self.values[layer, :, self.length : end] = values.swapaxes(0, 1)
        return self.keys[layer, :, :end], self.values[layer, :, :end]


class Turns:
    """Cosines and sines of every position's angles, [positions, head_dim / 2] each."""

    def __init__(self, shape: Shape) -> None:
        angles = np.outer(np.arange(shape.context_length, dtype=np.float32), shape.frequencies)
        self.cosines, self.sines = np.cos(angles), np.sin(angles)
        self._head_dim, self._dynamic = shape.head_dim, shape.dynamic

    def of(self, start: int, end: int) -> tuple[Array, Array]:
        """Those of the positions from `start` on in a sequence of `end`."""
        dynamic = self._dynamic
        if dynamic is None or end <= dynamic.original_context_length:
            return self.cosines[start:end], self.sines[start:end]
        frequencies = dynamic_frequencies(self._head_dim, dynamic, end)
        angles = np.outer(np.arange(start, end, dtype=np.float32), frequencies)
        return np.cos(angles), np.sin(angles)


class NumpyLlama:
    """Token ids -> final states -> logits, from float32 arrays under Meta's names.

    A missing `output.weight` means that the output shares the embedding's weights. Arrays are
    looked up where they are used and not kept, so that a mapping may read them from the disk each
    time; `sizes` then tells their shapes without reading. Raises CheckpointError when an array is
    missing, superfluous or of another shape.
    """

    def __init__(
        self,
        shape: Shape,
        arrays: Mapping[str, Array],
        sizes: Sizes | None = None,
    ) -> None:
        if sizes is None:
            sizes = {name: array.shape for name, array in arrays.items()}
        _check_sizes(shape, sizes)
        self.shape = shape
        self.arrays = arrays
        self.vocabulary_size = sizes["tok_embeddings.weight"][0]
        self._output = "output.weight" if "output.weight" in sizes else "tok_embeddings.weight"
        self.turns = Turns(shape)

    def hidden(self, batch: Sequence[tuple[Past, Ids]]) -> Array:
        """Final normalised states [rows, dim] of the new ids, sequence after sequence.

        Each sequence's positions continue after its cache's `length`, and the cache grows by
        them. Raises UsageError past the cache's or the context's end, or for an unknown id.
        """
        for x in self.states(batch):
            last = x
        return self.normalised(last)

    def states(self, batch: Sequence[tuple[Past, Ids]]) -> Iterator[Array]:
        """The states [rows, dim] after the embedding and after each layer, as `hidden` runs."""
        for cache, ids in batch:
            self._check_ids(cache, ids)
        ids = np.concatenate([ids for _, ids in batch])
        turns = [self.turns.of(cache.length, cache.length + len(new)) for cache, new in batch]
        cosines, sines = (np.concatenate(part)[:, None] for part in zip(*turns, strict=True))
        x = self.arrays["tok_embeddings.weight"][ids]  # rows dim
        yield x
        for layer in range(self.shape.layers):
            x = x + self._attention(layer, x, (cosines, sines), batch)
            x = x + self._feed_forward(layer, x)
            yield x
        for cache, new in batch:
            cache.length += len(new)

    def normalised(self, x: Array) -> Array:
        """The final norm of the last layer's states [rows, dim]."""
        return rms_norm(x, self.arrays["norm.weight"], self.shape.norm_epsilon)

    def logits(self, hidden: Array) -> Array:
        """Logits [rows, vocabulary] for the token after each of the states [rows, dim]."""
        scores: Array = hidden @ self.arrays[self._output].T
        return scores

    def _weight(self, layer: int, name: str) -> Array:
        return self.arrays[f"layers.{layer}.{name}.weight"]

    def _attention(
        self,
        layer: int,
        x: Array,
        turn: tuple[Array, Array],
        batch: Sequence[tuple[Past, Ids]],
    ) -> Array:
        rows, size = len(x), self.shape.head_dim
        normed = rms_norm(x, self._weight(layer, "attention_norm"), self.shape.norm_epsilon)
        query, key, value = (
            (normed @ self._weight(layer, f"attention.{name}").T).reshape(rows, -1, size)
            for name in ("wq", "wk", "wv")
        )
        turned = rotate_halves if self.shape.has_half_pairs else rotate
        query, key = turned(query, *turn), turned(key, *turn)
        mixed = np.empty_like(query)  # rows heads head_dim
        start = 0
        for cache, ids in batch:
            span = slice(start, start + len(ids))
            keys, values = cache.append(layer, key[span], value[span])
            mixed[span] = attend(query[span], keys, values)
            start = span.stop
        out: Array = mixed.reshape(rows, -1) @ self._weight(layer, "attention.wo").T
        return out

    def _feed_forward(self, layer: int, x: Array) -> Array:
        normed = rms_norm(x, self._weight(layer, "ffn_norm"), self.shape.norm_epsilon)
        gate = silu(normed @ self._weight(layer, "feed_forward.w1").T)
        up = normed @ self._weight(layer, "feed_forward.w3").T
        down: Array = (gate * up) @ self._weight(layer, "feed_forward.w2").T
        return down

    def _check_ids(self, cache: Past, ids: Ids) -> None:
        end = cache.length + len(ids)
        room = min(cache.capacity, self.shape.context_length)
        if end > room:
            raise UsageError(f"positions up to {end} were asked for, there is room for {room}")
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary_size:
            raise UsageError(
                f"token ids must lie in 0 .. {self.vocabulary_size - 1}, "
                f"got {int(ids.min())} .. {int(ids.max())}"
            )


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    """Rows of `x` [..., dim] at unit root-mean-square: x / sqrt(mean(x²) + epsilon) · weight."""
    scale = np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(epsilon))
    out: Array = x / scale * weight
    return out


def silu(x: Array) -> Array:
    """x · sigmoid(x), the gate of SwiGLU."""
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, -0
        out: Array = x / (1 + np.exp(-x))
    return out


def rotate(x: Array, cosines: Array, sines: Array) -> Array:
    """Turn the pairs (2i, 2i+1) of `x` [rows, heads, head_dim] by their position's angles.

    (a, b) -> (a cos - b sin, a sin + b cos): Meta's interleaved convention.
    """
    a, b = x[..., 0::2], x[..., 1::2]
    turned = np.empty_like(x)
    turned[..., 0::2] = a * cosines - b * sines
    turned[..., 1::2] = a * sines + b * cosines
    return turned


def rotate_halves(x: Array, cosines: Array, sines: Array) -> Array:
    """The same for the pairs (i, i + head_dim / 2): Hugging Face's convention."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cosines - b * sines, a * sines + b * cosines], axis=-1)


def attend(query: Array, keys: Array, values: Array) -> Array:
    """softmax(q kᵀ / sqrt(head_dim)) v for the newest rows over all positions so far.

    query [rows, heads, head_dim]; keys and values [kv_heads, past, head_dim], where the last
    `rows` positions of the past are the rows' own; returns query's shape.
    """
    rows, heads, size = query.shape
    kv_heads, past, _ = keys.shape
    grouped = query.swapaxes(0, 1).reshape(kv_heads, heads // kv_heads, rows, size)
    scores = grouped @ keys[:, None].swapaxes(-1, -2) / np.float32(math.sqrt(size))
    if rows > 1:  # row i sees the positions up to its own
        seen = np.tri(rows, past, past - rows, dtype=bool)
        scores = np.where(seen, scores, np.float32(-np.inf))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed: Array = weights @ values[:, None]  # kv_heads group rows head_dim
    return mixed.reshape(heads, rows, size).swapaxes(0, 1)


def rotary_frequencies(head_dim: int, theta: float) -> Array:
    """Radians per position of each pair of a head, float32 [head_dim / 2]: theta^(-2i/head_dim)."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies: Array = np.power(np.float32(theta), -exponents)
    return frequencies


def dynamic_frequencies(head_dim: int, dynamic: DynamicScaling, length: int) -> Array:
    """Radians per position of each pair in a sequence of `length` beyond the original one, L.

    Those of theta · (1 + factor · (length / L - 1)) ^ (head_dim / (head_dim - 2)).
    """
    beyond = length / dynamic.original_context_length - 1
    raised = (1 + dynamic.factor * beyond) ** (head_dim / (head_dim - 2))
    return rotary_frequencies(head_dim, dynamic.theta * raised)


def llama3_frequencies(
    frequencies: Array, *, factor: float, low: float, high: float, original_context_length: int
) -> Array:
    """LLaMA 3.1's stretch of `frequencies`: slow turns are divided by `factor`, fast ones kept.

    A pair that turns fewer than `low` times in the original context is slow, more than `high`
    times is fast; between the two the divisor is blended linearly.
    """
    turns = original_context_length * frequencies / (2 * math.pi)
    keep = np.clip((turns - low) / (high - low), 0, 1)
    stretched: Array = (frequencies * (keep + (1 - keep) / factor)).astype(np.float32)
    return stretched


def _check_sizes(shape: Shape, sizes: Sizes) -> None:
    wanted = _wanted_sizes(shape, sizes)
    for name in sorted(set(wanted) | set(sizes)):
        found = sizes.get(name)
        if name not in wanted:
            raise CheckpointError(f"the weights hold {name}, which a LLaMA of this shape lacks")
        if found != wanted[name]:
            raise CheckpointError(
                f"{name} should have shape {list(wanted[name])}, "
                f"found {'nothing' if found is None else list(found)}",
                hint="the recipe beside the weights must be the one they were trained with",
            )


def _wanted_sizes(shape: Shape, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Name -> size of every weight; what the shape does not tell comes from two of them."""
    for name in ("tok_embeddings.weight", "layers.0.feed_forward.w1.weight"):
        if len(sizes.get(name, ())) != 2:
            raise CheckpointError(f"the weights should hold the matrix {name}, found none")
    vocabulary, dim = sizes["tok_embeddings.weight"]
    ffn_dim = sizes["layers.0.feed_forward.w1.weight"][0]
    query, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    per_layer: dict[str, tuple[int, ...]] = {
        "attention_norm": (dim,),
        "attention.wq": (query, dim),
        "attention.wk": (kv, dim),
        "attention.wv": (kv, dim),
        "attention.wo": (dim, query),
        "ffn_norm": (dim,),
        "feed_forward.w1": (ffn_dim, dim),
        "feed_forward.w2": (dim, ffn_dim),
        "feed_forward.w3": (ffn_dim, dim),
    }
    wanted: dict[str, tuple[int, ...]] = {
        f"layers.{layer}.{name}.weight": size
        for layer in range(shape.layers)
        for name, size in per_layer.items()
    }
    wanted["tok_embeddings.weight"] = (vocabulary, dim)
    wanted["norm.weight"] = (dim,)
    if "output.weight" in sizes:
        wanted["output.weight"] = (vocabulary, dim)
    return wanted
