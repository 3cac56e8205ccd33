"""`puna inspect`: what a model is, and what it takes to run it."""

from __future__ import annotations

import argparse
from typing import Any

from puna.commands.model_arguments import add_tokenizer
from puna.console import Console, human_bytes, human_count

FORMATS = {
    "puna": "a training checkpoint of Puna's",
    "meta": "Meta's (params.json, consolidated.NN.pth)",
    "hf": "Hugging Face's (config.json)",
    "gguf": "GGUF",
    "llama2c": "llama2.c",
}
TOKENIZERS = {"spm": "SentencePiece BPE", "bpe": "byte-level BPE"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna inspect`."""
    parser.description = (
        "What a model is: format, shape, exact parameters, types of numbers, tokenizer, chat\n"
        "template, and what it takes to run it here. Reads headers, no weights."
    )
    parser.epilog = """examples:
  puna inspect demo/run
  puna inspect smollm2
  puna inspect LLaMA/7B --json"""
    parser.add_argument("model", metavar="PATH", help="a model's folder, file or name")
    parser.add_argument(
        "--which", choices=("latest", "best"), default="latest", help="checkpoint of a run folder"
    )
    add_tokenizer(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the facts. Raises CheckpointError or TokenizerError for what cannot be read."""
    from puna.weights.inspect import describe
    from puna.weights.open_model import find_tokenizer, open_model

    source = open_model(arguments.model, which=arguments.which)
    record = describe(source, find_tokenizer(source, arguments.tokenizer_path))
    console.result(record, shown(record))
    return 0


def shown(record: dict[str, Any]) -> str:
    """The facts, a line each."""
    facts = {
        "format": FORMATS[record["format"]],
        "architecture": architecture(record),
        "parameters": f"{record['parameters']:,} ({human_count(record['parameters'])})",
        "weights": weights(record),
        "context": f"{record['context_length']:,} tokens",
        **tokenizer_facts(record["tokenizer"]),
        "to run": running(record["needs"]),
    }
    if "training" in record:
        training = record["training"]
        facts["training"] = f"step {training['step']:,}, {training['tokens']:,} tokens"
    width = max(map(len, facts))
    lines = [record["path"], *(f"{name:<{width}}  {text}" for name, text in facts.items())]
    return "\n".join([*lines, *(f"note: {note}" for note in record["notes"])])


def architecture(record: dict[str, Any]) -> str:
    """The shape in one line."""
    shape = record["shape"]
    size = f" {record['size']}'s shape" if record["size"] else ""
    heads = f"{shape['heads']} heads of {shape['head_dim']}"
    if shape["kv_heads"] != shape["heads"]:
        heads += f" ({shape['kv_heads']} for keys and values)"
    tied = ", output tied to the embedding" if shape["tied_embeddings"] else ""
    return (
        f"{record['architecture']}{size}: dim {shape['dim']}, {shape['layers']} layers, {heads}, "
        f"feed-forward {shape['hidden_dim']}, vocabulary {shape['vocabulary_size']:,}{tied}"
    )


def weights(record: dict[str, Any]) -> str:
    """How many tensors and bytes, and of which types."""
    mix = ", ".join(
        f"{name} {human_bytes(entry['bytes'])} in {entry['tensors']}"
        for name, entry in record["dtypes"].items()
    )
    return f"{record['tensors']} tensors, {human_bytes(record['bytes'])}: {mix}"


def tokenizer_facts(tokenizer: dict[str, Any] | None) -> dict[str, str]:
    """The lines about the tokenizer."""
    if tokenizer is None:
        return {"tokenizer": "none lies with it (--tokenizer-path)"}
    kind = TOKENIZERS[tokenizer["kind"]]
    if tokenizer["pre_tokenizer"]:
        kind += f" ({tokenizer['pre_tokenizer']})"
    marks = [
        f"{name} {tokenizer[name]['piece']} = {tokenizer[name]['id']}"
        + (", put before a text" if name == "bos" and tokenizer["adds_bos"] else "")
        for name in ("bos", "eos")
        if tokenizer[name]
    ]
    template = tokenizer["chat_template"]
    return {
        "tokenizer": f"{kind}, {tokenizer['pieces']:,} pieces, "
        f"{len(tokenizer['special']):,} of them special",
        "marks": "; ".join(marks) or "none",
        "chat template": f"{len(template):,} characters" if template else "none: a base model",
    }


def running(needs: dict[str, Any]) -> str:
    """What memory it takes, and whether that is here."""
    verdict = "fits" if needs["fits"] else "does not fit"
    return (
        f"{human_bytes(needs['total_bytes'])} of memory: {human_bytes(needs['weight_bytes'])} "
        f"weights in float32, {human_bytes(needs['kv_bytes'])} for a full context; {verdict} here, "
        f"{human_bytes(needs['available_bytes'])} are free"
    )
