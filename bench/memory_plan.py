"""The most memory that training holds, measured in processes of their own, beside the plan's.

    python bench/memory_plan.py                    every shape under every policy, 10 minutes
    python bench/memory_plan.py --shape long --policy full --compile

Each case is `puna.train.pretrain` itself: three steps, a validation, the last checkpoint. What
counts is the process' peak resident size less what it held before the model was built (on a GPU
torch's peak allocation). A case is a row of history.jsonl; tests/plan/test_memory.py holds the
plan to the rows.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import record

from puna import hardware
from puna.console import human_bytes, silent, table
from puna.model.sizes import ModelConfig
from puna.plan import devices, memory
from puna.plan.layout import TrainingRun

# A model, the sequences of a step, and those that go through it at once. `tied` was measured after
# the plan's constants were fixed on the other three.
SHAPES: dict[str, tuple[ModelConfig, int, int]] = {
    "weights": (
        ModelConfig(dim=1024, layers=8, heads=16, vocabulary_size=4096, context_length=512), 4, 4
    ),
    "long": (
        ModelConfig(dim=512, layers=12, heads=8, vocabulary_size=4096, context_length=2048), 4, 4
    ),
    "vocabulary": (
        ModelConfig(
            dim=768, layers=8, heads=12, kv_heads=4, vocabulary_size=32000, context_length=512
        ), 16, 8,
    ),
    "tied": (
        ModelConfig(
            dim=640, layers=10, heads=10, kv_heads=5, vocabulary_size=16384, context_length=1024,
            tied_embeddings=True,
        ), 8, 4,
    ),
}  # fmt: skip
POLICIES = ("none", "selective", "narrow", "full")
PIECES = 320
WORDS = "the llama grazes on high grassland where air is thin and winters are long "


def main() -> None:
    """Measure the cases asked for, print them beside the plan, append a row each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), help="one shape instead of all")
    parser.add_argument("--policy", choices=POLICIES, help="one policy instead of all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="with compiled blocks")
    parser.add_argument("--dry", action="store_true", help="append nothing")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.shape, arguments.policy, arguments.device, arguments.compile)
        return
    rows = []
    for shape in [arguments.shape] if arguments.shape else list(SHAPES):
        for policy in [arguments.policy] if arguments.policy else POLICIES:
            row = measured(shape, policy, arguments.device, arguments.compile)
            rows.append(row)
            print(f"{shape} {policy}: {json.dumps(row)}", flush=True)
            if not arguments.dry:
                record.append("memory_plan", row)
    print(
        table(
            ["shape", "policy", "measured", "planned", "ratio"],
            [
                [
                    row["shape"],
                    row["policy"],
                    human_bytes(row["peak_bytes"]),
                    human_bytes(row["planned_bytes"]),
                    f"{row['planned_bytes'] / row['peak_bytes']:.3f}",
                ]
                for row in rows
            ],
        )
    )


def measured(
    shape: str, policy: str, device: str = "cpu", compiles: bool = False
) -> dict[str, Any]:
    """A case in a process of its own: its row."""
    words = ["--worker", "--shape", shape, "--policy", policy, "--device", device]
    words += ["--compile"] if compiles else []
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{shape} {policy} ended with {done.returncode}; see above")
    facts: dict[str, Any] = json.loads(done.stdout)
    model, sequences, at_once = SHAPES[shape]
    who = devices.this_machine(1, {"fp32": 1}, "not measured")
    run = TrainingRun(
        model,
        who if device == "cpu" else replace(who, kind="gpu"),
        batch_tokens=sequences * model.context_length,
        micro_batch=at_once,
        precision=facts["dtype"],
        checkpointing=policy,  # type: ignore[arg-type]
    )
    parts = memory.training(run)
    return {
        "shape": shape,
        "policy": policy,
        "model": {key: value for key, value in asdict(model).items() if value is not None},
        "sequences": sequences,
        "micro_batch": at_once,
        "compiled": compiles,
        **facts,
        "planned_bytes": round(parts.total),
    }


def work(shape: str, policy: str, device: str, compiles: bool) -> None:
    """Train three steps and print what was held, as JSON."""
    from puna.tokens.shards import ShardsConfig, ShardSet, write_shards
    from puna.tokens.tokenizer import Tokenizer
    from puna.tokens.training import TokenizerConfig, train_tokenizer
    from puna.train import execution
    from puna.train.pretrain import Inputs, pretrain
    from puna.train.settings import RunConfig, TrainConfig

    model, sequences, at_once = SHAPES[shape]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained = train_tokenizer(
            [WORDS * 20], folder / "tokenizer", TokenizerConfig(vocabulary_size=PIECES), silent()
        )
        tokenizer = Tokenizer.load(trained.path)
        texts = [(str(number), WORDS * 500) for number in range(20)]
        for part in ("train", "heldout"):
            write_shards(texts, tokenizer, folder / part, ShardsConfig(), silent())
        train = TrainConfig(
            steps=3,
            batch_tokens=sequences * model.context_length,
            micro_batch_sequences=at_once,
            warmup_steps=1,
            threads=1,
            compile="on" if compiles else "off",
            device=device,  # type: ignore[arg-type]
            activation_checkpointing=policy,  # type: ignore[arg-type]
            validation_tokens=model.context_length,
        )
        config = RunConfig(model, train)
        inputs = Inputs(
            ShardSet.open(folder / "train"), ShardSet.open(folder / "heldout"), tokenizer, {}
        )
        plan = execution.decide(config)  # its probe, and all imports, come before the model
        before = hardware.resident_bytes()
        pretrain(config, inputs, folder / "run", silent())
        facts = {
            "device": device,
            "dtype": plan.precision.dtype,
            "kernels": plan.kernels,
            "before_bytes": before,
            "peak_bytes": peak_bytes(device) - (before if device == "cpu" else 0),
        }
    print(json.dumps(facts))


def peak_bytes(device: str) -> int:
    """This process' own peak (Linux's ru_maxrss begins with the parent's); torch's on a GPU."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if not status.is_file():
        return hardware.peak_resident_bytes()
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
