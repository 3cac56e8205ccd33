"""Causal attention without stored attention weights, and without the masked half (paper 2.4).

The forward pass is torch's fused kernel. On CUDA its backward is used too. On a CPU in bf16 that
backward takes three times as long as its matrix products need (docs/log.md), so the backward here
is our own, after FlashAttention (Dao et al. 2022, algorithm 4): with the row's log-sum-exp L from
the forward pass and delta = sum(dO · O), for one block of keys at a time
    P = exp(S - L)      dV = Pᵀ dO      dP = dO Vᵀ      dS = P · (dP - delta)
    dQ += scale · dS K                  dK = scale · dSᵀ Q
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_KEYS = 256  # keys whose scores exist at a time; 128 and 64 were slower (docs/log.md)
TILE_BYTES = 4 << 20  # and as many heads at a time as keep these scores in the cache
_EXTRA_COLUMNS = 32  # one tile of the CPU's bf16 matrix unit


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ / sqrt(head_dim), causal) v, fused: no [time, time] matrix is stored.

    query [batch, heads, time, head_dim]; key and value [batch, kv_heads, time, head_dim], where
    kv_heads divides heads; returns query's shape.
    """
    groups = query.shape[1] // key.shape[1]
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and torch.is_grad_enabled():
        if groups > 1:
            key, value = (heads.repeat_interleave(groups, dim=1) for heads in (key, value))
        mixed: Tensor = _BlockwiseBackward.apply(query, key, value)  # type: ignore[no-untyped-call]
        return mixed
    return functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=groups > 1
    )


class _BlockwiseBackward(torch.autograd.Function):
    """torch's fused CPU forward with `attention_gradients` as its backward."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        mixed, log_sum_exp = fused(query, key, value, 0.0, True)
        ctx.save_for_backward(query, key, value, mixed, log_sum_exp)
        return mixed  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, mixed, log_sum_exp = ctx.saved_tensors
        shape, scale = query.shape, 1 / math.sqrt(query.shape[3])
        gradient = gradients[0].contiguous()
        delta = (gradient.float() * mixed.float()).sum(-1)
        # S - L and dP - delta come straight out of a product: a row's constant rides along in two
        # extra columns. It also keeps bf16 honest: what is rounded is log P, near 0 where P counts.
        found = attention_gradients(
            [heads.flatten(0, 1) for heads in (query, key, gradient)],
            _widened(query, -log_sum_exp / scale),
            _widened(key, None),
            _widened(value, None),
            _widened(gradient, -delta),
            compiled=torch.compiler.is_compiling(),
        )
        return found[0].view(shape), found[1].view(shape), found[2].view(shape)


@torch.library.custom_op("puna::attention_gradients", mutates_args=())
def attention_gradients(
    plain: list[Tensor],
    wide_query: Tensor,
    wide_key: Tensor,
    wide_value: Tensor,
    wide_gradient: Tensor,
    *,
    compiled: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, each [batch · heads, time, head_dim] in query's dtype.

    `plain` are query, key and the output's gradient in that shape; the others are `_widened`, so
    that key · queryᵀ is (S - L) / scale and value · gradientᵀ is dP - delta. Scores stand keys by
    queries: the products for dV and dK then read them as they lie.
    """
    query, key, gradient = plain
    rows, time, head_dim = query.shape
    scale = 1 / math.sqrt(head_dim)
    several = time > BLOCK_KEYS  # blocks of keys, whose shares of dQ are added up in float32
    query_gradient = torch.empty_like(query)
    shares = query.new_zeros(query.shape, dtype=torch.float32) if several else None
    key_gradients, value_gradients = [], []  # by block: products are written where they belong
    to_weights = _compiled_to_weights() if compiled else _to_weights
    # A key is seen by its own and later queries.
    seen = query.new_ones(min(BLOCK_KEYS, time), time).triu_()
    for start in range(0, time, BLOCK_KEYS):
        block = slice(start, min(start + BLOCK_KEYS, time))
        size, later = block.stop - start, time - start
        heads = max(1, min(rows, TILE_BYTES // (2 * size * later)))
        space = query.new_empty(2, heads, size, later)  # two tiles, used again and again
        key_gradients.append(query.new_empty(rows, size, head_dim))
        value_gradients.append(query.new_empty(rows, size, head_dim))
        for first in range(0, rows, heads):
            some = slice(first, min(first + heads, rows))
            p, ds = space[:, : some.stop - first]
            p.baddbmm_(wide_key[some, block], wide_query[some, start:].mT, beta=0, alpha=scale)
            torch.bmm(wide_value[some, block], wide_gradient[some, start:].mT, out=ds)
            to_weights(p, ds, seen[:size, :later])
            torch.bmm(p, gradient[some, start:], out=value_gradients[-1][some])
            to_keys = key_gradients[-1][some]
            to_keys.baddbmm_(ds, query[some, start:], beta=0, alpha=scale)
            if shares is None:
                query_gradient[some].baddbmm_(ds.mT, key[some, block], beta=0, alpha=scale)
            else:
                shares[some, start:] += torch.bmm(ds.mT, key[some, block])
    if shares is not None:
        query_gradient = (shares * scale).to(query.dtype)
    return query_gradient, _joined(key_gradients), _joined(value_gradients)


def _joined(blocks: list[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)


@attention_gradients.register_fake
def _shapes(
    plain: list[Tensor],
    wide_query: Tensor,
    wide_key: Tensor,
    wide_value: Tensor,
    wide_gradient: Tensor,
    *,
    compiled: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = plain[0].shape
    return wide_query.new_empty(shape), wide_key.new_empty(shape), wide_value.new_empty(shape)


def _to_weights(scores: Tensor, products: Tensor, seen: Tensor) -> None:
    """In place: scores S - L become P, products dP - delta become dS = P · (dP - delta)."""
    scores.exp_().mul_(seen)
    products.mul_(scores)


@functools.cache
def _compiled_to_weights() -> Callable[[Tensor, Tensor, Tensor], None]:
    """The same as one pass over the two tiles instead of three."""
    return torch.compile(_to_weights, fullgraph=True)


def _widened(heads: Tensor, constant: Tensor | None) -> Tensor:
    """[batch · heads, time, head_dim + 32]: a row's constant in two bf16 parts, or two ones."""
    shape = (*heads.shape[:3], 1)
    rest = heads.new_zeros(*heads.shape[:3], _EXTRA_COLUMNS - 2)
    if constant is None:
        one = heads.new_ones(shape)
        return torch.cat((heads, one, one, rest), dim=-1).flatten(0, 1)
    high = constant.to(heads.dtype)
    low = (constant - high.float()).to(heads.dtype)
    return torch.cat((heads, high[..., None], low[..., None], rest), dim=-1).flatten(0, 1)
