"""Next-token cross-entropy over the output projection, without all logits in memory at once.

The logits of a batch are its largest tensor (tokens · vocabulary). The fast path goes through
the rows in chunks and takes each chunk's gradient in the forward pass, so that one chunk of
logits exists at a time and nothing is computed twice. Its slow twin is `plain_loss`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from puna.model.linear import add_weight_gradient

IGNORE = -100  # a target that does not count
# 512 rows of 4,096 bf16 logits are 4 MB; 1024 was 2 % slower (docs/log.md).
CHUNK_ROWS = 512
ChunkGradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def plain_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy in nats of hidden [rows, dim] @ weight.T [dim, vocabulary]."""
    logits = functional.linear(hidden, weight).float()
    return functional.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")


def chunked_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    chunk_gradient: ChunkGradient | None = None,
) -> Tensor:
    """What `plain_loss` returns, in chunks of rows, with products in `dtype`.

    `chunk_gradient` is `logits_gradient`, or a compiled form of it.
    """
    step = chunk_gradient or logits_gradient
    loss: Tensor = _ChunkedLoss.apply(hidden, weight, targets, dtype, step)  # type: ignore[no-untyped-call]
    return loss


def logits_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss of logits [rows, vocabulary]; its gradient in two parts.

    d loss / d logits is softmax(logits), less one at the target: the softmax comes in the logits'
    dtype, the value at each target by itself, [rows]. Taken from a rounded softmax, one less would
    be mostly rounding where the model is nearly right. Both are 0 in rows with an ignored target.
    """
    wide = logits.float()
    peak = wide.amax(dim=-1, keepdim=True)
    exponentials = (wide - peak).exp()
    total = exponentials.sum(dim=-1, keepdim=True)
    counts = (targets != IGNORE)[:, None].float()
    chosen = torch.gather(wide, 1, targets.clamp(min=0)[:, None])
    loss = ((total.log() + peak - chosen) * counts).sum()
    at_target = ((chosen - peak).exp() - total) / total * counts
    softmax = exponentials * (counts / total)
    return loss, softmax.type_as(logits), at_target.squeeze(1).type_as(logits)


class _ChunkedLoss(torch.autograd.Function):
    """Forward computes loss and gradients chunk by chunk; backward scales what is there."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        chunk_gradient: ChunkGradient,
    ) -> Tensor:
        rows, narrow_weight = hidden.to(dtype), weight.to(dtype)
        if not (ctx.needs_input_grad[0] or ctx.needs_input_grad[1]):
            return _loss_only(rows, narrow_weight, targets)
        hidden_gradient = torch.empty_like(rows)
        weight_gradient = torch.zeros_like(weight)
        loss = torch.zeros((), device=hidden.device)
        for start in range(0, rows.shape[0], CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            logits = rows[chunk] @ narrow_weight.T
            chunk_loss, gradient, at_target = chunk_gradient(logits, targets[chunk])
            every = torch.arange(len(at_target), device=hidden.device)
            gradient[every, targets[chunk].clamp(min=0)] = at_target
            loss += chunk_loss
            torch.mm(gradient, narrow_weight, out=hidden_gradient[chunk])
            add_weight_gradient(weight_gradient, gradient, rows[chunk])
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.hidden_dtype = hidden.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        scale = gradients[0]
        to_hidden = (hidden_gradient * scale).to(ctx.hidden_dtype)
        return to_hidden, weight_gradient * scale, None, None, None


def _loss_only(rows: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    loss = torch.zeros((), device=rows.device)
    for start in range(0, rows.shape[0], CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        loss += plain_loss(rows[chunk], weight, targets[chunk])
    return loss
