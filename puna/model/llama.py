"""LLaMA: the decoder-only transformer of the paper's section 2.2, on one device.

Differences from the original transformer, and where each lives:
  pre-normalisation with RMSNorm   rmsnorm.py      normalise the input of each sub-layer
  SwiGLU                           swiglu.py       in place of ReLU, hidden 2/3 · 4d
  rotary embeddings                rotary.py       in each layer, in place of absolute positions
  causal attention, fused          attention.py    attention weights are never stored
Parallelism, activation checkpointing, compilation and precision are applied from outside
(puna/train). Axis names in shapes: batch, time, dim, heads, kv_heads, head_dim, vocabulary.
Parameters carry Meta's names, so a state dict is the release's state dict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from puna.errors import UsageError
from puna.model.attention import Attention, Past
from puna.model.rmsnorm import RMSNorm
from puna.model.rotary import rotary_factors
from puna.model.sizes import ModelConfig
from puna.model.swiglu import FeedForward


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_epsilon)
        self.ffn_norm = RMSNorm(config.dim, config.norm_epsilon)

    def forward(
        self, x: Tensor, cosines: Tensor, sines: Tensor, past: tuple[Past, int] | None = None
    ) -> Tensor:
        """[batch, time, dim] -> the same; or [rows, dim] after a past, at this layer's index."""
        x = x + self.attention(self.attention_norm(x), cosines, sines, past)
        out: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return out


class Llama(nn.Module):
    """Token ids -> logits. Parameter counts equal the paper's for its four sizes."""

    rotary_cosines: Tensor
    rotary_sines: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocabulary_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, config.norm_epsilon)
        self.output = nn.Linear(config.dim, config.vocabulary_size, bias=False)
        if config.tied_embeddings:
            self.output.weight = self.tok_embeddings.weight
        cosines, sines = rotary_factors(config, config.unstretched_length)
        self.register_buffer("rotary_cosines", cosines, persistent=False)
        self.register_buffer("rotary_sines", sines, persistent=False)

    def hidden(
        self,
        ids: Tensor,
        past: Past | None = None,
        blocks: Iterable[nn.Module] | None = None,
    ) -> Tensor:
        """The final normalised states [batch, time, dim] for whole sequences `ids` [batch, time].

        With a `past`, ids [rows] are new ones after it, and the states [rows, dim]. `blocks`
        stands for the layers where they run in another way (checkpointed, compiled). Raises
        UsageError when whole sequences pass the context length.
        """
        turn = self.turns(0, ids.shape[1]) if past is None else (past.cosines, past.sines)
        x: Tensor = self.tok_embeddings(ids)
        for layer, block in enumerate(self.layers if blocks is None else blocks):
            x = block(x, *turn, None if past is None else (past, layer))
        out: Tensor = self.norm(x)
        return out

    def forward(self, ids: Tensor, past: Past | None = None) -> Tensor:
        """Logits [..., vocabulary] for the token after each of `ids`; see `hidden`."""
        logits: Tensor = self.output(self.hidden(ids, past))
        return logits

    def turns(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the positions from `start` on in a sequence of `end`.

        Raises UsageError when that passes the context length.
        """
        if end > self.config.context_length:
            raise UsageError(
                f"positions up to {end} were asked for, the model's context is "
                f"{self.config.context_length} tokens"
            )
        cosines, sines = self.rotary_cosines, self.rotary_sines
        if end > self.config.unstretched_length:
            device = cosines.device
            cosines, sines = (one.to(device) for one in rotary_factors(self.config, end))
        return cosines[start:end], sines[start:end]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: N(0, 0.02), residual outputs scaled by 1 / sqrt(2 · layers).

        The paper does not state its initialisation; this is the common reproduction's choice
        (GPT-2's), not a LLaMA fact.
        """
        residual = 0.02 / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
            else:
                deviation = residual if name.endswith(("wo.weight", "w2.weight")) else 0.02
                parameter.normal_(0.0, deviation, generator=generator)
