"""`puna quantize`: a model as a GGUF of few bits a weight."""

from __future__ import annotations

import argparse

from puna.commands.convert import add_source, add_writing, convert_and_tell, parsed_bytes
from puna.console import Console


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna quantize`."""
    parser.description = (
        "Write a model as a GGUF with quantised weights; the same as puna convert --to gguf with\n"
        "such a --dtype. The proof says how far its logits are from the source's."
    )
    parser.epilog = """examples:
  puna quantize demo/run demo-q8_0.gguf --dtype q8_0
  puna quantize LLaMA/7B llama-7b-q4_k.gguf --dtype q4_k"""
    add_source(parser)
    parser.add_argument(
        "--dtype",
        required=True,
        choices=("q8_0", "q4_0", "q4_1", "q4_k", "q6_k"),
        type=str.lower,
        help="bits a weight: q8_0 8.5, q6_k 6.6, q4_1 5, q4_k 4.5 (output and some others q6_k), "
        "q4_0 4.5",
    )
    add_writing(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Quantise and say how far the result is from the source."""
    from puna.weights.convert import Conversion

    wish = Conversion(
        target="gguf",
        dtype=arguments.dtype,
        file_bytes=parsed_bytes(arguments.split),
        is_proved=not arguments.no_proof,
        overwrites=arguments.overwrite,
    )
    return convert_and_tell(arguments, wish, console)
