"""Training speed and peak memory beside transformers' LlamaForCausalLM, in one run.

    python bench/train.py                      both shapes, medians of 7 rounds
    python bench/train.py --shape demo --rounds 5

Each contestant is a process of its own with the same shape, tokens, dtype (bf16 autocast where the
hardware has it) and fused AdamW with clipping; they take turns, two steps a turn, the faster one
counting, while the others wait. The peer runs with sdpa attention, eager and compiled, and the
better of the two is the one to beat. Beside the ratios stand the achieved TFLOP/s and the bf16
matmul rate measured in the same run. Peak memory is the process' peak resident size (on a GPU,
torch's peak allocation).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import record

from puna import hardware
from puna.console import human_bytes, human_count, table
from puna.model import count
from puna.model.sizes import SIZES, ModelConfig

CONTESTANTS = ("puna", "transformers-eager", "transformers-compiled")
GOAL_SPEED, GOAL_MEMORY = 1.5, 0.8


@dataclass(frozen=True)
class Shape:
    """A model and the sequences of one optimizer step."""

    model: ModelConfig
    sequences: int


SHAPES = {
    "demo": Shape(
        ModelConfig(dim=256, layers=6, heads=4, vocabulary_size=4096, context_length=256), 16
    ),
    "110M": Shape(SIZES["110M"], 4),
}


class Contestant:
    """A worker process that takes one turn each time it is asked."""

    def __init__(self, name: str, shape: str, device: str) -> None:
        self.name = name
        command = [sys.executable, __file__, "--worker", name, "--shape", shape, "--device", device]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.seconds: list[float] = []
        self.start_seconds, self.loss = (float(word) for word in self._line().split())

    def turn(self) -> None:
        """Two steps; the faster one counts."""
        self._ask("go")
        self.seconds.append(float(self._line()))

    def peak_bytes(self) -> int:
        """Ask for the peak memory and end the process."""
        self._ask("end")
        peak = int(self._line())
        self.process.wait()
        return peak

    def _ask(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended early; its error stands above")
        return line


def main() -> None:
    """Race the contestants at each shape and append a row a shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), help="one shape instead of all")
    parser.add_argument("--rounds", type=int, default=7, help="turns each (7; at least 5)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, SHAPES[arguments.shape], arguments.device)
        return
    for name in [arguments.shape] if arguments.shape else list(SHAPES):
        race(name, max(5, arguments.rounds), arguments.device)


def race(name: str, rounds: int, device: str) -> None:
    """All contestants at one shape, in turns; prints the table and appends the row."""
    shape = SHAPES[name]
    tokens = shape.sequences * shape.model.context_length
    print(
        f"{name}: {human_count(count.parameters(shape.model))} parameters, {tokens} tokens a step"
    )
    contestants = []
    for contestant in CONTESTANTS:
        contestants.append(Contestant(contestant, name, device))
        print(f"  {contestant} is warm after {contestants[-1].start_seconds:.0f} s", flush=True)
    dtype = hardware.choose_precision(device, "auto").dtype  # type: ignore[arg-type]
    rates = []
    for _ in range(rounds):
        rates.append(hardware.matmul_rate(device, dtype).per_second)  # type: ignore[arg-type]
        first = len(rates) % len(contestants)  # nobody always follows the same one
        for contestant in contestants[first:] + contestants[:first]:
            contestant.turn()
    flops = count.training_flops_per_token(shape.model) * tokens
    results = {
        contestant.name: {
            "seconds": record.spread(contestant.seconds),
            "turns": contestant.seconds,
            "tokens_per_second": tokens / record.spread(contestant.seconds)["median"],
            "tflops": flops / record.spread(contestant.seconds)["median"] / 1e12,
            "peak_bytes": contestant.peak_bytes(),
            "first_loss": contestant.loss,
            "start_seconds": contestant.start_seconds,
        }
        for contestant in contestants
    }
    row = summary(name, results, device, dtype)
    row["matmul_tflops"] = {key: value / 1e12 for key, value in record.spread(rates).items()}
    show(row)
    record.append("train", row)


def summary(name: str, results: dict[str, Any], device: str, dtype: str) -> dict[str, Any]:
    """The row: ours against the better of the peer's two ways."""
    peer = max(CONTESTANTS[1:], key=lambda way: float(results[way]["tokens_per_second"]))
    ours = results["puna"]
    return {
        "shape": name,
        "device": device,
        "dtype": dtype,
        "threads": hardware.usable_cores(),
        "peer": peer,
        "peer_version": metadata.version("transformers"),
        "speed_ratio": ours["tokens_per_second"] / results[peer]["tokens_per_second"],
        "memory_ratio": ours["peak_bytes"] / results[peer]["peak_bytes"],
        "results": results,
    }


def show(row: dict[str, Any]) -> None:
    """The table for people."""
    rows = [
        [
            name,
            f"{found['tokens_per_second']:,.0f}",
            f"{found['seconds']['low'] * 1e3:,.0f}-{found['seconds']['high'] * 1e3:,.0f}",
            f"{found['tflops']:.2f}",
            human_bytes(found["peak_bytes"]),
        ]
        for name, found in row["results"].items()
    ]
    print(table(["", "tokens/s", "ms a step", "TFLOP/s", "peak memory"], rows))
    rate = row["matmul_tflops"]["median"]
    print(f"machine's {row['dtype']} matmul: {rate:.2f} TFLOP/s")
    print(
        f"ours / {row['peer']}: speed {row['speed_ratio']:.2f} (goal {GOAL_SPEED}), "
        f"memory {row['memory_ratio']:.2f} (goal {GOAL_MEMORY})\n"
    )


# The worker's side


def work(name: str, shape: Shape, device: str) -> None:
    """Build, take two steps, say how long that took, then obey `go` and `end`."""
    import torch

    torch.set_num_threads(hardware.usable_cores())
    torch.manual_seed(1)
    began = time.perf_counter()
    step = ours(shape, device) if name == "puna" else peer(name, shape, device)
    model = shape.model
    ids = torch.randint(model.vocabulary_size, (16, shape.sequences, model.context_length + 1))
    ids = ids.to(device)
    first = step(ids[0])
    step(ids[1])
    print(time.perf_counter() - began, first, flush=True)
    turn = 2
    for line in sys.stdin:
        if line.strip() == "end":
            on_gpu = device == "cuda"
            peak = torch.cuda.max_memory_allocated() if on_gpu else hardware.peak_resident_bytes()
            print(peak, flush=True)
            return
        times = []
        for _ in range(2):
            start = time.perf_counter()
            step(ids[turn % len(ids)])
            times.append(time.perf_counter() - start)
            turn += 1
        print(min(times), flush=True)


def ours(shape: Shape, device: str) -> Any:
    """Puna's own training step, compiled, as `puna train` runs it."""
    import torch

    from puna.model.llama import Llama
    from puna.train import execution
    from puna.train.adamw import build_adamw
    from puna.train.settings import RunConfig, TrainConfig

    tokens = shape.sequences * shape.model.context_length
    train = TrainConfig(
        batch_tokens=tokens,
        warmup_steps=1,
        compile="on",
        device=device,  # type: ignore[arg-type]
        micro_batch_sequences=shape.sequences,
        activation_checkpointing="narrow",
    )
    config = RunConfig(shape.model, train)
    model = Llama(shape.model)
    model.initialise(torch.Generator().manual_seed(1))
    model.to(device)
    optimizer = build_adamw(model, train)
    running = execution.Execution(model, config, execution.decide(config))

    def step(ids: torch.Tensor) -> float:
        loss = running.loss(ids[:, :-1], ids[:, 1:]) / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def peer(name: str, shape: Shape, device: str) -> Any:
    """transformers' LlamaForCausalLM at the same shape, eager or compiled."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model_config = shape.model
    config = LlamaConfig(
        vocab_size=model_config.vocabulary_size,
        hidden_size=model_config.dim,
        intermediate_size=model_config.ffn_dim,
        num_hidden_layers=model_config.layers,
        num_attention_heads=model_config.heads,
        num_key_value_heads=model_config.kv_head_count,
        max_position_embeddings=model_config.context_length,
        rms_norm_eps=model_config.norm_epsilon,
        tie_word_embeddings=model_config.tied_embeddings,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model = LlamaForCausalLM(config).to(device).train()
    run = torch.compile(model) if name.endswith("compiled") else model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    has_bf16 = hardware.choose_precision(device, "auto").dtype == "bf16"  # type: ignore[arg-type]

    def step(ids: torch.Tensor) -> float:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=has_bf16):
            loss = run(input_ids=ids[:, :-1], labels=ids[:, :-1]).loss  # it shifts them itself
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    return step


if __name__ == "__main__":
    main()
