"""How the model's plain code is run: memory, precision, checkpointing, compilation.

Everything is applied from outside, here and in this order (parallelism will stand before and
after): activation checkpointing -> per-block compile -> precision at call time.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from puna import hardware
from puna.console import Console
from puna.errors import MachineError
from puna.model import count, flash
from puna.model.llama import Llama
from puna.train.activation_checkpoint import CheckpointedBlock
from puna.train.loss import CHUNK_ROWS, ChunkGradient, chunked_loss, logits_gradient
from puna.train.settings import RunConfig

# Compiling a block and the loss takes about 30 s on 2 cores when nothing is cached, and then
# saves about 40 % of a step (docs/log.md): it pays in runs of more than about 2 minutes.
COMPILE_SECONDS = 30.0
COMPILE_SAVES = 0.4
EAGER_SHARE_OF_PEAK = 0.2  # what an uncompiled step reaches of the measured matmul rate


@dataclass(frozen=True)
class Plan:
    """What was decided for this machine, with the reasons that the run prints."""

    device: hardware.Device
    precision: hardware.Precision
    compiled: bool
    compile_reason: str
    threads: int
    peak: hardware.Rate | None

    @property
    def kernels(self) -> str:
        """Which build of our kernels the steps run on, or "none"."""
        suits = self.device.kind == "cpu" and self.precision.dtype == "bf16"
        return (flash.ISA if suits else None) or "none"


def decide(config: RunConfig, recorded: bool | None = None) -> Plan:
    """Choose device, precision and compilation; `recorded` is what a resumed run compiled with.

    Raises MachineError when something asked for (or recorded) is not to be had here.
    """
    train = config.train
    device = hardware.choose_device(train.device)
    precision = hardware.choose_precision(device.kind, train.precision)
    threads = train.threads or hardware.usable_cores()
    torch.set_num_threads(threads)
    peak = hardware.peak_flops(device.name)
    if device.kind == "cpu":
        peak = hardware.matmul_rate("cpu", precision.dtype)
    compiled, reason = _whether_to_compile(config, device.kind, peak, recorded)
    return Plan(device, precision, compiled, reason, threads, peak)


def _whether_to_compile(
    config: RunConfig, device: str, peak: hardware.Rate | None, recorded: bool | None
) -> tuple[bool, str]:
    compiler, missing = hardware.compiler()
    wish = config.train.compile
    wanted = wish == "on" or recorded is True
    if device == "cpu" and missing:
        if wanted:
            raise MachineError(
                f"compilation was {'recorded in this run' if recorded else 'asked for'}, but "
                f"there is {missing}"
                if "no " in missing
                else f"compilation needs it: {missing}",
                hint="install a C++ compiler (Debian: apt-get install g++ python3-dev)",
            )
        return False, f"{missing}; a step takes about 1.5 times as long"
    if recorded is not None:
        return recorded, "as before the resume"
    if wish != "auto":
        return wish == "on", "asked for"
    if device == "mps":
        return False, "not dependable on MPS"
    if peak is None:
        return True, f"by {compiler or 'Triton'}"
    flops = count.training_flops_per_token(config.model)
    work = flops * config.train.batch_tokens * config.train.steps
    eager_seconds = work / (EAGER_SHARE_OF_PEAK * peak.per_second)
    pays = eager_seconds * COMPILE_SAVES > COMPILE_SECONDS
    return pays, "pays in a run this long" if pays else "would cost more than it gives"


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for the next step, instead of returning them to the kernel.

    The step's large tensors otherwise come as fresh zeroed pages each time: 15 % to 25 % of a
    CPU step went into page faults (docs/log.md). Without glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: take large blocks from the heap, not from mmap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never give the heap's end back
        mallopt(-2, 64 << 20)  # M_TOP_PAD: grow it in steps of 64 MB


class Execution:
    """The model as it trains: `loss` on token ids, under the plan's precision and compilation."""

    def __init__(self, model: Llama, config: RunConfig, plan: Plan) -> None:
        self.model = model
        self.plan = plan
        self.dtype = torch.bfloat16 if plan.precision.dtype == "bf16" else torch.float32
        self.device = torch.device(plan.device.kind)
        self.chunk_gradient: ChunkGradient = logits_gradient
        if plan.device.kind == "cpu":
            keep_freed_memory()
        kind = config.train.activation_checkpointing
        self.blocks = [CheckpointedBlock(layer, kind) for layer in model.layers]
        if plan.compiled:
            # Its one warning is about in-place operations, which the blocks do not have.
            logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)
            for block in self.blocks:
                block.compile(fullgraph=True, dynamic=False)
            self.chunk_gradient = torch.compile(logits_gradient, fullgraph=True, dynamic=False)

    def precision(self) -> torch.autocast:
        """The autocast that the model's calls run under; none for fp32."""
        enabled = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Summed cross-entropy in nats of `targets` [batch, time] after `ids` [batch, time]."""
        with self.precision():
            hidden = self.model.hidden(ids, blocks=self.blocks)
        with torch.autocast(self.device.type, enabled=False):
            return chunked_loss(
                hidden.flatten(0, 1),
                self.model.output.weight,
                targets.flatten(),
                dtype=self.dtype,
                chunk_gradient=self.chunk_gradient,
            )

    @torch.no_grad()
    def score(self, ids: Tensor, targets: Tensor) -> float:
        """The same sum without gradients, layer by layer as the model file has it."""
        with self.precision():
            hidden = self.model.hidden(ids)
        with torch.autocast(self.device.type, enabled=False):
            weight = self.model.output.weight
            rows = hidden.flatten(0, 1)
            return chunked_loss(rows, weight, targets.flatten(), dtype=self.dtype).item()


def micro_batch(config: RunConfig, plan: Plan, console: Console) -> int:
    """Sequences that go through the model at once; a batch is a whole number of these.

    The one asked for, or else the largest divisor of the batch that fits in the free memory, with
    a fifth of it left. Raises MachineError when it does not fit, or not even one sequence does.
    """
    free, asked = _free_memory(plan), config.train.micro_batch_sequences
    kind, dtype = config.train.activation_checkpointing, plan.precision.dtype
    state = count.optimizer_bytes(config.model)
    sizes = [asked] if asked else range(config.sequences, 0, -1)
    for size in sizes:
        if config.sequences % size:
            continue
        if state + _step_bytes(config, size, kind, dtype) < 0.8 * free:
            if size < config.sequences:
                console.say(
                    f"micro-batch: {size} of {config.sequences} sequences at a time, accumulated "
                    f"{config.sequences // size} times ({'asked for' if asked else 'memory'})"
                )
            return size
    needed = state + _step_bytes(config, asked or 1, kind, dtype)
    at_a_time = f"with {asked} sequences" if asked else "even with one sequence"
    raise MachineError(
        f"training this model needs about {needed / 1e9:.1f} GB {at_a_time} at a time, "
        f"{free / 1e9:.1f} GB are free on {plan.device.kind}",
        hint="choose fewer at a time (train.micro_batch_sequences), a smaller model (`puna "
        "sizes`), a shorter context, or --set train.activation_checkpointing=full",
    )


def _step_bytes(config: RunConfig, batch: int, kind: count.Checkpointing, dtype: str) -> int:
    """Activations, one layer's second pass, and one chunk of logits with its gradient."""
    width = 2 if dtype == "bf16" else 4
    kept = count.activation_bytes(config.model, batch, None, kind, width)
    layer = count.activation_bytes(config.model, batch, None, "none", width) // config.model.layers
    logits = CHUNK_ROWS * config.model.vocabulary_size * (4 + 2 * width)
    return kept + 2 * layer + logits


def _free_memory(plan: Plan) -> int:
    if plan.device.kind == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return hardware.memory_available_bytes()
