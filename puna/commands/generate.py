"""`puna generate`: continue a prompt, the text as it comes on stdout, the talk on stderr."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.commands.load import load
from puna.commands.model_arguments import add_model, add_sampling, model_of, sampling_params
from puna.console import Console, human_duration
from puna.errors import UsageError
from puna.infer.constraint import Constraint, Kind

if TYPE_CHECKING:
    from puna.infer.engine import Engine
    from puna.infer.result import GenerationResult


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna generate`."""
    parser.description = (
        "Continue a prompt. The continuation goes to stdout as it is made, without the prompt;\n"
        "why it ended, the rate and the seed go to stderr."
    )
    parser.epilog = """examples:
  puna generate demo/run --prompt "The state of the Union is"
  puna generate demo/run --prompt "Fellow citizens" --max-tokens 40 --seed 1
  puna generate demo/run --temperature 0 < prompt.txt    the likeliest tokens, prompt from stdin
  puna generate demo/run --json-schema person.json --prompt "Ada, 36:"   JSON of that schema
  puna generate --ckpt_dir LLaMA/7B --tokenizer_path LLaMA/tokenizer.model --prompt "I"
"""
    add_model(parser, has_meta_flags=True)
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="text to continue; without it, stdin less its last line end",
    )
    add_sampling(parser)
    kept_to = parser.add_mutually_exclusive_group()
    kept_to.add_argument(
        "--json-schema", type=Path, metavar="FILE", help="the text is JSON of the schema in FILE"
    )
    kept_to.add_argument(
        "--grammar",
        type=Path,
        metavar="FILE",
        help="the text is what the grammar in FILE describes: llguidance's Lark, or GBNF",
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Generate one text. Raises UsageError for a prompt that is missing or too long."""
    params = dataclasses.replace(sampling_params(arguments), constraint=constraint(arguments))
    prompt = read_stdin() if arguments.prompt is None else arguments.prompt
    from puna.infer.engine import EngineSettings

    engine = load(model_of(arguments), arguments, console, settings=EngineSettings(running=1))
    console.say(engine.kept_context)
    generation = engine.stream(prompt, params)
    try:
        for piece in generation:
            if not console.json_output:
                console.write_piece(piece)
    finally:
        if not console.json_output:
            console.write("")  # ends the line, also after Ctrl-C
    result = generation.result
    if console.json_output:
        console.result(result_record(prompt, result), "")
    console.say(summary(result, engine))
    return 0


def constraint(arguments: argparse.Namespace) -> Constraint | None:
    """What the text should be, where asked. Raises UsageError for a file that cannot be read."""
    kind: Kind = "json_schema" if arguments.json_schema is not None else "grammar"
    path = getattr(arguments, kind)
    if path is None:
        return None
    try:
        return Constraint(kind, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} should hold a {kind.replace('_', ' ')}: {error}") from None


def read_stdin() -> str:
    """The prompt on stdin without its last line end. Raises UsageError at a terminal."""
    if sys.stdin.isatty():
        raise UsageError(
            "puna generate wants a prompt, found none",
            hint='--prompt "some text", or text on stdin; --prompt "" starts from nothing',
        )
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompt on stdin should be UTF-8 text: {error}") from None
    return text.removesuffix("\n").removesuffix("\r")


def result_record(prompt: str, result: GenerationResult) -> dict[str, Any]:
    """The outcome as plain values for --json."""
    values = dataclasses.asdict(result)
    return {
        "prompt": prompt,
        **{name: value for name, value in values.items() if value is not None},
        "finish_reason": result.finish_reason,
        "tokens_per_second": result.tokens_per_second,
    }


def summary(result: GenerationResult, engine: Engine) -> str:
    """One line for people: how many tokens, how fast, why it ended, which seed."""
    endings = {
        "eos": "the model ended the text",
        "stop token": "a stop token was reached",
        "stop string": "a stop text was reached",
        "constraint": "nothing may follow",
        "max tokens": "--max-tokens was reached",
        "context end": f"the model's context of {engine.context_length} tokens is full",
        "cancelled": "stopped",
    }
    seconds = human_duration(result.prefill_seconds + result.decode_seconds)
    parts = [f"{result.generated_tokens} tokens in {seconds}"]
    if result.tokens_per_second:
        parts[0] += f", {result.tokens_per_second:.0f} tokens/s"
    if result.ended_by is not None:
        parts.append(endings[result.ended_by])
    return "; ".join([*parts, f"seed {result.seed}"])
