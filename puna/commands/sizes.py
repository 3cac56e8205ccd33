"""`puna sizes`: what each size of the family costs in parameters, memory and compute."""

from __future__ import annotations

import argparse
from typing import Any, cast

from puna.console import Console, human_bytes, human_count, table
from puna.model import count
from puna.model.sizes import SIZES, ModelConfig, named

BF16_BYTES, FP32_BYTES = 2, 4
NOTES = """
bf16, fp32  the weights alone
training    fp32 weights, gradients and AdamW's two moments; activations come on top
KV/token    attention's memory of one token in bf16, while generating
FLOPs       of training on one token, forward and backward, at the full context"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna sizes`."""
    parser.description = "The sizes by name: the paper's four (table 2) and small ones of our own."
    parser.add_argument("name", nargs="?", metavar="NAME", help="one size, with its activations")
    parser.epilog = "examples:\n  puna sizes\n  puna sizes 7B\n  puna sizes 110M --json"


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the table, or one size in full. Raises ConfigError for an unknown name."""
    if arguments.name is None:
        records = [costs(name, config) for name, config in SIZES.items()]
        console.result({"sizes": records}, family_table(records))
        return 0
    config = named(arguments.name)
    name = next(known for known, value in SIZES.items() if value is config)
    record = {**costs(name, config), "activation_bytes": activations(config)}
    console.result(record, one_size(record))
    return 0


def costs(name: str, config: ModelConfig) -> dict[str, Any]:
    """The numbers of one size: shape, bytes and FLOPs, all exact."""
    context = config.context_length
    return {
        "name": name,
        "parameters": count.parameters(config),
        "dim": config.dim,
        "heads": config.heads,
        "layers": config.layers,
        "ffn_dim": config.ffn_dim,
        "vocabulary_size": config.vocabulary_size,
        "context_length": context,
        "weight_bytes_bf16": int(count.weight_bytes(config, BF16_BYTES)),
        "weight_bytes_fp32": int(count.weight_bytes(config, FP32_BYTES)),
        "training_bytes": count.optimizer_bytes(config),
        "kv_bytes_per_token": count.kv_cache_bytes(config, 1, 1, BF16_BYTES),
        "forward_flops_per_token": int(count.forward_flops_per_token(config, context)),
        "training_flops_per_token": int(count.training_flops_per_token(config, context)),
    }


def activations(config: ModelConfig) -> dict[str, int]:
    """Bytes kept for the backward pass of one full context, by checkpointing policy."""
    policies: tuple[count.Checkpointing, ...] = ("none", "selective", "full")
    return {
        policy: count.activation_bytes(config, 1, config.context_length, policy)
        for policy in policies
    }


def family_table(records: list[dict[str, Any]]) -> str:
    """Every size as one row, with what the columns mean below."""
    headers = (
        "size", "parameters", "dim", "heads", "layers", "ffn",
        "bf16", "fp32", "training", "KV/token", "FLOPs",
    )  # fmt: skip
    rows = [
        (
            record["name"],
            f"{record['parameters']:,}",
            *(record[key] for key in ("dim", "heads", "layers", "ffn_dim")),
            human_bytes(record["weight_bytes_bf16"]),
            human_bytes(record["weight_bytes_fp32"]),
            human_bytes(record["training_bytes"]),
            human_bytes(record["kv_bytes_per_token"]),
            human_count(record["training_flops_per_token"]),
        )
        for record in records
    ]
    return table(headers, rows) + "\n" + NOTES


def one_size(record: dict[str, Any]) -> str:
    """One size, a line for each fact."""
    kept = cast(dict[str, int], record["activation_bytes"])
    context = record["context_length"]
    facts = {
        "parameters": f"{record['parameters']:,}",
        "shape": f"dim {record['dim']}, {record['heads']} heads, {record['layers']} layers, "
        f"feed-forward {record['ffn_dim']}",
        "vocabulary": f"{record['vocabulary_size']:,} pieces",
        "context": f"{context:,} tokens",
        "weights": f"{human_bytes(record['weight_bytes_bf16'])} in bf16, "
        f"{human_bytes(record['weight_bytes_fp32'])} in fp32",
        "training": f"{human_bytes(record['training_bytes'])} for weights, gradients and AdamW "
        "in fp32",
        "activations": f"one sequence of {context:,} tokens: "
        + ", ".join(f"{human_bytes(value)} ({policy})" for policy, value in kept.items()),
        "KV cache": f"{human_bytes(record['kv_bytes_per_token'])} a token in bf16, "
        f"{human_bytes(record['kv_bytes_per_token'] * context)} for the full context",
        "compute": f"{human_count(record['training_flops_per_token'])} FLOPs a token to train, "
        f"{human_count(record['forward_flops_per_token'])} to run",
    }
    width = max(len(name) for name in facts)
    lines = [f"{name:<{width}}  {text}" for name, text in facts.items()]
    return "\n".join([f"{record['name']}", *lines])
