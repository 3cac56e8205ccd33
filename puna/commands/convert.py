"""`puna convert`: a model from one format to another, with the proof that it is the same."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from puna.commands.model_arguments import add_tokenizer
from puna.console import Console
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.weights.convert import Conversion

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna convert`."""
    parser.description = (
        "Write a model in another format: streamed tensor by tensor, then proved by running\n"
        "source and result on a short text. The result appears whole or not at all."
    )
    parser.epilog = """examples:
  puna convert LLaMA/7B llama-7b-hf --to hf
  puna convert llama-7b-hf llama-7b-mp2 --to meta --mp 2
  puna convert llama-7b-hf llama-7b-q8_0.gguf --to gguf --dtype q8_0
  puna convert demo/run demo-hf --to hf --dtype bf16
  puna convert llama-7b-hf my-run --to puna          puna train goes on from it"""
    add_source(parser)
    parser.add_argument(
        "--to", required=True, choices=("hf", "meta", "gguf", "puna"), help="the format"
    )
    parser.add_argument(
        "--dtype",
        metavar="TYPE",
        help="f32, f16 or bf16; for GGUF also q8_0, q4_0, q4_1, q4_k or q6_k; without it as the "
        "source has it, and blocks that the format cannot hold become bf16; puna is always f32",
    )
    parser.add_argument(
        "--mp", type=int, default=1, metavar="N", help="Meta's model-parallel files"
    )
    add_writing(parser)


def add_source(parser: argparse.ArgumentParser) -> None:
    """SRC, DST, --which and the tokenizer."""
    parser.add_argument("source", metavar="SRC", help="a model's folder, file or name")
    parser.add_argument(
        "destination", type=Path, metavar="DST", help="the folder to write; for GGUF the file"
    )
    parser.add_argument(
        "--which", choices=("latest", "best"), default="latest", help="checkpoint of a run folder"
    )
    add_tokenizer(parser)


def add_writing(parser: argparse.ArgumentParser) -> None:
    """How the result is written, apart from its format."""
    parser.add_argument(
        "--split",
        metavar="BYTES",
        help="bytes in one file at most, such as 4G; hf splits at 5G, GGUF is one file without it",
    )
    parser.add_argument("--no-proof", action="store_true", help="do not compare source and result")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that lies at DST")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Convert and say how far the result is from the source."""
    from puna.weights.convert import Conversion

    wish = Conversion(
        target=arguments.to,
        dtype=arguments.dtype.lower() if arguments.dtype else None,
        shards=arguments.mp,
        file_bytes=parsed_bytes(arguments.split),
        is_proved=not arguments.no_proof,
        overwrites=arguments.overwrite,
    )
    return convert_and_tell(arguments, wish, console)


def convert_and_tell(arguments: argparse.Namespace, wish: Conversion, console: Console) -> int:
    """Open the source, convert, print what came of it."""
    from puna.weights.convert import convert
    from puna.weights.open_model import find_tokenizer, open_model

    source = open_model(arguments.source, which=arguments.which)
    for note in source.notes:
        console.say(f"note: {note}")
    tokenizer = find_tokenizer(source, arguments.tokenizer_path)
    if tokenizer is None:
        console.warn("no tokenizer lies with the source, so none goes along (--tokenizer-path)")
    proof = convert(source, arguments.destination, wish, console, tokenizer)
    record = {
        "source": str(source.path),
        "from": source.format,
        "result": str(arguments.destination),
        "to": wish.target,
        "dtype": wish.dtype,
        "proof": proof.record() if proof else None,
    }
    told = proof.shown() if proof else "not proved (--no-proof)"
    console.result(record, f"wrote {arguments.destination}\n{told}")
    return 0


def parsed_bytes(text: str | None, option: str = "--split") -> int | None:
    """The number of bytes meant by 5000000, 500M or 4G (decimal units). Raises UsageError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)([KMG]?)B?", text.upper())
    if match is None:
        raise UsageError(f"{option} wants bytes such as 5000000, 500M or 4G, got {text!r}")
    return int(match[1]) * UNITS[match[2]]
