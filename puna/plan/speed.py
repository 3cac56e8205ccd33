"""How fast: a training step from its products and its communication, a prompt, a decoded token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from puna.model import count
from puna.model.sizes import ModelConfig
from puna.plan import memory
from puna.plan.devices import Device
from puna.plan.layout import TrainingRun

STATE_BYTES = 4  # Puna's weights and gradients are float32
# Assumptions. What is sent travels while others compute: gradients that are summed once a step
# (ZeRO 0 and 1) behind the last micro-batch's backward pass, those of ZeRO 2 behind each one's,
# under ZeRO 3 behind all; of what tensor parallelism sends, half is waited for.
HIDDEN_BEHIND_COMPUTE = {0: 2 / 3, 1: 2 / 3, 2: 2 / 3, 3: 1.0}
ONCE_A_STEP = (0, 1)
TENSOR_EXPOSED = 0.5


@dataclass(frozen=True)
class Traffic:
    """Bytes that one device sends in an optimizer step, by kind of communication (as rings)."""

    all_reduce: float = 0.0
    all_gather: float = 0.0
    reduce_scatter: float = 0.0
    point_to_point: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        names = [field.name for field in fields(Traffic)]
        return Traffic(*(getattr(self, name) + getattr(other, name) for name in names))

    @property
    def total(self) -> float:
        """All kinds together."""
        return self.all_reduce + self.all_gather + self.reduce_scatter + self.point_to_point


@dataclass(frozen=True)
class StepTime:
    """An optimizer step; `communication_seconds` are those that no computing hides."""

    compute_seconds: float
    communication_seconds: float
    bubble_seconds: float  # of the pipeline, while it fills and empties
    traffic: Traffic
    tokens_per_second: float  # of all devices together
    mfu: float  # PaLM's definition

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.compute_seconds + self.communication_seconds + self.bubble_seconds


# Training


def training_step(run: TrainingRun, share: float | None = None) -> StepTime:
    """The time of one step, products at `share` of the peak (the device's own where None)."""
    layout, devices = run.layout, run.layout.devices
    compute = _peak_seconds(run) / (share or run.device.training)
    waited = _waited_seconds(run, compute)
    bubble = (layout.pipeline - 1) / run.micro_batches * (compute + waited)
    rate = run.batch_tokens / (compute + waited + bubble)
    flops = count.palm_flops_per_token(run.config, run.context)
    traffic = data_traffic(run) + tensor_traffic(run) + pipeline_traffic(run)
    mfu = rate * flops / (devices * run.device.peak(run.precision))
    return StepTime(compute, waited, bubble, traffic, rate, mfu)


def flops_per_token(run: TrainingRun) -> float:
    """FLOPs executed for a token: forward, backward, and what the policy computes again."""
    config = run.config
    forward = count.forward_flops_per_token(config, run.context)
    gate_and_up = 4.0 * config.layers * config.dim * config.ffn_dim
    down = 2.0 * config.layers * config.dim * config.ffn_dim
    output = 2.0 * config.vocabulary_size * config.dim
    again = {
        "none": 0.0,
        "selective": 0.0,
        "narrow": gate_and_up if 2 * config.ffn_dim >= count.WIDE * config.dim else 0.0,
        "full": forward - output - down,  # nothing asks for the last product's output
    }
    return 3 * forward + again[run.checkpointing]


def _peak_seconds(run: TrainingRun) -> float:
    """Of a step's products at the device's peak, on the longest stage of the pipeline."""
    rate = run.layout.devices * run.device.peak(run.precision)
    stages = memory.stage_layers(run.config, run.layout) * run.layout.pipeline
    return flops_per_token(run) * run.batch_tokens / rate * stages / run.config.layers


def _waited_seconds(run: TrainingRun, compute_seconds: float) -> float:
    """Communication that a step waits for."""
    layout, device = run.layout, run.device
    node = device.node_devices
    link = (
        device.link_bytes_per_second if layout.tensor <= node else device.network_bytes_per_second
    )
    tensor = tensor_traffic(run).total / link
    # A ring over nodes uses the network of every device that the data group has in a node.
    together = min(layout.data, max(1, node // layout.tensor))
    sent = data_traffic(run).total
    data = sent / device.link_bytes_per_second
    if layout.data > together:
        data = max(data, sent / (together * device.network_bytes_per_second))
    passed = pipeline_traffic(run).total / device.network_bytes_per_second
    hidden = HIDDEN_BEHIND_COMPUTE[layout.zero] * compute_seconds
    if layout.zero in ONCE_A_STEP:
        hidden /= run.micro_batches
    return TENSOR_EXPOSED * tensor + max(0.0, data + passed - hidden)


def data_traffic(run: TrainingRun) -> Traffic:
    """Gradients summed over the data-parallel devices, and weights gathered (ZeRO, section 7).

    Stages 1 and 2 gather the new weights once; stage 3 those that are multiplied, as these are.
    """
    layout = run.layout
    share = (layout.data - 1) / layout.data
    held = share * memory.stage_parameters(run.config, layout)
    if layout.zero == 0:
        return Traffic(all_reduce=2 * held * STATE_BYTES)
    scatters = 1 if layout.zero == 1 else run.micro_batches
    gathered = STATE_BYTES
    if layout.zero == 3:
        gathered = 2 * run.micro_batches * (2 if run.precision == "bf16" else 4)
    return Traffic(all_gather=held * gathered, reduce_scatter=scatters * held * STATE_BYTES)


def tensor_traffic(run: TrainingRun) -> Traffic:
    """Rows gathered before and scattered after each sub-layer (Korthikanti et al. 2022, 4.2.2).

    A layer: 2 gathers and 2 scatters forward, as many backward, and 2 gathers again for the
    weights' gradients; with `full` a forward pass more, less its last scatter.
    """
    layout, width = run.layout, 2 if run.precision == "bf16" else 4
    share = (layout.tensor - 1) / layout.tensor
    layers = memory.stage_layers(run.config, layout) * run.micro_batches
    rows = share * layers * run.micro_tokens * run.config.dim * width
    is_full = run.checkpointing == "full"
    return Traffic(
        all_gather=(8 if is_full else 6) * rows, reduce_scatter=(5 if is_full else 4) * rows
    )


def pipeline_traffic(run: TrainingRun) -> Traffic:
    """The residual stream to the next stage, and its gradient back, in float32."""
    if run.layout.pipeline == 1:
        return Traffic()
    rows = run.micro_batches * run.micro_tokens * run.config.dim * 4 / run.layout.tensor
    return Traffic(point_to_point=2 * rows)


def fitted_share(measured: Sequence[tuple[TrainingRun, float]]) -> float:
    """The share of the peak at which the runs take the seconds a step that were measured.

    The mean in logarithms over the runs; what a step waits for is taken off first.
    """
    logs = []
    for run, seconds in measured:
        compute = seconds
        for _round in range(20):  # what computing hides depends on how long it takes
            compute = seconds - _waited_seconds(run, compute)
        logs.append(math.log(_peak_seconds(run) / compute))
    return math.exp(sum(logs) / len(logs))


def training_seconds(config: ModelConfig, tokens: float, device: Device, devices: int = 1) -> float:
    """Seconds of training on `tokens` where nothing is computed again and nothing waited for."""
    flops = count.training_flops_per_token(config) * tokens
    return flops / (devices * device.peak() * device.training)


# Serving


def prefill_seconds(
    config: ModelConfig, prompt: int, device: Device, *, kind: str = "BF16", devices: int = 1
) -> float:
    """Seconds until a prompt of that many tokens is read: its products, or reading the weights.

    The output's product is made for the last token alone.
    """
    output = 2.0 * config.vocabulary_size * config.dim
    flops = (count.forward_flops_per_token(config, prompt) - output) * prompt + output
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

    A step reads the weights once and every sequence's keys and values, and multiplies its rows:
    the two are added, as measured on CPUs with 1 and 16 rows; a GPU may hide part of one. Of
    several `devices` each has its share of both, and nothing is waited for.
    """
    read = memory.read_bytes(config, kind) + memory.kv_bytes(config, context, batch, kv)
    reading = read / (device.read_bytes_per_second * device.read)
    flops = 2 * count.matmul_parameters(config) + 4 * config.layers * config.dim * context
    computing = batch * flops / (device.peak() * device.few_rows)
    return batch * devices / (reading + computing)
