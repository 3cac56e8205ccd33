"""Rotary causal attention, fused: no stored attention weights, no masked half (paper 2.4).

In bf16 on a CPU with AMX both passes are kernels of ours (puna/native/csrc/attention.h), which
take q, k and v as one matrix product leaves them; torch's own backward needs up to eight times as
long (docs/log.md). Elsewhere rotary is plain torch and attention torch's fused kernel: the slow
twin, against which tests hold the kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from puna.model.rotary import rotate
from puna.native import kernels

ISA = kernels.isa()  # a constant, so that a compiled block needs no guard for it
WIDEST_HEAD = 256  # of the kernels, in steps of 32

if ISA is not None:
    kernels.work_on_openmp_threads()


def causal_attention(joined: Tensor, cosines: Tensor, sines: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ / sqrt(head_dim), causal) v, with q and k turned by their positions.

    joined [batch, time, (heads + 2 kv_heads) · head_dim]: the heads of q, then of k, then of v;
    cosines and sines [time, head_dim / 2]; returns [batch, time, heads · head_dim].
    """
    head_dim = 2 * cosines.shape[1]
    if uses_kernels(joined.device.type, joined.dtype, head_dim):
        turn = cosines.float(), sines.float()  # of a model in bf16 they are bf16 too
        mixed, _ = torch.ops.puna.attention(joined.contiguous(), *turn, heads)
        return mixed  # type: ignore[no-any-return]
    kv_heads = (joined.shape[2] // head_dim - heads) // 2
    parts = joined.view(*joined.shape[:2], -1, head_dim).transpose(1, 2)
    query, key, value = torch.split(parts, [heads, kv_heads, kv_heads], dim=1)
    query, key = rotate(query, cosines, sines), rotate(key, cosines, sines)
    out = functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=heads > kv_heads
    )
    return out.transpose(1, 2).flatten(2)


def uses_kernels(device: str, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether `causal_attention` runs on our kernels."""
    fits = head_dim % 32 == 0 and head_dim <= WIDEST_HEAD
    return ISA is not None and device == "cpu" and dtype == torch.bfloat16 and fits


def describe(device: str, dtype: torch.dtype, head_dim: int) -> str:
    """Which implementation that is, for the record of a run, and why not the kernels."""
    if uses_kernels(device, dtype, head_dim):
        return f"Puna's kernels ({ISA})"
    if device != "cpu":
        return "torch's fused kernel"
    reason = kernels.missing_reason()
    if reason is None and dtype != torch.bfloat16:
        reason = "the kernels need bf16"
    return f"torch's fused kernel ({reason or f'the kernels need heads of 32n, not {head_dim}'})"


# The kernels as operators of torch, so that compiled and checkpointed blocks know them.

torch.library.define(
    "puna::attention",
    "(Tensor joined, Tensor cosines, Tensor sines, int heads) -> (Tensor, Tensor)",
)
torch.library.define(
    "puna::attention_gradient",
    "(Tensor joined, Tensor cosines, Tensor sines, Tensor mixed, Tensor log_sum, Tensor gradient)"
    " -> Tensor",
)


ATTENTION = torch.ops.puna.attention.default


@torch.library.impl("puna::attention", "cpu")
def _forward(joined: Tensor, cosines: Tensor, sines: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    batch, time, _ = joined.shape
    mixed = joined.new_empty(batch, time, heads * 2 * cosines.shape[1])
    log_sum = joined.new_empty(batch, heads, time, dtype=torch.float32)
    arrays = (_plain(joined), _plain(cosines), _plain(sines), _plain(mixed), log_sum)
    kernels.extension().attention_forward(ISA, torch.get_num_threads(), *arrays)
    return mixed, log_sum


@torch.library.impl("puna::attention_gradient", "cpu")
def _backward(*operands: Tensor) -> Tensor:
    """The gradient of joined, the first of the operands, in the order of the operator's schema."""
    joined_gradient = torch.empty_like(operands[0])
    arrays = (_plain(array) for array in (*operands, joined_gradient))
    kernels.extension().attention_backward(ISA, torch.get_num_threads(), *arrays)
    return joined_gradient


def _plain(array: Tensor) -> Tensor:
    """As the extension takes it: outside autograd, contiguous, bf16 under the name of int16."""
    array = array.detach().contiguous()
    return array.view(torch.int16) if array.dtype == torch.bfloat16 else array


@torch.library.register_fake("puna::attention")  # type: ignore[untyped-decorator]
def _forward_shapes(
    joined: Tensor, cosines: Tensor, sines: Tensor, heads: int
) -> tuple[Tensor, Tensor]:
    batch, time, _ = joined.shape
    mixed = joined.new_empty(batch, time, heads * 2 * cosines.shape[1])
    return mixed, joined.new_empty(batch, heads, time, dtype=torch.float32)


@torch.library.register_fake("puna::attention_gradient")  # type: ignore[untyped-decorator]
def _backward_shapes(joined: Tensor, *others: Tensor) -> Tensor:
    return torch.empty_like(joined)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
    found = torch.ops.puna.attention_gradient(*ctx.saved_tensors, gradient)
    return found, None, None, None


torch.library.register_autograd("puna::attention", _differentiate, setup_context=_keep)
