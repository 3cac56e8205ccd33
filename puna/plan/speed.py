"""How fast: a training step from its products and its communication, a prompt, a decoded token."""

from __future__ import annotations

from puna.model import count
from puna.model.sizes import ModelConfig
from puna.plan import memory
from puna.plan.devices import Device


def training_seconds(config: ModelConfig, tokens: float, device: Device, devices: int = 1) -> float:
    """Seconds of training on `tokens`, all devices at the share of the peak that they reach."""
    flops = count.training_flops_per_token(config) * tokens
    return flops / (devices * device.peak() * device.training)


def prefill_seconds(
    config: ModelConfig, prompt: int, device: Device, *, kind: str = "BF16", devices: int = 1
) -> float:
    """Seconds until a prompt of that many tokens is read: its products, or reading the weights."""
    flops = count.forward_flops_per_token(config, prompt) * prompt
    computing = flops / (device.peak() * device.prefill)
    reading = memory.weight_bytes(config, kind) / (device.read_bytes_per_second * device.read)
    return max(computing, reading) / devices


def decode_tokens_per_second(
    config: ModelConfig,
    device: Device,
    *,
    kind: str = "BF16",
    batch: int = 1,
    context: int = 0,
    kv: str = "bf16",
    devices: int = 1,
) -> float:
    """Tokens a second of all `batch` sequences together, each with `context` positions before it.

    A step reads the weights once and every sequence's keys and values, or computes longer.
    """
    read = memory.weight_bytes(config, kind) + memory.kv_bytes(config, context, batch, kv)
    reading = read / (device.read_bytes_per_second * device.read)
    flops = count.forward_flops_per_token(config, 2 * context or 1) * batch
    computing = flops / (device.peak() * device.prefill)
    return batch * devices / max(reading, computing)
