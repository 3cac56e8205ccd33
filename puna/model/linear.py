"""Linear layers as training runs them: the weight's gradient by our kernel where it pays.

y = x wᵀ; dx = dy w; dw = dyᵀ x. The last one contracts over tokens, where both operands lie the
wrong way round: torch reaches 1.2 to 1.6 TFLOP/s with it on the CPU where the other two reach 3
(docs/log.md). Ours also sums into float32, where torch rounds the gradient to bf16 first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from puna.model import flash
from puna.native import kernels

STEP = 32  # widths that the kernel takes are multiples of this


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., width] · weightᵀ [width, outputs], under autocast in its dtype."""
    if not _uses_kernel(x, weight):
        return functional.linear(x, weight)
    # The cast that autocast would make, where autograd sees it.
    out: Tensor = _Linear.apply(x.to(torch.bfloat16), weight)  # type: ignore[no-untyped-call]
    return out


def add_weight_gradient(total: Tensor, gradient: Tensor, rows: Tensor) -> None:
    """total [outputs, width] += gradientᵀ [outputs, rows] · rows [rows, width], in place."""
    takes = gradient.dtype == rows.dtype == torch.bfloat16 and total.device.type == "cpu"
    if takes and flash.ISA is not None and _fits(total) and total.is_contiguous():
        _run(gradient, rows, total, add=True)
    else:
        total += gradient.T @ rows


def _uses_kernel(x: Tensor, weight: Tensor) -> bool:
    """Whether this layer trains in bf16 on a CPU with kernels, in a shape that they take."""
    on_cpu = flash.ISA is not None and x.device.type == "cpu"
    if not on_cpu or not torch.is_grad_enabled() or not torch.is_autocast_enabled("cpu"):
        return False
    is_bf16 = torch.get_autocast_dtype("cpu") == torch.bfloat16
    return is_bf16 and weight.requires_grad and weight.dtype == torch.float32 and _fits(weight)


def _fits(weight: Tensor) -> bool:
    return weight.shape[0] % STEP == 0 and weight.shape[1] % STEP == 0


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        narrow = weight.to(x.dtype)
        ctx.save_for_backward(x, narrow)
        return functional.linear(x, narrow)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, narrow = ctx.saved_tensors
        gradient = gradients[0]
        weight_gradient = torch.ops.puna.weight_gradient(
            gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        )
        return gradient @ narrow, weight_gradient


torch.library.define("puna::weight_gradient", "(Tensor gradient, Tensor rows) -> Tensor")


@torch.library.impl("puna::weight_gradient", "cpu")
def _weight_gradient(gradient: Tensor, rows: Tensor) -> Tensor:
    total = gradient.new_empty(gradient.shape[1], rows.shape[1], dtype=torch.float32)
    _run(gradient, rows, total, add=False)
    return total


@torch.library.register_fake("puna::weight_gradient")  # type: ignore[untyped-decorator]
def _weight_gradient_shape(gradient: Tensor, rows: Tensor) -> Tensor:
    return gradient.new_empty(gradient.shape[1], rows.shape[1], dtype=torch.float32)


def _run(gradient: Tensor, rows: Tensor, total: Tensor, *, add: bool) -> None:
    operands = (one.detach().contiguous().view(torch.int16) for one in (gradient, rows))
    threads = torch.get_num_threads()
    kernels.extension().weight_gradient(flash.ISA, threads, *operands, total.detach(), add)
