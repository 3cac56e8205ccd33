"""Which activations the forward pass keeps for the backward pass (paper 2.4).

none       all of them: the most memory, the least work
selective  the outputs of the linear layers and of attention, as in the paper; the rest (norms,
           SwiGLU's product, rotary) is cheap and computed again
narrow     as selective, but for SwiGLU's two wide outputs: most of the memory, one product
full       only each layer's input; the whole layer is computed again
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from puna.model.count import WIDE, Checkpointing
from puna.model.flash import ATTENTION

_aten = torch.ops.aten
KEPT = frozenset(
    {
        _aten.mm.default,  # the linear layers
        _aten.addmm.default,
        _aten.linear.default,
        ATTENTION,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
    }
)


class CheckpointedBlock(nn.Module):
    """A layer run under the policy `kind`; it holds the layer, the model's tree stays as it is."""

    def __init__(self, block: nn.Module, kind: Checkpointing) -> None:
        super().__init__()
        self.block = block
        self.kind = kind

    def forward(self, *arguments: Any) -> Tensor:
        """What the layer returns."""
        if self.kind == "none":
            plain: Tensor = self.block(*arguments)
            return plain
        options: dict[str, Any] = {}
        if self.kind in _CONTEXTS:
            options["context_fn"] = _CONTEXTS[self.kind]
        # No dropout anywhere: there is no random state to keep for the second pass.
        out: Tensor = checkpoint(
            self.block, *arguments, use_reentrant=False, preserve_rng_state=False, **options
        )
        return out


def _keep_linear_outputs(
    context: Any, operation: Any, *arguments: Any, **options: Any
) -> CheckpointPolicy:
    keep = operation in KEPT
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


def _keep_narrow_outputs(
    context: Any, operation: Any, *arguments: Any, **options: Any
) -> CheckpointPolicy:
    if operation is _aten.mm.default and arguments[1].shape[1] >= WIDE * arguments[1].shape[0]:
        return CheckpointPolicy.PREFER_RECOMPUTE
    return _keep_linear_outputs(context, operation, *arguments, **options)


_CONTEXTS = {
    "selective": functools.partial(create_selective_checkpoint_contexts, _keep_linear_outputs),
    "narrow": functools.partial(create_selective_checkpoint_contexts, _keep_narrow_outputs),
}
